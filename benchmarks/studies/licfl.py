"""LICFL where groups are planted: owners who call the same things by other names."""

import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat

from benchmarks import process
from benchmarks.points import DIM, SIDE, Points
from benchmarks.study import Arm, Studied, Study
from infra.blobs import FileBlobs
from orchestrator.commits import Commits
from orchestrator.plan import plan
from orchestrator.run import execute
from schemas.experiment import Experiment
from schemas.report import Report

OWNERS, CLASSES, GROUPS, IMAGES, ROUNDS = 30, 8, 3, 64, 10
ALPHAS = (1.0, 0.3, 0.1)


class Planted(Points):
    """Points whose labels are permuted, one way in each of three groups of owners; shares of classes by Dirichlet."""

    class Params(Points.Params):
        """alpha: of the Dirichlet shares of an owner's classes."""

        alpha: PositiveFloat = 1.0

    params: Params

    def _names(self) -> Iterator[Path]:
        draw = np.random.default_rng([self.params.seed, 2])
        for owner in range(OWNERS):
            labels = draw.choice(CLASSES, IMAGES, p=draw.dirichlet([self.params.alpha] * CLASSES))
            yield from (Path(f"owner-{owner:02}", f"class-{k:02}", f"{n:03}.png") for n, k in enumerate(labels))

    def _pictures(self) -> Iterator[tuple[Path, NDArray[np.uint8]]]:
        draw = np.random.default_rng([self.params.seed, 3])
        centres, called = draw.normal(size=(CLASSES, DIM)), [draw.permutation(CLASSES) for _ in range(GROUPS)]
        unit = 127.5 / (4 * np.sqrt(1 + self.params.noise**2))
        for name in self._names():
            owner, label = int(name.parts[0][-2:]), int(name.parts[1][-2:])
            point = centres[called[owner % GROUPS][label]] + self.params.noise * draw.normal(size=DIM)
            yield name, np.clip(np.rint(127.5 + unit * point), 0, 255).astype(np.uint8).reshape(SIDE, SIDE)


def experiment(method: dict[str, Any], alpha: float, seed: int, versions: int) -> Experiment:
    """Synchronous, everybody in each round."""
    everybody = {"in_flight": OWNERS, "quorum": OWNERS, "floor": OWNERS, "grace_s": 0, "max_staleness": 0}
    points = {"seed": seed, "alpha": alpha, "noise": 1.0, "owners": OWNERS, "classes": CLASSES}
    return Experiment.model_validate({
        "name": "planted", "seed": seed,
        "data": {"name": "benchmarks.studies.licfl:Planted", "params": points, "partition": {"name": "by_domain"}},
        "model": {"backbone": {"name": "benchmarks.points:Pixels"}},
        "method": method, "rounds": {"versions": versions, **everybody},
        "evaluate": {"every": 0, "final": True},
    })  # fmt: skip


def arm(method: dict[str, Any], alpha: float, seed: int, cache: Path) -> dict[str, float]:
    """Accuracy on the owners' own tests in percent, uploads, and how well the groups were found (1: exactly)."""
    from sklearn.metrics import adjusted_rand_score  # noqa: PLC0415 (takes seconds)

    if method["name"] != "licfl":
        report, _ = _ran(experiment(method, alpha, seed, ROUNDS), cache)
        return _numbers(report)
    _, first = _ran(experiment(method, alpha, seed, 1), cache)
    cohorts = len(set(first.values()))
    report, groups = _ran(experiment(method, alpha, seed, 1 + cohorts * (ROUNDS - 1)), cache)
    owners = sorted(groups)
    found = adjusted_rand_score([int(o.split("-")[1]) % GROUPS for o in owners], [groups[o] for o in owners])
    return _numbers(report) | {"ARI": float(found), "cohorts": float(cohorts)}


def _ran(asked: Experiment, cache: Path) -> tuple[Report, Mapping[str, str]]:
    """What was reached, and who ended in which group."""
    with tempfile.TemporaryDirectory(prefix="quorate-bench-") as folder:
        outcome = execute(plan(asked), process.runtime(Path(folder), cache), asked.name, process.unseen)
        return outcome.report, Commits(asked.name, FileBlobs(Path(folder) / "blobs")).all()[-1].assignment


def _numbers(report: Report) -> dict[str, float]:
    sent = sum(share.accepted for share in report.ledger.values())
    return {"own tests": 100 * (report.accuracy.mean or 0.0), "uploads": float(sent)}


METHODS: dict[str, dict[str, Any]] = {
    "fedavg": {"name": "fedavg", "params": {"lr": 0.05, "batch": 16}},
    "licfl": {"name": "licfl", "params": {"lr": 0.05, "batch": 16}},
    "licfl, told 3": {"name": "licfl", "params": {"lr": 0.05, "batch": 16, "cohorts": 3}},
}


def named(method: str, alpha: float) -> str:
    return f"{method}, Dirichlet {alpha:g}"


ARMS: dict[str, Arm] = {named(m, a): partial(arm, METHODS[m], a) for a in ALPHAS for m in METHODS}
PAIRS = tuple((named(m, a), named("fedavg", a), "own tests") for a in ALPHAS for m in METHODS if m != "fedavg")


def read(found: Studied) -> str:
    """By what the intervals and the worst seed say."""
    exact = [f"{a:g}" for a in ALPHAS if min(found.values(named("licfl", a), "ARI")) == 1]
    better = [f"{a:g}" for a in ALPHAS if _low(found, named("licfl", a), named("fedavg", a)) > 0]
    return (
        f"The planted groups were found exactly with all five seeds at Dirichlet {', '.join(exact) or 'none'}; "
        f"models of their own beat one for all at 95 % at Dirichlet {', '.join(better) or 'none'}."
    )


def _low(found: Studied, first: str, other: str) -> float:
    middle, half = found.difference(first, other, "own tests")
    return middle - half


STUDY = Study(
    claim="Clients whose first updates are alike form cohorts, and a model per cohort is better "
    "for each client than one "
    "for all, with nothing more sent (industrial telemetry; no numbers could be read).",
    setting=f"{OWNERS} owners of {IMAGES} noisy points in {DIM} dimensions, {CLASSES} classes, three planted groups "
    "that permute the labels; how an owner's images spread over the classes is drawn from a Dirichlet distribution "
    f"(small: few classes). A linear head. `fedavg` has {ROUNDS} synchronous rounds; `licfl` one of all, then as many "
    "versions as the cohorts found need for the same number of uploads. *told 3* knows how many groups there are.",
    arms=ARMS,
    pairs=PAIRS,
    read=read,
)
