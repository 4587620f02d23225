"""Being the one loop of a run: the lease, kept alive by asking now and then, and the word of an operator.

What the loop writes goes through `Owned`, which extends the lease first: so a long fold or a listing costs no lease,
and a loop that hung while another took over hears of it before it writes.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from infra.blobs import BlobStore
from infra.state import StateStore
from infra.stream import Author, Entry, Stream
from schemas.errors import Cancelled, LeaseLost
from schemas.messages import BlobRef, Grant

LEASE_S = 5.0
"""Seconds after which a loop that has gone silent may be replaced: what a resume has to wait for."""
TOGETHER = 100
"""Objects that are deleted between two looks at the lease."""

EVERY_S = 1.0
"""Seconds between two looks at the lease."""


class Tenure:
    """The lease of one owner on one run."""

    def __init__(self, run: str, owner: str, state: StateStore) -> None:
        self.run, self.owner, self.state = run, owner, state
        self.version = 0
        self._looked = self.extended = float("-inf")
        self._whole = True

    def begin(self, *, wait_s: float = 0.0) -> None:
        """Take the lease, waiting for it at most so long. Raises LeaseLost."""
        until = time.monotonic() + wait_s
        while not self.state.acquire(self.run, self.owner, LEASE_S):
            if time.monotonic() >= until:
                raise LeaseLost(f"run {self.run} is owned by another loop", hint="quorate run --resume waits for it")
            time.sleep(0.2)
        self.extended, self._whole = time.monotonic(), True

    def due(self) -> bool:
        """Whether it is time for the next look. True at most once per `EVERY_S` seconds."""
        now = time.monotonic()
        if now - self._looked < EVERY_S:
            return False
        self._looked = now
        return True

    def touch(self) -> None:
        """Extend the lease if that was not done for a second. Raises LeaseLost."""
        if time.monotonic() - self.extended >= EVERY_S:
            self._extend()

    def keep(self, version: int) -> bool:
        """Extend the lease, or take it again if it has lapsed. False if the store was emptied: the rest is gone too.

        Raises LeaseLost, Cancelled.
        """
        self.version = version
        self._extend()
        if self.state.flagged(self.run, "cancel"):
            raise Cancelled(f"run {self.run} was cancelled")
        whole, self._whole = self._whole, True
        return whole

    def end(self) -> None:
        """Give the run up."""
        self.state.release(self.run, self.owner)

    def _extend(self) -> None:
        answer = self.state.save(self.run, self.owner, LEASE_S, str(self.version))
        if answer == "taken" or (answer == "missing" and not self.state.acquire(self.run, self.owner, LEASE_S)):
            raise LeaseLost(f"run {self.run} is owned by another loop now")
        if answer == "missing":
            self._whole = self._whole and self.state.load(self.run) is not None
            self.state.save(self.run, self.owner, LEASE_S, str(self.version))
        self.extended = time.monotonic()


@dataclass(frozen=True)
class OwnedBlobs:
    """The object store as the owner of a run uses it."""

    inner: BlobStore
    tenure: Tenure

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> BlobRef:
        """As BlobStore. Raises LeaseLost."""
        self.tenure.touch()
        return self.inner.put(key, data, if_absent=if_absent)

    def get(self, ref: BlobRef) -> bytes:
        """As BlobStore. Raises LeaseLost."""
        self.tenure.touch()
        return self.inner.get(ref)

    def read(self, key: str, *, limit: int) -> bytes:
        """As BlobStore. Raises LeaseLost."""
        self.tenure.touch()
        return self.inner.read(key, limit=limit)

    def grant(self, key: str, method: Literal["GET", "PUT"], ttl_s: float) -> Grant:
        """As BlobStore. Raises LeaseLost."""
        self.tenure.touch()
        return self.inner.grant(key, method, ttl_s)

    def delete(self, *keys: str) -> None:
        """As BlobStore. Raises LeaseLost."""
        for start in range(0, len(keys), TOGETHER):
            self.tenure.touch()
            self.inner.delete(*keys[start : start + TOGETHER])

    def keys(self, prefix: str) -> Iterator[str]:
        """As BlobStore. Raises LeaseLost."""
        self.tenure.touch()
        return self.inner.keys(prefix)


@dataclass(frozen=True)
class OwnedStream:
    """The stream as the owner of a run uses it."""

    inner: Stream
    tenure: Tenure

    def append(self, run: str, author: Author, body: str) -> Entry:
        """As Stream. Raises LeaseLost."""
        self.tenure.touch()
        return self.inner.append(run, author, body)

    def read(self, run: str, after: str, until: float) -> list[Entry]:
        """As Stream."""
        return self.inner.read(run, after, until)

    def trim(self, run: str, upto: str) -> None:
        """As Stream. Raises LeaseLost."""
        self.tenure.touch()
        self.inner.trim(run, upto)

    def delete(self, run: str) -> None:
        """As Stream. Raises LeaseLost."""
        self.tenure.touch()
        self.inner.delete(run)
