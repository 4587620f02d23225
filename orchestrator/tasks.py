"""The tasks of a run: which are open, expired and answered, who has a free slot, and how far each lags.

A reducer like the book that is made of it (orchestrator.book). No I/O, no clock; knows neither updates nor ledger.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from orchestrator import groups
from orchestrator.rounds import share
from schemas.decisions import Resent
from schemas.experiment import Rounds
from schemas.log import Accepted, Held, Open, Round
from schemas.messages import ALL, VISITORS, Manifest


@dataclass
class Tasks:
    """Tasks and the rounds they belong to. Times in seconds of the run's clock.

    home: the group of each client. trainers: those with images to train on, who alone make up a group's size.
    """

    spec: Rounds
    version: int = 0
    rounds: dict[str, Round] = field(default_factory=lambda: {ALL: Round()})
    home: dict[str, str] = field(default_factory=dict)
    trainers: frozenset[str] = frozenset()
    seq: int = 0
    open: dict[str, Open] = field(default_factory=dict)
    expired: dict[str, Open] = field(default_factory=dict)
    held: list[Held] = field(default_factory=list)
    finished: dict[str, int] = field(default_factory=dict)

    # --- who, and how many

    def training(self) -> list[Open]:
        """Open tasks that train."""
        return [o for o in self.open.values() if o.kind == "train"]

    def group_of(self, client: str) -> str:
        """The group of a client, or of an owner that only evaluates."""
        if client not in self.home and VISITORS in self.rounds:
            return VISITORS
        return groups.home(client, self.home, self.rounds)

    def turns(self) -> list[str]:
        """Groups that have clients who train, the one whose round has been open longest first.

        On a virtual clock that nothing slows down all open at one moment: then the version tells.
        """
        if len(self.rounds) == 1:
            return list(self.rounds)
        peopled = {self.group_of(client) for client in self.trainers} if self.trainers else set(self.rounds)
        return sorted(peopled & set(self.rounds), key=lambda g: (self.rounds[g].opened_at, self.rounds[g].base, g))

    def numbers(self, group: str = ALL) -> Rounds:
        """The group's part of the round rule's numbers; all of them if it is the only one."""
        if len(self.rounds) == 1:
            return self.spec
        size, total = sum(self.group_of(client) == group for client in self.trainers), len(self.trainers)
        return self.spec if size == total else share(self.spec, size, total)

    def budget(self, group: str = ALL) -> int:
        """How many clients of the group may be asked now."""
        now = self.rounds[group]
        if self.spec.refill == "at_close" and now.batches > now.retries:
            return 0
        own = sum(len(o.clients) for o in self.training() if o.group == group)
        return max(0, min(self.numbers(group).in_flight - own, self.slots()))

    def slots(self) -> int:
        """Slots that nobody holds."""
        return self.spec.in_flight - sum(len(o.clients) for o in self.training())

    # --- how long, and how far behind

    def expires(self, task: Open) -> float:
        """When the loop stops waiting for a task: its deadline counts from its start, else its grants' life."""
        if task.kind == "describe":  # a site may come at any time
            return float("inf")
        if task.started_at is None:
            return task.asked_at + self.spec.task_ttl_s
        return task.started_at + self.spec.deadline_s

    def next_expiry(self) -> float:
        """When the next open task expires; infinity if none is open."""
        return min((self.expires(o) for o in self.open.values()), default=float("inf"))

    def lag(self, of: Open | Accepted) -> int:
        """Merges of the group since the base, at most one more than is admitted."""
        found = groups.lag(self.rounds, of.group, of.base)
        return self.spec.max_staleness + 1 if found is None else found

    def has_moved(self, task: Open, client: str) -> bool:
        """Whether the client has left the group it was asked in."""
        return client in task.clients and (task.group not in self.rounds or self.group_of(client) != task.group)

    def stale(self) -> list[Open]:
        """Open training tasks whose answer would no longer be admitted."""
        late = [o for o in self.training() if self.lag(o) > self.spec.max_staleness]
        return late + [o for o in self.training() if o not in late and all(self.has_moved(o, c) for c in o.clients)]

    # --- sent and answered

    def starts(self, task_id: str, at: float) -> None:
        """A worker is at a task, so its own deadline counts from now."""
        self.open[task_id] = self.open[task_id].model_copy(update={"started_at": at})

    def sends(self, task_ids: Iterable[str]) -> None:
        """The bus has these tasks."""
        for task_id in task_ids:
            if task_id in self.open:
                self.open[task_id] = self.open[task_id].model_copy(update={"sent": True})

    def unsent(self) -> list[Open]:
        """Unanswered tasks that may not have been sent."""
        return [o for o in self.unanswered() if not o.sent]

    def unanswered(self) -> list[Open]:
        """Open tasks whose manifest has not arrived."""
        here = {h.manifest.task_id for h in self.held}
        return [o for o in self.open.values() if o.task_id not in here]

    def forgets_sending(self) -> None:
        """The broker was emptied: nothing counts as sent any more."""
        self.open = {k: o.model_copy(update={"sent": False}) for k, o in self.open.items()}

    def resends(self, decision: Resent, at: float) -> None:
        """A task goes out again. What is waited for without end is then as good as asked anew."""
        if decision.task_id in self.open:
            again: dict[str, object] = {"attempt": decision.attempt, "started_at": None, "sent": False}
            again |= {"asked_at": at} if self.open[decision.task_id].kind == "describe" else {}
            self.open[decision.task_id] = self.open[decision.task_id].model_copy(update=again)

    def knows(self, task_id: str) -> bool:
        """Whether the task was asked before."""
        return task_id in self.open or task_id in self.expired or task_id in self.finished

    def find(self, manifest: Manifest) -> Open | None:
        """The task that a manifest answers, open or expired; None if it is unknown, too old, or was answered before."""
        return self.open.get(manifest.task_id) or self.expired.get(manifest.task_id)
