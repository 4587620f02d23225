"""Being the one loop of a run: the lease, kept alive by asking now and then, and the word of an operator."""

import time

from infra.state import StateStore
from schemas.errors import Cancelled, LeaseLost

LEASE_S = 5.0
"""Seconds after which a loop that has gone silent may be replaced: what a resume has to wait for."""
EVERY_S = 1.0
"""Seconds between two looks at the lease."""


class Tenure:
    """The lease of one owner on one run."""

    def __init__(self, run: str, owner: str, state: StateStore) -> None:
        self.run, self.owner, self.state = run, owner, state
        self._looked = 0.0

    def begin(self, *, wait_s: float = 0.0) -> None:
        """Take the lease, waiting for it at most so long. Raises LeaseLost."""
        until = time.monotonic() + wait_s
        while not self.state.acquire(self.run, self.owner, LEASE_S):
            if time.monotonic() >= until:
                raise LeaseLost(f"run {self.run} is owned by another loop", hint="quorate run --resume waits for it")
            time.sleep(0.2)

    def due(self) -> bool:
        """Whether it is time for the next look. True at most once per `EVERY_S` seconds."""
        now = time.monotonic()
        if now - self._looked < EVERY_S:
            return False
        self._looked = now
        return True

    def keep(self, version: int) -> bool:
        """Extend the lease, or take it again if it has lapsed. False if the store was emptied: the rest is gone too.

        Raises LeaseLost, Cancelled.
        """
        answer = self.state.save(self.run, self.owner, LEASE_S, str(version))
        if answer == "taken" or (answer == "missing" and not self.state.acquire(self.run, self.owner, LEASE_S)):
            raise LeaseLost(f"run {self.run} is owned by another loop now")
        emptied = answer == "missing" and self.state.load(self.run) is None
        if answer == "missing":
            self.state.save(self.run, self.owner, LEASE_S, str(version))
        if self.state.flagged(self.run, "cancel"):
            raise Cancelled(f"run {self.run} was cancelled")
        return not emptied

    def end(self) -> None:
        """Give the run up."""
        self.state.release(self.run, self.owner)
