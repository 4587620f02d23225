"""Oort where owners differ in speed and in how much they hold: time to an accuracy, on the virtual clock."""

from collections import defaultdict
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from benchmarks import process, race
from benchmarks.study import Arm, Studied, Study
from orchestrator.run import Outcome
from schemas.base import Choice
from schemas.experiment import Experiment

OWNERS, CLASSES, MANY, IMAGES, SPREAD = 80, 10, 40, 15, 1.0
MOST, QUORUM, VERSIONS, EVERY, SPAN = 10, 8, 45, 3, 3
"""Asked and counted in a version; versions; between two evaluations; evaluations that are averaged."""
FRESH = (5, 6, 7, 8, 9)
"""Pilots, by which values and arms were chosen, had seeds from 0 to 4."""
TARGET, MOMENT_S = 60.0, 30.0
"""Percent to reach; virtual seconds at which all are compared: no arm has ended by then."""


class Case(NamedTuple):
    """params: of the selector, none for uniform; clip 0 cuts every utility to the lowest, so that all are alike.

    weight: of an update in the mean.
    """

    params: dict[str, Any] | None
    classes: int = CLASSES
    weight: str = "images"


CASES = {
    "uniform": Case(None),
    "oort": Case({}),
    "no system utility": Case({"penalty": 0}),
    "no statistical utility": Case({"clip": 0}),
    "no exploration": Case({"explore": 0, "least": 0}),
    "no limit of askings": Case({"most": None}),
    "uniform, even": Case(None, weight="uniform"),
    "oort, even": Case({}, weight="uniform"),
    "no statistical utility, even": Case({"clip": 0}, weight="uniform"),
    f"uniform, {MANY} classes": Case(None, MANY),
    f"oort, {MANY} classes": Case({}, MANY),
}


class Point(NamedTuple):
    """An evaluated version: when it was committed, and its accuracy in percent, mean over the last evaluations."""

    version: int
    seconds: float
    accuracy: float


def experiment(case: Case, seed: int) -> Experiment:
    """Some more are asked than count: the others' updates are thrown away. One epoch: losses are of the old model."""
    rounds = race.AT_CLOSE | {"in_flight": MOST, "quorum": QUORUM, "floor": QUORUM}
    made = race.experiment(rounds, seed, every=EVERY, owners=OWNERS, classes=case.classes, per_class=IMAGES)
    assert made.data is not None
    more, sgd = {"skew": 0.0, "spread": SPREAD}, {"epochs": 1, "lr": 0.5e6, "weight": case.weight}
    changes = {
        "data": made.data.model_copy(update={"name": "benchmarks.uneven:Uneven", "params": made.data.params | more}),
        "method": Choice(name="fedavg", params=made.method.params | sgd),
        "rounds": made.rounds.model_copy(update={"versions": VERSIONS}),
        "selector": Choice(name="uniform") if case.params is None else Choice(name="oort", params=case.params),
    }
    return made.model_copy(update=changes)


def arm(case: Case, seed: int, cache: Path) -> dict[str, float]:
    """Virtual seconds and uploads to the target, accuracies at an equal time and after equal uploads, who counted.

    With many classes nothing is near the target.
    """
    _, outcome = process.run(experiment(case, seed), cache)
    points = course(outcome)
    reached = next((p for p in points if p.accuracy >= TARGET), points[-1])
    to_target = {TO_TARGET: reached.seconds, UPLOADS: float(MOST * reached.version)} if case.classes == CLASSES else {}
    counted = [share.accepted for share in outcome.report.ledger.values() if share.accepted]
    return to_target | {
        AT_MOMENT: max((p for p in points if p.seconds <= MOMENT_S), key=lambda p: p.version).accuracy,
        "accuracy": points[-1].accuracy,
        "owners counted": float(len(counted)),
        "s": points[-1].seconds,
    }


def course(outcome: Outcome) -> list[Point]:
    """Its evaluated versions."""
    at, found = {0: 0.0}, defaultdict(list)
    for e in outcome.events:
        if e.event == "closed":
            at[e.version] = e.at
        elif e.event == "evaluated":
            found[e.version].append(100 * float(e.facts["accuracy"]))
    means = [(version, mean(found[version])) for version in sorted(found)]
    return [
        Point(version, at[version], mean(a for _, a in means[max(0, i - SPAN + 1) : i + 1]))
        for i, (version, _) in enumerate(means)
    ]


TO_TARGET, UPLOADS, AT_MOMENT = f"s to {TARGET:g} %", f"uploads to {TARGET:g} %", f"accuracy at {MOMENT_S:g} s"
NUMBERS = (TO_TARGET, UPLOADS, AT_MOMENT, "accuracy")
ARMS: dict[str, Arm] = {name: partial(arm, case) for name, case in CASES.items()}
ABLATIONS = ("uniform", "no system utility", "no statistical utility", "no exploration", "no limit of askings")
PAIRS = (
    *(("oort", other, number) for other in ABLATIONS for number in NUMBERS),
    *(("oort, even", f"{other}, even", n) for other in ("uniform", "no statistical utility") for n in NUMBERS),
    *((f"oort, {MANY} classes", f"uniform, {MANY} classes", number) for number in (AT_MOMENT, "accuracy")),
)


def read(found: Studied) -> str:
    """By what the intervals say."""
    told = {number: list[str]() for number in NUMBERS}
    for first, other, number in PAIRS:
        if verdict := found.verdict(first, other, number):
            told[number].append(f"{verdict} {other}")
    times = [mean(found.values(f"uniform{how}", TO_TARGET)) / mean(found.values(f"oort{how}", TO_TARGET))
             for how in ("", ", even")]  # fmt: skip
    said = "; ".join(f"*{number}*: {', '.join(others) or 'nothing'}" for number, others in told.items())
    return (
        f"oort is {times[0]:.2f} times as fast to the target as uniform, and {times[1]:.2f} times where all weigh "
        f"alike (by the means). It is told apart at 95 %: {said}."
    )


STUDY = Study(
    claim="Clients chosen by loss, images and speed bring a model to an accuracy in 1.2 to 14.1 times less time, and "
    "to 1.3 to 9.8 % more accuracy, than clients chosen at random (real data sets of thousands of clients).",
    setting=f"{OWNERS} owners of two of {CLASSES} classes, noisy points in 64 dimensions, {IMAGES} of each class at "
    "the median owner (lognormal, sigma 1); seconds per owner lognormal, median 1, sigma 1, whatever it holds. A "
    f"linear head, plain SGD, one epoch; of {MOST} who are asked the first {QUORUM} count, {VERSIONS} versions: "
    "equally many are asked in every arm. *s* is the virtual clock's: of the whole run, and until the mean accuracy of "
    f"{SPAN} evaluations (one in {EVERY} versions) is {TARGET:g} %, or the end. *accuracy*: at the end, after equal "
    f"uploads. *no statistical utility*: all losses and images alike. *no limit of askings*: nobody is made to wait. "
    "*even*: all updates weigh alike in the mean; elsewhere by their images, which oort goes by too. "
    f"*{MANY} classes*: in the place of {CLASSES}, so that each is at few owners. Seeds {FRESH[0]} to {FRESH[-1]}: by "
    "none of them anything was chosen.",
    arms=ARMS,
    pairs=PAIRS,
    read=read,
    seeds=FRESH,
)
