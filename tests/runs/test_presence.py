"""Runs whose clients come and go, in virtual time."""

from math import inf
from pathlib import Path
from typing import Any

import pytest

from orchestrator.plan import plan
from orchestrator.run import Outcome
from orchestrator.simulate import Simulator
from schemas.experiment import Experiment
from tests.runs.here import run
from tests.runs.test_embedded import SYNC, events, small
from tests.toys import paint

CLIENTS = ("flat-0", "flat-1", "noisy-0", "noisy-1")
QUIET = {"every": 0, "final": False}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("images"))


def _made(images: Path, presence: dict[str, Any], *, latency: float = 10, **changes: Any) -> Experiment:
    simulate = {"presence": {"name": "sessions", "params": presence},
                "latency": {"name": "trace", "params": {"default_s": latency}}}  # fmt: skip
    return small(images, **{"evaluate": QUIET, "simulate": simulate, **changes})


def _asked(outcome: Outcome) -> dict[str, list[float]]:
    return {c: [e.at for e in events(outcome.events, "asked") if e.client == c] for c in CLIENTS}


def test_nobody_is_asked_while_away(images: Path, tmp_path: Path) -> None:
    made = _made(images, {"on_s": 25, "off_s": 25}, rounds={**SYNC, "versions": 8, "quorum": 1, "floor": 1})
    outcome = run(made, tmp_path)
    simulator = Simulator.of(plan(made), virtual=True)
    assert outcome.report.version == 8
    asked = [(e.client, e.at) for e in events(outcome.events, "asked")]
    assert all(simulator.back(str(client), at) == at for client, at in asked)
    closings = [e.at for e in events(outcome.events, "closed")]
    assert any(simulator.back(c, at) > at for c in CLIENTS for at in closings), "somebody was away now and then"


def test_a_name_that_no_client_bears_is_said_once(images: Path, tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text("flat-0,3\nnoisy-7,5\n")
    presence = {"name": "sessions", "params": {"comes": {"flat-9": 5, "flat-1": 1}, "goes": {"Noisy-1": 90}}}
    trace = {"name": "trace", "params": {"file": str(tmp_path / "trace.csv")}}
    made = small(images, simulate={"presence": presence, "latency": trace})
    (described,) = events(run(made, tmp_path).events, "described")
    assert described.facts["unknown"] == {"presence": ["Noisy-1", "flat-9"], "latency": ["noisy-7"]}


def test_a_client_joins_late_and_another_leaves_for_good(images: Path, tmp_path: Path) -> None:
    # Versions last 10 s. noisy-1 is there from 25 s on, flat-0 until 25 s: asked at 0, 10, 20, and does not come back.
    rounds = {**SYNC, "versions": 6, "quorum": 3, "floor": 2, "deadline_s": 15}
    outcome = run(_made(images, {"comes": {"noisy-1": 25}, "goes": {"flat-0": 25}}, rounds=rounds), tmp_path)
    asked = _asked(outcome)
    assert asked["flat-0"] == [0, 10, 20]
    assert min(asked["noisy-1"]) >= 25 and len(asked["noisy-1"]) >= 3
    assert outcome.report.ledger["flat-0"].lost == 1, "asked at 20 s, done at 30 s, and never back"
    assert outcome.report.version == 6


def test_who_leaves_while_at_work_answers_on_coming_back(images: Path, tmp_path: Path) -> None:
    # Everybody's work takes 10 s; flat-0 is first there at 0 s? No: it comes at 5 s, and nobody else is there at all.
    comes = {"flat-0": 5.0, **dict.fromkeys(("flat-1", "noisy-0", "noisy-1"), 40.0)}
    rounds = {**SYNC, "versions": 2, "quorum": 1, "floor": 1}
    outcome = run(_made(images, {"comes": comes}, rounds=rounds), tmp_path)
    assert _asked(outcome)["flat-0"][0] == 5, "the loop wakes when the first comes"
    assert [e.at for e in events(outcome.events, "closed")] == [15, 25]


@pytest.mark.parametrize("refill", ["at_close", "at_arrival"])
def test_a_run_whose_clients_have_all_gone_ends_as_failed_in_bounded_time(
    images: Path, tmp_path: Path, refill: str
) -> None:
    rounds = {**SYNC, "versions": 9, "refill": refill, "deadline_s": 30, "retries": 2}
    outcome = run(_made(images, {"goes": dict.fromkeys(CLIENTS, 25.0)}, rounds=rounds), tmp_path)
    assert (outcome.report.status, outcome.report.version) == ("failed", 2)
    assert "at least 4 are needed" in outcome.report.reason
    assert outcome.report.virtual_seconds is not None and outcome.report.virtual_seconds <= 20 + 3 * 30


def test_a_run_waits_for_clients_that_come_back_within_its_retries(images: Path, tmp_path: Path) -> None:
    # All come at 100 s; the round is retried at 30, 60 and 90 s, and three retries are allowed.
    rounds = {**SYNC, "versions": 1, "deadline_s": 30, "retries": 3}
    outcome = run(_made(images, {"comes": dict.fromkeys(CLIENTS, 100.0)}, rounds=rounds), tmp_path)
    assert outcome.report.status == "finished"
    assert [e.at for e in events(outcome.events, "retried")] == [30, 60, 90]
    assert {min(at, default=inf) for at in _asked(outcome).values()} == {100}
