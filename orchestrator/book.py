"""The book of a run: what is open, accepted and counted. A reducer: decisions and arrivals in, new entries out.

The same calls in the same order give the same book, in the first life of a loop and in a replay. No I/O, no clock.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.rounds import Progress
from schemas.errors import AggregationError
from schemas.experiment import Rounds
from schemas.log import Accepted, Asked, Closed, Commit, Held, Open, Resent, Share
from schemas.messages import BlobRef, ClientResult, Manifest


@dataclass
class Book:
    """All that decides. Times in seconds of the run's clock."""

    spec: Rounds
    version: int = 0
    opened_at: float = 0.0
    asked: int = 0
    batches: int = 0
    retries: int = 0
    tried: set[str] = field(default_factory=set)
    seq: int = 0
    open: dict[str, Open] = field(default_factory=dict)
    expired: dict[str, Open] = field(default_factory=dict)
    held: list[Held] = field(default_factory=list)
    accepted: dict[tuple[str, int], Accepted] = field(default_factory=dict)
    finished: dict[str, int] = field(default_factory=dict)
    seen: set[tuple[str, int]] = field(default_factory=set)
    ledger: dict[str, Share] = field(default_factory=dict)
    private: dict[str, BlobRef] = field(default_factory=dict)
    staleness: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, spec: Rounds, commit: Commit) -> "Book":
        """The book as it stood at a commit."""
        return cls(
            spec=spec, version=commit.version, opened_at=commit.at, seq=commit.seq,
            open={o.task_id: o for o in commit.open}, expired={o.task_id: o for o in commit.expired},
            held=list(commit.held), finished=dict(commit.finished), seen=set(commit.seen), ledger=dict(commit.ledger),
            private=dict(commit.private), staleness=dict(commit.staleness),
            accepted={(a.client, a.base): a for a in commit.accepted},
        )  # fmt: skip

    def dump(self) -> dict[str, Any]:
        """What a commit keeps of the book, right after a version has opened."""
        return {
            "version": self.version, "seq": self.seq, "open": tuple(self.open.values()),
            "expired": tuple(self.expired.values()), "held": tuple(self.held), "finished": self.finished,
            "seen": tuple(sorted(self.seen)), "ledger": self.ledger, "private": self.private,
            "staleness": self.staleness, "accepted": tuple(self.accepted.values()),
        }  # fmt: skip

    # --- what there is

    def training(self) -> list[Open]:
        """Open tasks that train."""
        return [o for o in self.open.values() if o.kind == "train"]

    def free(self, clients: Iterable[str]) -> list[str]:
        """Clients that may be asked, sorted: without an unexpired task, and not asked since the round was opened or
        retried (so one whose updates are refused is not asked for ever), and never counted for this base version.
        """
        busy = {c for o in self.training() for c in o.clients} | self.tried
        return sorted(c for c in clients if c not in busy and (c, self.version) not in self.seen)

    def budget(self) -> int:
        """How many clients may be asked now."""
        if self.spec.refill == "at_close" and self.batches > self.retries:
            return 0
        return max(0, self.spec.in_flight - sum(len(o.clients) for o in self.training()))

    def expires(self, task: Open) -> float:
        """When the loop stops waiting for a task: its deadline counts from its start, else its grants' life."""
        if task.started_at is None:
            return task.asked_at + self.spec.task_ttl_s
        return task.started_at + self.spec.deadline_s

    def progress(self) -> Progress:
        """Numbers for the round rule."""
        flying = [o for o in self.training() if self.version - o.base <= self.spec.max_staleness]
        return Progress(
            accepted_at=tuple(a.at for a in self.accepted.values()),
            asked=self.asked,
            in_flight=sum(len(o.clients) for o in flying),
            opened_at=self.opened_at,
            next_expiry=min((self.expires(o) for o in self.open.values()), default=float("inf")),
        )

    def without(self) -> tuple[str, ...]:
        """Clients of this round that are not waited for."""
        asked = {c for o in (*self.open.values(), *self.expired.values()) if self._of_this_round(o) for c in o.clients}
        return tuple(sorted(c for c in asked if (c, self.version) not in self.accepted))

    def _of_this_round(self, task: Open) -> bool:
        return task.kind == "train" and task.base == self.version

    # --- decisions

    def asks(self, decision: Asked, at: float, *, instant: bool) -> None:
        """Tasks go out. instant: they run as soon as they are sent, so their deadline counts from now."""
        for task in decision.tasks:
            self.open[task.task_id] = task.model_copy(update={"started_at": at}) if instant else task
            if task.kind == "train":  # evaluations are not numbered: they must not change what is drawn for training
                self.seq += 1
                self.asked += len(task.clients)
                self.tried.update(task.clients)
                self._count(task.clients, asked=1)
        if not decision.tasks or decision.tasks[0].kind == "train":
            self.batches += 1

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

    def resends(self, decision: Resent) -> None:
        """A task goes out again."""
        if decision.task_id in self.open:
            again = {"attempt": decision.attempt, "started_at": None, "sent": False}
            self.open[decision.task_id] = self.open[decision.task_id].model_copy(update=again)

    def expires_now(self, task_id: str) -> Open | None:
        """The task, which is no longer waited for; None if it had been answered meanwhile."""
        task = self.open.pop(task_id, None)
        if task is not None:
            self.expired[task_id] = task
            if task.kind == "train":
                self._count(task.clients, lost=1)
        return task

    def retries_now(self, at: float) -> None:
        """The round goes on with replacements and a new deadline."""
        self.retries, self.opened_at = self.retries + 1, at
        self.tried.clear()

    def closes(self, decision: Closed) -> list[Accepted]:
        """The counted updates in client order; whatever else was accepted stays, and is late by then.

        Raises AggregationError if one of them is not there.
        """
        keys = {(task_id, client) for task_id, client in decision.counted}
        counted = [a for a in self.accepted.values() if (a.task_id, a.client) in keys]
        if len(counted) != len(keys):
            raise AggregationError(f"{len(keys) - len(counted)} counted updates of version {self.version + 1} are gone")
        self.accepted = {k: a for k, a in self.accepted.items() if (a.task_id, a.client) not in keys}
        for a in self.accepted.values():
            if a.base == self.version:
                self._count((a.client,), accepted=-1, late=1)
        return sorted(counted, key=lambda a: (a.client, a.base))

    def opens(self, version: int, at: float) -> None:
        """The next round begins."""
        self.version, self.opened_at, self.asked, self.batches, self.retries = version, at, 0, 0, 0
        self.tried.clear()
        oldest = version - self.spec.max_staleness
        self.expired = {k: o for k, o in self.expired.items() if o.base >= oldest}
        self.finished = {k: base for k, base in self.finished.items() if base >= oldest}
        self.seen = {(client, base) for client, base in self.seen if base >= oldest}

    def stale(self) -> list[Open]:
        """Open training tasks whose answer would no longer be admitted."""
        return [o for o in self.training() if self.lag(o) > self.spec.max_staleness]

    # --- arrivals

    def knows(self, task: Open) -> bool:
        """Whether the task was asked before."""
        return task.task_id in self.open or task.task_id in self.expired or task.task_id in self.finished

    def find(self, manifest: Manifest) -> Open | None:
        """The task that a manifest answers, open or expired; None if it is unknown, too old, or was answered before."""
        return self.open.get(manifest.task_id) or self.expired.get(manifest.task_id)

    def answered(self, task: Open) -> None:
        """The task's manifest is in: its slot is free, and a second manifest is a duplicate."""
        was_lost = self.expired.pop(task.task_id, None) is not None
        self.open.pop(task.task_id, None)
        self.finished[task.task_id] = task.base
        if was_lost and task.kind == "train":
            self._count(task.clients, lost=-1)

    def lag(self, task: Open) -> int:
        """Merges of the task's group since its base."""
        return self.version - task.base

    def accepts(self, task: Open, result: ClientResult, at: float) -> Accepted:
        """An admitted update: it counts in the round that is open, and the client's private state advances."""
        assert result.update is not None, "admission refuses a result without an update"
        accepted = Accepted(
            task_id=task.task_id, client=result.client, base=task.base, group=task.group, update=result.update,
            weight=result.weight, at=at, private=result.private,
        )  # fmt: skip
        self.accepted[result.client, task.base] = accepted
        self.seen.add((result.client, task.base))
        if result.private is not None and self.private.get(result.client) == task.private.get(result.client):
            self.private[result.client] = result.private  # a late answer to an older state must not take it back
        on_time = {"accepted": 1} if task.base == self.version else {"late": 1}
        self._count((result.client,), **on_time)
        return accepted

    def rejects(self, client: str) -> None:
        """A refused result of a client."""
        self._count((client,), rejected=1)

    def loses(self, client: str) -> None:
        """A client that answered that it failed."""
        self._count((client,), lost=1)

    def weighs(self, weights: Mapping[str, float], lags: Mapping[int, int]) -> None:
        """Enter the discounted weights per client, and how many counted updates had which lag."""
        for client, weight in weights.items():
            share = self.ledger[client]
            self.ledger[client] = share.model_copy(update={"weight": share.weight + weight})
        for lag, count in lags.items():
            self.staleness[lag] = self.staleness.get(lag, 0) + count

    def _count(self, clients: Iterable[str], **changes: int) -> None:
        for client in clients:
            share = self.ledger.get(client, Share())
            new = {name: getattr(share, name) + change for name, change in changes.items()}
            self.ledger[client] = share.model_copy(update=new)
