"""The journal: what happened, event by event, kept per version and shown as it happens."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from infra import files
from schemas.log import Event

LONGEST = 64 * 2**20
"""Bytes of one event: the beginning of a run names every client."""


def lines(path: Path) -> Iterator[bytes]:
    """The events of a journal file, each not parsed yet. Raises OSError; also for what can be no journal."""
    return files.lines(path, LONGEST)


class Journal:
    """Events since the last commit. They are stored with the next one; a replay makes them again, never twice."""

    def __init__(self, watch: Callable[[Event], None]) -> None:
        self.watch = watch
        self.events: list[Event] = []

    def record(self, event: str, at: float, version: int, client: str | None = None, /, **facts: Any) -> None:
        """Note one event at a moment of the run's clock."""
        noted = Event(event=event, at=at, wall=time.time(), version=version, client=client, facts=facts)
        self.events.append(noted)
        self.watch(noted)

    def ignores(self, at: float, version: int, reason: str) -> None:
        """An entry of the stream that nothing can be done with."""
        self.record("ignored", at, version, task="", reason=reason[:200])
