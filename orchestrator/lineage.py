"""The versions of a run: the tensors now, the models that admissible tasks may start from, and the next commit.

Merges and commits; decides neither when nor what is counted.
"""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from infra.blobs import BlobStore
from orchestrator import keys
from orchestrator.book import Book
from orchestrator.commits import KEEP_EVERY, Commits
from orchestrator.groups import homes
from orchestrator.intake import Intake
from orchestrator.journal import Journal
from orchestrator.plan import Plan
from orchestrator.rounds import discount, quorum_at
from schemas.decisions import Closed
from schemas.errors import AggregationError
from schemas.log import Accepted, Commit
from schemas.messages import BlobRef
from workers.method import KEPT, Fold, State
from workers.private import OWN
from workers.tensors import Tensors, is_finite
from workers.training import one_thread


class Lineage:
    """From one commit to the next."""

    def __init__(self, plan: Plan, blobs: BlobStore, commits: Commits, intake: Intake, journal: Journal) -> None:
        self.plan, self.blobs, self.commits, self.intake, self.journal = plan, blobs, commits, intake, journal
        self.spec = plan.experiment.rounds
        self.dropped: list[str] = []

    def load(self, commit: Commit) -> None:
        """Stand where a commit stands."""
        self.commit, self.models, self.table = commit, dict(commit.models), dict(commit.table)
        tensors = {group: self.commits.get_model(blob) for group, blob in self.models[commit.version].items()}
        server = self.commits.get_model(commit.server) if commit.server else {}
        self.state = State(tensors=tensors, server=server, assignment=commit.assignment)
        self.plan.selector.load(commit.selector)
        self.meet()
        self.intake.forget()
        self.journal.events.clear()
        asked = {client: o.task_id for o in commit.open if o.kind == "train" for client in o.clients}
        here = [(a.client, a.task_id, a.base) for a in commit.accepted]
        self.journal.record("loaded", commit.at, commit.version, open=asked, accepted=here)

    def meet(self) -> None:
        """Tell selector and aggregator who trains, with how many images, if they want to know."""
        sizes = {c: s.train for d in self.commit.descriptions for c, s in d.clients.items() if s.train}
        for part in (self.plan.selector, self.plan.aggregator):
            if meet := getattr(part, "meet", None):
                meet(sizes)

    def extend(self, book: Book, closed: Closed, at: float, cursor: str, made: State | None = None) -> None:
        """Fold and merge what was counted, open the next version in the book, and commit it: from then on it is true.

        made: the next state, if it is known already. Raises BlobExists, BlobMissing if another loop has been faster.
        """
        waited = self._waited(book, closed, at)
        counted = book.closes(closed)
        began, before = time.perf_counter(), self.state
        self.state = made or self.merge([(a, book.lag(a)) for a in counted], closed.version)
        merged = time.perf_counter()
        self._show(before, counted, closed)
        self._tell(book, counted, closed, at)
        stored = self._store(before, closed)
        changed = self._changed(closed, stored)
        self._enter(book, counted, closed, at, {"changed": sorted(changed), **waited})
        self._open(book, closed, stored, changed, at)
        self._give_up_stale(book, at)
        self._keep_models(book, stored)
        self._keep_updates(counted)
        self.commit = self.commits.write(self._snapshot(book, counted, closed, at, cursor))
        self.journal.events.clear()  # they are in the commit now, whatever happens next
        spent = {"fold_s": merged - began, "commit_s": time.perf_counter() - merged}
        self.journal.record("committed", at, self.commit.version, **spent)

    @one_thread()
    def merge(self, counted: list[tuple[Accepted, int]], version: int) -> State:
        """The next state from the counted updates and their lags, folded in the order given. version: the open one."""
        folds: dict[str, Fold] = {}
        replaced = self.replaced([a for a, _ in counted])
        for a, lag in (pair for pair in counted if pair[0] not in replaced):
            if a.group not in folds:
                folds[a.group] = self.plan.method.fold(self.plan.aggregator, self.state, a.group)
            self._brief(folds[a.group], a, lag)
            folds[a.group].add(a.client, self._step(a, lag), a.weight, discount(self.spec, lag))
        folded: Mapping[str, Tensors] = {group: fold.result() for group, fold in folds.items()}
        merged = _remembering(self.plan.method.merge(self.state, folded, self.spec.server_lr), self.state, folds)
        if not all(is_finite(t) for tensors in merged.tensors.values() for t in tensors.values()):
            raise AggregationError(f"version {version + 1} is not finite", hint="lower rounds.server_lr")
        if nowhere := sorted(set(merged.assignment.values()) - set(merged.tensors)):
            raise AggregationError(f"version {version + 1} assigns clients to {nowhere[0]!r}, which is no group of it")
        return merged

    def replaced(self, counted: list[Accepted]) -> list[Accepted]:
        """Those of the counted updates, which stand by client and base, that a newer one of the same owner replaces.

        They enter with no weight. Nobody's are, where the aggregator takes updates as they come.
        """
        newest = {a.client: a for a in counted}
        return [a for a in counted if self.plan.per_owner and newest[a.client] != a]

    def tidy(self, book: Book) -> None:
        """Delete what neither a later version nor a task that may still be answered can refer to."""
        answerable = (*book.open.values(), *book.expired.values())
        needed = {blob.key for task in answerable for blob in task.private.values()}
        needed |= {key for task in answerable for key in keys.uploads_of(self.commits.run, task)}
        needed |= {blob.key for blob in (*book.private.values(), *(a.update for a in book.accepted.values()))}
        needed |= {a.update.key for a in self.table.values()}
        ended = [*(a.update.key for a in self.commit.counted), *self.intake.rubbish, *self.dropped]
        self.blobs.delete(*(k for k in dict.fromkeys(ended) if not k.startswith(OWN) and k not in needed))
        self.intake.forget(needed)

    def _show(self, before: State, counted: list[Accepted], closed: Closed) -> None:
        """Let the selector see what was counted and how far the model of the group has moved, if it wants to."""
        observe = getattr(self.plan.selector, "observe", None)
        was, now = (state.tensors.get(closed.group, {}) for state in (before, self.state))
        if observe and was and set(was) == set(now):
            observe({a.client: self.intake.tensors(a) for a in counted}, {k: now[k] - was[k] for k in was})

    def _tell(self, book: Book, counted: list[Accepted], closed: Closed, at: float) -> None:
        """Let the selector know who answered, who did not, and how often each was asked so far, if it wants to."""
        if learn := getattr(self.plan.selector, "learn", None):
            learn(counted, book.silent(closed, at), {client: share.asked for client, share in book.ledger.items()})

    def _brief(self, fold: Fold, accepted: Accepted, lag: int) -> None:
        """What a fold wants to know of an update beside its tensors: the client's last one, and its loss if fresh."""
        recall, hear = (getattr(fold, name, None) for name in ("recall", "hear"))
        if recall and accepted.client in self.table:
            recall(accepted.client, self.intake.tensors(self.table[accepted.client]))
        if hear and not lag and accepted.loss is not None:
            hear(accepted.client, accepted.loss)

    def _step(self, accepted: Accepted, lag: int) -> Tensors:
        # A delta as it is, or with `apply: mix` (FedAsync) the way from the current model to base + delta.
        delta = self.intake.tensors(accepted)
        if self.spec.apply == "delta" or not lag:
            return delta
        base = self.commits.get_model(self.models[accepted.base][accepted.group])
        current = self.state.tensors[accepted.group]
        return {k: d + base[k] - current[k] if k in base else d for k, d in delta.items()}

    def _waited(self, book: Book, closed: Closed, at: float) -> dict[str, float]:
        """How long the round was open, and to its quorum: for those who wait, a retry does not begin it anew."""
        numbers, opened = book.numbers(closed.group), book.rounds[closed.group].since
        quorum = quorum_at(numbers, book.progress(closed.group))
        waited = {} if quorum is None else {"quorum_s": quorum - opened, "grace_s": at - quorum}
        return {"seconds": at - opened, **waited}

    def _enter(self, book: Book, counted: list[Accepted], closed: Closed, at: float, facts: dict[str, object]) -> None:
        weights: dict[str, float] = {}
        replaced = self.replaced(counted)
        for a in (a for a in counted if a not in replaced):
            weights[a.client] = weights.get(a.client, 0.0) + a.weight * discount(self.spec, book.lag(a))
        lags = Counter(book.lag(a) for a in counted)
        book.weighs(weights, lags)
        for a in book.accepted.values():  # it came while the round was being closed, so it counts in the next
            if a.group == closed.group:
                late = {"task": a.task_id, "base": a.base, "group": a.group, "lag": book.lag(a) + 1, "bytes": 0}
                self.journal.record("late", at, closed.version + 1, a.client, **late)
        if replaced:
            facts = {**facts, "replaced": [(a.client, a.base) for a in replaced]}
        self.journal.record(
            "closed", at, closed.version + 1, group=closed.group, counted=len(counted), late=len(counted) - lags[0],
            updates=[(a.client, a.base) for a in counted], without=closed.without, weights=weights, lags=lags, **facts,
        )  # fmt: skip

    def _store(self, before: State, closed: Closed) -> dict[str, BlobRef]:
        """The model of each group at the next version. One that nothing has touched is not written again, but for the
        versions that are kept for good: each of those has its own."""
        version, now = closed.version + 1, self.models[closed.version]
        untouched = {g for g, t in self.state.tensors.items() if g != closed.group and t is before.tensors.get(g)}
        return {
            group: now[group]
            if group in untouched and version % KEEP_EVERY
            else self.commits.put_model(version, tensors)
            for group, tensors in self.state.tensors.items()
        }

    def _changed(self, closed: Closed, stored: dict[str, BlobRef]) -> set[str]:
        """The groups whose model is another one now: the one that closed, and others that its merge made or moved."""
        now = self.models[closed.version]
        return {g for g, ref in stored.items() if g == closed.group or g not in now or ref.sha256 != now[g].sha256}

    def _open(self, book: Book, closed: Closed, stored: dict[str, BlobRef], changed: set[str], at: float) -> None:
        touched, clients = changed - {closed.group}, [c for d in self.commit.descriptions for c in d.clients]
        was = dict(book.expired)
        book.opens(closed.version + 1, at, closed.group)
        for task_id in sorted(set(was) - set(book.expired)):
            self.intake.abandon(was[task_id])
        for a in book.regroups(homes(clients, self.state.assignment, stored), stored, touched, at):
            self.intake.rubbish.append(a.update.key)
            facts = {"task": a.task_id, "base": a.base, "group": a.group, "bytes": 0, "reason": "moved"}
            self.journal.record("rejected", at, book.version, a.client, **facts, detail=f"{a.group} is gone")

    def _give_up_stale(self, book: Book, at: float) -> None:
        for task in book.stale():
            reason = "too stale" if book.lag(task) > self.spec.max_staleness and task.group in book.rounds else "moved"
            book.expires_now(task.task_id)
            for client in task.clients:
                facts = {"task": task.task_id, "base": task.base, "reason": reason}
                self.journal.record("lost", at, book.version, client, **facts)

    def _keep_models(self, book: Book, stored: dict[str, BlobRef]) -> None:
        was = {**self.models, book.version: stored}
        needed = book.origins() | {(book.version, group) for group in stored}
        kept = {n: {g: ref for g, ref in of.items() if (n, g) in needed} for n, of in was.items()}
        self.models = {n: of for n, of in kept.items() if of}
        used = {ref.key for of in self.models.values() for ref in of.values()}
        old = [ref.key for of in was.values() for ref in of.values() if keys.put_at(ref.key) % KEEP_EVERY]
        server = [self.commit.server.key] if self.commit.server else []
        self.dropped = [*sorted(set(old) - used), *server]

    def _keep_updates(self, counted: list[Accepted]) -> None:
        """The last counted update of each client stays in the store, where the aggregator recalls them."""
        if getattr(self.plan.aggregator, "recalls", False):
            new = {a.client: a for a in counted}
            self.dropped += [a.update.key for c, a in self.table.items() if c in new]
            self.table |= new

    def _snapshot(self, book: Book, counted: list[Accepted], closed: Closed, at: float, cursor: str) -> Commit:
        server = self.commits.put_model(book.version, self.state.server) if self.state.server else None
        return Commit(
            **book.dump(),
            run=self.commit.run, at=at, began=self.commit.began, setting=self.commit.setting,
            descriptions=self.commit.descriptions,
            assignment=dict(self.state.assignment),
            models=self.models, server=server, counted=tuple(counted), table=self.table, without=closed.without,
            selector=self.plan.selector.dump(), cursor=cursor,
            journal=self.commits.put_journal(book.version, self.journal.events),
        )  # fmt: skip


def _remembering(merged: State, before: State, folds: Mapping[str, Fold]) -> State:
    """The merged state with what the aggregator keeps: of these folds, and of other groups from before."""
    new = {f"{KEPT}{g}/{name}": t for g, fold in folds.items() for name, t in getattr(fold, "kept", {}).items()}
    old = {name: t for name, t in before.server.items() if name.startswith(KEPT)}
    return replace(merged, server={**merged.server, **old, **new}) if old or new else merged
