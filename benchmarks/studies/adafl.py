"""AdaFL where few owners hold what nobody else does: attention, and a fraction that grows."""

from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from benchmarks import process, race
from benchmarks.study import Arm, Studied, Study, course
from schemas.base import Choice
from schemas.experiment import Experiment

OWNERS, CLASSES, IMAGES = 60, 20, 30
LOW, HIGH, STAGES = 0.1, 0.5, 5
UPLOADS, SPAN, TARGET, WORST, LAST = 540, 72, 60.0, 6, 10
"""Of every arm; over how many uploads accuracies are averaged; percent to reach; owners who are looked at apart; over
how many evaluations, of thirty, it is looked at how steady the accuracy is."""
FRESH = (5, 6, 7, 8, 9)
"""Pilots, by which the arms were chosen, had seeds from 0 to 4."""


class Asked(NamedTuple):
    """selector, how many it may ask a version, versions, and how many between two evaluations."""

    selector: dict[str, Any]
    most: int
    versions: int
    every: int


def adafl(alpha: float, start: float, end: float) -> Asked:
    """540 uploads: a mean fraction of 0.3 of 60 owners in 30 versions."""
    params = {"alpha": alpha, "start": start, "end": end, "stages": STAGES, "over": 30}
    return Asked({"name": "adafl", "params": params}, OWNERS, 30, 1)


METHODS = {
    "uniform, 0.3": Asked({"name": "uniform"}, 18, 30, 1),
    "uniform, 0.1": Asked({"name": "uniform"}, 6, 90, 3),
    "growing alone": adafl(1, LOW, HIGH),
    "attention alone, 0.3": adafl(0.9, 0.3, 0.3),
    "adafl": adafl(0.9, LOW, HIGH),
}


def experiment(asked: Asked, seed: int) -> Experiment:
    """Synchronous, in tasks of all that are asked; nobody is slow."""
    rounds = race.AT_CLOSE | {"in_flight": asked.most, "quorum": asked.most, "floor": 1, "clients_per_task": OWNERS}
    made = race.experiment(rounds, seed, every=asked.every, owners=OWNERS, classes=CLASSES, per_class=IMAGES)
    assert made.data is not None
    changes = {
        "data": made.data.model_copy(update={"name": "benchmarks.uneven:Uneven"}),
        "rounds": made.rounds.model_copy(update={"versions": asked.versions}),
        "selector": Choice.model_validate(asked.selector),
        "simulate": None,
    }
    return made.model_copy(update=changes)


def arm(asked: Asked, seed: int, cache: Path) -> dict[str, float]:
    """Accuracies in percent over the last uploads, of all and of the worst, uploads to the target, how steady it is."""
    _, outcome = process.run(experiment(asked, seed), cache)
    seen = list(course(outcome.events))
    ends = smooth(seen)
    reached = next((up for up, accuracy in ends if accuracy >= TARGET), UPLOADS)
    worst = mean(mean(sorted(each)[:WORST]) for up, each in seen if up > seen[-1][0] - SPAN)
    found = {"accuracy": ends[-1][1], f"worst {WORST}": worst, "uploads": float(seen[-1][0]), TO_TARGET: float(reached)}
    return found | steadiness([mean(each) for _, each in seen[-LAST:]])


def steadiness(course: list[float]) -> dict[str, float]:
    """Of the last accuracies: how much they spread, and how far they jump from one to the next, either way."""
    return {SPREAD: stdev(course), JUMP: mean(abs(b - a) for a, b in pairwise(course))}


def smooth(seen: list[tuple[int, list[float]]]) -> list[tuple[int, float]]:
    """Means over the owners and over the last uploads: the same number of them, however many a version has."""
    means = [(up, mean(each)) for up, each in seen]
    return [(up, mean(a for u, a in means if up - SPAN < u <= up)) for up, _ in means if up >= SPAN]


TO_TARGET, SPREAD, JUMP = f"uploads to {TARGET:g} %", "spread", "jump"
ARMS: dict[str, Arm] = {name: partial(arm, asked) for name, asked in METHODS.items()}
NUMBERS = (TO_TARGET, "accuracy", f"worst {WORST}", SPREAD, JUMP)
PAIRS = tuple(
    (first, other, number)
    for first, other in (
        *(("adafl", other) for other in METHODS if other != "adafl"),
        ("attention alone, 0.3", "uniform, 0.3"),
    )
    for number in NUMBERS
)


def read(found: Studied) -> str:
    """By what the intervals say."""
    told = {number: list[str]() for number in NUMBERS}
    for first, other, number in PAIRS:
        if verdict := found.verdict(first, other, number):
            told[number].append(f"{first} is {verdict} {other}")
    fewer = 100 * (1 - mean(found.values("adafl", TO_TARGET)) / mean(found.values("uniform, 0.3", TO_TARGET)))
    said = "; ".join(f"*{number}*: {', '.join(pairs) or 'nothing'}" for number, pairs in told.items())
    return f"adafl needs {fewer:.0f} % fewer uploads to the target than uniform, 0.3. Told apart at 95 %: {said}."


STUDY = Study(
    claim="Clients chosen by attention (far from the merged model: more often) and in growing numbers reach more "
    "accuracy, more stably and with less communication than FedAvg (MNIST, CIFAR-10; no numbers could be read).",
    setting=f"{OWNERS} owners of two of {CLASSES} classes, {IMAGES} noisy points in 64 dimensions of each; the class "
    "of rank k is dealt as k^-1, so that some hold what nobody else does. A linear head, plain SGD, synchronous, "
    f"{UPLOADS} uploads in every arm. *adafl*: fractions of the owners from {LOW} to {HIGH} in {STAGES} stages of six "
    "versions, alpha 0.9. *growing alone*: alpha 1, so scores never move. *attention alone, 0.3*, *uniform, 0.3*: "
    "always the mean fraction; *uniform, 0.1*: always the first one, in 90 versions. *accuracy*: mean over the owners' "
    f"tests and the last {SPAN} uploads; *worst {WORST}*: of as many owners; *{TO_TARGET}*: sent until that mean is "
    f"there, or all. How steady it is, over the last {LAST} of 30 evaluations (one per version; of *uniform, 0.1* one "
    "in three): *spread*, their standard deviation, rising included; *jump*, the mean change from one to the next, up "
    f"or down. Seeds {FRESH[0]} to {FRESH[-1]}: by none of them anything was chosen.",
    arms=ARMS,
    pairs=PAIRS,
    read=read,
    seeds=FRESH,
)
