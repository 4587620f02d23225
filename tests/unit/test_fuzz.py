"""Ten thousand messages, tasks and blobs that went wrong: nothing ends by surprise, nothing counts that was not asked.

What is accepted is held against what was really uploaded and granted, not against what the message says of itself.
"""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from infra.blobs import FileBlobs
from infra.clock import VirtualClock
from infra.state import FileState
from infra.stream import FileStream
from orchestrator import keys
from orchestrator.admit import HEAVIEST, LIGHTEST, admit
from orchestrator.book import Book
from orchestrator.commits import Commits
from orchestrator.intake import Intake
from orchestrator.journal import Journal
from orchestrator.plan import plan
from orchestrator.simulate import Simulator
from schemas.base import canonical, digest
from schemas.decisions import Asked, read_entry
from schemas.log import Event, Open
from schemas.messages import ALL, BlobRef, ClientResult, Manifest, Rejected, TaskFailure
from tests.mutations import mutants, noise
from tests.toys import Office, ToyBackbone, experiment, paint
from workers.codecs.raw import Raw
from workers.execute import Worker
from workers.pipeline import Label, write_update
from workers.tensors import Tensors, pack, unpack

RUN, TASK = "r", "v0-ann-0"
MODEL: Tensors = {"w": torch.zeros(2, 3), "b": torch.zeros(3)}
UPDATE: Tensors = {"w": torch.ones(2, 3), "b": torch.full((3,), 2.0)}
LONGEST_EVENT = 5_000
"""Bytes of one line of the journal that a message may cause."""


def _update(client: str) -> bytes:
    return write_update(UPDATE, Label(client=client, weight=3.0, metrics={"loss": 0.5}, private=None, encodes=0))


class Door:
    """An intake, and before each message a fresh book with one open task of ann and bob, of a kind."""

    def __init__(self, root: Path) -> None:
        self.blobs = FileBlobs(root)
        made = plan(experiment())
        self.spec = made.experiment.rounds
        self.events: list[Event] = []
        self.intake = Intake(
            made, Commits(RUN, self.blobs), Simulator.of(made, virtual=True), Journal(self.events.append)
        )
        self.uploaded = {c: self.blobs.put(keys.upload(RUN, "updates", TASK, 1, c), _update(c)) for c in ("ann", "bob")}

    def manifest(self) -> dict[str, Any]:
        results = [
            ClientResult(client=c, update=u, weight=3.0, metrics={"loss": 0.5}) for c, u in self.uploaded.items()
        ]
        whole = Manifest(run=RUN, task_id=TASK, attempt=1, worker="w", results=tuple(results), seconds=0.5)
        found: dict[str, Any] = whole.model_dump(mode="json")
        return found

    def hear(self, author: str, body: str, kind: str = "train") -> Book:
        """What the book is after that entry."""
        book = Book(self.spec)
        task = Open.model_validate(
            {"task_id": TASK, "kind": kind, "base": 0, "clients": ("ann", "bob"), "asked_at": 0.0}
        )
        book.asks(Asked(version=0, tasks=(task,)), 0.0, instant=True)
        self.events.clear()
        try:
            said = read_entry(author, body)
        except ValidationError:
            return book
        if isinstance(said, Manifest):
            self.intake.receive(book, said, 1.0)
            self.intake.release(book, 1.0, {ALL: MODEL})
        elif isinstance(said, TaskFailure) and said.task_id == TASK:
            self.intake.gives_up(book, task, 1.0, said.message)
        self.intake.forget()
        self.intake.rubbish.clear()
        return book


def _sound(door: Door, book: Book) -> Counter[str]:
    """See that what counts was asked, granted, uploaded and within bounds, and that what is noted can be kept."""
    clients = [a.client for a in book.accepted.values()]
    assert len(set(clients)) == len(clients)
    for a in book.accepted.values():
        assert a.update == door.uploaded[a.client] and LIGHTEST <= a.weight <= HEAVIEST and a.private is None
    assert set(book.ledger) <= {"ann", "bob"}
    assert all(s.accepted + s.rejected + s.lost <= s.asked == 1 for s in book.ledger.values())
    for event in door.events:
        assert len(canonical(event)) < LONGEST_EVENT, event.event
        assert event.event != "evaluated" or 0 <= event.facts.get("accuracy", 0) <= 1
    return Counter(e.event for e in door.events)


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Door:
    return Door(tmp_path_factory.mktemp("door"))


def _text(data: bytes) -> str:
    return data.decode(errors="replace")  # as the Redis client hands it over


def test_4000_damaged_manifests(door: Door) -> None:
    heard: Counter[str] = Counter()
    for i, data in enumerate(mutants(door.manifest(), 4000, seed=1)):
        heard += _sound(door, door.hear("manifest", _text(data), "evaluate" if i % 4 == 0 else "train"))
    assert heard["accepted"] and heard["rejected"] and heard["ignored"] and heard["lost"] and heard["evaluated"]


def test_1000_damaged_failures(door: Door) -> None:
    whole = TaskFailure(run=RUN, task_id=TASK, attempt=1, code="client", message="no").model_dump(mode="json")
    heard: Counter[str] = Counter()
    for data in mutants(whole, 1000, seed=2):
        heard += _sound(door, door.hear("failure", _text(data)))
    assert set(heard) == {"lost"}


def test_1000_entries_of_noise_by_anybody(door: Door) -> None:
    for i, data in enumerate(noise(1000, seed=3)):
        author = ("manifest", "failure", "decision", "", "\x1b", "x" * 99)[i % 6]
        assert not _sound(door, door.hear(author, _text(data)))


def test_what_is_written_under_another_name_is_no_decision() -> None:
    text = json.dumps({"kind": "retried", "version": 0, "number": 1})
    assert read_entry("decision", text)
    for author in ("", "manifest", "failure", "worker", "decision "):
        with pytest.raises(ValidationError):
            read_entry(author, text)


def test_a_manifest_of_ten_megabytes_leaves_few_lines(door: Door) -> None:
    whole = door.manifest()
    scores = {f"{i}{'m' * 250}": 1.0 for i in range(40)}
    whole["results"] += [{"client": f"c{i}", "metrics": scores} for i in range(1000)]
    text = json.dumps(whole)
    assert len(text) > 10_000_000
    began = time.process_time()
    heard = _sound(door, door.hear("manifest", text))
    assert time.process_time() - began < 10
    assert heard == {"answered": 1, "accepted": 2, "rejected": 8}


@pytest.mark.parametrize("text", ["x" * 10_000_000, "[" * 10_000_000, '{"run":"' + "r" * 10_000_000 + '"}'])
def test_ten_megabytes_of_rubbish_are_refused_soon(door: Door, text: str) -> None:
    began = time.process_time()
    assert not _sound(door, door.hear("manifest", text))
    assert time.process_time() - began < 5


def test_2000_damaged_updates() -> None:
    whole, task = _update("ann"), Open(task_id=TASK, kind="train", base=0, clients=("ann",), asked_at=0.0)
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    numbers = whole[8 + int.from_bytes(whole[:8], "little") :]
    damaged = [len(text).to_bytes(8, "little") + text + numbers for text in mutants(header, 1200, seed=4)]
    damaged += [whole[: 1 + at * len(whole) // 400] + piece for at, piece in enumerate(noise(400, seed=5))]
    damaged += list(noise(400, seed=6))
    answers: Counter[str] = Counter()
    for data in damaged:
        blob = BlobRef(key=keys.upload(RUN, "updates", TASK, 1, "ann"), sha256=digest(data), size=len(data))
        result = ClientResult(client="ann", update=blob, weight=3.0)
        found = admit(result, task, RUN, form=MODEL, blobs=_Held(data), codec=Raw(Raw.Params()))  # type: ignore[arg-type]
        answers[found.reason if isinstance(found, Rejected) else "let in"] += 1
        if not isinstance(found, Rejected):
            assert {k: (t.shape, t.dtype) for k, t in found.items()} == {
                k: (t.shape, t.dtype) for k, t in MODEL.items()
            }
            assert all(bool(t.isfinite().all()) for t in found.values())
    assert answers["unreadable"] > 1000


class _Held:
    """A store of one blob."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def get(self, ref: BlobRef) -> bytes:
        return self.data


def test_2000_damaged_tasks_end_as_an_answer_or_nothing(tmp_path: Path) -> None:
    asked = experiment(paint(tmp_path / "images", per_class=2), rounds={"versions": 1})
    office = Office(tmp_path, asked)
    office.agree(("amber", "blue", "green"), ToyBackbone(ToyBackbone.Params()).fingerprint)
    stream, state = FileStream(tmp_path / "stream", VirtualClock()), FileState(tmp_path / "state")
    worker = Worker(name="w", stream=stream, state=state, cache=tmp_path / "cache")
    init = office.task("init", "i")
    worker.handle(init.model_dump_json())
    made = unpack((tmp_path / "blobs" / init.outputs["state"].key).read_bytes())
    model = office.put("model", pack({name.removeprefix(f"{ALL}/"): t for name, t in made.items()}))
    tasks = [
        office.task("train", "t", ["flat-0"], model=model),
        office.task("evaluate", "t", ["flat-0"], model=model),
        office.task("describe", "t"),
    ]
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "images").rglob("*")}
    for number, task in enumerate(tasks):
        for data in mutants(task.model_dump(mode="json"), 600, seed=7 + number, spare=("url",)):
            worker.handle(_text(data))
    for data in noise(200, seed=10):
        worker.handle(_text(data))
    entries = [e for path in (tmp_path / "stream").glob("*.stream") for e in stream.read(path.stem, "0", 0.0)]
    said = Counter(type(read_entry(e.author, e.body)).__name__ for e in entries)
    assert set(said) == {"TaskFailure", "Manifest"} and min(said.values()) > 10, said
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "images").rglob("*")} == before
