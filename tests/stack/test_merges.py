"""Merged models that a worker goes on with, on a real stack: workers and orchestrators that die in the middle of it."""

from typing import Any

import pytest

from infra.blobs import FileBlobs
from orchestrator.commits import Commits
from orchestrator.run import Outcome
from schemas.experiment import Experiment
from tests.runs import here
from tests.stack.field import Field, stage

__all__ = ["stage"]
pytestmark = [pytest.mark.stack, pytest.mark.faults]


def asked(stage: Field, name: str) -> dict[str, Any]:
    """PerAda, with the painted images as those that are nobody's."""
    params = {"orders": str(stage.orders(name).folder), "lr": 0.02, "steps": 20, "teach_batch": 16}
    public = {"name": "folder", "params": {"root": str(stage.images)}}
    return {"method": {"name": "tests.stack.plugins:Merging", "params": params}, "public": public}


@pytest.fixture(scope="module")
def undisturbed(stage: Field) -> Outcome:
    """The same run in one process."""
    made = Experiment.model_validate(stage.experiment("alone", **asked(stage, "alone")))
    found = here.run(made, stage.folder / "alone")
    assert [e.facts["model"] for e in found.events if e.event == "refined"] == [True] * 3
    return found


@pytest.fixture(autouse=True)
def staffed(stage: Field) -> None:
    """Two workers before each test."""
    stage.staff(2)


def ends_alike(stage: Field, name: str, undisturbed: Outcome) -> None:
    """The same bytes and ledger, and the same personal adapters, whoever trained them."""
    assert stage.equals(name, undisturbed).report.accuracy == undisturbed.report.accuracy
    last, alone = (
        Commits(name, stage.runtime.blobs).last(),
        Commits("r", FileBlobs(stage.folder / "alone/blobs")).last(),
    )
    assert last is not None and alone is not None and len(alone.private) == 4
    assert {c: b.sha256 for c, b in last.private.items()} == {c: b.sha256 for c, b in alone.private.items()}


@pytest.mark.parametrize("at", ["flat-0", "merge"])
def test_a_worker_killed_in_training_or_in_a_merge_takes_no_personal_adapter_with_it(
    stage: Field, undisturbed: Outcome, at: str
) -> None:
    run = f"killed-{at}"
    orders = stage.orders(run)
    with orders.tell("wait", at, 1) as waiting:  # from version 1 on there is a personal adapter to come back to
        orchestrator = stage.run(run, **asked(stage, run))
        pid = orders.trains(at, 1)
        stage.worker_of(pid).kill()
        orders.trains(at, 1, besides=[pid])
        waiting.unlink()
    orchestrator.leaves()
    ends_alike(stage, run, undisturbed)


def test_an_orchestrator_killed_while_a_worker_merges_goes_on(stage: Field, undisturbed: Outcome) -> None:
    orders = stage.orders("resumed")
    with orders.tell("wait", "merge", 1) as waiting:
        orchestrator = stage.run("resumed", **asked(stage, "resumed"))
        orders.trains("merge", 1)
        orchestrator.kill()
        again = stage.resume("resumed")
        stage.passes_on("resumed", stage.owner("resumed"))
        waiting.unlink()
    again.leaves()
    ends_alike(stage, "resumed", undisturbed)


def test_a_merge_that_kills_its_worker_each_time_costs_no_version(stage: Field) -> None:
    orders = stage.orders("deadly")
    with orders.tell("die", "merge", 1):
        stage.run("deadly", **asked(stage, "deadly")).leaves()
    found = stage.outcome("deadly")
    assert found.report.version == 3
    refined = {e.version: (e.facts["model"], e.facts["reason"]) for e in found.events if e.event == "refined"}
    assert refined[1][0] and refined[3][0]
    assert refined[2] == (False, "given up")
    assert len(orders.begun("merge", 1)) == 3
