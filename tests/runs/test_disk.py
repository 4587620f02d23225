"""A disk that is full at any moment of an embedded run: one clear line, nothing half-written, and it goes on later."""

import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from infra.blobs import FileBlobs
from infra.clock import VirtualClock
from infra.state import FileState
from infra.stream import START, FileStream
from schemas.errors import BlobError, QuorateError, StoreError
from tests.runs.here import run
from tests.runs.test_crash import facts
from tests.runs.test_embedded import SYNC, small
from tests.toys import paint

WITHOUT_ROOM = "File too large"  # what the system says here; "No space left on device" where the disk itself is full


@pytest.fixture
def room() -> Iterator[Callable[[int], None]]:
    """Lets this process write files of so many bytes at most; beyond that each write fails, as on a full disk."""
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size if size >= 0 else before, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))


def test_a_run_that_finds_no_room_goes_on_where_it_was(tmp_path: Path, room: Callable[[int], None]) -> None:
    made = small(paint(tmp_path / "images"), codec={"name": "fp16"}, rounds={**SYNC, "versions": 3})
    undisturbed = facts(run(made, tmp_path / "undisturbed"))
    sizes = sorted({p.stat().st_size for p in (tmp_path / "undisturbed" / "blobs").rglob("*") if p.is_file()})
    told = set()
    for size in (0, sizes[len(sizes) // 2], 3000, sizes[-1] - 1):
        root = tmp_path / f"room-{size}"
        run(made.model_copy(update={"name": "warm"}), root, name="warm")  # the features are on disk
        with structlog.testing.capture_logs():  # they go into a file too
            room(size)
            with pytest.raises(QuorateError) as e:
                run(made, root)
            room(-1)
        assert isinstance(e.value, (BlobError, StoreError)), str(e.value)
        assert WITHOUT_ROOM in str(e.value) or "is the disk full?" in str(e.value)
        assert not [p for p in root.rglob(".*") if p.is_file()], "nothing half-written stays"
        told.add(type(e.value))
        assert facts(run(made, root)) == undisturbed, size
    assert told == {BlobError, StoreError}


def test_without_room_a_trim_changes_nothing(tmp_path: Path, room: Callable[[int], None]) -> None:
    stream = FileStream(tmp_path, VirtualClock())
    for n in range(4):
        stream.append("r", "manifest", f"{n}" * 100)
    room(100)
    with pytest.raises(StoreError, match=WITHOUT_ROOM):
        stream.trim("r", "1")
    room(-1)
    stream.append("r", "manifest", "later")
    for life in (stream, FileStream(tmp_path, VirtualClock())):
        assert len(life.read("r", START, 0.0)) == 5
    assert [p.name for p in tmp_path.iterdir()] == ["r.stream"]


def test_without_room_a_lease_is_held_and_a_value_is_not_kept(tmp_path: Path, room: Callable[[int], None]) -> None:
    state = FileState(tmp_path)
    state.acquire("r", "me", 5.0)
    state.save("r", "me", 5.0, "7")
    room(0)
    assert state.acquire("other", "me", 5.0)
    with pytest.raises(StoreError, match=WITHOUT_ROOM):
        state.save("r", "me", 5.0, "8")
    with pytest.raises(StoreError, match=WITHOUT_ROOM):
        state.flag("r", "cancel")
    room(-1)
    assert state.load("r") == "7" and not state.flagged("r", "cancel")
    for name in ("r", "other"):
        state.release(name, "me")


def test_without_room_a_blob_is_not_there(tmp_path: Path, room: Callable[[int], None]) -> None:
    blobs = FileBlobs(tmp_path)
    room(10)
    with pytest.raises(BlobError, match=WITHOUT_ROOM):
        blobs.put("a/k", b"x" * 11, if_absent=True)
    room(-1)
    assert list(blobs.keys("")) == [] and [p.name for p in tmp_path.rglob("*")] == ["a"]
