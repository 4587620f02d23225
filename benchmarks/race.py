"""Time to target in virtual time: the same task under lognormal stragglers, one round rule after the other.

A mode is an experiment by numbers only, run by the engine itself in one process. A race ends as an operator would end
it, by cancelling the run: here once the horizon is over. Measures; the words and the picture are elsewhere.
"""

import tempfile
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import exp, log
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks import kept, process
from benchmarks.accuracy import SEEDS, interval
from benchmarks.kept import Kept
from benchmarks.machine import Where
from orchestrator.plan import plan
from orchestrator.run import Outcome, execute
from schemas.base import Frozen
from schemas.experiment import Experiment
from schemas.log import Event

TARGET, HORIZON_S, MOST_S = 0.33, 60, 600.0
"""Accuracy to reach; the virtual seconds that every run lasts; when a run is given up that has not got there."""
STEADY_S = 20.0
"""Staleness is counted from here on: by then the slowest clients are among those in flight."""
LAST_S = 10
"""The accuracy at the horizon is the mean over so many seconds before it: single versions jump."""

AT_CLOSE = {"grace_s": 0, "max_staleness": 0}
AT_ARRIVAL = {"in_flight": 20, "refill": "at_arrival"}
MODES: dict[str, dict[str, Any]] = {
    "synchronous": AT_CLOSE | {"in_flight": 10, "quorum": 10, "floor": 10},
    "synchronous, 20": AT_CLOSE | {"in_flight": 20, "quorum": 20, "floor": 20},
    "over-selection": AT_CLOSE | {"in_flight": 13, "quorum": 10, "floor": 10},
    "k of n": {"in_flight": 20, "quorum": 10, "floor": 5, "grace_s": 1, "max_staleness": 40},
    "FedAsync": AT_ARRIVAL | {"quorum": 1, "floor": 1, "apply": "mix", "server_lr": 0.6, "max_staleness": 400,
                              "staleness": {"name": "polynomial", "params": {"a": 0.5}}},
    "FedBuff": AT_ARRIVAL | {"quorum": 10, "floor": 10, "max_staleness": 40},
    "FedBuff, 5": AT_ARRIVAL | {"quorum": 5, "floor": 5, "max_staleness": 80},
}  # fmt: skip
"""`rounds` of each, beyond the defaults. Enough staleness is allowed for the slowest client's update to count."""
EVERY = {"FedAsync": 10, "FedBuff, 5": 2}
"""Versions between two evaluations, where it is not each one: about half a virtual second."""


class Course(Frozen):
    """One run. Times in virtual seconds, accuracies 0 to 1: the mean over the clients' test splits.

    to_target_s: when the first version was committed whose accuracy was at least the target; null if none was.
    uploads: updates that had arrived by then, counted or not. curve: by second, of the last version evaluated by then.
    final: mean of the curve's last seconds. The rest is of the whole run: versions; updates asked; the share of them
    that was lost, refused or given up; the mean lag of what counted in the steady state. seconds: of wall time.
    """

    to_target_s: float | None
    uploads: int | None
    final: float
    versions: int
    asked: int
    wasted: float
    staleness: float
    seconds: float
    curve: tuple[float, ...]


class Race(Kept):
    """{mode: {seed: course}}, for one state of the code."""

    courses: dict[str, dict[int, Course]] = {}


def measure(results: Path, cache: Path, where: Where) -> Race:
    """Run what the results of this commit lack, and write them after every run. cache: where the data are kept."""
    found = kept.begun(results, Race, where)
    for mode, seed in missing(found):
        course = run(experiment(MODES[mode], seed, every=EVERY.get(mode, 1)), cache)
        found.courses.setdefault(mode, {})[seed] = course
        kept.keep(results, found)
    return found


def missing(found: Race) -> list[tuple[str, int]]:
    """(mode, seed) of the runs that are still to be done: all modes of a seed, then the next seed."""
    return [(mode, seed) for seed in SEEDS for mode in MODES if seed not in found.courses.get(mode, {})]


def experiment(rounds: Mapping[str, Any], seed: int, *, every: int = 1, **points: int) -> Experiment:
    """The task under a round rule. The seed draws everything: data, owners, their speeds, batches and who is asked.

    points: of the data, where they are not the race's own.
    """
    return Experiment.model_validate(
        {
            "name": "race",
            "seed": seed,
            "data": {
                "name": "benchmarks.points:Points",
                "params": {"seed": seed, **points},
                "partition": {"name": "by_domain"},
            },
            "model": {"backbone": {"name": "benchmarks.points:Pixels"}},
            "method": {"name": "fedavg", "params": SGD | {"epochs": 3, "batch": 20}},
            "rounds": {"versions": 1_000_000, "deadline_s": 10_000, **rounds},
            "evaluate": {"every": every, "final": False},
            "simulate": {"latency": {"name": "lognormal", "params": {"median_s": 1, "sigma": 1, "jitter": 0}}},
        }
    )


SGD = {"optimiser": "adam", "lr": 0.2e6, "eps": 1e6, "betas": (0.0, 0.0), "weight_decay": 0.0}
"""Adam without memory and with an eps far above every gradient takes a step of lr/eps times the gradient: plain SGD."""


def run(asked: Experiment, cache: Path, *, target: float = TARGET, horizon_s: int = HORIZON_S) -> Course:
    """Run an experiment to the horizon, or beyond it to the target."""
    with tempfile.TemporaryDirectory(prefix="quorate-bench-") as folder:
        made, runtime = plan(asked), process.runtime(Path(folder), cache)
        referee = Referee(target, horizon_s, lambda: runtime.state.flag(asked.name, "cancel"))
        return course(execute(made, runtime, asked.name, referee.watch), target=target, horizon_s=horizon_s)


@dataclass
class Referee:
    """Watches a run, and has it stopped when its race is over."""

    target: float
    horizon_s: float
    stop: Callable[[], None]
    reached: bool = False
    right: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))

    def watch(self, event: Event) -> None:
        """All clients' answers to an evaluation arrive together, so the last of them completes the mean."""
        if event.event == "evaluated":
            self.right[event.version].append(event.facts["accuracy"])
        elif not self.reached and self.right:
            self.reached = mean(self.right[max(self.right)]) >= self.target
        if event.at >= (self.horizon_s if self.reached else MOST_S):
            self.stop()


def course(outcome: Outcome, *, target: float = TARGET, horizon_s: int = HORIZON_S) -> Course:
    """What the events of a run say."""
    events, report = outcome.events, outcome.report
    accuracies = by_time(events)
    curve = [accuracies[bisect_right(accuracies, (second, 1.0)) - 1][1] for second in range(horizon_s + 1)]
    to_target_s = next((at for at, reached in accuracies if reached >= target), None)
    shares = report.ledger.values()
    asked = sum(s.asked for s in shares)
    return Course(
        to_target_s=to_target_s,
        uploads=None if to_target_s is None else sum(at <= to_target_s for at in uploads(events)),
        final=mean(curve[-LAST_S:]),
        versions=report.version,
        asked=asked,
        wasted=sum(s.lost + s.rejected for s in shares) / asked,
        staleness=mean_lag(events),
        seconds=round(report.seconds, 1),
        curve=tuple(round(value, 4) for value in curve),
    )


def by_time(events: Iterable[Event]) -> list[tuple[float, float]]:
    """(when a version was committed, its accuracy) of every version that was evaluated."""
    committed, right = {0: 0.0}, defaultdict(list)
    for e in events:
        if e.event == "closed":
            committed[e.version] = e.at
        elif e.event == "evaluated":
            right[e.version].append(e.facts["accuracy"])
    return [(committed[version], mean(values)) for version, values in sorted(right.items())]


def uploads(events: Iterable[Event]) -> list[float]:
    """When updates arrived, those included that nobody waited for any more."""
    return [e.at for e in events if e.event == "ignored" or (e.event == "answered" and e.facts.get("kind") == "train")]


def mean_lag(events: Iterable[Event], since_s: float = STEADY_S) -> float:
    """Mean over the updates that counted in the steady state of the versions they lagged."""
    lags: Counter[int] = Counter()
    for e in events:
        if e.event == "closed" and e.at >= since_s:
            lags.update({int(lag): count for lag, count in e.facts["lags"].items()})
    return sum(lag * count for lag, count in lags.items()) / lags.total() if lags else 0.0


def littles(mode: str) -> float:
    """What Little's law says of the mean lag: whoever is in flight meanwhile arrives before, a quorum to a version."""
    rounds = MODES[mode]
    return (int(rounds["in_flight"]) - 1) / int(rounds["quorum"])


def values(found: Race, mode: str, number: str) -> list[float]:
    """One number of a mode, by seed. Not for a race in which the target was missed."""
    return [float(getattr(found.courses[mode][seed], number)) for seed in SEEDS]


def times_faster(found: Race, mode: str, than: str) -> tuple[float, float, float]:
    """How many times earlier a mode reaches the target: geometric mean over paired seeds, and 95 % interval."""
    pairs = zip(values(found, than, "to_target_s"), values(found, mode, "to_target_s"), strict=True)
    middle, half = interval([log(slow / fast) for slow, fast in pairs])
    return exp(middle), exp(middle - half), exp(middle + half)
