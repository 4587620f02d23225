"""Somebody who has the password of Redis and no other: what he can do is in docs/operations.md, and is so here."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from pydantic import SecretStr

from schemas.base import Choice
from schemas.decisions import Asked, Joined
from schemas.experiment import Data, SiteData
from schemas.log import Event, Open
from schemas.messages import BlobRef, Description, Grant, Manifest, Outlet, Split
from tests.runs.stage import Stage
from tests.toys import COLOURS, TOY, experiment, paint
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
    stranger = Bench(tmp_path, site=_site(tmp_path, data))
    described = stranger.do(stranger.office.task("describe", "d")).outputs["description"]
    assert b"north.flat-0" in stranger.office.blobs.get(described)
    task = stranger.office.task("train", "t", ["north.flat-0"], model=stranger.model(), own=True)
    (result,) = stranger.do(task).results
    assert stranger.update(result.update)


def _site(tmp_path: Path, data: Data) -> Site:
    return Site("north", SiteData(data=data, private=tmp_path / "private", plugins=("tests.toys:ToyBackbone",)))


def test_a_worker_of_the_pool_reads_any_folder_and_loads_any_plugin_for_him(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = Bench(tmp_path)
    stranger.office.asked = experiment(paint(tmp_path / "home of somebody", domains=("holidays", "striped")))
    stranger.office.agree((), "")
    described = stranger.do(stranger.office.task("describe", "d")).outputs["description"]
    assert b"holidays-0" in stranger.office.blobs.get(described)
    trace = tmp_path / "was imported"
    (tmp_path / "installed_there.py").write_text(f"import pathlib; pathlib.Path({str(trace)!r}).touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    stranger.office.asked = experiment(tmp_path / "images", method={"name": "installed_there:Method"})
    stranger.office.agree(tuple(COLOURS), TOY.fingerprint)
    stranger.fail(stranger.office.task("init", "i"))
    assert trace.exists()


def test_a_worker_of_the_pool_writes_new_files_for_him_and_replaces_none(tmp_path: Path) -> None:
    stranger, new, old = Bench(tmp_path), tmp_path / "home" / "new", tmp_path / "old"
    old.write_text("as it was")
    for number, path in enumerate((new, old)):
        task = stranger.office.task("describe", f"d-{number}")
        put, get = (Grant(url=SecretStr(path.as_uri()), method=m, expires=2e9) for m in ("PUT", "GET"))
        stranger.say(task.model_copy(update={"outputs": {"description": Outlet(key="d", put=put, get=get)}}))
    assert b"flat-0" in new.read_bytes()
    assert old.read_text() == "as it was"


@pytest.mark.parametrize("at_site", [False, True])
def test_a_worker_calls_any_address_for_him_and_keeps_what_it_hears(tmp_path: Path, *, at_site: bool) -> None:
    data = Data(params={"root": str(paint(tmp_path / "images"))})
    stranger, asked = Bench(tmp_path, site=_site(tmp_path, data) if at_site else None), list[str]()

    class Inside(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("content-length", "6")
            self.end_headers()
            self.wfile.write(b"secret")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Inside) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = SecretStr(f"http://127.0.0.1:{server.server_port}/admin")
        task = stranger.office.task("describe", "d")
        there = task.setting.model_copy(update={"grant": Grant(url=url, method="GET", expires=2e9)})
        failed = stranger.fail(task.model_copy(update={"setting": there}))
        server.shutdown()
    assert asked == ["/admin"]
    assert "secret" not in failed.message
