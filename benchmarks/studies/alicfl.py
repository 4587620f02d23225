"""ALICFL, LICFL's adaptive rule, against each of its server rules alone, one model for all, and none that is shared."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from benchmarks import planted
from benchmarks.planted import CLASSES, GROUPS, OWNERS
from benchmarks.points import DIM
from benchmarks.study import Arm, Studied, Study, course

ROUNDS, NOISE, ETA = 10, 3.0, 0.1
STEPS = {"small steps": 0.003, "large steps": 0.05}
"""The clients' learning rates."""


def cohorts(rule: str, **params: Any) -> dict[str, Any]:
    """LICFL with a server rule; told how many groups there are, so that they are found in all arms alike."""
    return {"name": "licfl", "params": {"rule": rule, "eta": ETA, "cohorts": GROUPS, **params}}


FIXED = ("fedavg", "fedadagrad", "fedyogi", "fedadam")
METHODS: dict[str, dict[str, Any]] = {
    "one model": {"name": "fedavg", "params": {}},
    "local_only": {"name": "local_only", "params": {}},
    **{f"cohorts, {rule}": cohorts(rule) for rule in FIXED},
    "alicfl, norm_drift": cohorts("adaptive"),
    "alicfl, loss": cohorts("adaptive", selection="loss"),
}


def arm(method: Mapping[str, Any], lr: float, seed: int, cache: Path) -> dict[str, float]:
    """Accuracies on the owners' own tests in percent: at the end, and the mean of the course. Uploads."""
    asked = {**method, "params": {"lr": lr, "batch": 16, **method["params"]}}
    each = GROUPS if method["name"] == "licfl" else 1
    points = {"noise": NOISE, "alpha": 1.0}
    made = planted.experiment(asked, points, seed, 1 + each * (ROUNDS - 1), every=each)
    outcome, groups = planted.ran(made, cache)
    seen = [(up, mean(owners)) for up, owners in course(outcome.events)]
    at = [OWNERS * n for n in range(1, ROUNDS + 1)]
    speed = np.interp(at, [up for up, _ in seen], [accuracy for _, accuracy in seen]).mean()
    found = {"own tests": seen[-1][1], "mean of the course": float(speed)}
    sent = {"uploads": float(planted.uploads(outcome))}
    return found | sent | ({"ARI": planted.found(groups)} if groups else {})


def named(method: str, steps: str) -> str:
    return f"{method}, {steps}"


ARMS: dict[str, Arm] = {named(m, s): partial(arm, METHODS[m], STEPS[s]) for s in STEPS for m in METHODS}
NUMBERS = ("own tests", "mean of the course")
PAIRS = tuple(
    (named("alicfl, loss", s), named(other, s), number)
    for s in STEPS
    for number in NUMBERS
    for other in METHODS
    if other != "alicfl, loss"
)


def read(found: Studied) -> str:
    """By what the intervals say."""
    return " ".join(_told(found, steps, number) for steps in STEPS for number in NUMBERS)


def _told(found: Studied, steps: str, number: str) -> str:
    told: dict[str, list[str]] = {"above": [], "below": [], "not told apart from": []}
    for first, other, compared in PAIRS:
        if compared == number and first == named("alicfl, loss", steps):
            verdict = found.verdict(first, other, number) or "not told apart from"
            told[verdict].append(other.removesuffix(f", {steps}"))
    said = "; ".join(f"{verdict} {' / '.join(others)}" for verdict, others in told.items() if others)
    return f"{steps.capitalize()}, *{number}*: alicfl by loss is, at 95 %, {said}."


STUDY = Study(
    claim="In every round and cohort a server rule is chosen among FedAvg, FedAdagrad, FedYogi and FedAdam; so the "
    "cohorts reach more, and faster, than with any one of them or with one model for all (telemetry of 100 machines; "
    "no numbers could be read).",
    setting=f"The owners of the study of licfl ({OWNERS} with 64 points each, {CLASSES} classes, {GROUPS} planted "
    f"groups that permute the labels, Dirichlet 1), with more noise ({NOISE:g} in {DIM} dimensions), a linear head, "
    f"{ROUNDS} synchronous rounds or as many uploads by cohort; all are told how many groups there are. Clients take "
    f"small steps (Adam at {STEPS['small steps']:g}, the default) or large ones ({STEPS['large steps']:g}). The rules' "
    f"eta is {ETA:g}: of 0.01, 0.03 and 0.1 the best for small steps on two other seeds. *mean of the course*: of the "
    f"accuracy at every {OWNERS} uploads, which is more for who is faster.",
    arms=ARMS,
    pairs=PAIRS,
    read=read,
)
