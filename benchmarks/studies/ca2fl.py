"""CA2FL where slow owners have other data than fast ones, and whoever answers is replaced at once."""

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks import process, race
from benchmarks.study import Arm, Studied, Study
from orchestrator.aggregators.ca2fl import Ca2fl, CalibratedFold
from orchestrator.plan import plan
from orchestrator.run import Outcome, execute
from schemas.base import Choice
from schemas.experiment import Experiment
from workers.tensors import Tensors

OWNERS, HORIZON_S, TARGET = 30, 40, 0.33
LONGER_S = 120
"""Virtual seconds in which synchronous versions have about as many uploads."""
SLOW = 10
"""How many owners are called slow: those of whom the fewest updates were counted."""
NOW = {"in_flight": 10, "refill": "at_arrival", "max_staleness": 100}
BUFFERED: dict[str, Any] = NOW | {"quorum": 5, "floor": 5}
AS_IT_IS: dict[str, Any] = BUFFERED | {"staleness": "constant"}


class Discounted(Ca2fl):
    """CA2FL in which what a late update changes counts less."""

    discounts = True

    def fold(self, kept: Tensors | None = None) -> CalibratedFold:
        return DiscountedFold(self.clients, kept or {})


class DiscountedFold(CalibratedFold):
    """Its fold."""

    def add(self, client: str, update: Tensors, weight: float, discount: float) -> None:
        before = dict(self.total)
        super().add(client, update, weight, discount)
        self.total = {k: before[k] + discount * (t - before[k]) if k in before else discount * t
                      for k, t in self.total.items()}  # fmt: skip


class LastOnes(Ca2fl):
    """The cache alone: a version is the mean of everybody's last update."""

    def fold(self, kept: Tensors | None = None) -> CalibratedFold:
        return LastFold(self.clients, kept or {})


class LastFold(CalibratedFold):
    """Its fold."""

    def result(self) -> Tensors:
        super().result()
        return {name: (t / self.clients).float() for name, t in self.kept.items()}


def arm(
    rounds: dict[str, Any], aggregator: str, every: int, seed: int, cache: Path, *, alike: bool = False,
    horizon_s: int = HORIZON_S,
) -> dict[str, float]:  # fmt: skip
    """Virtual seconds and uploads to the target (to the end, if it is never reached), and accuracies in percent."""
    asked = race.experiment(rounds, seed, every=every, owners=OWNERS)
    changes: dict[str, Any] = {"aggregator": Choice(name=aggregator)}
    if alike and asked.data:
        changes["data"] = asked.data.model_copy(update={"partition": Choice(name="iid", params={"clients": OWNERS})})
    outcome = ran(asked.model_copy(update=changes), cache, horizon_s)
    course, slow = (race.course(o, target=TARGET, horizon_s=horizon_s) for o in (outcome, of_slow(outcome)))
    end = course.to_target_s or horizon_s
    return {
        TO_TARGET: end,
        UPLOADS: float(sum(at <= end for at in race.uploads(outcome.events))),
        "at the end": 100 * course.final,
        "slow owners": 100 * slow.final,
    }


def ran(asked: Experiment, cache: Path, horizon_s: int) -> Outcome:
    """A run that is cancelled at the horizon."""
    with tempfile.TemporaryDirectory(prefix="quorate-bench-") as folder:
        made, runtime = plan(asked), process.runtime(Path(folder), cache)
        referee = race.Referee(0.0, horizon_s, lambda: runtime.state.flag(asked.name, "cancel"))
        return execute(made, runtime, asked.name, referee.watch)


def of_slow(outcome: Outcome) -> Outcome:
    """The same run without what the others were judged by."""
    ledger = outcome.report.ledger
    slow = sorted(ledger, key=lambda client: (ledger[client].accepted, client))[:SLOW]
    seen = [e for e in outcome.events if e.event != "evaluated" or e.client in slow]
    return replace(outcome, events=seen)


TO_TARGET, UPLOADS = f"s to {100 * TARGET:g} %", "uploads until then"
HERE = "benchmarks.studies.ca2fl"
SYNCHRONOUS: dict[str, Any] = race.AT_CLOSE | {"in_flight": 10, "quorum": 10, "floor": 10}
ASYNC: dict[str, Any] = race.MODES["FedAsync"] | {"in_flight": 10}
ARMS: dict[str, Arm] = {
    "FedAvg": partial(arm, SYNCHRONOUS, "mean", 1, horizon_s=LONGER_S),
    "FedAsync": partial(arm, ASYNC, "mean", 10),
    "FedBuff": partial(arm, BUFFERED, "mean", 2),
    "no cache": partial(arm, AS_IT_IS, "mean", 2),
    "cache alone": partial(arm, AS_IT_IS, f"{HERE}:LastOnes", 2),
    "discounted": partial(arm, BUFFERED, f"{HERE}:Discounted", 2),
    "ca2fl": partial(arm, AS_IT_IS, "ca2fl", 2),
    "FedBuff, alike": partial(arm, BUFFERED, "mean", 2, alike=True),
    "ca2fl, alike": partial(arm, AS_IT_IS, "ca2fl", 2, alike=True),
}
NUMBERS = (TO_TARGET, UPLOADS, "at the end", "slow owners")
COMPARED = (
    *(("ca2fl", other) for other in ("FedAvg", "FedAsync", "FedBuff", "no cache", "cache alone", "discounted")),
    ("FedBuff", "no cache"),
    ("ca2fl, alike", "FedBuff, alike"),
)


def read(found: Studied) -> str:
    """By what the intervals say."""
    times = mean(found.values("FedBuff", TO_TARGET)) / mean(found.values("ca2fl", TO_TARGET))
    said = "; ".join(against(found, first, other) for first, other in COMPARED)
    return f"To {100 * TARGET:g} % FedBuff takes {times:.1f} times as long as ca2fl (of the means). At 95 %: {said}."


def against(found: Studied, first: str, other: str) -> str:
    """In which numbers one is told apart from another, and how."""
    told: dict[str, list[str]] = {"better": [], "worse": []}
    for number in NUMBERS:
        if verdict := found.verdict(first, other, number):
            wanted = "below" if number in (TO_TARGET, UPLOADS) else "above"
            told["better" if verdict == wanted else "worse"].append(f"*{number}*")
    parts = [f"{word} than {other} in {', '.join(numbers)}" for word, numbers in told.items() if numbers]
    return f"{first} is {' and '.join(parts) or f'not told apart from {other}'}"


STUDY = Study(
    claim="In asynchronous training with a buffer, fast clients arrive more often than slow ones that have other data; "
    "updates calibrated by everybody's cached last one converge faster for it than FedBuff and FedAsync, with nothing "
    "more sent (CIFAR-10, CIFAR-100, text; numbers could not be read).",
    setting=f"The race's task with {OWNERS} owners of two of 40 classes each, whose speeds are lognormal (sigma 1, "
    f"drawn once per owner), over {HORIZON_S} virtual seconds: `fedavg` with a linear head and plain SGD, 10 in "
    "flight, 5 updates to a version, whoever has answered is replaced at once; server_lr 1, which of 0.3, 0.5, 1 and 2 "
    "was about the best of both on two other seeds. *FedBuff*: the mean, late updates discounted by 1/sqrt(1 + lag). "
    "*no cache*: what is left of ca2fl if nothing is remembered, the mean without discount. *cache alone*: the mean of "
    "everybody's last update. *discounted*: ca2fl in which what a late update changes counts 1/sqrt(1 + lag). "
    "*FedAsync*: every answer mixed in, 0.6/sqrt(1 + lag). *FedAvg*: synchronous versions of 10, over "
    f"{LONGER_S} s. *alike*: the same points dealt to everybody, so that slow owners have nothing of their own. "
    f"*{TO_TARGET}* and *{UPLOADS}*: until the first version that is so good, or to the end if none is. Accuracies are "
    f"in percent, means over the last {race.LAST_S} s; *slow owners* are the {SLOW} of whom least was counted.",
    arms=ARMS,
    pairs=tuple((first, other, number) for first, other in COMPARED for number in NUMBERS),
    read=read,
)
