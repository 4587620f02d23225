"""A loop that dies between any two operations and is started again ends in the same bytes, ledger and traffic."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.run import Outcome
from schemas.experiment import Experiment
from schemas.report import Report
from tests.runs.here import Fuse, Killed, run
from tests.runs.test_embedded import QUORUM, SLOW, SYNC, small
from tests.toys import paint

FEDBUFF = {"versions": 5, "in_flight": 3, "quorum": 2, "floor": 1, "refill": "at_arrival", "max_staleness": 5}
FEDASYNC = {**FEDBUFF, "quorum": 1, "apply": "mix", "server_lr": 0.6}
MODES = {
    "synchronous": {"rounds": {**SYNC, "versions": 2}},
    "k of n": {"rounds": {**QUORUM, "versions": 4}, "simulate": {**SLOW, "dropout": 0.2}},
    "expiring": {
        "rounds": {**QUORUM, "versions": 3, "quorum": 3, "floor": 3, "deadline_s": 2, "retries": 20},
        "simulate": {**SLOW, "dropout": 0.4},
    },
    "fedbuff": {"rounds": FEDBUFF, "simulate": SLOW},
    "fedbuff at once": {"rounds": FEDBUFF},
    "fedasync": {"rounds": FEDASYNC, "simulate": SLOW},
    "shared tasks": {"rounds": {**SYNC, "versions": 3, "clients_per_task": 3}},
    "refined": {
        "rounds": FEDBUFF,
        "simulate": {**SLOW, "dropout": 0.1},
        "method": {"name": "tests.runs.plugins:Refining", "params": {"last": 3}},
    },
    "groups": {
        "rounds": {**FEDBUFF, "versions": 8},
        "simulate": SLOW,
        "method": {"name": "tests.runs.plugins:Halves", "params": {"right": ["noisy-0"], "moves": {"3": "noisy-0"}}},
    },
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("images"))


def facts(outcome: Outcome) -> dict[str, object]:
    """What must not depend on crashes: everything but wall time and work done twice (a second encoding)."""
    return outcome.report.model_dump(exclude={"seconds", "encodes"})


def operations(experiment: Experiment, root: Path) -> int:
    fuse = Fuse(left=10**9)
    run(experiment, root, fuse=fuse)
    return 10**9 - fuse.left


def places(count: int, many: int) -> Iterator[tuple[int, bool]]:
    step = max(1, count // many)
    return ((place, bool((place // step) % 2)) for place in range(1, count + 1, step))


@pytest.mark.parametrize("mode", MODES)
def test_killed_anywhere_a_run_ends_as_if_undisturbed(images: Path, tmp_path: Path, mode: str) -> None:
    made = small(images, codec={"name": "fp16"}, **MODES[mode])
    undisturbed = facts(run(made, tmp_path / "undisturbed"))
    many = 40 if mode == "expiring" else 14  # what tells there is a crash between two tasks that expire together
    for place, after in places(operations(made, tmp_path / "counted"), many):
        root = tmp_path / f"killed-{place}"
        with contextlib.suppress(Killed):
            run(made, root, fuse=Fuse(place, after))
        assert facts(run(made, root)) == undisturbed, f"killed {'after' if after else 'before'} operation {place}"


def test_killed_again_and_again_a_run_still_ends_the_same(images: Path, tmp_path: Path) -> None:
    made = small(images, codec={"name": "fp16"}, **MODES["k of n"])
    undisturbed = run(made, tmp_path / "undisturbed").report
    report = _through_crashes(made, tmp_path / "killed", every=7)
    assert report.adapter_sha256 == undisturbed.adapter_sha256
    assert report.ledger == undisturbed.ledger


def _through_crashes(made: Experiment, root: Path, every: int) -> Report:
    for lives in range(1, 200):
        try:
            return run(made, root, fuse=Fuse(every + lives % 5)).report
        except Killed:
            continue
    raise AssertionError("no life came to an end")
