"""S3 that is gone, slow, refuses, or breaks off in the middle: retried, and nothing half-written is ever read."""

import contextlib

import pytest

from orchestrator.run import Outcome
from tests.stack.field import Field, stage, undisturbed
from tests.stack.processes import DONE_S, held_up
from tests.stack.s3_door import Action
from tests.stack.servers import eventually

__all__ = ["stage", "undisturbed"]
pytestmark = [pytest.mark.stack, pytest.mark.faults]
GONE_S = 20.0
SLOW_S = 0.3


@pytest.fixture(autouse=True)
def staffed(stage: Field) -> None:
    """Two workers before each test."""
    stage.staff(2)


@pytest.mark.parametrize("how", ["shut", "frozen"])
def test_gone_for_twenty_seconds(stage: Field, undisturbed: Outcome, how: str) -> None:
    orders = stage.orders(how)
    with orders.tell("wait", "flat-0", 1) as waiting:
        orchestrator = stage.run(how)
        orders.trains("flat-0", 1)
        with stage.s3.gone() if how == "shut" else stage.s3.frozen():
            waiting.unlink()
            held_up(GONE_S)
    orchestrator.leaves()
    stage.equals(how, undisturbed)


def test_slow(stage: Field, undisturbed: Outcome) -> None:
    with stage.s3.slow(SLOW_S):
        stage.run("slow").leaves()
    stage.equals("slow", undisturbed)


def test_answering_503_for_a_while(stage: Field, undisturbed: Outcome) -> None:
    with stage.s3.fault("answer", None, r"/runs/refused/.*", times=40, status=503) as refusals:
        orchestrator = stage.run("refused")
        eventually(lambda: refusals.met == refusals.times, "all of them have been refused", DONE_S)
    orchestrator.leaves()
    stage.equals("refused", undisturbed)


PLACES = {
    "worker's upload": ("PUT", "updates/v1-flat-0-"),
    "orchestrator's upload of a model": ("PUT", "models/00000002-"),
    "orchestrator's commit": ("PUT", "versions/00000002"),
    "worker's download of a model": ("GET", "models/00000001-"),
    "orchestrator's download of an update": ("GET", "updates/v1-flat-0-"),
}


@pytest.mark.parametrize("many", [1, 6], ids=["once", "more often than one call retries"])
def test_cut_in_the_middle_of_an_upload_and_of_a_download(stage: Field, undisturbed: Outcome, many: int) -> None:
    run = f"cut-{many}"
    with contextlib.ExitStack() as broken:
        faults = [
            broken.enter_context(stage.s3.fault(action(method), method, f"runs/{run}/{path}", times=many, bytes=200))
            for method, path in PLACES.values()
        ]
        stage.run(run).leaves()
        assert [f.met for f in faults] == [many] * len(faults)
    stage.equals(run, undisturbed)


def action(method: str) -> Action:
    """What breaks off."""
    return "cut upload" if method == "PUT" else "cut download"


def test_an_upload_whose_answer_is_lost_counts_once(stage: Field, undisturbed: Outcome) -> None:
    with contextlib.ExitStack() as lost:
        for path in ("updates/v1-flat-0-", "models/00000002-", "versions/00000002"):
            lost.enter_context(stage.s3.fault("lose answer", "PUT", f"runs/lost/{path}"))
        stage.run("lost").leaves()
    stage.equals("lost", undisturbed)
