"""Drawn images of twelve things in four styles: a data set for which nothing is downloaded.

Knows where in the cache it lies. The drawing is in `workers.data`.
"""

from pathlib import Path

from pydantic import Field

from schemas.base import Frozen, canonical, digest
from schemas.errors import DataError
from workers.data import drawn
from workers.data.images import Images, read_folder


class Shapes:
    """Twelve classes in the domains photo, painting, cartoon and sketch, drawn once per machine, 64 x 64 pixels."""

    class Params(Frozen):
        """per_class: images of each class in each domain. seed: which draw."""

        per_class: int = Field(40, ge=3, le=drawn.MOST)
        seed: int = Field(0, ge=0, lt=2**63)

    def __init__(self, params: Params) -> None:
        self.params = params

    def images(self, cache: Path) -> Images:
        """The files `<cache>/shapes/<key>/<domain>/<class>/<nnnn>.png`, drawn if they are not there yet.

        Several processes may ask at once: each draws, one folder stays. Raises DataError.
        """
        folder = cache / "shapes" / digest(canonical([drawn.version(), self.params.model_dump()]))[:16]
        if not folder.is_dir():
            try:
                drawn.write(folder, self.params.per_class, self.params.seed)
            except DataError:
                if not folder.is_dir():  # else another process was faster, with the same files
                    raise
        return read_folder(folder)
