"""Servers of the tests: one Valkey and one S3 per session, started here. Missing programs skip; in CI they fail."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from infra.servers import S3, Redis, start_redis, start_s3, valkey, weed
from infra.settings import Settings

T = TypeVar("T")


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
    server = start_s3(tmp_path_factory.mktemp("s3"))
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
