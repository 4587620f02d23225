"""Ctrl-C and SIGTERM that cannot be lost.

KeyboardInterrupt is raised wherever the process happens to be, and libraries written in C or Rust turn it there into
an error of their own or drop it (pydantic does both while it writes JSON). So a signal is remembered as well.
"""

import signal
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, Self

from infra.stream import Author, Entry, Stream
from schemas.log import Event

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """While the block runs, either signal ends it with KeyboardInterrupt: at once, or with the next event watched.

    Only in the main thread. Whatever else the block ends in, after a signal it is KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.came = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        heeded = [n for n in SIGNALS if signal.getsignal(n) != signal.SIG_IGN]  # not what a shell's `&` ignores
        self._before = {number: signal.signal(number, self._note) for number in heeded}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self.heed()

    def watch(self, event: Event) -> None:
        """Nothing is recorded after a signal. Raises KeyboardInterrupt."""
        self.heed()

    def heed(self) -> None:
        """Raises KeyboardInterrupt if a signal came."""
        if self.came:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        self.heed()


@dataclass(frozen=True)
class HeedingStream:
    """A stream into which nothing is said after a signal: else what it did to a task would count as its failure."""

    inner: Stream
    interrupts: Interrupts

    def append(self, run: str, author: Author, body: str) -> Entry:
        """As Stream. Raises KeyboardInterrupt."""
        self.interrupts.heed()
        return self.inner.append(run, author, body)

    def read(self, run: str, after: str, until: float) -> list[Entry]:
        """As Stream. Raises KeyboardInterrupt."""
        self.interrupts.heed()
        return self.inner.read(run, after, until)

    def trim(self, run: str, upto: str) -> None:
        """As Stream."""
        self.inner.trim(run, upto)

    def delete(self, run: str) -> None:
        """As Stream."""
        self.inner.delete(run)
