"""Tasks of several clients: the same result as one task each, and what befalls one of the clients stays with it."""

from pathlib import Path

import pytest
import torch

from schemas.experiment import Experiment
from schemas.log import Event
from tests.runs.here import run
from tests.runs.test_embedded import SYNC, events, small
from tests.toys import experiment, paint

TWO_HUNDRED = {
    "data": {
        "name": "benchmarks.points:Points", "params": {"owners": 200, "per_class": 3},
        "partition": {"name": "by_domain"}, "hold_out": (),
    },
    "model": {"backbone": {"name": "benchmarks.points:Pixels"}},
    "method": {"name": "fedavg", "params": {"epochs": 2}},
    "rounds": {**SYNC, "versions": 2, "in_flight": 200, "quorum": 200, "floor": 200},
    "evaluate": {"every": 0, "final": False},
}  # fmt: skip


def many(of: Experiment, count: int, **rounds: object) -> Experiment:
    """The same experiment with so many clients in a task."""
    return of.model_copy(update={"rounds": of.rounds.model_copy(update={"clients_per_task": count, **rounds})})


def tasks(of: list[Event]) -> list[list[str | None]]:
    """The clients of each training task, in the order asked."""
    asked: dict[str, list[str | None]] = {}
    for e in events(of, "asked"):
        asked.setdefault(e.facts["task"], []).append(e.client)
    return list(asked.values())


@pytest.mark.parametrize("codec", ["raw", "fp16"])
@pytest.mark.parametrize("method", [{"name": "fedclip"}, {"name": "fedprox", "params": {"adapter": "residual"}}])
def test_clients_of_one_task_make_the_same_versions(tmp_path: Path, codec: str, method: dict[str, object]) -> None:
    made = small(paint(tmp_path / "i"), codec={"name": codec}, method=method)
    alone, shared = (run(many(made, count), tmp_path, name=f"r{count}") for count in (1, 3))
    assert [len(clients) for clients in tasks(alone.events)] == [1] * 12
    assert [len(clients) for clients in tasks(shared.events)] == [3, 1] * 3
    assert shared.report.ledger == alone.report.ledger
    step = 1e-5 if codec == "raw" else 1e-4  # half precision may round the last bit the other way
    for name, t in alone.tensors["all"].items():
        torch.testing.assert_close(shared.tensors["all"][name], t, atol=step, rtol=0)


def test_one_task_of_200_clients_gives_what_200_tasks_give(tmp_path: Path) -> None:
    made = experiment(None, sites=None, **TWO_HUNDRED)
    alone, shared = (run(many(made, count), tmp_path, name=f"r{count}") for count in (1, 200))
    assert [len(clients) for clients in tasks(shared.events)] == [200] * 2
    assert shared.report.ledger == alone.report.ledger
    for name, t in alone.tensors["all"].items():
        torch.testing.assert_close(shared.tensors["all"][name], t, atol=1e-5, rtol=0)


def test_one_client_s_unreadable_image_leaves_the_others_theirs(tmp_path: Path) -> None:
    root = paint(tmp_path / "i")
    made = many(small(root, rounds={**SYNC, "versions": 1, "floor": 1}, evaluate={"every": 0}), 4)
    broken = root / "noisy" / "blue" / "004.png"
    broken.write_bytes(broken.read_bytes()[:60])
    outcome = run(made, tmp_path)
    (lost,) = events(outcome.events, "lost")
    assert f"cannot read {broken}" in lost.facts["reason"]
    assert {c: (s.accepted, s.lost) for c, s in outcome.report.ledger.items()} == {
        c: (int(c != lost.client), int(c == lost.client)) for c in ("flat-0", "flat-1", "noisy-0", "noisy-1")
    }


def test_one_client_s_nan_leaves_the_others_theirs(tmp_path: Path) -> None:
    rounds = {**SYNC, "versions": 1, "floor": 3}
    method = {"name": "tests.runs.plugins:Poisoned", "params": {"client": "flat-1"}}
    outcome = run(many(small(paint(tmp_path / "i"), rounds=rounds, method=method), 4), tmp_path)
    (refused,) = events(outcome.events, "rejected")
    assert (refused.client, refused.facts["reason"]) == ("flat-1", "not finite")
    assert sum(s.accepted for s in outcome.report.ledger.values()) == 3
