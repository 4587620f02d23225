"""Whole runs in one process and virtual time, and a way to kill them between any two operations."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.blobs import FileBlobs
from infra.bus import LocalBus
from infra.runtime import Runtime
from infra.state import FileState
from infra.stream import FileStream
from orchestrator import run as runs
from orchestrator.commits import Commits
from orchestrator.plan import plan
from orchestrator.run import Outcome
from schemas.experiment import Experiment
from schemas.log import Commit, Event
from tests.checked import whole
from workers.execute import Worker


class Killed(BaseException):
    """The process is gone: nothing catches it."""


@dataclass
class Fuse:
    """Blows at the n-th operation, before or after it is done."""

    left: int
    after: bool = False

    def around(self, operation: Callable[..., Any], *given: Any, **named: Any) -> Any:
        self.left -= 1
        if self.left == 0 and not self.after:
            raise Killed
        result = operation(*given, **named)
        if self.left == 0:
            raise Killed
        return result


class Fused:
    """Any store, stream or bus, of which some operations burn a fuse."""

    def __init__(self, inner: Any, fuse: Fuse, *names: str) -> None:
        self.inner, self.fuse, self.names = inner, fuse, names

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if name not in self.names:
            return found
        return lambda *given, **named: self.fuse.around(found, *given, **named)


def runtime(root: Path, fuse: Fuse | None = None) -> Runtime:
    """Files under root and a virtual clock. The worker uses the same stream, so it can die between its steps too."""
    bus = LocalBus(lambda text: None)
    stream: Any = FileStream(root / "state", bus.clock)
    state = FileState(root / "state")
    blobs: Any = FileBlobs(root / "blobs")
    if fuse is not None:
        stream, blobs = Fused(stream, fuse, "append", "trim"), Fused(blobs, fuse, "put", "delete")
    bus.execute = Worker(name="here", stream=stream, state=state, cache=root / "cache").handle
    return Runtime(blobs=blobs, state=state, stream=stream, bus=bus)


def ignore(event: Event) -> None:
    """Watch nothing."""


def run(experiment: Experiment, root: Path, *, name: str = "r", fuse: Fuse | None = None) -> Outcome:
    """Start or continue a run in this process. What it leaves is checked as a whole."""
    outcome = runs.execute(plan(experiment), runtime(root, fuse), name, ignore)
    whole(Commits(name, FileBlobs(root / "blobs")))
    return outcome


def stopped(experiment: Experiment, root: Path, version: int) -> tuple[Commits, Commit]:
    """A run that dies when a version is committed and what it counted is still in the store, and that commit."""

    def watch(event: Event) -> None:
        if (event.event, event.version) == ("committed", version):
            raise Killed

    with contextlib.suppress(Killed):
        runs.execute(plan(experiment), runtime(root), "r", watch)
    commits = Commits("r", FileBlobs(root / "blobs"))
    last = commits.last()
    assert last is not None and last.version == version
    return commits, last
