"""Your own images in folders."""

from pathlib import Path

from schemas.base import Frozen
from workers.data.images import Images, read_folder


class Folder:
    """Image files in `<root>/<domain>/<class>/<file>` (png, jpg, jpeg, webp, bmp)."""

    class Params(Frozen):
        """root: the folder that holds one folder per domain."""

        root: Path

    def __init__(self, params: Params) -> None:
        self.root = params.root

    def images(self, cache: Path) -> Images:
        """All images under root. Raises DataError."""
        return read_folder(self.root)
