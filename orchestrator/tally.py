"""What became of each update that was asked for, added up per client: the ledger, from events alone.

Shares no code with the book, whose ledger it is compared with.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from schemas.log import Share

Key = tuple[str, str]
"""One asked update: task id and client."""


@dataclass
class Tally:
    """Per update its fate, and per client the numbers of them and the weights with which they entered versions."""

    fates: dict[Key, str] = field(default_factory=dict)
    numbers: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    weights: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def mark(self, key: Key, fate: str) -> None:
        """An update was asked for, or what became of it until now is no longer so."""
        numbers = self.numbers[key[1]]
        if self.fates.get(key, "asked") != "asked":
            numbers[self.fates[key]] -= 1
        numbers[fate] += 1
        self.fates[key] = fate

    def weigh(self, entered: Mapping[str, float]) -> None:
        """Weights went into a version."""
        for client, weight in entered.items():
            self.weights[client] += weight

    def ledger(self) -> dict[str, Share]:
        """A line per client."""
        return {c: Share(**n, weight=self.weights[c]) for c, n in sorted(self.numbers.items())}


def close(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Whether two sets of weights are the same numbers, whatever the order in which they were added up."""
    return set(one) == set(other) and all(math.isclose(one[c], other[c], rel_tol=1e-9) for c in one)
