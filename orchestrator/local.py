"""`quorate up`: the whole stack on this machine without Docker, until Ctrl-C.

Starts Valkey, an S3, workers and the Celery monitor, says what to type next, and stops what it started. Knows no
experiment; never imports torch.
"""

import fcntl
import os
import secrets
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import IO

from rich.console import Console
from rich.table import Table

from infra.servers import S3, Child, Redis, answers, free_port, is_free, start, start_redis, start_s3, wait_for
from infra.settings import read
from schemas.errors import ConfigError

FOLDER = Path(".quorate/up")
READY_S = 120.0
"""A worker imports torch before it is ready; on a busy machine that takes a while."""

USER, MONITOR_PORT = "ops", 5555


@dataclass
class Stack:
    """What is running, in the order in which it was started."""

    folder: Path
    lock: int
    children: list[Child] = field(default_factory=list)

    def add(self, child: Child) -> Child:
        """One more that is to be stopped."""
        self.children.append(child)
        (self.folder / "pids").write_text("".join(f"{c.process.pid} {c.name}\n" for c in self.children))
        return child

    def dead(self) -> str:
        """How the first of them that is no longer there ended, or nothing."""
        return next((how for child in self.children if (how := child.ended())), "")

    def stop(self) -> None:
        """Workers first, then what they need. All of a kind leave together."""
        for child in self.children:
            if child.name.startswith("worker"):
                child.tell()
        for child in reversed(self.children):
            child.stop()
        (self.folder / "env").unlink(missing_ok=True)
        (self.folder / "pids").unlink(missing_ok=True)


@dataclass(frozen=True)
class Monitor:
    """Celery Flower on loopback."""

    port: int
    password: str = field(default_factory=lambda: secrets.token_urlsafe(12), repr=False)

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return f"http://127.0.0.1:{self.port}"


def up(workers: int, *, folder: Path = FOLDER, port: int | None = None, console: Console | None = None) -> int:
    """Run the stack until Ctrl-C or SIGTERM (0), or until a part of it ends by itself (1).

    folder: data, logs and the file `env` to source. port: of the monitor, by default 5555 or the next free one.
    Raises ConfigError (nothing to start, or already up), StoreError (a server did not get ready).
    """
    out = console or Console()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _only_one(folder) as lock, _told_to_stop() as stopped, ExitStack() as cleanup:
        stack = Stack(folder, lock)
        cleanup.callback(stack.stop)
        cleanup.callback(out.print, "stopping")
        redis, s3 = _servers(stack)
        monitor = Monitor(port or (MONITOR_PORT if is_free(MONITOR_PORT) else free_port()))
        env = _environment(redis, s3)
        _write_env(folder / "env", env)
        _start_rest(stack, _without_storage(env), workers, monitor, stopped)
        if not stopped.is_set():
            _welcome(out, stack, {"S3": s3.url, "Valkey": redis.url}, monitor)
        return _watch(stack, stopped, out)


def _servers(stack: Stack) -> tuple[Redis, S3]:
    redis = start_redis(stack.folder, fds=[stack.lock])
    stack.add(redis.child)
    s3 = start_s3(stack.folder, fds=[stack.lock])
    stack.add(s3.child)
    return redis, s3


def _start_rest(stack: Stack, env: dict[str, str], workers: int, monitor: Monitor, stopped: threading.Event) -> None:
    started = [stack.add(_worker(stack, n + 1, env)) for n in range(workers)]
    flower = stack.add(_monitor(stack, env, monitor))
    wait_for(lambda: stopped.is_set() or answers(f"{monitor.url}/healthcheck"), flower, READY_S)
    for child in started:
        wait_for(partial(_is_ready, child, stopped), child, READY_S)


def _worker(stack: Stack, number: int, env: dict[str, str]) -> Child:
    (stack.folder / f"worker-{number}.log").unlink(missing_ok=True)  # else yesterday's `ready` would count
    command = [sys.executable, "-m", "orchestrator.cli", "worker", "--pool"]
    return start(f"worker-{number}", command, stack.folder, env=env, fds=[stack.lock])


def _is_ready(child: Child, stopped: threading.Event) -> bool:
    return stopped.is_set() or b'"event": "ready"' in child.log.read_bytes()


def _monitor(stack: Stack, env: dict[str, str], monitor: Monitor) -> Child:
    command = [sys.executable, "-m", "celery", "-A", "infra.celery_app", "flower", f"--port={monitor.port}"]
    command += ["--address=127.0.0.1", "--read_only=True", "--persistent=True", f"--db={stack.folder / 'flower'}"]
    command += ["--state_save_interval=10000", "--purge_offline_workers=600", "--max_tasks=20000"]
    command += ["--tasks_columns=args,state,received,runtime,worker,uuid"]  # args: `v7 client-3 train`
    secret = {"FLOWER_BASIC_AUTH": f"{USER}:{monitor.password}"}  # not on the command line, which everyone can read
    return start("flower", command, stack.folder, env=env | secret, fds=[stack.lock])


def _environment(redis: Redis, s3: S3) -> dict[str, str]:
    return {
        "QUORATE_STATE": redis.url,
        "QUORATE_BUS": redis.url,
        "QUORATE_BLOBS": s3.url,
        "QUORATE_S3_ACCESS_KEY": s3.access_key,
        "QUORATE_S3_SECRET_KEY": s3.secret_key,
        "QUORATE_CACHE": str(read().cache.absolute()),
    }


def _write_env(path: Path, env: dict[str, str]) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as f:
        f.writelines(
            f"export {name}={shlex.quote(value)}\n" for name, value in env.items() if name != "QUORATE_LOG_JSON"
        )


def _without_storage(env: dict[str, str]) -> dict[str, str]:
    """What workers and monitor are told: no storage credentials."""
    return {name: value for name, value in env.items() if not name.startswith(("QUORATE_S3", "QUORATE_BLOBS"))}


def _welcome(out: Console, stack: Stack, urls: dict[str, str], monitor: Monitor) -> None:
    table = Table(show_header=False, box=None)
    table.add_row("workers", f"{sum(c.name.startswith('worker') for c in stack.children)}, logs in {stack.folder}")
    table.add_row("Celery Flower", f"{monitor.url}   user {USER}, password {monitor.password}")
    for name, url in urls.items():
        table.add_row(name, url)
    out.print(table)
    command = f". {shlex.quote(str(stack.folder / 'env'))} && quorate run experiments/demo.yaml"
    out.print(f"\nIn another shell:  {command}\nCtrl-C stops all of it.", markup=False, highlight=False, soft_wrap=True)


def _watch(stack: Stack, stopped: threading.Event, out: Console) -> int:
    while not stopped.wait(0.5):
        if how := stack.dead():
            out.print(how, style="red", markup=False)
            return 1
    return 0


@contextmanager
def _only_one(folder: Path) -> Iterator[int]:
    """A lock that every child inherits: as long as one of an earlier `up` lives, its data are not touched."""
    lock: IO[str] = (folder / "lock").open("a")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pids = folder / "pids"
            left = ", ".join(pids.read_text().splitlines()) if pids.exists() else "unknown"
            raise ConfigError(f"{folder} is in use already", hint=f"stop it first; its processes: {left}") from None
        yield lock.fileno()


@contextmanager
def _told_to_stop() -> Iterator[threading.Event]:
    """An event that SIGINT, SIGTERM and SIGHUP set; the handlers of before come back."""
    stopped = threading.Event()

    def handler(_: int, __: FrameType | None) -> None:
        stopped.set()

    before = {s: signal.signal(s, handler) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield stopped
    finally:
        for number, old in before.items():
            signal.signal(number, old)
