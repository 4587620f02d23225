"""Workers that come and go during a run: one, four, one again, each told to stop with its task in hand."""

import signal
import time

import pytest

from schemas.experiment import Experiment
from tests.runs import here
from tests.stack.field import Field, stage
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
