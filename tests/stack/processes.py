"""Processes that a test kills, freezes and thaws, whole with all that they have started; and a Valkey of that kind."""

import contextlib
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from infra.servers import Child, Redis, start_redis
from tests.stack.servers import eventually

DONE_S = 150.0
"""A run ends within this, whatever befell it."""


@dataclass(frozen=True)
class Process:
    """A process of ours with all that it has started: they share a session."""

    child: Child

    @property
    def text(self) -> str:
        """What it said."""
        return self.child.log.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """To each process of the session, the first of them first."""
        for pid in sessions().get(self.child.process.pid, []):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """SIGKILL to all of them at once."""
        self.signal(signal.SIGKILL)
        self.child.process.wait()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Within the block none of them moves."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)

    def leaves(self, status: int | None = 0, within_s: float = DONE_S) -> None:
        """It ends by itself, and so. Status None: any."""
        eventually(lambda: bool(self.child.ended()), f"{self.child.name} ends", within_s)
        found = self.child.process.returncode
        assert status in (None, found), f"{self.child.name} left with {found}: {self.text[-3000:]}"

    def stop(self) -> None:
        """Whatever state it is in, and whatever it has left behind."""
        self.signal(signal.SIGCONT)
        self.child.stop()
        self.signal(signal.SIGKILL)


def sessions() -> dict[int, list[int]]:
    """The living processes of each session."""
    found: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            facts = path.read_text().rpartition(")")[2].split()
            if facts[0] != "Z":
                found.setdefault(int(facts[3]), []).append(int(path.parent.name))
    return {leader: sorted(pids) for leader, pids in found.items()}


@dataclass
class Memory:
    """A Valkey that can be killed, and started again on what it has kept."""

    folder: Path
    server: Redis = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """On the data that are there."""
        self.server = start_redis(self.folder)

    def kill(self) -> None:
        """SIGKILL."""
        self.server.child.process.kill()
        self.server.child.process.wait()
        self.server.child.stop()  # its socket goes too

    def forget(self) -> None:
        """All that a killed one had kept."""
        shutil.rmtree(self.folder / "valkey")

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Within the block it takes connections and answers nothing."""
        self.server.child.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.server.child.process.send_signal(signal.SIGCONT)

    def connect(self) -> socket.socket:
        """A connection to it. Raises OSError."""
        made = socket.socket(socket.AF_UNIX)
        try:
            made.connect(urlsplit(self.server.url).path)
        except OSError:
            made.close()
            raise
        return made


def held_up(seconds: float) -> None:
    """An outage lasts so long: not a wait for something, but the thing itself."""
    time.sleep(seconds)
