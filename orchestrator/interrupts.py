"""Ctrl-C and SIGTERM that cannot be lost.

KeyboardInterrupt is raised wherever the process happens to be, and libraries written in C or Rust turn it there into
an error of their own or drop it (pydantic does both while it writes JSON). So a signal is remembered as well.
"""

import signal
from types import FrameType, TracebackType
from typing import Any, Self

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
        self._raise()

    def watch(self, event: Event) -> None:
        """Nothing is recorded after a signal. Raises KeyboardInterrupt."""
        self._raise()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        self._raise()

    def _raise(self) -> None:
        if self.came:
            raise KeyboardInterrupt
