"""Your own images, listed in a file."""

from pathlib import Path

from schemas.base import Frozen
from workers.data.images import Images, OnUnreadable
from workers.data.table import read_table


class Csv:
    """Image files that a CSV lists: columns `path` and `label`, and if wanted `domain`, `client` and `split`.

    Relative paths count from the file's folder. `client` says whose an image is, in the place of a partition; `split`
    what it is for (train, val, test), in the place of the stratified split. A held-out domain is all for testing.
    """

    class Params(Frozen):
        """file: the CSV, with a first row that names its columns. on_unreadable: as of `folder`."""

        file: Path
        on_unreadable: OnUnreadable = "fail"

    def __init__(self, params: Params) -> None:
        self.params = params

    def images(self, cache: Path) -> Images:
        """All images that the file lists. Raises DataError, naming the row."""
        return read_table(self.params.file, self.params.on_unreadable)
