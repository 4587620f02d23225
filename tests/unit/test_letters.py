"""A task that is too large for the bus: its document lies in the store, and a letter goes in its place."""

import contextlib
import json
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from infra.blobs import FileBlobs, readable
from infra.bus import LARGEST, LocalBus
from orchestrator import keys, post
from orchestrator import run as runs
from orchestrator.plan import plan
from orchestrator.post import Post
from schemas.errors import BlobCorrupt, BlobMissing, ConfigError, GrantRefused
from schemas.log import Event, Open
from schemas.messages import BlobRef, Letter, Ref, Task, read_message
from tests.runs.here import run, runtime
from tests.runs.test_crash import facts
from tests.runs.test_embedded import QUORUM, SLOW, small
from tests.toys import experiment, paint
from workers.letters import opened
from workers.reach import Reach

REF = BlobRef(key="k", sha256="0" * 64, size=0)


class Sent(Post):
    """A way out, and the messages that came of it."""

    def __init__(self, root: Path) -> None:
        self.messages: list[str] = []
        super().__init__("r", experiment(), FileBlobs(root), LocalBus(self.messages.append))


def _asked(count: int, attempt: int = 1) -> Open:
    clients = tuple(f"client-{n}" for n in range(count))
    return Open(task_id="v0-many", kind="train", base=0, clients=clients, attempt=attempt, asked_at=0.0)


@pytest.fixture
def way(tmp_path: Path) -> Sent:
    return Sent(tmp_path)


def test_what_fits_on_the_bus_goes_as_it_is(way: Sent) -> None:
    way.send(_asked(3), REF, REF)
    assert isinstance(read_message(way.messages[0]), Task)
    assert list(way.blobs.keys(keys.root("r"))) == []


def test_what_does_not_fit_goes_as_a_letter_and_is_the_same_task(way: Sent) -> None:
    way.send(_asked(1000), REF, REF)
    letter = read_message(way.messages[0])
    assert isinstance(letter, Letter) and len(way.messages[0]) < 2000
    task = opened(letter, Reach())
    assert len(task.model_dump_json()) > LARGEST
    assert (task.work, task.label, task.deadline_s) == (letter.work, letter.label, letter.deadline_s)
    assert [slot.client for slot in task.clients] == list(_asked(1000).clients)


def test_a_document_is_deleted_when_nobody_may_do_its_task_any_more(way: Sent) -> None:
    for attempt in (1, 2):
        way.send(_asked(1000, attempt), REF, REF)
    later = Sent(Path(way.blobs.root))  # type: ignore[attr-defined]
    later.recall()  # another life of the loop
    later.forget(lambda task_id: task_id == "v0-many")
    assert len(list(way.blobs.keys(keys.documents("r")))) == 2
    later.forget(lambda task_id: False)
    assert list(way.blobs.keys(keys.documents("r"))) == [] and not later.documents


def test_a_worker_opens_only_what_the_letter_promises(way: Sent) -> None:
    way.send(_asked(1000), REF, REF)
    letter = read_message(way.messages[0])
    assert isinstance(letter, Letter)
    ref = letter.document.blob
    other = way.blobs.put("other", opened(letter, Reach()).model_copy(update={"attempt": 2}).model_dump_json().encode())
    vast = letter.document.model_copy(update={"blob": ref.model_copy(update={"size": 2**40})})
    garbage = way.blobs.put("garbage", b"{}")
    for document, error, said in (
        (readable(way.blobs, other, 60), ConfigError, "another task's"),
        (readable(way.blobs, garbage, 60), ConfigError, "not understood"),
        (vast, ConfigError, "at most"),
        (letter.document.model_copy(update={"blob": ref.model_copy(update={"sha256": "0" * 64})}), BlobCorrupt, "hash"),
    ):
        with pytest.raises(error, match=said):
            opened(letter.model_copy(update={"document": document}), Reach())
    way.blobs.delete(ref.key)
    with pytest.raises(BlobMissing):
        opened(letter, Reach())


def test_what_is_neither_task_nor_letter_is_complained_of_as_the_nearer_one(way: Sent) -> None:
    way.send(_asked(1000), REF, REF)
    letter = json.loads(way.messages[0])
    with pytest.raises(ValidationError, match="for Letter"):
        read_message(json.dumps(letter | {"attempt": 0}))
    with pytest.raises(ValidationError, match="for Task"):
        read_message("{}")


def test_a_run_whose_every_task_goes_as_a_letter_is_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = small(paint(tmp_path / "images"), rounds={**QUORUM, "versions": 4}, simulate=SLOW)
    undisturbed = run(made, tmp_path / "undisturbed")
    monkeypatch.setattr(post, "LARGEST", 100)
    most: list[int] = []
    folder = tmp_path / "letters" / "blobs" / "runs" / "r" / "tasks"

    def watch(event: Event) -> None:
        if event.event == "asked":
            most.append(len([p for p in folder.rglob("*.json")]))

    through = runs.execute(plan(made), runtime(tmp_path / "letters"), "r", watch)
    assert facts(through) == facts(undisturbed)
    assert 0 < max(most) <= 12 and list(folder.rglob("*.json")) == []


class Store(Reach):
    """Of a worker in front of a store that knows the time."""

    def __init__(self, says: Exception | None) -> None:
        super().__init__()
        self.says, self.asked = says, 0

    def get(self, ref: Ref) -> bytes:
        self.asked += 1
        if self.says:
            raise self.says
        return b""


@pytest.mark.parametrize(("life_s", "asked"), [(60.0, 0), (-60.0, 1)])
def test_whether_grants_have_run_out_is_asked_of_the_store_if_the_own_clock_says_so(
    way: Sent, life_s: float, asked: int
) -> None:
    way.send(_asked(1), REF, REF)
    task = read_message(way.messages[0])
    assert isinstance(task, Task) and task.setting.grant is not None
    grant = task.setting.grant.model_copy(update={"expires": time.time() + life_s})
    task = task.model_copy(update={"setting": task.setting.model_copy(update={"grant": grant})})
    right = Store(None)
    assert (opened(task, right), right.asked) == (task, asked)  # the store says that they hold: the clock is wrong
    refusing = Store(GrantRefused("GET answered 403"))
    with pytest.raises(GrantRefused) if asked else contextlib.nullcontext():
        opened(task, refusing)
