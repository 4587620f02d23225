"""The state store on Redis (>= 7) or Valkey: one hash, one lease and one key per living task of each run.

Keys: `quorate:run:{RUN}:lease | value | flags | beat:WORK`. The braces keep a run's keys in one slot of a cluster.
Everything here may be lost; the loop finds its truth in the object store.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import redis
from redis import exceptions as errors
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from infra.state import Answer
from infra.trust import HINT, distrust
from schemas.errors import SettingsError, StoreError, StoreUnavailable

# One step: is the lease still mine, keep the value, extend the lease. Repeated after a lost answer it does the same
# again, so the caller still hears `mine`. An absent lease is told apart from another owner's.
_SAVE = """
local owner = redis.call('GET', KEYS[1])
if not owner then return 'missing' end
if owner ~= ARGV[1] then return 'taken' end
if ARGV[3] == '1' then redis.call('SET', KEYS[2], ARGV[4]) end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 'mine'
"""

# A repeated call of mine finds my own name: the first one took effect although its answer was lost. A lease that lasts
# longer than any is given was left behind by a clock that went back: whoever owns it extends it within a second.
_ACQUIRE = """
local owner = redis.call('GET', KEYS[1])
if not owner or owner == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return 1
end
if redis.call('PTTL', KEYS[1]) > tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0
"""

_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"

_NOT_NOW = (errors.OutOfMemoryError, errors.ReadOnlyError, errors.ClusterDownError, errors.TryAgainError)
"""Answers of a server that is full, changes its master, or comes up: it may answer otherwise later. So may one whose
log cannot be written (MISCONF)."""

OLDEST = 7
"""The first major version of Redis that will do. Valkey says that it is Redis 7."""

SOCKET_TIMEOUT_S = 5.0
"""Longest wait for an answer. Blocking reads must be shorter."""


def client(url: str) -> redis.Redis:
    """A client that answers or fails within seconds: short time-outs, three tries. Connects on first use."""
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        encoding_errors="replace",  # a foreign entry must not stop a loop
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=3.0,
        health_check_interval=30,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 3),
    )


def connected(url: str) -> redis.Redis:
    """A client whose server has answered, and is new enough. Raises StoreError, SettingsError."""
    with failing("state"):
        found = client(url)
        try:
            found.ping()
            said: Any = found.info("server")
        except errors.NoPermissionError:
            return found  # an account that may not ask
        except errors.ConnectionError as e:
            if why := distrust(e):
                raise SettingsError(f"QUORATE_STATE: {why}", hint=HINT) from None
            raise
        except errors.ResponseError as e:
            if "HELLO" not in str(e):
                raise
            said = {"redis_version": "5"}  # older than the handshake of the client
    version = str(said.get("redis_version", ""))
    if version.partition(".")[0].isdigit() and int(version.partition(".")[0]) < OLDEST:
        hint = "QUORATE_STATE and QUORATE_BUS name it"
        raise SettingsError(f"Redis {version} is too old: {OLDEST} or newer, or Valkey, is needed", hint=hint)
    return found


def key(run: str, *parts: str) -> str:
    """The name of a run's key."""
    return ":".join((f"quorate:run:{{{run}}}", *parts))


@contextlib.contextmanager
def failing(what: str) -> Iterator[None]:
    """Turn the client's errors into StoreUnavailable and StoreError. Their text names a host, never a password."""
    try:
        yield
    except redis.RedisError as e:
        kind = StoreUnavailable if passes(e) else StoreError
        raise kind(f"{what}: {str(e)[:200] or type(e).__name__}", hint="is QUORATE_STATE right?") from e


def passes(error: redis.RedisError) -> bool:
    """Whether the client's error is one after which the server may answer otherwise later."""
    if isinstance(error, (errors.AuthenticationError, errors.AuthorizationError)):
        return False
    return isinstance(error, (errors.ConnectionError, errors.TimeoutError, *_NOT_NOW)) or str(error).startswith(
        "MISCONF"
    )


def refused(error: BaseException | None) -> bool:
    """Whether this is the word of a server that will say the same later: no right, a wrong password, a wrong key."""
    return isinstance(error, redis.RedisError) and not passes(error)


class RedisState:
    """StateStore on one Redis."""

    def __init__(self, url: str) -> None:
        self._redis = connected(url)
        self._acquire = self._redis.register_script(_ACQUIRE)
        self._save = self._redis.register_script(_SAVE)
        self._release = self._redis.register_script(_RELEASE)

    def acquire(self, run: str, owner: str, ttl_s: float) -> bool:
        """As StateStore."""
        with failing("lease"):
            return bool(self._acquire(keys=[key(run, "lease")], args=[owner, _ms(ttl_s)]))

    def save(self, run: str, owner: str, ttl_s: float, value: str | None = None) -> Answer:
        """As StateStore."""
        arguments: list[str | int] = [owner, _ms(ttl_s), "0" if value is None else "1", value or ""]
        with failing("save"):
            answer = self._save(keys=[key(run, "lease"), key(run, "value")], args=arguments)
        known: dict[str, Answer] = {"mine": "mine", "missing": "missing", "taken": "taken"}
        return known[str(answer)]

    def load(self, run: str) -> str | None:
        """As StateStore."""
        with failing("load"):
            value = self._redis.get(key(run, "value"))
        return None if value is None else str(value)

    def owner(self, run: str) -> tuple[str, float | None] | None:
        """As StateStore."""
        with failing("lease"):
            name, left_ms = self._redis.get(key(run, "lease")), self._redis.pttl(key(run, "lease"))
        return None if name is None else (str(name), max(0, int(str(left_ms))) / 1000)

    def release(self, run: str, owner: str) -> None:
        """As StateStore."""
        with failing("release"):
            self._release(keys=[key(run, "lease")], args=[owner])

    def flag(self, run: str, name: str) -> None:
        """As StateStore."""
        with failing("flag"):
            self._redis.sadd(key(run, "flags"), name)

    def flagged(self, run: str, name: str) -> bool:
        """As StateStore."""
        with failing("flag"):
            return bool(self._redis.sismember(key(run, "flags"), name))

    def forget(self, run: str) -> None:
        """As StateStore."""
        with failing("forget"):
            self._redis.delete(key(run, "value"), key(run, "flags"))

    def beat(self, run: str, work: str, ttl_s: float) -> None:
        """As StateStore."""
        with failing("beat"):
            self._redis.set(key(run, "beat", work), "1", px=_ms(ttl_s))

    def beating(self, run: str, works: Iterable[str]) -> set[str]:
        """As StateStore."""
        asked = list(works)
        if not asked:
            return set()
        with failing("beat"):
            found = self._redis.mget([key(run, "beat", work) for work in asked])
        return {work for work, value in zip(asked, found, strict=True) if value is not None}


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
