"""The versions of a run: the tensors now, the models that admissible tasks may start from, and the next commit.

Merges and commits; decides neither when nor what is counted.
"""

import time
from collections import Counter
from collections.abc import Mapping

from infra.blobs import BlobStore
from orchestrator.book import Book
from orchestrator.commits import KEEP_EVERY, Commits
from orchestrator.intake import Intake
from orchestrator.journal import Journal
from orchestrator.plan import Plan
from orchestrator.rounds import discount, quorum_at
from schemas.errors import AggregationError
from schemas.log import Accepted, Closed, Commit
from schemas.messages import BlobRef
from workers.method import Fold, State
from workers.private import OWN
from workers.tensors import Tensors, is_finite
from workers.training import one_thread


class Lineage:
    """From one commit to the next."""

    def __init__(self, plan: Plan, blobs: BlobStore, commits: Commits, intake: Intake, journal: Journal) -> None:
        self.plan, self.blobs, self.commits, self.intake, self.journal = plan, blobs, commits, intake, journal
        self.spec = plan.experiment.rounds
        self.dropped: dict[int, dict[str, BlobRef]] = {}

    def load(self, commit: Commit) -> None:
        """Stand where a commit stands."""
        self.commit, self.models = commit, dict(commit.models)
        tensors = {group: self.commits.get_model(blob) for group, blob in self.models[commit.version].items()}
        self.state = State(tensors=tensors, server=self.commits.get_model(commit.server) if commit.server else {})
        self.plan.selector.load(commit.selector)
        self.intake.forget()
        self.journal.events.clear()
        asked = {client: o.task_id for o in commit.open if o.kind == "train" for client in o.clients}
        self.journal.record("loaded", commit.at, commit.version, open=asked, accepted=len(commit.accepted))

    def extend(self, book: Book, closed: Closed, at: float, cursor: str) -> Commit:
        """Fold and merge what was counted, open the next version in the book, and commit it: from then on it is true.

        Returns what stands under that version: this commit, or another loop's.
        """
        quorum = quorum_at(self.spec, book.progress())
        counted = book.closes(closed)
        began = time.perf_counter()
        self.state = self.merge(counted, closed.version)
        merged = time.perf_counter()
        self._enter(book, counted, closed, at, quorum)
        stored = {
            group: self.commits.put_model(closed.version + 1, tensors) for group, tensors in self.state.tensors.items()
        }
        book.opens(closed.version + 1, at)
        self._give_up_stale(book, at)
        self._keep_models(book, stored)
        self.commit = self._snapshot(book, counted, closed, at, cursor)
        standing = self.commits.write(self.commit)
        self.journal.events.clear()  # they are in the commit now, whatever happens next
        if standing == self.commit:
            spent = {"fold_s": merged - began, "commit_s": time.perf_counter() - merged}
            self.journal.record("committed", at, standing.version, **spent)
        return standing

    @one_thread()
    def merge(self, counted: list[Accepted], version: int) -> State:
        """The next state from the counted updates, folded in client order."""
        folds: dict[str, Fold] = {}
        for a in counted:
            fold = folds.setdefault(a.group, self.plan.method.fold(self.plan.aggregator))
            fold.add(a.client, self._step(a, version), a.weight, discount(self.spec, version - a.base))
        folded: Mapping[str, Tensors] = {group: fold.result() for group, fold in folds.items()}
        merged = self.plan.method.merge(self.state, folded, self.spec.server_lr)
        if not all(is_finite(t) for tensors in merged.tensors.values() for t in tensors.values()):
            raise AggregationError(f"version {version + 1} is not finite", hint="lower rounds.server_lr")
        return merged

    def tidy(self, book: Book) -> None:
        """Delete what neither a later version nor an open task can refer to."""
        needed = {blob.key for task in book.open.values() for blob in task.private.values()}
        old = [blob.key for n, models in self.dropped.items() if n % KEEP_EVERY for blob in models.values()]
        for key in [*(a.update.key for a in self.commit.counted), *self.intake.rubbish, *old]:
            if not key.startswith(OWN) and key not in needed:
                self.blobs.delete(key)
        self.intake.forget(needed)

    def _step(self, accepted: Accepted, version: int) -> Tensors:
        # A delta as it is, or with `apply: mix` (FedAsync) the way from the current model to base + delta.
        delta = self.intake.tensors(accepted)
        if self.spec.apply == "delta" or accepted.base == version:
            return delta
        base = self.commits.get_model(self.models[accepted.base][accepted.group])
        current = self.state.tensors[accepted.group]
        return {k: d + base[k] - current[k] if k in base else d for k, d in delta.items()}

    def _enter(self, book: Book, counted: list[Accepted], closed: Closed, at: float, quorum: float | None) -> None:
        weights: dict[str, float] = {}
        for a in counted:
            weights[a.client] = weights.get(a.client, 0.0) + a.weight * discount(self.spec, closed.version - a.base)
        lags = Counter(closed.version - a.base for a in counted)
        book.weighs(weights, lags)
        for a in book.accepted.values():  # it came while the round was being closed, so it counts in the next
            self.journal.record("late", at, closed.version + 1, a.client, task=a.task_id, base=a.base, bytes=0)
        opened = self.commit.at  # a retry begins the round anew for the rule, not for who waits
        waited = {} if quorum is None else {"quorum_s": quorum - opened, "grace_s": at - quorum}
        self.journal.record(
            "closed", at, closed.version + 1, counted=len(counted), late=len(counted) - lags[0],
            updates=[(a.client, a.base) for a in counted],
            without=closed.without, seconds=at - opened, weights=weights, lags=lags, **waited,
        )  # fmt: skip

    def _give_up_stale(self, book: Book, at: float) -> None:
        for task in book.stale():
            book.expires_now(task.task_id)
            for client in task.clients:
                facts = {"task": task.task_id, "base": task.base, "reason": "too stale"}
                self.journal.record("lost", at, book.version, client, **facts)

    def _keep_models(self, book: Book, stored: dict[str, BlobRef]) -> None:
        needed = {o.base for o in book.open.values()}
        old = [n for n in self.models if n < book.version - self.spec.max_staleness and n not in needed]
        self.dropped = {n: self.models.pop(n) for n in old}
        self.models[book.version] = stored

    def _snapshot(self, book: Book, counted: list[Accepted], closed: Closed, at: float, cursor: str) -> Commit:
        server = self.commits.put_model(book.version, self.state.server) if self.state.server else None
        return Commit(
            **book.dump(),
            run=self.commit.run, at=at, setting=self.commit.setting, descriptions=self.commit.descriptions,
            models=self.models, server=server, counted=tuple(counted), without=closed.without,
            selector=self.plan.selector.dump(), cursor=cursor,
            journal=self.commits.put_journal(book.version, self.journal.events),
        )  # fmt: skip
