"""A worker's way to blobs: a store that does not answer is asked again, as long as the task's deadline allows.

What the store says for good (missing, corrupt, refused, written already) is never asked again. Knows no task.
"""

import time
from collections.abc import Callable
from typing import TypeVar

import structlog

from infra import blobs
from schemas.base import digest
from schemas.errors import BlobExists, BlobUnavailable, ConfigError
from schemas.messages import BlobRef, Grant, Outlet, Ref

FIRST_S, LONGEST_S = 0.5, 5.0
"""The waits between two tries: the first, and the longest after doubling."""
SPARED = 0.1
"""The part of a task's deadline that is left to say that it did not work."""

T = TypeVar("T")
log = structlog.get_logger()


class Reach:
    """The blobs of one task at a time. Call `begin` with each.

    until: when (monotonic) it stops asking again. ends: the task's deadline, after which nobody waits for anything.
    files: whether a grant may be of a file. At a site it may not: else somebody else would say which of its files are
    read and written.
    """

    def __init__(self, *, files: bool = True) -> None:
        self.files = files
        self.until = self.ends = float("-inf")

    def begin(self, deadline_s: float) -> None:
        """A task begins, and has so many seconds."""
        now = time.monotonic()
        self.until, self.ends = now + (1 - SPARED) * deadline_s, now + deadline_s

    def get(self, ref: Ref) -> bytes:
        """The bytes of a blob. Raises GrantRefused, BlobMissing, BlobCorrupt, BlobError, ConfigError."""
        self._check(ref.grant)
        return self._patiently(lambda: blobs.get(ref))

    def upload(self, outlet: Outlet, data: bytes) -> tuple[BlobRef, bytes]:
        """Write, or read back what an earlier attempt wrote there: what lies under the key, whoever put it.

        Raises BlobError, GrantRefused, ConfigError.
        """
        self._check(outlet.put, outlet.get)
        try:
            return self._patiently(lambda: blobs.put(outlet, data)), data
        except BlobExists:
            found = self._patiently(lambda: blobs.fetch(outlet.get, limit=2 * len(data) + 2**20))
            return BlobRef(key=outlet.key, sha256=digest(found), size=len(found)), found

    def _check(self, *grants: Grant | None) -> None:
        urls = [grant.url.get_secret_value().lower() for grant in grants if grant]
        if not self.files and not all(url.startswith(("http://", "https://")) for url in urls):
            raise ConfigError("a site takes grants of an S3 alone, not of its own files")

    def _patiently(self, call: Callable[[], T]) -> T:
        wait_s = FIRST_S
        while True:
            try:
                return call()
            except BlobUnavailable as e:
                if time.monotonic() + wait_s > self.until:
                    raise
                log.warning("the object store does not answer, asking again", error=e.message)
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_S)
