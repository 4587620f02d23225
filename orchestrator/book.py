"""The book of a run: what is open, accepted and counted. A reducer: decisions and arrivals in, new entries out.

The same calls in the same order give the same book, in the first life of a loop and in a replay. No I/O, no clock.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator import groups
from orchestrator.rounds import Progress
from orchestrator.tasks import Tasks
from schemas.decisions import Asked, Closed
from schemas.errors import AggregationError
from schemas.experiment import Rounds
from schemas.log import Accepted, Commit, Open, Round, Share
from schemas.messages import ALL, BlobRef, ClientResult


@dataclass
class Book(Tasks):
    """All that decides: the tasks of the run, and what became of them.

    closing: the group whose round is closed and whose model is with a worker; its arrivals wait at the door.
    least: fewest owners whose updates the aggregator can do with.
    """

    accepted: dict[tuple[str, str], Accepted] = field(default_factory=dict)
    seen: set[tuple[str, int, str]] = field(default_factory=set)
    ledger: dict[str, Share] = field(default_factory=dict)
    private: dict[str, BlobRef] = field(default_factory=dict)
    staleness: dict[int, int] = field(default_factory=dict)
    closing: str | None = None
    least: int = 1

    @classmethod
    def of(cls, spec: Rounds, commit: Commit, least: int = 1) -> "Book":
        """The book as it stood at a commit."""
        bases = tuple(range(max(0, commit.version - spec.max_staleness), commit.version + 1))
        fresh = Round(bases=bases, since=commit.at, opened_at=commit.at)
        there = commit.models.get(commit.version, {ALL: None})
        clients = [client for d in commit.descriptions for client in d.clients]
        return cls(
            spec=spec, least=least, version=commit.version, seq=commit.seq,
            home=groups.homes(clients, commit.assignment, there),
            trainers=groups.trainers(commit.descriptions),
            rounds={group: commit.rounds.get(group, fresh) for group in there},
            open={o.task_id: o for o in commit.open}, expired={o.task_id: o for o in commit.expired},
            held=list(commit.held), finished=dict(commit.finished), seen=set(commit.seen), ledger=dict(commit.ledger),
            private=dict(commit.private), staleness=dict(commit.staleness),
            accepted={(a.task_id, a.client): a for a in commit.accepted},
        )  # fmt: skip

    def dump(self) -> dict[str, Any]:
        """What a commit keeps of the book, right after a version has opened."""
        return {
            "version": self.version, "seq": self.seq, "open": tuple(self.open.values()), "rounds": self.rounds,
            "expired": tuple(self.expired.values()), "held": tuple(self.held), "finished": self.finished,
            "seen": tuple(sorted(self.seen)), "ledger": self.ledger, "private": self.private,
            "staleness": self.staleness, "accepted": tuple(self.accepted.values()),
        }  # fmt: skip

    # --- what there is

    def free(self, clients: Iterable[str], group: str = ALL) -> list[str]:
        """Clients of the group that may be asked, sorted: without an unexpired task, and not asked since the round was
        opened or retried (so one whose updates are refused is not asked for ever), and never counted for this base.
        """
        now, base = self.rounds[group], self.rounds[group].base
        busy = {c for o in self.training() for c in o.clients} | set(now.tried)
        own = (c for c in clients if self.group_of(c) == group)
        return sorted(c for c in own if c not in busy and (c, base, group) not in self.seen)

    def progress(self, group: str = ALL) -> Progress:
        """Numbers for the round rule."""
        now = self.rounds[group]
        flying = [o for o in self.training() if o.group == group and self.lag(o) <= self.spec.max_staleness]
        return Progress(
            accepted_at=tuple(a.at for a in self.accepted.values() if a.group == group),
            asked=now.asked,
            in_flight=sum(len(o.clients) for o in flying),
            opened_at=now.opened_at,
            next_expiry=self.next_expiry(),
            short=max(0, self.least - len({a.client for a in self.accepted.values() if a.group == group})),
        )

    def without(self, group: str = ALL) -> tuple[str, ...]:
        """Clients of this round of the group that are not waited for."""
        tasks = [o for o in (*self.open.values(), *self.expired.values()) if self._of_this_round(o, group)]
        here = {a.client for a in self.accepted.values() if a.group == group and not self.lag(a)}
        return tuple(sorted({c for o in tasks for c in o.clients} - here))

    def silent(self, closed: Closed, at: float) -> dict[str, float]:
        """The clients that a closing does without, and for how many seconds each has been waited for."""
        tasks = [o for o in (*self.open.values(), *self.expired.values()) if self._of_this_round(o, closed.group)]
        return {c: at - o.asked_at for o in tasks for c in o.clients if c in closed.without}

    def _of_this_round(self, task: Open, group: str) -> bool:
        return task.kind == "train" and task.group == group and not self.lag(task)

    # --- decisions

    def asks(self, decision: Asked, at: float, *, instant: bool) -> None:
        """Tasks go out. instant: they run as soon as they are sent, so their deadline counts from now."""
        busy = {o.group for o in self.training()}
        for task in decision.tasks:
            self.open[task.task_id] = task.model_copy(update={"started_at": at}) if instant else task
        if decision.tasks and decision.tasks[0].kind != "train":
            return  # evaluations are not numbered: they must not change what is drawn for training
        now, clients = self.rounds[decision.group], tuple(c for task in decision.tasks for c in task.clients)
        self.seq += len(decision.tasks)
        self._count(clients, asked=1)
        more = {"batches": now.batches + 1, "asked": now.asked + len(clients), "tried": (*now.tried, *clients)}
        if clients and not now.tried and decision.group not in busy and len(self.rounds) > 1:
            more["opened_at"] = at  # others may have held every slot until now: that uses no group's deadline up
        self.rounds[decision.group] = now.model_copy(update=more)

    def asked_before(self, decision: Asked) -> bool:
        """Whether these were asked already: the log may hold a decision twice."""
        training = not decision.tasks or decision.tasks[0].kind == "train"
        return training and decision.batch < self.rounds[decision.group].batches

    def expires_now(self, task_id: str) -> Open | None:
        """The task, which is no longer waited for; None if it had been answered meanwhile."""
        task = self.open.pop(task_id, None)
        if task is not None:
            self.expired[task_id] = task
            if task.kind == "train":
                self._count(task.clients, lost=1)
        return task

    def retries_now(self, at: float, group: str = ALL) -> None:
        """The round of a group goes on with replacements and a new deadline."""
        now = self.rounds[group]
        self.rounds[group] = now.model_copy(update={"retries": now.retries + 1, "opened_at": at, "tried": ()})

    def closes(self, decision: Closed) -> list[Accepted]:
        """The counted updates in client order; what else the group had accepted stays, and is late by then.

        Raises AggregationError if one of them is not there.
        """
        counted, keys = self.counted(decision), set(decision.counted)
        self.accepted = {key: a for key, a in self.accepted.items() if key not in keys}
        for a in self.accepted.values():
            if a.group == decision.group and not self.lag(a):
                self._count((a.client,), accepted=-1, late=1)
        return counted

    def counted(self, decision: Closed) -> list[Accepted]:
        """The updates that a closing counts, in client order. Raises AggregationError if one of them is not there."""
        keys = set(decision.counted)
        found = [a for key, a in self.accepted.items() if key in keys]
        if len(found) != len(keys):
            raise AggregationError(f"{len(keys) - len(found)} counted updates of version {self.version + 1} are gone")
        return sorted(found, key=lambda a: (a.client, a.base))

    def opens(self, version: int, at: float, group: str = ALL) -> None:
        """The next round of a group begins."""
        self.version = version
        self.rounds[group] = groups.opened(self.rounds[group], version, at, self.spec.max_staleness + 1)
        oldest = min(self.rounds[g].bases[0] for g in self.turns() or self.rounds)
        self.expired = {k: o for k, o in self.expired.items() if o.base >= oldest}
        self._forgets()

    def _forgets(self) -> None:
        """Remember no more than is asked for: who has counted for a base that is tasked, or may be answered once more,
        and what has been answered of bases that somebody is at work on. However much staleness is allowed.
        """
        bases = {group: r.base for group, r in self.rounds.items()}
        again = {(c, o.base, o.group) for o in (*self.open.values(), *self.expired.values()) for c in o.clients}
        self.seen = {s for s in self.seen if s in again or s[1] == bases.get(s[2])}
        recent = min([*bases.values(), *(o.base for o in self.training())])
        self.finished = {task_id: base for task_id, base in self.finished.items() if base >= recent}

    def origins(self) -> set[tuple[int, str]]:
        """The (version, group) where a task is begun or may yet begin, or where an update that may count began."""
        known = {(o.base, o.group) for o in self.expired.values()} | {(a.base, a.group) for a in self.accepted.values()}
        admissible = {(base, group) for group, r in self.rounds.items() for base in r.bases}
        begun = {(o.base, o.group) for o in self.open.values() if o.kind != "describe"}
        return begun | known & admissible | {(r.base, group) for group, r in self.rounds.items()}

    def regroups(
        self, home: dict[str, str], there: Collection[str], changed: Collection[str], at: float
    ) -> list[Accepted]:
        """What a merge has made of the groups. there: all of them; changed: those whose model another's merge changed.

        Returns what was accepted from a group that is gone: it counts no more.
        """
        version, depth, was = self.version, self.spec.max_staleness + 1, self.rounds
        new = {g: groups.opened(None, version, at, depth) for g in there if g not in was}
        kept = {g: groups.rebased(r, version, depth) if g in changed else r for g, r in was.items() if g in there}
        gone = [a for a in self.accepted.values() if a.group not in there]
        for a in gone:
            self._count((a.client,), rejected=1, **({"late": -1} if self.lag(a) else {"accepted": -1}))
        self.accepted = {key: a for key, a in self.accepted.items() if a.group in there}
        self.rounds, self.home = kept | new, home
        return gone

    # --- arrivals

    def answered(self, task: Open) -> None:
        """The task's manifest is in: its slot is free, and a second manifest is a duplicate."""
        was_lost = self.expired.pop(task.task_id, None) is not None
        self.open.pop(task.task_id, None)
        self.finished[task.task_id] = task.base
        if was_lost and task.kind == "train":
            self._count(task.clients, lost=-1)

    def accepts(self, task: Open, result: ClientResult, at: float) -> Accepted:
        """An admitted update: it counts in the round that is open, and the client's private state advances."""
        assert result.update is not None, "admission refuses a result without an update"
        loss = result.metrics.get("loss", -1.0)
        accepted = Accepted(
            task_id=task.task_id, client=result.client, base=task.base, group=task.group, update=result.update,
            weight=result.weight, at=at, private=result.private, seconds=at - task.asked_at,
            loss=loss if loss >= 0 else None,
        )  # fmt: skip
        self.accepted[task.task_id, result.client] = accepted
        self.seen.add((result.client, task.base, task.group))
        if result.private is not None and self.private.get(result.client) == task.private.get(result.client):
            self.private[result.client] = result.private  # a late answer to an older state must not take it back
        self._count((result.client,), **({"late": 1} if self.lag(task) else {"accepted": 1}))
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
