"""The bus carries one task to a worker of one queue. It never answers: results arrive in the stream."""

from collections.abc import Callable
from typing import Protocol

from infra.clock import Clock, VirtualClock
from schemas.messages import Letter, Task

POOL = "quorate.pool"
"""Any worker may play any client (a simulation)."""

LARGEST = 256_000
"""Most bytes of one message. A larger task goes as a letter, wherever the workers are."""

LONGEST_S = 21_000.0
"""Longest deadline of a task over a broker, which delivers it again after six hours without an answer."""


def queue(site: str | None) -> str:
    """The queue of an owner, or of the pool."""
    return f"quorate.site.{site}" if site else POOL


class Bus(Protocol):
    """One way to the workers, and the clock of the run."""

    clock: Clock

    def send(self, task: Task | Letter, site: str | None) -> None:
        """Publish at least once. Raises BusError if it is unknown whether it was: send the same task_id again."""

    def backlog(self, site: str | None) -> int:
        """How many tasks no worker has taken yet. Raises StoreError if that cannot be known now."""

    def waiting(self, site: str | None) -> str:
        """What is known of the queue, for an error message, e.g. `3 waiting, 0 workers`."""


class LocalBus:
    """Work in this process, at once. Every message is still written and read as JSON: what is tested is what ships."""

    def __init__(self, execute: Callable[[str], None]) -> None:
        self.execute = execute
        self.clock: Clock = VirtualClock()

    def send(self, task: Task | Letter, site: str | None) -> None:
        """Run the task now; its manifest or failure is in the stream when this returns."""
        self.execute(task.model_dump_json())

    def backlog(self, site: str | None) -> int:
        """None: a task is done as it is sent."""
        return 0

    def waiting(self, site: str | None) -> str:
        """Nothing ever waits here."""
        return "nothing waits: tasks run in this process"
