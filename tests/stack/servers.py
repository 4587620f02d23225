"""Servers of the tests: one Valkey and one S3 per session, started here. Missing programs skip; in CI they fail."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import redis

from infra.celery_app import make_app
from infra.servers import S3, Redis, start_redis, start_s3, valkey, weed
from infra.settings import Settings

T = TypeVar("T")
GUEST = "guest"
"""A user of the S3, with the same secret, who may look into the bucket `elsewhere` and do nothing else."""


def needed(program: T | None, name: str) -> T:
    """The program, or a skip; a failure where CI=true."""
    if program is None and os.environ.get("CI") == "true":
        pytest.fail(f"{name} is missing, and CI must not skip")
    if program is None:
        pytest.skip(f"{name} is not installed: pip install 'quorate[local]'")
    return program


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """A Valkey on a unix socket."""
    needed(valkey(), "Valkey")
    server = start_redis(tmp_path_factory.mktemp("redis"))
    yield server
    server.child.stop()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A SeaweedFS on loopback."""
    needed(weed(), "SeaweedFS")
    server = start_s3(tmp_path_factory.mktemp("s3"), guests={GUEST: ("Read:elsewhere", "List:elsewhere")})
    yield server
    server.child.stop()


def environment(redis: Redis, s3: S3, cache: Path) -> dict[str, str]:
    """What `quorate up` writes into its env file."""
    return {
        "QUORATE_STATE": redis.url,
        "QUORATE_BUS": redis.url,
        "QUORATE_BLOBS": s3.url,
        "QUORATE_S3_ACCESS_KEY": s3.access_key,
        "QUORATE_S3_SECRET_KEY": s3.secret_key,
        "QUORATE_CACHE": str(cache),
    }


def settings(redis: Redis, s3: S3, cache: Path) -> Settings:
    """The same as settings, without touching this process's environment."""
    pairs = environment(redis, s3, cache).items()
    return Settings.model_validate({name.removeprefix("QUORATE_").lower(): value for name, value in pairs})


def eventually(fact: Callable[[], bool], what: str, within_s: float = 60.0) -> None:
    """Wait for a fact; a failure if it does not come true in time."""
    until = time.monotonic() + within_s
    while not fact():
        assert time.monotonic() < until, f"not within {within_s:g} s: {what}"
        time.sleep(0.05)


def asked_to_tell(bus: str) -> None:
    """Have the workers tell monitors what they do from now on, and not within the five seconds that Flower takes."""
    make_app(bus).control.enable_events(reply=True)


def allowed(seconds: float) -> float:
    """A goal in seconds, longer by as much as this machine has more to do than it can."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def shown_on(server: Redis) -> Iterator[str]:
    """Everything in Redis that one can read: keys and values of every type."""
    client = redis.Redis.from_url(server.url, decode_responses=True, encoding_errors="replace")
    read: dict[str, Callable[[str], object]] = {
        "string": client.get,
        "hash": client.hgetall,
        "list": lambda key: client.lrange(key, 0, -1),
        "set": client.smembers,
        "zset": lambda key: client.zrange(key, 0, -1),
        "stream": client.xrange,
    }
    for key in client.scan_iter():
        kind = client.type(key)
        yield f"{key} {read[kind](key) if kind in read else kind}"  # `none`: it has gone meanwhile
