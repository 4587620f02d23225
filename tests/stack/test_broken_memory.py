"""Redis that is killed, frozen or emptied: nothing committed is lost, and at most the open version is done again."""

import json

import pytest
import redis

from infra.celery_app import KEYS
from orchestrator.run import Outcome
from tests.stack.field import Field, stage, undisturbed
from tests.stack.processes import held_up
from tests.stack.servers import eventually

__all__ = ["stage", "undisturbed"]
pytestmark = [pytest.mark.stack, pytest.mark.faults]
FROZEN_S = 20.0


@pytest.fixture(autouse=True)
def staffed(stage: Field) -> None:
    """Two workers before each test."""
    stage.staff(2)


def test_killed_and_started_again_on_its_log(stage: Field, undisturbed: Outcome) -> None:
    orders = stage.orders("killed")
    with orders.tell("wait", "flat-0", 1) as waiting:
        orchestrator = stage.run("killed")
        orders.trains("flat-0", 1)
        stage.memory.kill()
        waiting.unlink()  # its manifest has nowhere to go meanwhile
        eventually(lambda: stage.s3.seen.count(("PUT", upload(stage, "killed"))) == 1, "it has done its work")
        stage.memory.start()
    orchestrator.leaves()
    stage.equals("killed", undisturbed)
    assert len(orders.begun("flat-0", 1)) == 1, "finished work was not done again"


def test_a_run_is_resumed_before_redis_is_back(stage: Field, undisturbed: Outcome) -> None:
    orders = stage.orders("early")
    with orders.tell("wait", "flat-0", 1) as waiting:
        orchestrator = stage.run("early")
        orders.trains("flat-0", 1)
        orchestrator.kill()
        stage.memory.kill()
        again = stage.resume("early")
        eventually(lambda: "waiting for it, at most" in again.text, "it says that it waits")
        stage.memory.start()
        waiting.unlink()
    again.leaves()
    stage.equals("early", undisturbed)


def test_a_task_that_a_broken_connection_took_with_it_is_sent_again(stage: Field, undisturbed: Outcome) -> None:
    stage.staff(1)
    orders, memory = stage.orders("astray"), redis.Redis.from_url(stage.memory.server.url)
    with orders.tell("wait", "flat-0", 1):
        orchestrator = stage.run("astray")
        orders.trains("flat-0", 1)
        eventually(lambda: memory.llen(KEYS + "quorate.pool") > 0, "the others' tasks wait")
        assert memory.rpop(KEYS + "quorate.pool")  # and nobody hears of this one again
    orchestrator.leaves()
    stage.equals("astray", undisturbed)
    assert [e.facts["reason"] for e in stage.events("astray", "resent")] == ["lost on the way"]


def upload(stage: Field, run: str) -> str:
    """Where flat-0's update of version 1 was put."""
    return next((p for m, p in stage.s3.seen if m == "PUT" and f"runs/{run}/updates/v1-flat-0-" in p), "")


def test_frozen_for_twenty_seconds(stage: Field, undisturbed: Outcome) -> None:
    orders = stage.orders("frozen")
    with orders.tell("wait", "flat-0", 1) as waiting:
        orchestrator = stage.run("frozen")
        orders.trains("flat-0", 1)
        with stage.memory.frozen():
            waiting.unlink()
            held_up(FROZEN_S)
    orchestrator.leaves()
    stage.equals("frozen", undisturbed)


@pytest.mark.parametrize("how", ["flushed", "replaced"])
def test_emptied_it_costs_at_most_the_open_version(stage: Field, undisturbed: Outcome, how: str) -> None:
    orders = stage.orders(how)
    with orders.tell("wait", "flat-0", 1), orders.tell("wait", "flat-1", 1):
        orchestrator = stage.run(how)
        orders.trains("flat-0", 1)
        orders.trains("flat-1", 1)
        if how == "flushed":
            redis.Redis.from_url(stage.memory.server.url).flushall()
        else:
            stage.memory.kill()
            stage.memory.forget()
            stage.memory.start()
    orchestrator.leaves()
    stage.equals(how, undisturbed)
    trained = [trainings(stage, how, version) for version in range(3)]
    assert trained[0] == trained[2] == 4 <= trained[1] <= 8, "of the open version alone, once more at most"


def trainings(stage: Field, name: str, version: int) -> int:
    """How often the workers say that they have done a task of training from this version."""
    lines = [line for p in stage.processes for line in p.text.splitlines() if '"task done"' in line]
    tasks = [json.loads(line) for line in lines]
    return sum((t["run"], t["version"], t["kind"]) == (name, version, "train") for t in tasks)


def test_emptied_with_nobody_there_the_run_goes_on_from_its_commits(stage: Field, undisturbed: Outcome) -> None:
    orders = stage.orders("both")
    with orders.tell("wait", "flat-0", 1):
        orchestrator = stage.run("both")
        orders.trains("flat-0", 1)
        orchestrator.kill()
        redis.Redis.from_url(stage.memory.server.url).flushall()
        resumed = stage.resume("both")
        stage.passes_on("both", "")
    resumed.leaves()
    stage.equals("both", undisturbed)


def test_nothing_of_a_run_is_left_in_it(stage: Field) -> None:
    left = redis.Redis.from_url(stage.memory.server.url, decode_responses=True)
    eventually(lambda: not [k for k in left.scan_iter() if k.startswith("quorate:run:")], "no key of a run is left")
    eventually(lambda: not left.llen(KEYS + "quorate.pool"), "no task is left")
