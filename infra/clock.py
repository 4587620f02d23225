"""The two clocks of a run: wall time for real workers, virtual time in one process."""

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds since the epoch of this run's time; `wait` returns at `until`, or earlier on a wall clock."""

    def now(self) -> float:
        """Seconds. Never goes backwards."""

    def wait(self, until: float) -> None:
        """Let time pass until `until`."""

    def restart(self) -> None:
        """A loop begins again in this process."""

    def catch_up(self, moment: float) -> None:
        """Be at least there: an earlier life of the loop has been."""


class WallClock:
    """Unix time that a change of the system's clock does not move: read once, then counted monotonically."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        """Unix seconds as of the start of this process plus the time since."""
        return self._offset + time.monotonic()

    def wait(self, until: float) -> None:
        """Sleep until then."""
        time.sleep(max(0.0, until - self.now()))

    def restart(self) -> None:
        """Nothing: this time passes by itself."""

    def catch_up(self, moment: float) -> None:
        """Set this clock forward, if the system's has gone back since that life. A machine that was off is no jump."""
        self._offset += max(0.0, moment - self.now())


class VirtualClock:
    """Time that passes only by being waited for: a run of hours takes seconds and always takes the same course."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def now(self) -> float:
        """Virtual seconds since the start of the run."""
        return self._now

    def wait(self, until: float) -> None:
        """Be there at once. A moment that has passed changes nothing."""
        self._now = max(self._now, until)

    def restart(self) -> None:
        """Back to the start of the run: the loop goes on to its last commit, and lives on from there as it did."""
        self._now = 0.0

    def catch_up(self, moment: float) -> None:
        """Be there at once."""
        self.wait(moment)
