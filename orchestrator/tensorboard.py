"""A run's events as TensorBoard scalars: while it goes on (QUORATE_TENSORBOARD), or afterwards from the journal.

Knows events and TensorBoard's own writer (the extra `tensorboard`). Decides nothing, and is no source of anything.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean

from orchestrator.extras import needed
from orchestrator.scores import Evaluation, Scores
from schemas.errors import ConfigError
from schemas.log import Event

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
    """Writes the scalars of events into a folder that TensorBoard reads, as they come."""

    def __init__(self, folder: Path) -> None:
        needed("TensorBoard", "tensorboard", extra="tensorboard")
        from tensorboard.summary.writer.event_file_writer import EventFileWriter  # noqa: PLC0415

        self.scalars = Scalars()
        try:
            self.writer = EventFileWriter(str(folder))
        except OSError as e:
            raise ConfigError(f"cannot write to {folder}: {e.strerror or e}", hint="name a folder of yours") from None

    def watch(self, event: Event) -> None:
        """Take in one event."""
        from tensorboard.compat.proto.event_pb2 import Event as Line  # noqa: PLC0415
        from tensorboard.compat.proto.summary_pb2 import Summary  # noqa: PLC0415

        for tag, step, value in self.scalars.take(event):
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            self.writer.add_event(Line(wall_time=event.wall, step=step, summary=summary))

    def close(self) -> None:
        """Everything is in the file."""
        self.writer.close()


@contextmanager
def sink(folder: Path) -> Iterator[Sink]:
    """A sink that is closed behind the block. Raises ConfigError."""
    made = Sink(folder)
    try:
        yield made
    finally:
        made.close()


def write(events: Iterable[Event], folder: Path) -> None:
    """A whole journal. Raises ConfigError if something is in the folder already: the lines would stand twice."""
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} holds something already", hint="name a new folder")
    with sink(folder) as made:
        for event in events:
            made.watch(event)
