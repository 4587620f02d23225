"""Nobody ever leaves."""

from collections.abc import Iterator
from random import Random

from schemas.base import Frozen


class Always:
    """Every client is there all the time."""

    class Params(Frozen):
        """No parameters."""

    def __init__(self, params: Params) -> None:
        self.params = params

    def changes(self, client: str, random: Random) -> Iterator[float]:
        """There from the beginning."""
        yield 0.0
