"""Orchestrators that are killed at each step of a version, told to stop, or find that another owns the run."""

import contextlib
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from orchestrator.run import Outcome
from schemas.experiment import Experiment
from tests.runs import here
from tests.stack.field import SYNC, Field, stage, undisturbed
from tests.stack.proxy import Hold
from tests.stack.servers import allowed

__all__ = ["stage", "undisturbed"]
pytestmark = [pytest.mark.stack, pytest.mark.faults]
RESUMED_S = 15.0
"""The goal: a killed orchestrator's run goes on within this."""


def decided(kind: str, version: int) -> str:
    """A pattern for this decision on its way into the stream."""
    return rf'decision.*{{"version":{version},[^{{]*"kind":"{kind}"'


Moment = Callable[[Field, str, int], AbstractContextManager[Hold]]
MOMENTS: dict[str, Moment] = {
    "before it asks": lambda stage, run, n: stage.redis.hold(decided("asked", n) + '.*"train"'),
    "asked, nothing sent": lambda stage, run, n: stage.redis.hold(decided("asked", n) + '.*"train"', after=True),
    "half sent": lambda stage, run, n: stage.redis.hold(f"LPUSH.*quorate.pool.*{run}:v{n}-", after=True),
    "reading an update": lambda stage, run, n: stage.s3.hold("GET", f"{run}/updates/v{n}-"),
    "before it closes": lambda stage, run, n: stage.redis.hold(decided("closed", n)),
    "closed, not folded": lambda stage, run, n: stage.redis.hold(decided("closed", n), after=True),
    "merged": lambda stage, run, n: stage.s3.hold("PUT", f"{run}/models/{n + 1:08d}-"),
    "before the commit": lambda stage, run, n: stage.s3.hold("PUT", f"{run}/versions/{n + 1:08d}"),
    "after the commit": lambda stage, run, n: stage.s3.hold("PUT", f"{run}/versions/{n + 1:08d}", after=True),
}


@pytest.fixture(autouse=True)
def staffed(stage: Field) -> None:
    """Two workers before each test."""
    stage.staff(2)


def test_killed_at_each_step_of_a_version_it_goes_on_and_ends_as_if_undisturbed(stage: Field) -> None:
    run, versions, took = "steps", len(MOMENTS) + 1, {}
    with contextlib.ExitStack() as standing:
        doors = [standing.enter_context(moment(stage, run, n)) for n, moment in enumerate(MOMENTS.values(), 1)]
        orchestrator = stage.run(run, versions=versions)
        for version, (name, there) in enumerate(zip(MOMENTS, doors, strict=True), 1):
            there.wait()
            owner = stage.owner(run)
            orchestrator.kill()
            killed = time.monotonic()
            there.drop()
            orchestrator = stage.resume(run)
            stage.passes_on(run, owner)
            took[name] = round(time.monotonic() - killed, 1)
            stage.reaches(run, version + 1)
    orchestrator.leaves()
    assert max(took.values()) <= allowed(RESUMED_S), took
    alone = here.run(Experiment.model_validate(stage.experiment(run, versions)), stage.folder / "alone")
    stage.equals(run, alone)


TWO_OF_FOUR = {**SYNC, "in_flight": 2, "quorum": 2, "floor": 2}
STAGES = {"start": 0.25, "end": 1.0, "stages": 4, "over": 4}
HANDED_ON: dict[str, dict[str, Any]] = {
    "ca2fl": {"aggregator": {"name": "ca2fl"}, "rounds": TWO_OF_FOUR},
    "adafl": {"selector": {"name": "adafl", "params": STAGES}, "rounds": {**SYNC, "floor": 1}},
    "licfl": {"method": {"name": "licfl", "params": {"cohorts": 2, "lr": 0.05}}},
}
"""Parts whose next version needs what they have kept: everybody's last update, scores, groups."""


@pytest.mark.parametrize("part", HANDED_ON)
def test_what_a_part_keeps_between_versions_survives_the_orchestrator(stage: Field, part: str) -> None:
    stage.staff(1 if "method" in HANDED_ON[part] else 2)  # which group closes first must not depend on who is faster
    changes: dict[str, Any] = HANDED_ON[part] | {"versions": 4}
    with stage.s3.hold("PUT", f"{part}/versions/{3:08d}") as commit:
        orchestrator = stage.run(part, **changes)
        commit.wait()
        owner = stage.owner(part)
        orchestrator.kill()
        commit.drop()
        again = stage.resume(part)
        stage.passes_on(part, owner)
    again.leaves()
    alone = here.run(Experiment.model_validate(stage.experiment(part, **changes)), stage.folder / f"{part}-alone")
    assert stage.outcome(part).report.adapter_sha256 == alone.report.adapter_sha256


def test_killed_or_told_to_stop_while_it_waits_a_standby_goes_on(stage: Field, undisturbed: Outcome) -> None:
    orders = stage.orders("waiting")
    with orders.tell("wait", "flat-0", 0), orders.tell("wait", "flat-0", 1) as waiting:
        first = stage.run("waiting")
        orders.trains("flat-0", 0)
        first.child.process.send_signal(signal.SIGTERM)
        first.leaves(130)
        assert "quorate run --resume waiting" in first.text
        second = stage.resume("waiting")
        stage.passes_on("waiting", "")
        (orders.folder / "flat-0.0.wait").unlink()
        orders.trains("flat-0", 1)
        standby, owner = stage.resume("waiting"), stage.owner("waiting")
        with stage.redis.hold(f"-{standby.child.process.pid}-") as asks:  # for the lease, in its name
            asks.wait()
            asks.release()
        second.kill()
        waiting.unlink()
        stage.passes_on("waiting", owner, allowed(RESUMED_S))
    standby.leaves()
    stage.equals("waiting", undisturbed)
    assert len(orders.begun("flat-0", 0)) == 1, "what was at work was not sent again"


@pytest.mark.parametrize("lands", [False, True], ids=["falls", "lands"])
def test_of_two_orchestrators_one_commits_and_the_other_says_so(
    stage: Field, undisturbed: Outcome, *, lands: bool
) -> None:
    """lands: the frozen one's commit gets to the store after the other has taken over, just before its own."""
    run, commit = f"two-{lands}", "versions/00000002"
    with stage.orders(run).tell("wait", "flat-0", 2):  # the run goes on until the frozen one has seen whose it is
        first = stage.run(run)
        with stage.s3.hold("PUT", f"{run}/{commit}") as its:
            its.wait()
            with first.frozen():
                second = stage.resume(run)
                with stage.s3.hold("PUT", f"{run}/{commit}") as others:
                    others.wait()
                    if lands:
                        its.release()
                        stage.reaches(run, 2)
                    others.release()
                stage.reaches(run, 2)
            its.drop()
        first.leaves(3)
    assert "owned by another loop" in first.text
    second.leaves()
    stage.equals(run, undisturbed)


def test_a_second_one_that_does_not_wait_is_refused(stage: Field, undisturbed: Outcome) -> None:
    orders = stage.orders("owned")
    with orders.tell("wait", "flat-0", 0):
        first = stage.run("owned")
        orders.trains("flat-0", 0)
        second = stage.run("owned")
        second.leaves(3)
        assert "run owned is owned by another loop" in second.text
        assert len(second.text.splitlines()) == 1
    first.leaves()
    stage.equals("owned", undisturbed)
