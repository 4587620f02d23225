"""Uniform choice of clients."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from schemas.base import Frozen


class Uniform:
    """Every free client is as likely as any other; no state."""

    class Params(Frozen):
        """No parameters."""

    def __init__(self, params: Params) -> None:
        self.params = params

    def pick(self, free: Sequence[str], budget: int, random: Random) -> list[str]:
        """At most `budget` of the free clients, without repetition, in the order drawn."""
        return random.sample(sorted(free), min(budget, len(free)))

    def dump(self) -> dict[str, Any]:
        """Nothing to remember."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Nothing to recall."""
