"""What `make chaos` and `make soak` find, as it is kept in benchmarks/results/. Measures nothing."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median

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
