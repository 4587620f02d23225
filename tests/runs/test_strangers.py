"""Somebody who has the password of Redis and no other: what he can do is in docs/operations.md, and is so here."""

from pathlib import Path

import pytest

from schemas.base import Choice
from schemas.decisions import Asked, Joined
from schemas.experiment import Data, SiteData
from schemas.log import Event, Open
from schemas.messages import BlobRef, Description, Manifest, Split
from tests.runs.stage import Stage
from tests.toys import paint
from tests.unit.test_execute import Bench
from workers.place import Site


@pytest.fixture
def stage() -> Stage:
    return Stage(versions=1, in_flight=3, quorum=3, floor=3)


def _said(stage: Stage, event: str) -> list[Event]:
    return [e for e in stage.told if e.event == event]


def _forged(stage: Stage, client: str) -> Manifest:
    answer = stage.world.works(stage.task(client), "well")
    assert isinstance(answer, Manifest)
    return answer.model_copy(update={"worker": "stranger"})


def test_he_answers_for_a_client_that_was_asked_and_is_believed_once(stage: Stage) -> None:
    """With the grants of its task, which he has read in the queue, before the client is done."""
    loop = stage.loop("first")
    loop.step()
    stage.world.says(_forged(stage, "ann"))
    loop.step()
    stage.works("ann")
    loop.step()
    assert [(e.client, e.version) for e in _said(stage, "accepted")] == [("ann", 0)]
    assert [(e.facts["worker"]) for e in _said(stage, "answered")] == ["stranger"], "the journal names who answered"
    assert [e.facts["reason"] for e in _said(stage, "ignored")] == ["duplicate"]
    assert loop.book.ledger["ann"].accepted == 1


def test_he_answers_for_nobody_else(stage: Stage) -> None:
    loop = stage.loop("first")
    loop.step()
    forged = _forged(stage, "ann")
    (result,) = forged.results
    for changed in (
        forged.model_copy(update={"task_id": "v0-ann-99"}),
        forged.model_copy(update={"run": "another"}),
        forged.model_copy(update={"results": (result.model_copy(update={"client": "bob"}),)}),
    ):
        stage.world.says(changed)
        loop.step()
    assert not _said(stage, "accepted") and not loop.book.accepted
    assert [e.facts["reason"] for e in _said(stage, "rejected")] == ["other client"]


def test_a_loop_that_takes_a_run_up_believes_decisions_that_were_not_its_own(stage: Stage) -> None:
    """It finds them in its stream, and a stream is what an earlier life of it has decided."""
    elsewhere = BlobRef(key="runs/another/models/1", sha256="0" * 64, size=1)
    facts = {"task_id": "v0-ann-0", "kind": "train", "base": 0, "clients": ("ann",), "private": {"ann": elsewhere}}
    task = Open.model_validate({**facts, "asked_at": stage.world.clock.now()})
    stage.world.stream.arrive("decision", Asked(version=0, tasks=(task,)).model_dump_json())
    stage.loop("first").replay()
    (slot,) = stage.task("ann").clients
    assert slot.private is not None and slot.private.grant is not None
    assert slot.private.grant.url.get_secret_value().endswith("runs/another/models/1")


def test_a_site_joins_by_the_answer_to_a_description_alone(stage: Stage) -> None:
    loop = stage.loop("first")
    loop.step()
    found = Description(clients={"eve": Split(train=9)}, classes=("a", "b"), fingerprint="f")
    forged = Joined(version=0, task_id=stage.task("ann").task_id, site="north", description=found)
    stage.world.stream.arrive("decision", forged.model_dump_json())
    again = stage.loop("second")
    again.replay()
    assert not _said(stage, "joined") and "eve" not in again.book.trainers
    assert stage.task("ann").task_id in again.book.open


def test_what_is_committed_he_does_not_change_and_a_forged_closing_counts_nothing(stage: Stage) -> None:
    loop = stage.loop("first")
    loop.step()
    before = dict(stage.world.blobs.objects)
    closed = (
        '{"kind":"closed","version":0,"group":"all","counted":[["v0-ann-0","ann"]],"without":[],"seen":null,"at":null}'
    )
    stage.world.stream.arrive("decision", closed)
    loop.step()
    again = stage.loop("second")
    again.replay()
    assert again.book.version == 0 and stage.world.blobs.objects == before
    assert [e.facts["reason"] for e in _said(stage, "ignored")] == ["closed: 1 counted updates are gone"]
    stage.ends(again)


def test_a_site_works_for_whoever_writes_into_its_queue(tmp_path: Path) -> None:
    """He learns counts, names and what an update tells; to the images themselves no answer leads."""
    data = Data(params={"root": str(paint(tmp_path / "images"))}, partition=Choice(name="by_domain"))
    site = Site("north", SiteData(data=data, private=tmp_path / "private", plugins=("tests.toys:ToyBackbone",)))
    stranger = Bench(tmp_path, site=site)
    described = stranger.do(stranger.office.task("describe", "d")).outputs["description"]
    assert b"north.flat-0" in stranger.office.blobs.get(described)
    task = stranger.office.task("train", "t", ["north.flat-0"], model=stranger.model(), own=True)
    (result,) = stranger.do(task).results
    assert stranger.update(result.update)
