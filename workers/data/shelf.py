"""Byte strings by key in one SQLite file that several processes share.

Knows SQLite and checksums; must not know what is kept, or for whom.
"""

import contextlib
import os
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from schemas.errors import StoreError

MAPPED = 2**31 - 65_536
"""Bytes of a file that are read from mapped memory, which processes share: as many as SQLite does."""

AT_ONCE = 500
"""Keys of one query."""

KINDS = "SELECT substr(key, 1, instr(key || ':', ':') - 1), COUNT(*) FROM kept GROUP BY 1"

Read = Callable[[Iterable[str], int], dict[str, bytes]]


class Shelf:
    """Byte strings by key in one SQLite file. The first value of a key stays, unless it is dropped.

    Each carries its own checksum. A damaged file is replaced by an empty one, a damaged value is as good as absent:
    everything can be computed again. lasting: false for values that need not outlive this machine's next start, and are
    written without waiting for its disk.
    """

    def __init__(self, path: Path, *, lasting: bool = True) -> None:
        self.path, self.lasting = path, lasting

    def read(self, keys: Iterable[str], size: int) -> dict[str, bytes]:
        """The sound values of `size` bytes among these keys. Raises StoreError."""
        with self.reading() as read:
            return read(keys, size)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Read]:
        """`read` for many calls, over one connection that holds no lock between them. Raises StoreError."""

        def read(keys: Iterable[str], size: int) -> dict[str, bytes]:
            with self._failing():
                return _select(db, keys, size)

        with self._failing():
            db = self._sound()
        with contextlib.closing(db):
            yield read

    def write(self, values: dict[str, bytes]) -> dict[str, bytes]:
        """Keep the values, all or nothing, and return them as kept: what another process wrote first wins.

        Raises StoreError.
        """
        if not values:
            return {}
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            first = _select(db, values, len(next(iter(values.values()))))
            missing = [(k, _signed(v)) for k, v in values.items() if k not in first]
            db.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?)", missing)
        return values | first

    def drop(self, values: Mapping[str, bytes]) -> None:
        """Forget these values, all or nothing, of the keys that still have them. Raises StoreError."""
        if values:
            with self._open() as db:
                db.executemany(
                    "DELETE FROM kept WHERE key = ? AND value = ?", [(k, _signed(v)) for k, v in values.items()]
                )

    def kinds(self) -> dict[str, int]:
        """How many values there are by the word before the `:` of their key. Changes nothing. Raises StoreError."""
        address = f"{self.path.absolute().as_uri()}?mode=ro"
        with self._failing():
            if not self.path.stat().st_size:
                return {}  # of a writer that has just begun
            with contextlib.closing(sqlite3.connect(address, uri=True)) as db:
                return dict(db.execute(KINDS))

    def clear(self) -> None:
        """Forget everything, and give its room back. Raises StoreError."""
        with self._open() as db:
            db.execute("DELETE FROM kept")
        with self._failing(), contextlib.closing(self._sound()) as db:
            db.execute("VACUUM")

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with self._failing(), contextlib.closing(self._sound()) as db, db:
            yield db

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as e:
            raise StoreError(f"feature cache {self.path}: {e}", hint="QUORATE_CACHE names its folder") from e

    def _sound(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            db = _connect(self.path, self.lasting)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:
            self.path.with_name(f"{self.path.name}-journal").unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)
            db = _connect(self.path, self.lasting)
        with contextlib.suppress(OSError):
            os.utime(self.path)  # when it was last used: what `quorate cache --prune` goes by
        return db


def _connect(path: Path, lasting: bool) -> sqlite3.Connection:
    # One connection is used by one thread at a time, but not always closed by the one that opened it.
    db = sqlite3.connect(path, timeout=60, check_same_thread=False)
    try:
        db.execute(f"PRAGMA mmap_size = {MAPPED}").fetchone()
        if not lasting:
            db.execute("PRAGMA synchronous = OFF")
        db.execute("CREATE TABLE IF NOT EXISTS kept (key TEXT PRIMARY KEY, value BLOB NOT NULL)")
        db.execute("SELECT value FROM kept LIMIT 1").fetchone()
    except sqlite3.Error:
        db.close()
        raise
    return db


def _select(db: sqlite3.Connection, keys: Iterable[str], size: int) -> dict[str, bytes]:
    wanted, rows = list(keys), dict[str, bytes]()
    for start in range(0, len(wanted), AT_ONCE):
        some = wanted[start : start + AT_ONCE]
        marks = ",".join("?" * len(some))
        rows |= db.execute(f"SELECT key, value FROM kept WHERE key IN ({marks})", some).fetchall()
    sound = {k: _checked(value) for k, value in rows.items()}
    return {k: value for k, value in sound.items() if value is not None and len(value) == size}


def _signed(value: bytes) -> bytes:
    return value + zlib.crc32(value).to_bytes(4, "big")


def _checked(value: bytes) -> bytes | None:
    data = value[:-4]
    return data if _signed(data) == value else None
