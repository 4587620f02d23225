"""Decisions: written into the stream first, then acted on; in a replay acted on again, but not sent again.

Knows how each decision changes the book, and how a task goes out. Decides nothing itself.
"""

from collections.abc import Callable, Iterable

from infra.runtime import Runtime
from orchestrator.book import Book
from orchestrator.journal import Journal
from orchestrator.lineage import Lineage
from orchestrator.post import Post
from orchestrator.vigil import Vigil
from schemas.decisions import Asked, Closed, Decision, Expired, Resent, Retried, Sent, Started
from schemas.errors import BusError
from schemas.log import Open
from schemas.messages import ALL

ATTEMPTS = 3
"""How often a task is sent before it is given up."""


class Desk:
    """Where the loop's decisions are made known.

    instant: tasks run as they are sent (one process). seen: what the loop has taken in, as a cursor.
    """

    def __init__(
        self,
        runtime: Runtime,
        post: Post,
        lineage: Lineage,
        journal: Journal,
        *,
        instant: bool,
        seen: Callable[[], str],
    ) -> None:
        self.runtime, self.post, self.lineage, self.journal, self.instant = runtime, post, lineage, journal, instant
        self.seen, self.attempts = seen, ATTEMPTS
        self.book: Book

    def load(self, book: Book) -> Book:
        """Decide about this book from now on."""
        self.book = book
        self.post.recall()
        return book

    def tidy(self) -> None:
        """Delete the documents of tasks that nobody may do any more: neither open, nor late and still of use."""
        self.post.forget(lambda task_id: task_id in self.book.open or task_id in self.book.expired)

    def log(self, decision: Decision) -> float:
        """Put a decision into the stream, with what was known; the moment at which it was made."""
        at = self.runtime.bus.clock.now()
        made = decision.model_copy(update={"seen": self.seen(), "at": at})
        self.runtime.stream.append(self.post.run, "decision", made.model_dump_json())
        return at

    def ask(self, tasks: tuple[Open, ...], group: str = ALL) -> None:
        """Ask these tasks of a group, all or none."""
        batch = self.book.rounds[group].batches if group in self.book.rounds else 0
        decision = Asked(version=self.book.version, group=group, batch=batch, tasks=tasks)
        self._ask(decision, self.log(decision))
        self.send(tasks)

    def send(self, tasks: Iterable[Open]) -> None:
        """Send open tasks. What the bus may not have taken stays unsent, and is sent again later."""
        gone = [task.task_id for task in tasks if self._goes(task)]
        if gone:
            self.log(Sent(version=self.book.version, task_ids=tuple(gone)))
            self.book.sends(gone)

    def look(self, vigil: Vigil, now: float) -> None:
        """See which tasks have been started, and send those again that nobody is at any more."""
        heard, gone = vigil.look(self.book.unanswered(), now)
        if heard:
            decision = Started(version=self.book.version, task_ids=tuple(task.task_id for task in heard))
            self._start(decision, self.log(decision))
        for task, reason in gone:
            self.again(task.task_id, task.attempt, reason)

    def again(self, task_id: str, attempt: int, reason: str) -> None:
        """Send a task as a new attempt, or give it up after the last one."""
        task = self.book.open.get(task_id)
        if task is None or task.attempt != attempt:
            return
        if attempt >= ATTEMPTS and task.kind != "describe":  # a late site is waited for as long as the run goes on
            self.expire(task, f"{reason} ({ATTEMPTS} attempts)")
            return
        decision = Resent(version=self.book.version, task_id=task_id, attempt=attempt + 1, reason=reason)
        self._resend(decision, self.log(decision))
        self.send([self.book.open[task_id]])

    def expire(self, task: Open, reason: str) -> None:
        """Wait no longer for a task."""
        decision = Expired(version=self.book.version, task_id=task.task_id, reason=reason)
        self._expire(decision, self.log(decision))

    def retry(self, group: str) -> None:
        """Go on with the round of a group: ask replacements, with a new deadline."""
        number = self.book.rounds[group].retries + 1
        decision = Retried(version=self.book.version, group=group, number=number)
        self._retry(decision, self.log(decision))

    def close(self, group: str) -> tuple[Closed, float]:
        """End the round of a group with what it has accepted; what was decided, and when."""
        counted = tuple((a.task_id, a.client) for a in self.book.accepted.values() if a.group == group)
        decision = Closed(version=self.book.version, group=group, counted=counted, without=self.book.without(group))
        return decision, self.log(decision)

    def redo(self, decision: Decision, at: float) -> None:
        """Act on a decision of an earlier life."""
        match decision:
            case Asked():
                self._ask(decision, at)
            case Sent():
                self.book.sends(decision.task_ids)
            case Started():
                self._start(decision, at)
            case Resent():
                self._resend(decision, at)
            case Expired():
                self._expire(decision, at)
            case Retried():
                self._retry(decision, at)

    def _goes(self, task: Open) -> bool:
        model = None if task.kind == "describe" else self.lineage.models[task.base][task.group]
        try:
            self.post.send(task, self.lineage.commit.setting, model)
        except BusError:
            return False
        return True

    def _ask(self, decision: Asked, at: float) -> None:
        again = self.book.asked_before(decision) or any(self.book.knows(task.task_id) for task in decision.tasks)
        if again:
            return  # a log whose answer was lost may hold an entry twice
        self.book.asks(decision, at, instant=self.instant)
        for task in decision.tasks:
            size = self.lineage.models[task.base][task.group].size
            facts = {"task": task.task_id, "base": task.base, "group": task.group, "bytes": size}
            for client in task.clients if task.kind == "train" else ():
                self.journal.record("asked", at, self.book.version, client, **facts)

    def _start(self, decision: Started, at: float) -> None:
        for task_id in decision.task_ids:
            if task_id in self.book.open:
                self.book.starts(task_id, at)

    def _resend(self, decision: Resent, at: float) -> None:
        self.book.resends(decision, at)
        facts = {"task": decision.task_id, "attempt": decision.attempt, "reason": decision.reason}
        self.journal.record("resent", at, self.book.version, **facts)

    def _expire(self, decision: Expired, at: float) -> None:
        task = self.book.expires_now(decision.task_id)
        if task is None:
            return
        event = "lost" if task.kind == "train" else "unevaluated"
        facts = {"task": task.task_id, "base": task.base, "reason": decision.reason}
        for client in task.clients:
            self.journal.record(event, at, self.book.version, client, **facts)

    def _retry(self, decision: Retried, at: float) -> None:
        if decision.number <= self.book.rounds[decision.group].retries:
            return
        self.book.retries_now(at, decision.group)
        accepted = self.book.progress(decision.group).accepted
        self.journal.record("retried", at, self.book.version, accepted=accepted, group=decision.group)
