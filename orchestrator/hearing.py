"""What one entry of the stream means: a worker's word goes to whom it concerns, a decision of before is done again.

Decisions that end a round are handed back: what follows from them is the loop's.
"""

from pydantic import ValidationError

from infra.stream import Entry
from orchestrator.book import Book
from orchestrator.desk import Desk
from orchestrator.hindsight import groundless
from orchestrator.intake import Intake
from orchestrator.joining import Joining, is_open
from orchestrator.lineage import Lineage
from orchestrator.merging import Merging
from schemas.decisions import Closed, Decision, Joined, Refined, read_entry
from schemas.messages import Manifest, TaskFailure


class Hearing:
    """The ear of one run. failed: failures of an earlier life that a decision may answer further on in the stream."""

    def __init__(self, intake: Intake, lineage: Lineage, desk: Desk, joining: Joining, merging: Merging) -> None:
        self.intake, self.lineage, self.desk, self.joining, self.merging = intake, lineage, desk, joining, merging
        self.failed: dict[str, TaskFailure] = {}

    @property
    def book(self) -> Book:
        """The book as it stands."""
        return self.desk.book

    def take(self, entry: Entry, *, replaying: bool) -> Closed | Refined | None:
        """Take in one entry; in a replay, hand back a decision that ends a round. Else own decisions are no news."""
        try:
            said = read_entry(entry.author, entry.body)
        except ValidationError as e:
            reason = f"unreadable {entry.author}: {e.errors()[0]['msg']}"
            self.desk.journal.ignores(entry.at, self.book.version, reason)
            return None
        if isinstance(said, Manifest):
            self._done(said, entry.at, replaying)
        elif isinstance(said, TaskFailure):
            self._fails(said, replaying, entry.at)
        elif replaying:
            return self._again(said, entry.at)
        return None

    def settle(self, now: float) -> None:
        """Let in what is due, and give up what is overdue."""
        self.intake.release(self.book, now, self.lineage.state.tensors)
        for task in [o for o in self.book.open.values() if self.book.expires(o) <= now]:
            self.desk.expire(task, "deadline")

    def _done(self, manifest: Manifest, at: float, replaying: bool) -> None:
        if self.merging.is_for(manifest):
            self.merging.arrives(manifest, at)
        elif is_open(self.book, manifest.task_id):
            self.joining.arrives(manifest, replaying=replaying)
        else:
            self.intake.receive(self.book, manifest, at)

    def _again(self, decision: Decision, at: float) -> Closed | Refined | None:
        """A decision of an earlier life. What a commit has taken in already is of an earlier version."""
        if decision.version != self.book.version:
            return None
        named = {task_id for task_id, _ in decision.counted} if isinstance(decision, Closed) else set()
        self.intake.release(self.book, at, self.lineage.state.tensors, named)
        if reason := groundless(decision, self.book, merging=self.merging.underway is not None):
            self.desk.journal.ignores(at, self.book.version, reason)
        elif isinstance(decision, Closed | Refined):
            return decision
        elif isinstance(decision, Joined):
            self.joining.joins(decision, at)
        else:
            self.desk.redo(decision, at)
        return None

    def _fails(self, failure: TaskFailure, replaying: bool, at: float) -> None:
        """A worker says that a task did not finish: `client` is final, the rest is sent again."""
        waiting = {task.task_id: task for task in self.book.unanswered()}  # of others, the manifest is here after all
        task = waiting.get(failure.task_id)
        if task is None or (failure.run, failure.attempt) != (self.lineage.commit.run, task.attempt):
            return
        if task.kind == "describe":
            self.joining.fails(failure, replaying=replaying)
        elif failure.code == "client" and task.kind == "merge":
            self.merging.fails(failure.message)
        elif failure.code == "client":
            self.intake.gives_up(self.book, task, at, failure.message)
        elif replaying:
            self.failed[failure.task_id] = failure
        else:
            self.desk.again(failure.task_id, failure.attempt, f"{failure.code}: {failure.message}")
