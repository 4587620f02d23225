"""Your own images in folders."""

from pathlib import Path

from schemas.base import Frozen
from workers.data.images import Images, OnUnreadable, read_folder


class Folder:
    """Image files in `<root>/<domain>/<class>/<file>` (png, jpg, jpeg, webp, bmp)."""

    class Params(Frozen):
        """root: the folder that holds one folder per domain.

        on_unreadable: `fail` stops at a file that is no image; `skip` leaves it out and counts it. To skip, every file
        is decoded once more when a worker begins with a run.
        """

        root: Path
        on_unreadable: OnUnreadable = "fail"

    def __init__(self, params: Params) -> None:
        self.params = params

    def images(self, cache: Path) -> Images:
        """All images under root. Raises DataError."""
        return read_folder(self.params.root, self.params.on_unreadable)
