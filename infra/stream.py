"""The stream: one append-only log per run, its write-ahead log.

Workers append manifests and failures, the loop appends its own decisions before it acts on them. After a crash
the loop reads from its last commit on and comes to the same state.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from infra.clock import Clock
from infra.files import failing, lines, write_whole
from schemas.errors import StoreError

Author = Literal["manifest", "failure", "decision"]
START = "0"
"""The cursor before the first entry."""

LONGEST = 64 * 2**20
"""Bytes of one line of a file: the manifest of 100,000 clients."""


@dataclass(frozen=True)
class Entry:
    """One line of the log. at: seconds of the run's clock. body: JSON, not yet validated."""

    id: str
    at: float
    author: str
    body: str


def place(cursor: str) -> tuple[int, ...]:
    """Where a cursor stands among all others: ids are `<number>`, or `<milliseconds>-<number>`.

    >>> place("9") < place("10"), place(START) < place("1763000000000-0") < place("1763000000000-1")
    (True, True)
    """
    return tuple(int(part) for part in cursor.split("-"))


class Stream(Protocol):
    """An ordered log per run; ids grow and are never used again."""

    def append(self, run: str, author: Author, body: str) -> Entry:
        """Add an entry; durable against the death of this process. Raises StoreError."""

    def read(self, run: str, after: str, until: float) -> list[Entry]:
        """Entries behind a cursor, oldest first; waits for the first of them until that moment of the clock.

        On a wall clock it may come back empty earlier, and with a part of what there is: ask again.
        """

    def trim(self, run: str, upto: str) -> None:
        """Forget entries up to and including a cursor."""

    def delete(self, run: str) -> None:
        """Forget the whole log of a run that has ended."""


class FileStream:
    """A file of JSON lines per run, for one process. A line torn by a crash was never acknowledged and is dropped."""

    def __init__(self, root: Path, clock: Clock) -> None:
        self.root, self.clock = root, clock
        self._entries: dict[str, list[Entry]] = {}
        self._files: dict[str, int] = {}

    def append(self, run: str, author: Author, body: str) -> Entry:
        """As Stream."""
        entries = self._load(run)
        last = int(entries[-1].id) if entries else int(START)
        entry = Entry(str(last + 1), self.clock.now(), author, body)
        self._write(run, (json.dumps(vars(entry)) + "\n").encode())
        entries.append(entry)
        return entry

    def read(self, run: str, after: str, until: float) -> list[Entry]:
        """As Stream. Nothing else writes here, so if there is nothing new, time passes until `until`."""
        entries = self._load(run)
        behind = len(entries)
        while behind and int(entries[behind - 1].id) > int(after):
            behind -= 1
        if behind == len(entries):
            self.clock.wait(until)
        return entries[behind:]

    def trim(self, run: str, upto: str) -> None:
        """As Stream. The last entry always stays, so that ids go on growing after a restart."""
        entries = self._load(run)
        kept = [e for e in entries if int(e.id) > int(upto)] or entries[-1:]
        with failing(f"stream of {run}"):
            write_whole(self._path(run), "".join(json.dumps(vars(e)) + "\n" for e in kept).encode())
            os.close(self._files.pop(run))
            self._entries[run] = kept
            self._open(run)

    def delete(self, run: str) -> None:
        """As Stream."""
        if run in self._files:
            os.close(self._files.pop(run))
        self._entries.pop(run, None)
        with failing(f"stream of {run}"):
            self._path(run).unlink(missing_ok=True)

    def _path(self, run: str) -> Path:
        return self.root / f"{run}.stream"

    def _open(self, run: str) -> None:
        self._files[run] = os.open(self._path(run), os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o644)

    def _write(self, run: str, line: bytes) -> None:
        """All of the line or nothing: on a full disk a part of it would become the head of the next one."""
        file = self._files[run]
        with failing(f"stream of {run}"):
            end = os.fstat(file).st_size
            written = os.write(file, line)
            if written < len(line):
                os.ftruncate(file, end)
        if written < len(line):
            raise StoreError(f"stream of {run}: {written} of {len(line)} bytes written", hint="is the disk full?")

    def _load(self, run: str) -> list[Entry]:
        if run not in self._entries:
            path = self._path(run)
            with failing(path):
                self.root.mkdir(parents=True, exist_ok=True)
                found = lines(path, LONGEST) if path.exists() else ()
                whole = [line for line in found if line.endswith(b"\n")]
            entries = [_entry(line, path, number) for number, line in enumerate(whole, start=1)]
            with failing(f"stream of {run}"):
                self._open(run)
                os.ftruncate(self._files[run], sum(map(len, whole)))
            self._entries[run] = entries
        return self._entries[run]


def _entry(line: bytes, path: Path, number: int) -> Entry:
    try:
        found = Entry(**json.loads(line))
        int(found.id)
        float(found.at)
    except (ValueError, TypeError, RecursionError):
        raise StoreError(f"{path}: line {number} is damaged") from None
    return found
