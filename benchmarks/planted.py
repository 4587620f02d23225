"""Owners in planted groups, who call the same things by other names, and runs on them with equally many uploads.

Data like any other, named in the experiment as `benchmarks.planted:Planted`.
"""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat, PositiveInt

from benchmarks import process
from benchmarks.points import DIM, SIDE, Points
from infra.blobs import FileBlobs
from orchestrator.commits import Commits
from orchestrator.plan import plan
from orchestrator.run import Outcome, execute
from schemas.experiment import Experiment

OWNERS, CLASSES, GROUPS = 30, 8, 3


class Planted(Points):
    """Points whose labels are permuted, one way in each group of owners; shares of classes by Dirichlet."""

    class Params(Points.Params):
        """alpha: of the Dirichlet shares of an owner's classes. images: of an owner."""

        alpha: PositiveFloat = 1.0
        images: PositiveInt = 64

    params: Params

    def _names(self) -> Iterator[Path]:
        p, draw = self.params, np.random.default_rng([self.params.seed, 2])
        for owner in range(p.owners):
            labels = draw.choice(p.classes, p.images, p=draw.dirichlet([p.alpha] * p.classes))
            yield from (Path(f"owner-{owner:02}", f"class-{k:02}", f"{n:03}.png") for n, k in enumerate(labels))

    def _pictures(self) -> Iterator[tuple[Path, NDArray[np.uint8]]]:
        p, draw = self.params, np.random.default_rng([self.params.seed, 3])
        centres, called = draw.normal(size=(p.classes, DIM)), [draw.permutation(p.classes) for _ in range(GROUPS)]
        unit = 127.5 / (4 * np.sqrt(1 + p.noise**2))
        for name in self._names():
            owner, label = int(name.parts[0][-2:]), int(name.parts[1][-2:])
            point = centres[called[owner % GROUPS][label]] + p.noise * draw.normal(size=DIM)
            yield name, np.clip(np.rint(127.5 + unit * point), 0, 255).astype(np.uint8).reshape(SIDE, SIDE)


ALL_OF_THEM = {"in_flight": OWNERS, "quorum": OWNERS, "floor": OWNERS, "grace_s": 0, "max_staleness": 0}
"""Synchronous, everybody in each round, in as few tasks as can be."""


def experiment(
    method: Mapping[str, Any], points: Mapping[str, float], seed: int, versions: int, *, every: int = 0
) -> Experiment:
    """A run. points: params of `Planted`. every: versions between two evaluations; 0: at its end alone."""
    params = {"seed": seed, "owners": OWNERS, "classes": CLASSES, **points}
    return Experiment.model_validate({
        "name": "planted", "seed": seed, "method": method,
        "data": {"name": "benchmarks.planted:Planted", "params": params, "partition": {"name": "by_domain"}},
        "model": {"backbone": {"name": "benchmarks.points:Pixels"}},
        "rounds": {"versions": versions, "clients_per_task": OWNERS, **ALL_OF_THEM},
        "evaluate": {"every": every, "final": True},
    })  # fmt: skip


def rounds(
    method: Mapping[str, Any], points: Mapping[str, float], seed: int, count: int, cache: Path
) -> tuple[Outcome, Mapping[str, str]]:
    """What came of `count` uploads of every owner, and who ended in which group.

    A method that forms groups has version 1 with everybody, and then `count - 1` versions of each group.
    """
    _, groups = ran(experiment(method, points, seed, 1), cache)
    made = len(set(groups.values())) or 1
    return ran(experiment(method, points, seed, 1 + made * (count - 1)), cache)


def ran(asked: Experiment, cache: Path) -> tuple[Outcome, Mapping[str, str]]:
    """What came out, and who ended in which group."""
    with tempfile.TemporaryDirectory(prefix="quorate-bench-") as folder:
        outcome = execute(plan(asked), process.runtime(Path(folder), cache), asked.name, process.unseen)
        return outcome, Commits(asked.name, FileBlobs(Path(folder) / "blobs")).all()[-1].assignment


def uploads(outcome: Outcome) -> int:
    """Updates that counted."""
    return sum(share.accepted for share in outcome.report.ledger.values())


def found(groups: Mapping[str, str]) -> float:
    """How well the planted groups were found: the adjusted Rand index, 1 if exactly, 0 as if by chance."""
    from sklearn.metrics import adjusted_rand_score  # noqa: PLC0415 (takes seconds)

    owners = sorted(groups)
    return float(adjusted_rand_score([int(o.split("-")[1]) % GROUPS for o in owners], [groups[o] for o in owners]))
