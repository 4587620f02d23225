"""What lies in the place of a file that is no such file: one clear line, nothing is waited for, and no memory taken."""

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.blobs import FileBlobs
from infra.clock import VirtualClock
from infra.state import FileState
from infra.stream import START, FileStream
from orchestrator.archive import read_journal, read_report
from orchestrator.audit import audit_folder
from schemas.errors import QuorateError
from schemas.messages import BlobRef
from tests.unit.test_archive import archive

GIGABYTE = 2**30


def _huge(path: Path) -> None:
    path.touch()
    os.truncate(path, GIGABYTE)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


ODD: dict[str, tuple[Callable[[Path], None], str]] = {
    "pipe": (os.mkfifo, "no regular file"),
    "device": (_device, "no regular file"),
    "folder": (Path.mkdir, "Is a directory"),
    "huge": (_huge, "bytes|is no journal"),
}
"""What lies there, and what is said of it."""


def _summary(root: Path) -> object:
    return archive(root).summary("r")


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "the stream": ("state/r.stream", lambda root: FileStream(root / "state", VirtualClock()).read("r", START, 0.0)),
    "a blob": ("blobs/k", lambda root: FileBlobs(root / "blobs").get(BlobRef(key="k", sha256="0" * 64, size=9))),
    "a commit": ("blobs/k", lambda root: FileBlobs(root / "blobs").read("k", limit=9)),
    "a journal": ("runs/r/journal.jsonl", lambda root: read_journal(root / "runs" / "r")),
    "a report": ("runs/r/report.json", lambda root: read_report(root / "runs" / "r" / "report.json")),
    "the journal of a list": ("runs/r/journal.jsonl", _summary),
}
"""What is read, and how."""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for folder in ("state", "blobs", "runs/r"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _frugal(act: Callable[[], object]) -> object:
    tracemalloc.start()
    try:
        return act()
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < GIGABYTE / 4


@pytest.mark.parametrize("what", READERS)
@pytest.mark.parametrize("odd", ODD)
def test_what_is_no_such_file_is_said_in_one_line(root: Path, what: str, odd: str) -> None:
    (place, reads), (make, said) = READERS[what], ODD[odd]
    make(root / place)
    if what == "the journal of a list":
        (root / "runs" / "r" / "report.json").touch()
    with pytest.raises(QuorateError, match=said) as e:
        _frugal(lambda: reads(root))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("odd", ODD)
def test_an_audit_names_a_journal_that_is_none(root: Path, odd: str) -> None:
    ODD[odd][0](root / "runs" / "r" / "journal.jsonl")
    found = _frugal(lambda: audit_folder(root / "runs" / "r").violations)
    assert isinstance(found, tuple) and found[0].startswith("journal.jsonl cannot be read: ")


@pytest.mark.parametrize("odd", ["pipe", "folder"])
def test_a_lease_in_whose_place_something_else_lies_is_not_waited_for(root: Path, odd: str) -> None:
    ODD[odd][0](root / "state" / "r.lock")
    state = FileState(root / "state")
    for act in (lambda: state.acquire("r", "me", 5.0), lambda: state.owner("r")):
        with pytest.raises(QuorateError, match=r"r.lock: "):
            act()


def test_a_value_in_whose_place_something_else_lies_is_not_waited_for(root: Path) -> None:
    os.mkfifo(root / "state" / "r.json")
    with pytest.raises(QuorateError, match=r"r.json: no regular file"):
        FileState(root / "state").load("r")


def test_a_line_that_is_torn_is_dropped_and_a_whole_one_stays(root: Path) -> None:
    stream = FileStream(root / "state", VirtualClock())
    for n in range(3):
        stream.append("r", "manifest", f"{n}")
    path = root / "state" / "r.stream"
    path.write_bytes(path.read_bytes()[:-4])
    again = FileStream(root / "state", VirtualClock())
    assert [e.body for e in again.read("r", START, 0.0)] == ["0", "1"]
    assert path.read_bytes().count(b"\n") == 2 and path.read_bytes().endswith(b"\n")
