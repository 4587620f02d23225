"""Workers that come and go during a run, told to stop with a task in hand; and simulated clients that do."""

import signal
import time

import pytest

from orchestrator.commits import Commits
from schemas.experiment import Experiment
from tests.runs import here
from tests.stack.field import SYNC, Field, stage
from tests.stack.servers import allowed

__all__ = ["stage"]
pytestmark = [pytest.mark.stack, pytest.mark.faults]
BACK_S = 15.0
"""The goal: a worker that is told to stop has given its task back and is gone within this."""


def test_from_one_worker_to_four_and_back_to_one(stage: Field) -> None:
    orders = stage.orders("scaled")
    stage.staff(1)
    with orders.tell("wait", "flat-0", 1) as first, orders.tell("wait", "flat-0", 3) as second:
        orchestrator = stage.run("scaled", versions=6)
        orders.trains("flat-0", 1)
        workers = stage.staff(4)
        first.unlink()
        pid = orders.trains("flat-0", 3)
        holder = stage.worker_of(pid)
        staying = next(w for w in workers if w != holder)
        leaving = [holder, *(w for w in workers if w not in (holder, staying))]
        told_at = time.monotonic()
        for worker in leaving:
            worker.child.process.send_signal(signal.SIGTERM)
        for worker in leaving:
            worker.leaves(0)
        took_s = time.monotonic() - told_at
        again = orders.trains("flat-0", 3, besides=[pid])
        assert stage.worker_of(again) == staying
        second.unlink()
    orchestrator.leaves()
    assert took_s <= allowed(BACK_S)
    alone = here.run(Experiment.model_validate(stage.experiment("scaled", 6)), stage.folder / "alone")
    stage.equals("scaled", alone)


def test_simulated_clients_come_and_go_at_the_walls_clock(stage: Field) -> None:
    # An update takes 2 simulated seconds and so one of the clock: three versions or four before the one comes.
    comes_s, goes_s, scale = 8.0, 8.0, 0.5
    presence = {"name": "sessions", "params": {"comes": {"flat-0": comes_s}, "goes": {"flat-1": goes_s}}}
    latency = {"name": "trace", "params": {"default_s": 2.0}}
    stage.staff(2)
    stage.run(
        "present", versions=9, rounds={**SYNC, "quorum": 3, "floor": 2, "deadline_s": 3},
        simulate={"presence": presence, "latency": latency, "time_scale": scale},
    ).leaves()  # fmt: skip
    found = stage.outcome("present").report
    assert (found.status, found.version) == ("finished", 9)
    began = Commits("present", stage.runtime.blobs).all()[0].began
    asked = {who: [e.at - began for e in stage.events("present", "asked") if e.client == who]
             for who in ("flat-0", "flat-1", "noisy-0")}  # fmt: skip
    assert asked["flat-0"] and min(asked["flat-0"]) >= comes_s * scale
    # What is asked is written down a moment after the look at the clock; versions come once a second, up to the 9th.
    assert asked["flat-1"] and max(asked["flat-1"]) < goes_s * scale + 0.9
    assert min(asked["noisy-0"]) < goes_s * scale < max(asked["noisy-0"])
