"""One commit held against the one before it and against what the events up to it tell.

Pure functions of values: knows no store. The events' own rules are `orchestrator.history`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from infra.stream import START, place
from orchestrator.history import History
from schemas.log import Accepted, Commit, Share


@dataclass(frozen=True)
class Pair:
    """A commit, the one before it, and what the events up to it tell."""

    before: Commit | None
    commit: Commit
    history: History

    def differences(self, number: int) -> Iterator[str]:
        """What the commit says and should not."""
        if self.commit.version != number or self.history.version != number:
            yield f"the commit here is of version {self.commit.version}, the journal comes to {self.history.version}"
        yield from self._updates()
        yield from self._bookkeeping()
        yield from self._weights()
        yield from self._private()
        emptied = self.commit.cursor == START  # then the stream counts from its beginning
        if self.before is not None and not emptied and place(self.commit.cursor) < place(self.before.cursor):
            yield f"the cursor went from {self.before.cursor} to {self.commit.cursor}"
        models = self.commit.models
        bases = {number, *(task.base for task in self.commit.open if task.kind != "describe")}
        if gone := sorted(bases - set(models)):
            yield f"the commit holds no model of version {gone[0]}, which is needed"

    def _updates(self) -> Iterator[str]:
        counted, waiting = _updates(self.commit.counted), _updates(self.commit.accepted)
        told = {key: (u.base, u.group, u.weight) for key, u in self.history.last.items()}
        pending = {key: (u.base, u.group, u.weight) for key, u in self.history.pending.items()}
        for (task, client), facts in sorted(counted.items()):
            if told.get((task, client)) != facts:
                yield f"{client} in {task} is counted with {facts}, and was accepted with {told.get((task, client))}"
        for task, client in sorted(set(told) - set(counted)):
            yield f"{client} in {task} was accepted, and is lost"
        if waiting != pending:
            odd = sorted(set(waiting) ^ set(pending)) or sorted(waiting)
            yield f"{odd[0][1]} in {odd[0][0]} stands as accepted here or in the journal, not in both"

    def _bookkeeping(self) -> Iterator[str]:
        flying = {(task.task_id, c) for task in self.commit.open if task.kind == "train" for c in task.clients}
        if flying != self.history.flying:
            odd = sorted(flying ^ self.history.flying)[0]
            yield f"{odd[1]} in {odd[0]} is in flight in the commit or in the journal, not in both"
        if self.commit.seq != len(self.history.tasks):
            yield f"the commit says {self.commit.seq} tasks, and {len(self.history.tasks)} were asked"
        if {lag: n for lag, n in self.commit.staleness.items() if n} != self.history.lags:
            yield "the staleness of the commit is not that of the counted updates"
        yield from unlike(self.commit.ledger, self.history.tally.ledger(), "the commit", "the journal")

    def _weights(self) -> Iterator[str]:
        before = self.before.ledger if self.before else {}
        moved = {c: share.weight - before.get(c, Share()).weight for c, share in self.commit.ledger.items()}
        for client, change in sorted(moved.items()):
            entered = self.history.entered.get(client, 0.0)
            if not math.isclose(entered, change, rel_tol=1e-9, abs_tol=1e-9):
                yield f"{client} entered with weight {entered:g}, and its ledger moved by {change:g}"

    def _private(self) -> Iterator[str]:
        before = self.before.private if self.before else {}
        told = self.history.last | self.history.pending
        fresh = {key for key, update in told.items() if update.at == self.commit.version - 1}
        new = [a for a in (*self.commit.counted, *self.commit.accepted) if (a.task_id, a.client) in fresh]
        for client in sorted(set(before) | set(self.commit.private)):
            now, mine = self.commit.private.get(client), [a for a in new if a.client == client]
            explained = now in [a.private for a in mine] or client in self.history.voided
            if now != before.get(client) and not explained:
                yield f"the private state of {client} moved without an accepted update"
            if len(mine) == 1 and mine[0].base == self.commit.version - 1 and now != (mine[0].private or now):
                yield f"the private state of {client} did not move with its accepted update"


def _updates(accepted: tuple[Accepted, ...]) -> dict[tuple[str, str], tuple[int, str, float]]:
    return {(a.task_id, a.client): (a.base, a.group, a.weight) for a in accepted}


def unlike(one: dict[str, Share], other: dict[str, Share], here: str, there: str) -> Iterator[str]:
    """Where two ledgers differ. Weights may have been added up in another order."""
    for client in sorted(set(one) | set(other)):
        a, b = one.get(client, Share()).model_dump(), other.get(client, Share()).model_dump()
        for name in a:
            if not math.isclose(a[name], b[name], rel_tol=1e-9, abs_tol=1e-9):
                yield f"the ledger of {client} has {name} {a[name]:g} in {here}, and {b[name]:g} in {there}"
