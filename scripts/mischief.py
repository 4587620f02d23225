"""What chaos does to a stack: each kind of fault as a block, within which the harm lasts, and at whose end it is over.

Parts that were killed are started again at the end of the block. Draws everything from the generator that it is given.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from random import Random

import redis

from schemas.errors import QuorateError
from scripts.ground import Ground, Track
from tests.stack.processes import sessions

LEAVES_S = 15.0
"""An orchestrator that was told to stop has gone by then, unless it waits for a server."""

Fault = Callable[[Ground, Random], AbstractContextManager[None]]


@contextlib.contextmanager
def worker_killed(ground: Ground, random: Random) -> Iterator[None]:
    """SIGKILL to a worker and all its processes."""
    random.choice(ground.workers()).kill()
    yield
    ground.field.worker(ready=False)


@contextlib.contextmanager
def child_killed(ground: Ground, random: Random) -> Iterator[None]:
    """SIGKILL to the process of a worker that trains; Celery starts another."""
    victim = random.choice(ground.workers()).child.process.pid
    for pid in [pid for pid in sessions().get(victim, []) if pid != victim and _trains(pid)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    yield


@contextlib.contextmanager
def worker_frozen(ground: Ground, random: Random) -> Iterator[None]:
    """SIGSTOP to a worker and all its processes, SIGCONT at the end."""
    with random.choice(ground.workers()).frozen():
        yield


@contextlib.contextmanager
def worker_terminated(ground: Ground, random: Random) -> Iterator[None]:
    """SIGTERM to a worker, which gives its task back."""
    random.choice(ground.workers()).child.tell()
    yield
    ground.field.worker(ready=False)


@contextlib.contextmanager
def orchestrator_killed(ground: Ground, random: Random) -> Iterator[None]:
    """SIGKILL to the loop of a run, which is resumed afterwards."""
    _end(_track(ground, random), signal.SIGKILL)
    yield


@contextlib.contextmanager
def orchestrator_terminated(ground: Ground, random: Random) -> Iterator[None]:
    """SIGTERM to the loop of a run, which is resumed afterwards."""
    _end(_track(ground, random), signal.SIGTERM)
    yield


@contextlib.contextmanager
def orchestrator_frozen(ground: Ground, random: Random) -> Iterator[None]:
    """SIGSTOP to the loop of a run, SIGCONT at the end."""
    with contextlib.ExitStack() as frozen:
        for process in _track(ground, random).mine:
            frozen.enter_context(process.frozen())
        yield


@contextlib.contextmanager
def orchestrator_doubled(ground: Ground, random: Random) -> Iterator[None]:
    """SIGSTOP to the loop of a run while another one waits to take it over; both go on at the end."""
    track = _track(ground, random)
    with contextlib.ExitStack() as frozen:
        for process in track.mine:
            frozen.enter_context(process.frozen())
        with contextlib.suppress(QuorateError):  # the store may be away too: then nobody can take it over either
            track.resume()
        yield


@contextlib.contextmanager
def redis_killed(ground: Ground, random: Random) -> Iterator[None]:
    """SIGKILL to Valkey, started again on its file of what it was told."""
    ground.field.memory.kill()
    yield
    ground.field.memory.start()


@contextlib.contextmanager
def redis_frozen(ground: Ground, random: Random) -> Iterator[None]:
    """SIGSTOP to Valkey."""
    with _stopped(ground.field.memory.server.child.process.pid):
        yield


@contextlib.contextmanager
def redis_emptied(ground: Ground, random: Random) -> Iterator[None]:
    """Everything in Valkey is gone: leases, streams, queues."""
    with contextlib.suppress(redis.RedisError):  # it may be away too
        redis.Redis.from_url(ground.field.memory.server.url, socket_timeout=2.0).flushall()
    yield


@contextlib.contextmanager
def redis_cut_off(ground: Ground, random: Random) -> Iterator[None]:
    """Connections to Valkey are cut, and new ones refused."""
    with ground.field.redis.gone():
        yield


@contextlib.contextmanager
def redis_slow(ground: Ground, random: Random) -> Iterator[None]:
    """Whatever is said to Valkey takes longer."""
    with ground.field.redis.slow(random.uniform(0.05, 0.3)):
        yield


@contextlib.contextmanager
def s3_killed(ground: Ground, random: Random) -> Iterator[None]:
    """SIGKILL to the S3, started again on what it has kept."""
    ground.storage.kill()
    yield
    ground.storage.start()


@contextlib.contextmanager
def s3_frozen(ground: Ground, random: Random) -> Iterator[None]:
    """SIGSTOP to the S3."""
    with _stopped(ground.storage.server.child.process.pid):
        yield


@contextlib.contextmanager
def s3_cut_off(ground: Ground, random: Random) -> Iterator[None]:
    """Connections to the S3 are cut, and new ones refused."""
    with ground.field.s3.gone():
        yield


@contextlib.contextmanager
def s3_slow(ground: Ground, random: Random) -> Iterator[None]:
    """Every request to the S3 takes longer."""
    with ground.field.s3.slow(random.uniform(0.1, 1.0)):
        yield


@contextlib.contextmanager
def s3_busy(ground: Ground, random: Random) -> Iterator[None]:
    """The S3 answers 503 a few times."""
    with ground.field.s3.fault("answer", None, ".", times=random.randint(1, 12), status=503):
        yield


@contextlib.contextmanager
def uploads_cut(ground: Ground, random: Random) -> Iterator[None]:
    """Uploads break off in the middle, or their answers are lost."""
    with (
        ground.field.s3.fault("cut upload", "PUT", ".", times=random.randint(1, 4), bytes=random.randint(0, 3000)),
        ground.field.s3.fault("lose answer", "PUT", ".", times=random.randint(1, 4)),
    ):
        yield


@contextlib.contextmanager
def downloads_cut(ground: Ground, random: Random) -> Iterator[None]:
    """Downloads break off in the middle."""
    with ground.field.s3.fault("cut download", "GET", ".", times=random.randint(1, 4), bytes=random.randint(0, 3000)):
        yield


FAULTS: dict[str, Fault] = {
    found.__name__.replace("_", " "): found
    for found in (
        worker_killed, child_killed, worker_frozen, worker_terminated, orchestrator_killed, orchestrator_terminated,
        orchestrator_frozen, orchestrator_doubled, redis_killed, redis_frozen, redis_emptied, redis_cut_off, redis_slow,
        s3_killed, s3_frozen, s3_cut_off, s3_slow, s3_busy, uploads_cut, downloads_cut,
    )
}  # fmt: skip
"""By name, in words."""


def _track(ground: Ground, random: Random) -> Track:
    return random.choice(ground.tracks)


def _end(track: Track, number: signal.Signals) -> None:
    for process in track.mine:
        track.told.append(process)
        process.child.process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):  # it may wait for a server that is gone too
            process.child.process.wait(LEAVES_S)


@contextlib.contextmanager
def _stopped(pid: int) -> Iterator[None]:
    with contextlib.suppress(ProcessLookupError):  # another fault has killed it
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _trains(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False
