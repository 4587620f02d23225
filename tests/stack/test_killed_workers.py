"""Workers that are killed, frozen or asleep, and tasks that are delivered twice: what is done counts once."""

import contextlib
import os
import re
import signal
import time

import pytest

from infra.celery_app import make_app
from orchestrator.commits import Commits
from orchestrator.run import Outcome
from schemas.decisions import Started
from schemas.experiment import Experiment
from schemas.messages import Manifest
from tests.runs import here
from tests.stack.field import Field, stage, undisturbed
from tests.stack.processes import Process, sessions
from tests.stack.servers import allowed, eventually, shown_on
from workers.pipeline import RESIDUAL
from workers.tensors import unpack

__all__ = ["stage", "undisturbed"]
pytestmark = [pytest.mark.stack, pytest.mark.faults]
AGAIN_S = 10.0
"""The goal: a killed worker's task runs again elsewhere within this."""
MANIFEST = r'manifest\r\n.*"task_id":"v1-flat-0-'
QUORUM = {"in_flight": 4, "quorum": 3, "floor": 2, "grace_s": 2, "deadline_s": 60, "max_staleness": 2}
"""The grace is longer than the first task of a new worker takes, and shorter than a frozen one is believed to live."""


@pytest.fixture(autouse=True)
def staffed(stage: Field) -> None:
    """Two workers before each test, whatever the one before has done to them."""
    stage.staff(2)


def test_killed_in_training_it_is_done_elsewhere_within_ten_seconds(stage: Field, undisturbed: Outcome) -> None:
    orders = stage.orders("killed")
    with orders.tell("wait", "flat-0", 1) as waiting:
        orchestrator = stage.run("killed")
        pid = orders.trains("flat-0", 1)
        killed_at = time.time()
        stage.worker_of(pid).kill()
        other = orders.trains("flat-0", 1, besides=[pid])
        took_s = orders.begun("flat-0", 1)[other] - killed_at
        waiting.unlink()
    orchestrator.leaves()
    assert took_s <= allowed(AGAIN_S)
    stage.equals("killed", undisturbed)


def test_what_a_codec_has_kept_back_survives_the_worker_that_held_it(stage: Field) -> None:
    coded = {"codec": {"name": "cvlc", "params": {"bits": 4.0, "groups": 1}}}
    alone = Experiment.model_validate(stage.experiment("coded-alone", **coded))
    embedded = here.run(alone, stage.folder / "coded-alone")
    orders = stage.orders("coded")
    with orders.tell("wait", "flat-0", 1) as waiting:
        orchestrator = stage.run("coded", **coded)
        pid = orders.trains("flat-0", 1)
        kept = unpack(stage.runtime.blobs.get(Commits("coded", stage.runtime.blobs).all()[1].private["flat-0"]))
        stage.worker_of(pid).kill()
        orders.trains("flat-0", 1, besides=[pid])
        waiting.unlink()
    orchestrator.leaves()
    assert [name for name, t in kept.items() if name.startswith(RESIDUAL) and t.any()]
    stage.equals("coded", embedded)  # in whose second version that, and no more, was sent too


def test_killed_with_a_task_that_no_child_had_begun_it_is_sent_again(stage: Field, undisturbed: Outcome) -> None:
    (worker,) = stage.staff(1)
    before, orders = set(sessions()[worker.child.process.pid]), stage.orders("loading")
    with orders.tell("wait", "flat-0", 0) as waiting:
        orchestrator = stage.run("loading")
        os.kill(orders.trains("flat-0", 0), signal.SIGKILL)  # the parent starts another child, which loads for seconds
        eventually(lambda: bool(new(worker, before)), "there is another child")
        for pid in new(worker, before):
            os.kill(pid, signal.SIGSTOP)
        eventually(lambda: bool(held(stage, "loading")), "the loop hears that the parent holds a task")
        worker.kill()
        waiting.unlink()
    stage.staff(1)
    orchestrator.leaves()
    stage.equals("loading", undisturbed)
    assert "worker gone" in {e.facts["reason"] for e in stage.events("loading", "resent")}


def new(worker: Process, before: set[int]) -> set[int]:
    """Processes of a worker that were not there before."""
    return set(sessions()[worker.child.process.pid]) - before


def held(stage: Field, name: str) -> list[str]:
    """The training tasks that the loop has heard of, but for the one whose child was killed."""
    heard = [task for said in stage.said(name) if isinstance(said, Started) for task in said.task_ids]
    return [task for task in heard if re.match(r"v0-(?!flat-0-|evaluate-)", task)]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_between_its_upload_and_its_report_or_after_it(
    stage: Field, undisturbed: Outcome, *, after: bool
) -> None:
    run = f"reporting-{after}"
    orders = stage.orders(run)
    with orders.tell("wait", "flat-0", 1) as waiting:
        orchestrator = stage.run(run)
        worker = stage.worker_of(orders.trains("flat-0", 1))
        with stage.redis.hold(MANIFEST, after=after) as report:
            waiting.unlink()
            report.wait()
            assert [p for m, p in stage.s3.seen if m == "PUT" and f"runs/{run}/updates/v1-flat-0-" in p]
            worker.kill()
    orchestrator.leaves()
    stage.equals(run, undisturbed)
    assert len(orders.begun("flat-0", 1)) == (1 if after else 2)


def test_a_task_that_kills_its_worker_is_given_up_after_three_attempts_and_shows_no_grant(stage: Field) -> None:
    orders, rounds = stage.orders("poisoned"), {**QUORUM, "quorum": 4, "grace_s": 0}
    with stage.monitor() as tasks:
        with orders.tell("die", "flat-0", 0):
            stage.run("poisoned", rounds=rounds, versions=2).leaves()
        eventually(lambda: tasks().count("WorkerLostError") >= 3, "the monitor shows three lost processes")
        shown = [tasks(), *shown_on(stage.memory.server)]
    assert len(orders.begun("flat-0", 0)) == 3
    found = stage.outcome("poisoned").report
    assert found.version == 2
    assert (found.ledger["flat-0"].asked, found.ledger["flat-0"].lost) == (2, 1)
    assert len(stage.s3.signatures) > 10
    assert not [s for s in stage.s3.signatures for text in shown if s in text]


@pytest.mark.parametrize("how", ["frozen", "asleep"])
def test_a_version_closes_without_a_silent_worker_at_quorum_and_grace(stage: Field, how: str) -> None:
    orders = stage.orders(how)
    with orders.tell("wait", "flat-0", 1) as asleep, orders.tell("wait", "flat-1", 2) as next_round:
        orchestrator = stage.run(how, rounds=QUORUM, versions=4)
        worker = stage.worker_of(orders.trains("flat-0", 1))
        with worker.frozen() if how == "frozen" else contextlib.nullcontext():
            stage.reaches(how, 2)
        asleep.unlink()
        eventually(lambda: "flat-0" in answered(stage, how), "its update arrives")
        next_round.unlink()
    orchestrator.leaves()
    found = stage.outcome(how)
    second, third = Commits(how, stage.runtime.blobs).all()[2:4]
    assert second.without == ("flat-0",)
    arrivals = sorted(a.at for a in second.counted)
    assert QUORUM["grace_s"] <= second.at - arrivals[-1] < QUORUM["grace_s"] + allowed(2)
    assert [(a.client, a.base) for a in third.counted if a.base < 2] == [("flat-0", 1)]
    (closed,) = [e for e in found.events if e.event == "closed" and e.version == 3]
    weight = sum(a.weight * (1 + 2 - a.base) ** -0.5 for a in third.counted if a.client == "flat-0")
    assert closed.facts["weights"]["flat-0"] == pytest.approx(weight)  # less for being a version behind
    assert found.report.ledger["flat-0"].late == 1


def answered(stage: Field, name: str) -> set[str]:
    """Clients of whom there is a manifest since the last commit."""
    return {r.client for said in stage.said(name) if isinstance(said, Manifest) for r in said.results}


def test_a_task_that_is_delivered_twice_counts_once(stage: Field, undisturbed: Outcome) -> None:
    app, orders = make_app(stage.memory.server.url), stage.orders("twice")
    app.conf.broker_transport_options["visibility_timeout"] = 1  # seconds, much shorter than this training

    def redelivered() -> bool:
        with app.connection_for_read() as connection:
            connection.default_channel.qos.restore_visible(interval=1)
        return len(orders.begun("flat-0", 1)) > 1

    with orders.tell("wait", "flat-0", 1) as waiting, orders.tell("wait", "flat-1", 2):
        orchestrator = stage.run("twice")
        orders.trains("flat-0", 1)
        eventually(redelivered, "another worker has it too")
        waiting.unlink()
        eventually(lambda: done(stage, "v1-flat-0-") >= 2, "both have done it")
    orchestrator.leaves()
    stage.equals("twice", undisturbed)
    assert [e for e in stage.events("twice", "ignored") if e.facts["task"].startswith("v1-flat-0-")]


def done(stage: Field, task: str) -> int:
    """How often the workers say that they have done a task of this run."""
    lines = "".join(p.text for p in stage.processes).splitlines()
    return sum('"task done"' in line and '"run": "twice"' in line and task in line for line in lines)
