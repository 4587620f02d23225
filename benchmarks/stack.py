"""The real stack on this machine for as long as a benchmark lasts: Valkey, S3 and workers of their own."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from infra.servers import S3, Child, Redis, start, start_redis, start_s3, wait_for
from infra.settings import Settings

READY_S = 180.0
"""Workers that start at once share the cores."""


@contextlib.contextmanager
def stack(workers: int) -> Iterator[Settings]:
    """Settings of a running stack with so many workers, each ready for its first task. Stops all that it started."""
    with crew(workers) as (found, _, _):
        yield found


@contextlib.contextmanager
def crew(workers: int) -> Iterator[tuple[Settings, Path, list[Child]]]:
    """The same with the folder where all of it lies, logs included, and the workers."""
    with tempfile.TemporaryDirectory(prefix="quorate-bench-") as name, contextlib.ExitStack() as stopping:
        folder = Path(name)
        redis = start_redis(folder)
        stopping.callback(redis.child.stop)
        s3 = start_s3(folder)
        stopping.callback(s3.child.stop)
        children = [_worker(i, redis, folder, stopping) for i in range(workers)]
        for child in children:
            wait_for(lambda child=child: '"event": "ready"' in child.log.read_text(), child, READY_S)  # type: ignore[misc]
        yield settings(redis, s3, folder / "cache"), folder, children


def environment(given: Settings) -> dict[str, str]:
    """The same settings for a process that reads them from its environment."""
    named = {
        "STATE": given.state, "BUS": given.bus, "BLOBS": given.blobs, "CACHE": str(given.cache),
        "S3_ACCESS_KEY": given.s3_access_key, "S3_SECRET_KEY": given.s3_secret_key.get_secret_value(),
    }  # fmt: skip
    return {**os.environ, **{f"QUORATE_{name}": value for name, value in named.items()}}


def settings(redis: Redis, s3: S3, cache: Path) -> Settings:
    """The loop's side: with the credentials of the S3."""
    return Settings.model_validate(
        {
            "state": redis.url,
            "bus": redis.url,
            "blobs": s3.url,
            "s3_access_key": s3.access_key,
            "s3_secret_key": s3.secret_key,
            "cache": cache,
        }
    )


def _worker(number: int, redis: Redis, folder: Path, stopping: contextlib.ExitStack) -> Child:
    env = {"QUORATE_STATE": redis.url, "QUORATE_BUS": redis.url, "QUORATE_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "workers.celery_worker", "--pool", "--concurrency", "1"]
    child = start(f"worker-{number}", command, folder, env=env)
    stopping.callback(child.stop)
    return child
