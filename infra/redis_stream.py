"""The stream on Redis (>= 7) or Valkey: one Redis stream per run, never cut by length.

Entries are read with their Redis id as cursor. A decision bears the moment at which the loop made it. What workers
append bears the moment of its id, told by the server's clock and turned into the run's; workers' clocks play no part.
"""

import math
from typing import Any

from infra.clock import Clock
from infra.redis_state import connected, failing, key
from infra.stream import Author, Entry

BLOCK_S = 1.0
"""Longest wait of one read: below a third of the loop's lease (5 s) and below the socket's time-out."""

BATCH = 256
"""Most entries of one read, so that a replay of a long log does not build one huge answer."""

STRAY_S = 3600
"""A stream that a worker makes lives so long, unless a loop decides something in it: the run may have ended."""

WIDEST_S = 86_400.0
"""A decision that comes from further in the future was made by no loop, whatever its clock did."""

_APPEND = """
local there = redis.call('EXISTS', KEYS[1])
local id = redis.call('XADD', KEYS[1], '*', 'author', ARGV[1], 'body', ARGV[2], 'at', ARGV[3])
if ARGV[1] == 'decision' then redis.call('PERSIST', KEYS[1])
elseif there == 0 then redis.call('EXPIRE', KEYS[1], ARGV[4]) end
return id
"""


class RedisStream:
    """Stream on one Redis."""

    def __init__(self, url: str, clock: Clock) -> None:
        """Raises StoreError, SettingsError."""
        self.clock = clock
        self._redis = connected(url)
        self._append = self._redis.register_script(_APPEND)
        self._last = 0.0
        with failing("stream"):
            before, (seconds, micros) = clock.now(), self._redis.time()
        self._offset = before - (seconds + micros / 1e6)

    def append(self, run: str, author: Author, body: str) -> Entry:
        """As Stream."""
        now = self.clock.now()
        at = repr(now) if author == "decision" else ""
        with failing("append"):
            id = str(self._append(keys=[key(run, "stream")], args=[author, body, at, STRAY_S]))
        self._offset = _offset(now, id)
        return Entry(id, now, author, body)

    def read(self, run: str, after: str, until: float) -> list[Entry]:
        """As Stream, but comes back empty after a second at most, so that the loop can renew its lease.

        At most 256 entries; ask again behind the last of them for the rest.
        """
        wait_ms = round(min(BLOCK_S, until - self.clock.now()) * 1000)
        block = wait_ms if wait_ms > 0 else None  # BLOCK 0 would wait for ever
        with failing("read"):
            answer: Any = self._redis.xread({key(run, "stream"): after}, count=BATCH, block=block)
        return [self._entry(str(id), fields) for id, fields in (answer[0][1] if answer else [])]

    def trim(self, run: str, upto: str) -> None:
        """As Stream. Ids go on growing by themselves, also when the server's clock goes back: it knows the last one."""
        with failing("trim"):
            self._redis.xtrim(key(run, "stream"), minid=after(upto), approximate=False)

    def delete(self, run: str) -> None:
        """As Stream."""
        with failing("delete"):
            self._redis.delete(key(run, "stream"))

    def _entry(self, id: str, fields: dict[str, str]) -> Entry:
        author = fields.get("author", "")
        made = _moment(fields.get("at", ""), self.clock.now()) if author == "decision" else None
        if made is None:
            # Whatever the server's clock does: not before what was read before it, and not in the future.
            made = min(max(_server_s(id) + self._offset, self._last), self.clock.now())
        else:
            self._offset = _offset(made, id)  # by what the run's clock said then, in whichever life
        self._last = min(made, self.clock.now())
        return Entry(id, made, author, fields.get("body", ""))


def after(cursor: str) -> str:
    """The smallest id behind a cursor: XTRIM MINID keeps the id that it names.

    >>> after("7-3"), after("0")
    ('7-4', '0-1')
    """
    time, _, count = cursor.partition("-")
    return f"{time}-{int(count or 0) + 1}"


def _server_s(id: str) -> float:
    return int(id.partition("-")[0]) / 1000


def _offset(made: float, id: str) -> float:
    # An id is cut to whole milliseconds: with the next one nothing arrives later than it did, nor behind a decision
    # that was made after it.
    return made - (_server_s(id) + 0.001)


def _moment(text: str, now: float) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) and found < now + WIDEST_S else None
