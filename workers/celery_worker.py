"""The process of a worker: Celery's parent receives tasks, each spawned child executes one at a time.

Knows how a process is made ready (device, one torch thread, logs, connections); what a task means is `execute`'s.
torch is imported in the children only. Holds no storage credentials.
"""

import argparse
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from pydantic import ValidationError

from infra import logs
from infra.bus import queue
from infra.clock import WallClock
from infra.runtime import connect_stream
from infra.settings import read
from infra.state import StateStore
from infra.stream import Stream
from schemas.errors import ConfigError, QuorateError, StoreError
from schemas.messages import TaskFailure, read_message, work
from workers.beats import LEASE_S

if TYPE_CHECKING:
    from workers.execute import Worker

log = structlog.get_logger()


@dataclass
class Process:
    """What the parent and each child do for Celery. node: name of the worker. gpus: one for each child, or none.

    site, data: the owner's name and its site.yaml; each child reads it, so nothing of it is pickled.
    """

    node: str
    site: str | None = None
    data: Path | None = None
    gpus: tuple[str, ...] = ()
    child: int = 0
    _worker: "Worker | None" = field(default=None, repr=False)
    _stream: Stream | None = field(default=None, repr=False)
    _state: StateStore | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """What a child is told: no connection of the parent's."""
        return {**vars(self), "_worker": None, "_stream": None, "_state": None}

    def log(self) -> None:
        """Log as the environment says."""
        settings = read()
        logs.setup(settings.log, json=settings.log_json)

    def start(self, child: int) -> None:
        """Make this child ready: its GPU, one torch thread, the plugins, the connections."""
        self.child = child
        if self.gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.gpus[child % len(self.gpus)]
        self._ready()
        log.info("ready", worker=self.name, gpu=os.environ.get("CUDA_VISIBLE_DEVICES") if self.gpus else None)

    @property
    def name(self) -> str:
        """Of this child, in manifests."""
        return f"{self.node}.{self.child}"

    def handle(self, text: str) -> None:
        """Execute one task; its manifest or failure goes into the stream of its run."""
        try:
            logs.at(read_message(text))
        except ValidationError:
            structlog.contextvars.clear_contextvars()  # `execute` says what is wrong with it
        self._ready().handle(text)

    def holds(self, run: str, task_id: str, attempt: int) -> None:
        """Beat for a task that waits until a child has loaded; else nobody would miss it if this worker died now."""
        with contextlib.suppress(StoreError):
            if self._state is None:
                self._state = connect_stream(read(), WallClock())[1]
            self._state.beat(run, work(task_id, attempt), LEASE_S)

    def lost(self, failure: TaskFailure) -> None:
        """Report what the task could not. One try: if it fails, the loop finds the lease gone."""
        try:
            if self._stream is None:
                self._stream = connect_stream(read(), WallClock())[0]
            self._stream.append(failure.run, "failure", failure.model_dump_json())
            log.warning("task lost", run=failure.run, task_id=failure.task_id, error=failure.message)
        except StoreError as e:
            log.error("task lost, and not reported", run=failure.run, task_id=failure.task_id, error=str(e))

    def _ready(self) -> "Worker":
        if self._worker is None:
            import torch  # noqa: PLC0415

            from workers.execute import Worker  # noqa: PLC0415
            from workers.place import Site  # noqa: PLC0415
            from workers.site import read_site  # noqa: PLC0415
            from workers.tensors import keep_freed_memory  # noqa: PLC0415

            keep_freed_memory()  # each update of 2 MB is copied some times on its way
            torch.set_num_threads(1)  # one task, one core: and the same bytes on every machine
            settings = read()
            self._stream, state = connect_stream(settings, WallClock())
            site = Site(self.site, read_site(self.data)) if self.site and self.data else None
            self._worker = Worker(
                name=self.name, stream=self._stream, state=state, cache=settings.cache, site=site, files=site is None
            )
        return self._worker


def main(
    *,
    pool: bool,
    site: str | None = None,
    data: Path | None = None,
    concurrency: int | None = None,
    node: str | None = None,
) -> int:
    """Serve the pool's queue, or a site's with its own data, until a signal ends it; the exit status.

    concurrency: processes; by default one per GPU, else one. node: name in the monitor, by default
    `pool@host-pid`. Raises ConfigError, SettingsError, StoreError.
    """
    if pool == (site is not None) or (site is None) != (data is None):
        raise ConfigError("say either --pool, or --site NAME with --data site.yaml")
    os.environ["REMAP_SIGTERM"] = "SIGQUIT"  # read by billiard as it is imported: a soft shutdown, see celery_app
    settings = read()
    connect_stream(settings, WallClock())
    if data is not None:
        from workers.site import read_site  # noqa: PLC0415

        read_site(data)
    gpus = visible_gpus()
    process = Process(node or _node(site), site, data.absolute() if data else None, gpus)
    process.log()
    from infra.celery_app import make_app, run_worker  # noqa: PLC0415

    app = make_app(settings.bus_url, process)
    return run_worker(app, name=process.node, queue=queue(site), processes=concurrency or max(1, len(gpus)))


def visible_gpus() -> tuple[str, ...]:
    """What CUDA_VISIBLE_DEVICES may say for each GPU. Asked in another process, so that this one never touches CUDA."""
    if not any(Path("/dev").glob("nvidia[0-9]*")) and not Path("/dev/dxg").exists():
        return ()
    command = [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False).stdout.strip()
    count = int(answer) if answer.isdigit() else 0
    named = [n for n in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if n]
    return tuple(named[:count]) if named else tuple(str(n) for n in range(count))


def _node(site: str | None) -> str:
    return f"{site or 'pool'}@{socket.gethostname()}-{os.getpid()}"


def _arguments(argv: Sequence[str] | None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="python -m workers.celery_worker", description="Serve a queue of tasks.")
    parser.add_argument("--pool", action="store_true", help="play any client of a simulation")
    parser.add_argument("--site", help="name of the owner whose data these are")
    parser.add_argument("--data", type=Path, help="the owner's site.yaml")
    parser.add_argument("--concurrency", type=int, help="processes (default: one per GPU, else one)")
    parser.add_argument("--node", help="name in the monitor (default: pool@HOST-PID)")
    return vars(parser.parse_args(argv))


def run(argv: Sequence[str] | None = None) -> int:
    """`main` from a command line; a user's mistake is one line and its exit code."""
    try:
        return main(**_arguments(argv))
    except QuorateError as e:
        sys.stderr.write(f"quorate worker: {e}\n")
        return e.exit_code


if __name__ == "__main__":
    from workers import celery_worker  # noqa: PLW0406 (so that spawned children can unpickle Process)

    sys.exit(celery_worker.run())
