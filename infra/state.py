"""The state store: who owns a run, how far it is, whether it is to stop, and which tasks are being worked on.

Everything here can be lost: the truth is in the object store (`versions/{n}.json`).
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, Literal, Protocol

from infra.files import failing, regular, write_whole
from schemas.errors import StoreError

Answer = Literal["mine", "missing", "taken"]
"""Of a lease: still mine; nobody's (the store was emptied: take it again); another loop's (stop)."""


LONGEST = 16 * 2**20
"""Bytes that are read of a value, or of an owner's name."""


class StateStore(Protocol):
    """Small values with an owner. Times in seconds."""

    def acquire(self, run: str, owner: str, ttl_s: float) -> bool:
        """Become the loop of the run, if nobody is. The same owner may acquire again."""

    def save(self, run: str, owner: str, ttl_s: float, value: str | None = None) -> Answer:
        """Extend the lease and, in the same step, keep the value (None keeps the old one)."""

    def load(self, run: str) -> str | None:
        """The value last saved, or None."""

    def owner(self, run: str) -> tuple[str, float | None] | None:
        """Who owns the run, and in how many seconds its lease ends (None: with its process); None if nobody does."""

    def release(self, run: str, owner: str) -> None:
        """Give the run up, if it is still mine."""

    def flag(self, run: str, name: str) -> None:
        """Set a flag, e.g. `cancel`, for whoever owns the run."""

    def flagged(self, run: str, name: str) -> bool:
        """Whether the flag is set."""

    def forget(self, run: str) -> None:
        """Remove the value and the flags of a run that has ended."""

    def beat(self, run: str, work: str, ttl_s: float) -> None:
        """A worker says that it is at work on `work` (task and attempt) for the next `ttl_s` seconds."""

    def beating(self, run: str, works: Iterable[str]) -> set[str]:
        """Which of these are being worked on."""


class FileState:
    """One machine, one process: a lock file per run serves as lease; tasks run in the loop's own process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._locks: dict[str, IO[str]] = {}

    def acquire(self, run: str, owner: str, ttl_s: float) -> bool:
        """As StateStore; the lock ends with the process, so ttl_s is not needed."""
        if run in self._locks:
            return True
        path = self._path(run, "lock")
        with failing(path):
            lock = os.fdopen(os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY | os.O_NONBLOCK, 0o666), "a")
        if not _locked(lock, fcntl.LOCK_EX):
            lock.close()
            return False
        self._locks[run] = lock
        with contextlib.suppress(OSError):  # without room for its name it is the owner all the same
            lock.truncate(0)
            os.write(lock.fileno(), owner.encode())
        return True

    def owner(self, run: str) -> tuple[str, float | None] | None:
        """As StateStore. Makes no folder and no file."""
        try:
            with regular(self.root / f"{run}.lock") as lock:
                named = None if _locked(lock, fcntl.LOCK_SH) else lock.read(LONGEST).decode(errors="replace")
        except FileNotFoundError:
            return None
        except OSError as e:
            raise StoreError(f"{run}.lock: {e.strerror}") from e
        return None if named is None else (named or "another process", None)

    def save(self, run: str, owner: str, ttl_s: float, value: str | None = None) -> Answer:
        """As StateStore."""
        if run not in self._locks:
            return "taken"
        if value is not None:
            self._write(self._path(run, "json"), value)
        return "mine"

    def load(self, run: str) -> str | None:
        """As StateStore."""
        try:
            with regular(self._path(run, "json")) as file:
                return str(json.loads(file.read(LONGEST))["value"])
        except (FileNotFoundError, ValueError, KeyError):
            return None
        except OSError as e:
            raise StoreError(f"{run}.json: {e.strerror}") from e

    def release(self, run: str, owner: str) -> None:
        """As StateStore."""
        lock = self._locks.pop(run, None)
        if lock is not None:
            lock.close()

    def flag(self, run: str, name: str) -> None:
        """As StateStore."""
        self._write(self._flag(run, name), "")

    def flagged(self, run: str, name: str) -> bool:
        """As StateStore."""
        return self._flag(run, name).exists()

    def forget(self, run: str) -> None:
        """As StateStore."""
        with failing(self.root):
            for path in self.root.glob(f"{run}@*"):
                path.unlink(missing_ok=True)
            self._path(run, "json").unlink(missing_ok=True)

    def beat(self, run: str, work: str, ttl_s: float) -> None:
        """Nothing to say: the loop and the work share one process."""

    def beating(self, run: str, works: Iterable[str]) -> set[str]:
        """Nothing: work in this process is finished before anyone can ask."""
        return set()

    def _flag(self, run: str, name: str) -> Path:
        """No run's name holds an @, so no file of another run is taken for a flag of this one."""
        return self._folder() / f"{run}@{name}"

    def _path(self, run: str, suffix: str) -> Path:
        return self._folder() / f"{run}.{suffix}"

    def _folder(self) -> Path:
        with failing(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
        return self.root

    def _write(self, path: Path, value: str) -> None:
        with failing(path):
            write_whole(path, json.dumps({"value": value, "written": time.time()}).encode())


def _locked(file: IO[Any], kind: int) -> bool:
    """Whether the lock is ours now. Tried again, because somebody who only looks holds it for a moment."""
    for left in (2, 1, 0):
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return True
        except OSError:
            time.sleep(0.005 if left else 0)
    return False
