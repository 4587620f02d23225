"""The stream on Redis (>= 7) or Valkey: one Redis stream per run, never cut by length.

Entries are read with their Redis id as cursor and stamped with the reader's clock: workers' clocks play no part.
"""

from typing import Any

from infra.clock import Clock
from infra.redis_state import client, failing, key
from infra.stream import Author, Entry

BLOCK_S = 1.0
"""Longest wait of one read: below a third of the loop's lease (5 s) and below the socket's time-out."""

BATCH = 256
"""Most entries of one read, so that a replay of a long log does not build one huge answer."""


class RedisStream:
    """Stream on one Redis."""

    def __init__(self, url: str, clock: Clock) -> None:
        self.clock = clock
        with failing("stream"):
            self._redis = client(url)
            self._redis.ping()

    def append(self, run: str, author: Author, body: str) -> Entry:
        """As Stream."""
        with failing("append"):
            id = self._redis.xadd(key(run, "stream"), {"author": author, "body": body})
        return Entry(str(id), self.clock.now(), author, body)

    def read(self, run: str, after: str, until: float) -> list[Entry]:
        """As Stream, but comes back empty after a second at most, so that the loop can renew its lease.

        At most 256 entries; ask again behind the last of them for the rest.
        """
        wait_ms = round(min(BLOCK_S, until - self.clock.now()) * 1000)
        block = wait_ms if wait_ms > 0 else None  # BLOCK 0 would wait for ever
        with failing("read"):
            answer: Any = self._redis.xread({key(run, "stream"): after}, count=BATCH, block=block)
        now = self.clock.now()
        found = answer[0][1] if answer else []
        return [Entry(str(id), now, fields.get("author", ""), fields.get("body", "")) for id, fields in found]

    def trim(self, run: str, upto: str) -> None:
        """As Stream. Ids go on growing by themselves: the server remembers the last one."""
        with failing("trim"):
            self._redis.xtrim(key(run, "stream"), minid=after(upto), approximate=False)

    def delete(self, run: str) -> None:
        """As Stream."""
        with failing("delete"):
            self._redis.delete(key(run, "stream"))


def after(cursor: str) -> str:
    """The smallest id behind a cursor: XTRIM MINID keeps the id that it names.

    >>> after("7-3"), after("0")
    ('7-4', '0-1')
    """
    time, _, count = cursor.partition("-")
    return f"{time}-{int(count or 0) + 1}"
