"""What `make chaos` and `make soak` find, as it is kept in benchmarks/results/. Measures nothing."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import linear_regression, median

from benchmarks.machine import Where
from schemas.base import Frozen

RESULTS = Path(__file__).parent / "results"


class Blow(Frozen):
    """One fault or several at once. recovery_s: from its end to the next version of the run that took longest."""

    kinds: tuple[str, ...]
    lasted_s: float
    recovery_s: float


class Chaos(Frozen):
    """What was done to a stack and what it did meanwhile. versions, runs: per kind of run; runs have ended."""

    where: Where
    seed: int
    minutes: float
    whole_s: float
    blows: tuple[Blow, ...]
    versions: dict[str, int]
    runs: dict[str, int]
    violations: tuple[str, ...]

    def table(self) -> Iterator[tuple[str, int, float, float]]:
        """Per kind of fault: how often, the longest recovery and the median one, in seconds."""
        by: dict[str, list[float]] = defaultdict(list)
        for blow in self.blows:
            for kind in blow.kinds:
                by[kind].append(blow.recovery_s)
        for kind, recoveries in sorted(by.items()):
            yield kind, len(recoveries), max(recoveries), median(recoveries)

    @property
    def done(self) -> str:
        """What went on, in a sentence."""
        runs = ", ".join(f"{n} {name}" for name, n in self.runs.items())
        return (
            f"{sum(self.versions.values())} versions committed, runs ended: {runs}; {len(self.violations)} violations"
        )


class Series(Frozen):
    """One figure over time, in `unit`. samples: (hours, value). most: by how much it may grow in an hour.

    noise: a rise of no more than this over the whole time says nothing.
    """

    what: str
    unit: str
    most: float
    noise: float
    samples: tuple[tuple[float, float], ...]

    @property
    def settled(self) -> list[tuple[float, float]]:
        """Without the first fifth of the time, in which caches fill."""
        begin, end = self.samples[0][0], self.samples[-1][0]
        return [(at, value) for at, value in self.samples if at >= begin + (end - begin) / 5]

    @property
    def slope(self) -> float:
        """Of the straight line that fits best, per hour."""
        return linear_regression(*zip(*self.settled, strict=True)).slope

    @property
    def flat(self) -> bool:
        """Whether it grew no faster than it may."""
        hours = self.settled[-1][0] - self.settled[0][0]
        return self.slope <= self.most or self.slope * hours <= self.noise


class Soak(Frozen):
    """Rounds without work, one run after the other. updates: that were counted."""

    where: Where
    minutes: float
    runs: int
    versions: int
    updates: int
    series: tuple[Series, ...]
