"""How encoding gets on: what is told after each chunk of images, to whom, and else a line of the log now and then."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import structlog

EVERY_S = 10.0
"""Seconds of encoding between two lines."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Step:
    """Images that were encoded just now, the seconds that took, and how many files of their owner are left."""

    encoded: int
    seconds: float
    left: int


Told = Callable[[Step], None]

_HEARS: ContextVar[Told | None] = ContextVar("hears", default=None)


@contextmanager
def heard(told: Told) -> Iterator[None]:
    """In this block, and in this thread, `told` hears how encoding gets on in the place of the log."""
    token = _HEARS.set(told)
    try:
        yield
    finally:
        _HEARS.reset(token)


class Pace:
    """Sums of steps. `due` is true when it is time for a line, about the steps since the last one."""

    def __init__(self) -> None:
        self.encoded, self._count, self._seconds = 0, 0, 0.0

    def add(self, step: Step) -> None:
        """Take in one step."""
        self.encoded += step.encoded
        self._count += step.encoded
        self._seconds += step.seconds

    @property
    def per_second(self) -> float:
        """Images, since the last line."""
        return self._count / max(self._seconds, 1e-9)

    def due(self) -> bool:
        """Whether EVERY_S of encoding have passed since this was last true."""
        return self._seconds >= EVERY_S

    def said(self) -> None:
        """The line is out."""
        self._count, self._seconds = 0, 0.0


class Progress:
    """Passes steps on to who hears them, or says in the log how encoding gets on."""

    def __init__(self) -> None:
        self.pace = Pace()

    def tell(self, step: Step) -> None:
        """Take in one step."""
        told = _HEARS.get()
        if told is not None:
            told(step)
            return
        self.pace.add(step)
        if self.pace.due():
            rate = round(self.pace.per_second, 1)
            log.info("encoding images", encoded=self.pace.encoded, left=step.left, per_second=rate)
            self.pace.said()
