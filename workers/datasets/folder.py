"""Your own images in folders."""

from pathlib import Path

from schemas.base import Frozen, Shown
from workers.data.images import Images, OnUnreadable
from workers.data.layout import Expected, read_layout


class Folder:
    """Image files in `<root>/<domain>/<class>/<file>` (png, jpg, jpeg, webp, bmp).

    `domains` says where under the root each domain lies, if not in a folder of its name: `{Real_World: [Real World]}`;
    of several places the first that is there counts, and other folders do not. `classes` names classes whose folders
    are called otherwise: `{"0": bird}`. `expect` says what must be there: `{classes: 7, images: {photo: 1670}}`.
    """

    class Params(Frozen):
        """root: the folder that holds one folder per domain; domains, classes, expect: see above.

        on_unreadable: `fail` stops at a file that is no image; `skip` leaves it out and counts it. To skip, every file
        is decoded once more when a worker begins with a run.
        """

        root: Path
        domains: dict[Shown, tuple[str, ...]] | None = None
        classes: dict[str, Shown] = {}
        expect: Expected | None = None
        on_unreadable: OnUnreadable = "fail"

    def __init__(self, params: Params) -> None:
        self.params = params

    def images(self, cache: Path) -> Images:
        """All images under root. Raises DataError."""
        p = self.params
        return read_layout(p.root, p.domains, p.classes, p.expect, p.on_unreadable)
