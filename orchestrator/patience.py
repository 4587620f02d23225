"""How a loop outlives its stores: it waits, and then goes on from the last commit as one that was started again.

Knows which errors may pass and how long to wait for that. Knows nothing of what the loop does.
"""

import time
from collections.abc import Callable
from typing import TypeVar

import click
import structlog

from orchestrator.tenure import Tenure
from schemas.errors import BlobUnavailable, BusError, QuorateError, StoreUnavailable

PASSING = (BlobUnavailable, StoreUnavailable, BusError)
"""Errors after which a loop may go on: a server that does not answer. Whatever else a store says ends the loop."""
FIRST_S, LONGEST_S = 0.5, 3.0
"""The waits between two tries: the first, and the longest after doubling."""
QUIET_S = 30.0
"""A loop that went on for so long had its stores back: the next trouble is another one."""

log = structlog.get_logger()

T = TypeVar("T")


def awaited(connect: Callable[[], T], limit_s: float) -> T:
    """What a connection gives, as soon as the server answers: for a run that is known to have been there.

    A new run does not wait: a server that is away cannot be told from a wrong address. Raises what `connect` raises,
    a server's silence after `limit_s` seconds.
    """
    began, wait_s, told = time.monotonic(), FIRST_S, False
    while True:
        try:
            return connect()
        except PASSING as e:
            if time.monotonic() - began >= limit_s:
                raise
            if not told:
                click.echo(f"quorate: {e}; waiting for it, at most {limit_s:g} s", err=True)
                told = True
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_S)


class Patience:
    """Counts how long the stores of one run have been away. Seconds of this process, whatever the wall clock does."""

    def __init__(self, tenure: Tenure, limit_s: float) -> None:
        self.tenure, self.limit_s = tenure, limit_s
        self.began = time.monotonic()
        self.since: float | None = None
        self.version, self.wait_s = 0, FIRST_S

    def bear(self, error: QuorateError) -> None:
        """Wait before the next try. Raises the error, with how to go on, when the patience is at its end."""
        now = time.monotonic()
        if self.since is None or self._recovered():
            self.since, self.wait_s = now, FIRST_S
        away = now - self.since
        if away >= self.limit_s:
            go_on = f"given up after {away:.0f} s; go on with: quorate run --resume {self.tenure.run}"
            raise type(error)(error.message, hint=go_on) from None
        log.warning(
            "a store does not answer, waiting for it", run=self.tenure.run, error=error.message, s=round(away, 1)
        )
        time.sleep(self.wait_s)
        self.wait_s = min(2 * self.wait_s, LONGEST_S)
        self.version, self.began = self.tenure.version, time.monotonic()

    def _recovered(self) -> bool:
        # Hanging in one operation is no life: what counts is when the lease was last extended.
        return self.tenure.version > self.version or self.tenure.extended - self.began > QUIET_S
