"""LICFL where groups are planted: owners who call the same things by other names."""

from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import planted
from benchmarks.planted import CLASSES, GROUPS, OWNERS
from benchmarks.points import DIM
from benchmarks.study import Arm, Studied, Study

ROUNDS = 10
FEW = {"images": 64, "epochs": 1}
MANY = {"images": 256, "epochs": 5}
"""Of an owner, and of a local training. Chosen on seeds 100 to 119 (docs/log.md)."""
SETTINGS: dict[str, tuple[float, dict[str, int]]] = {
    "Dirichlet 1": (1.0, FEW),
    "Dirichlet 0.3": (0.3, FEW),
    "Dirichlet 0.3, 256 images": (0.3, MANY),
    "Dirichlet 0.1": (0.1, FEW),
    "Dirichlet 0.1, 256 images": (0.1, MANY),
}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "fedavg": ("fedavg", {}),
    "licfl": ("licfl", {}),
    "licfl, told 3": ("licfl", {"cohorts": GROUPS}),
}


def arm(method: str, setting: str, seed: int, cache: Path) -> dict[str, float]:
    """Accuracy on the owners' own tests in percent, uploads, and how well the groups were found (1: exactly)."""
    name, params = METHODS[method]
    alpha, size = SETTINGS[setting]
    asked = {"name": name, "params": {"lr": 0.05, "batch": 16, "epochs": size["epochs"], **params}}
    points = {"noise": 1.0, "alpha": alpha, "images": size["images"]}
    outcome, groups = planted.rounds(asked, points, seed, ROUNDS, cache)
    found = {"own tests": 100 * (outcome.report.accuracy.mean or 0.0), "uploads": float(planted.uploads(outcome))}
    return found | ({"ARI": planted.found(groups), "cohorts": float(len(set(groups.values())))} if groups else {})


def named(method: str, setting: str) -> str:
    return f"{method}, {setting}"


ARMS: dict[str, Arm] = {named(m, s): partial(arm, m, s) for s in SETTINGS for m in METHODS}
PAIRS = tuple((named(m, s), named("fedavg", s), "own tests") for s in SETTINGS for m in METHODS if m != "fedavg")


def read(found: Studied) -> str:
    """By what the intervals and the worst seed say."""
    exact = {m: [s for s in SETTINGS if min(found.values(named(m, s), "ARI")) == 1] for m in METHODS if m != "fedavg"}
    better = [s for s in SETTINGS if _low(found, named("licfl", s), named("fedavg", s)) > 0]
    told = " and, told that there are three, ".join(f"at {'; '.join(where) or 'none'}" for where in exact.values())
    return (
        f"The planted groups were found exactly with all five seeds {told}. Models of their own beat one for all at "
        f"95 % at {'; '.join(better) or 'none'}."
    )


def _low(found: Studied, first: str, other: str) -> float:
    middle, half = found.difference(first, other, "own tests")
    return middle - half


STUDY = Study(
    claim="Clients whose first updates are alike form cohorts, and a model per cohort is better for each client than "
    "one for all, with nothing more sent (industrial telemetry; no numbers could be read). Expected here: the planted "
    "groups are found exactly (ARI 1) down to Dirichlet 0.3.",
    setting=f"{OWNERS} owners of noisy points in {DIM} dimensions, {CLASSES} classes, three planted groups that "
    "permute the labels; how an owner's images spread over the classes is drawn from a Dirichlet distribution (small: "
    f"few classes). {FEW['images']} images each, three fifths of them to train on, and one local epoch; or "
    f"{MANY['images']} and {MANY['epochs']} epochs, which was chosen on other seeds. A linear head. `fedavg` has "
    f"{ROUNDS} synchronous rounds; `licfl` one of all, then as many versions as the cohorts found need for the same "
    "number of uploads. *told 3* knows how many groups there are.",
    arms=ARMS,
    pairs=PAIRS,
    read=read,
)
