"""A run's events as TensorBoard scalars: while it goes on (QUORATE_TENSORBOARD), or afterwards from the journal.

Knows events and TensorBoard's own writer (the extra `tensorboard`). Decides nothing, and is no source of anything.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import structlog

from orchestrator.extras import needed
from orchestrator.scores import Evaluation, Scores
from schemas.errors import ConfigError
from schemas.log import Event

log = structlog.get_logger()

Scalar = tuple[str, int, float]
"""Tag, version, value."""

SCORED = ("described", "joined", "evaluated", "unevaluated")
NAMED = 100
"""Clients that get a line each; of more, mean and worst say enough."""


class Scalars:
    """What each event adds to the picture, in the order of the events."""

    def __init__(self) -> None:
        self.scores = Scores()
        self.up = self.down = 0

    def take(self, event: Event) -> list[Scalar]:
        """The scalars of one event. accuracy 0 to 1, seconds, bytes since the beginning, numbers of updates."""
        facts, version = event.facts, event.version
        if event.event in ("accepted", "late", "rejected"):
            self.up += int(facts.get("bytes", 0))
        elif event.event == "asked":
            self.down += int(facts.get("bytes", 0))
        elif event.event == "closed":
            return [(tag, version, float(value)) for tag, value in self._closed(event)]
        elif event.event in SCORED and (whole := self.scores.take(event)) is not None:
            return list(_evaluated(whole))
        return []

    def _closed(self, event: Event) -> Iterator[tuple[str, float]]:
        facts = event.facts
        counted = max(1, int(facts["counted"]))
        yield "updates/counted", facts["counted"]
        yield "updates/late", facts["late"]
        yield "updates/without", len(facts["without"])
        yield "updates/staleness", sum(int(lag) * n for lag, n in facts["lags"].items()) / counted
        yield "seconds/round", facts["seconds"]
        for name in ("quorum", "grace"):
            if (waited := facts.get(f"{name}_s")) is not None:
                yield f"seconds/{name}", waited
        yield "seconds/run", event.at
        yield "bytes/up", self.up
        yield "bytes/down", self.down


def _evaluated(whole: Evaluation) -> Iterator[Scalar]:
    if whole.clients:
        yield "accuracy/mean", whole.version, fmean(whole.clients.values())
        yield "accuracy/worst", whole.version, min(whole.clients.values())
    groups = {"domain": whole.domains, "held_out": whole.held_out}
    groups |= {"client": whole.clients} if len(whole.clients) <= NAMED else {}
    for group, found in groups.items():
        for name, accuracy in found.items():
            yield f"accuracy_{group}/{name}", whole.version, accuracy


class Sink:
    """Writes the scalars of events into a folder that TensorBoard reads, as they come.

    before: what was committed of the run until now. It is asked for at the first event, when the run is this process's
    own, and takes the place of what the folder holds: an earlier life may have told what was never committed.
    """

    def __init__(self, folder: Path, before: Callable[[], Iterable[Event]] = tuple) -> None:
        needed("TensorBoard", "tensorboard", extra="tensorboard")
        from tensorboard.summary.writer.record_writer import RecordWriter  # noqa: PLC0415

        self.scalars, self.before, self.begun, self.lost = Scalars(), before, False, False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / f"events.out.tfevents.{time.time():.6f}.{os.getpid()}"  # read in the order of their names
            # Not by EventFileWriter: Ctrl-C in the middle of its queue leaves a lock behind, and the run never ends.
            self.writer = RecordWriter(file.open("wb"))
            self._put(time.time(), 0, file_version="brain.Event:2")
        except OSError as e:
            raise ConfigError(f"cannot write to {folder}: {e.strerror or e}", hint="name a folder of yours") from None

    def watch(self, event: Event) -> None:
        """Take in one event. Where nothing can be written any more the run goes on, and its scalars do not."""
        try:
            if event.event != "away" and not self.begun:  # who waits for a store has no lease yet
                self._begin(list(self.before()))
            self._write(event)
        except OSError as e:
            self._give_up(e)

    def close(self) -> None:
        """Everything is in the file."""
        try:
            self.writer.close()
        except OSError as e:
            self._give_up(e)

    def _begin(self, earlier: list[Event]) -> None:
        """TensorBoard forgets what it has read of this folder, and reads this instead."""
        from tensorboard.compat.proto.event_pb2 import SessionLog  # noqa: PLC0415

        self.begun = True
        self._put(time.time(), 0, session_log=SessionLog(status=SessionLog.START))
        for event in earlier:
            self._write(event)

    def _write(self, event: Event) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary  # noqa: PLC0415

        found = [] if self.lost else self.scalars.take(event)
        by_step: dict[int, list[Any]] = {}
        for tag, step, value in found:
            by_step.setdefault(step, []).append(Summary.Value(tag=tag, simple_value=value))
        for step, values in by_step.items():
            self._put(event.wall, step, summary=Summary(value=values))

    def _put(self, wall: float, step: int, **what: Any) -> None:
        """One record, there to be read at once."""
        from tensorboard.compat.proto.event_pb2 import Event as Line  # noqa: PLC0415

        self.writer.write(Line(wall_time=wall, step=step, **what).SerializeToString())
        self.writer.flush()

    def _give_up(self, error: OSError) -> None:
        if not self.lost:
            log.error("no scalars for TensorBoard any more", error=error.strerror or str(error))
        self.lost = True


@contextmanager
def sink(folder: Path, before: Callable[[], Iterable[Event]] = tuple) -> Iterator[Sink]:
    """A sink that is closed behind the block. Raises ConfigError."""
    made = Sink(folder, before)
    try:
        yield made
    finally:
        made.close()


def write(events: Iterable[Event], folder: Path) -> None:
    """A whole journal. Raises ConfigError if it cannot be written, or if something is in the folder already."""
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} holds something already", hint="name a new folder")
    with sink(folder) as made:
        for event in events:
            made.watch(event)
    if made.lost:
        raise ConfigError(f"{folder} does not hold all of it", hint="is the disk full?")
