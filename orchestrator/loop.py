"""The loop: asks, listens, closes and commits, until the last version. The only place where a run decides.

A loop that died is replayed from the last commit through the same code. It is single-threaded, and there is one of
it per run (orchestrator.tenure).
"""

from collections.abc import Callable
from random import Random

from pydantic import ValidationError

from infra.clock import VirtualClock
from infra.runtime import Runtime
from infra.stream import START, Entry
from orchestrator import orders, rounds
from orchestrator.book import Book
from orchestrator.commits import Commits
from orchestrator.desk import Desk
from orchestrator.intake import Intake
from orchestrator.journal import Journal
from orchestrator.lineage import Lineage
from orchestrator.plan import Plan
from orchestrator.post import Post
from orchestrator.simulate import Simulator
from orchestrator.tenure import EVERY_S, Tenure
from orchestrator.vigil import Vigil
from schemas.base import derive
from schemas.errors import QuorumError
from schemas.log import Closed, Commit, Decision, Event, read_entry
from schemas.messages import Manifest, TaskFailure


class Loop:
    """One run from a commit to its last version."""

    def __init__(
        self, plan: Plan, runtime: Runtime, commits: Commits, tenure: Tenure, watch: Callable[[Event], None]
    ) -> None:
        self.plan, self.runtime, self.tenure, self.run = plan, runtime, tenure, commits.run
        self.spec, self.clock = plan.experiment.rounds, runtime.bus.clock
        self.virtual = isinstance(self.clock, VirtualClock)
        self.journal = Journal(watch)
        simulator = Simulator.of(plan, virtual=self.virtual)
        self.intake = Intake(plan, commits, simulator, self.journal)
        self.lineage = Lineage(plan, runtime.blobs, commits, self.intake, self.journal)
        post = Post(self.run, plan.experiment, runtime.blobs, runtime.bus)
        self.desk = Desk(runtime, post, self.lineage, self.journal, instant=self.virtual)
        self.failed: dict[str, TaskFailure] = {}
        self.vigil = Vigil(self.run, runtime.state, simulator)

    def load(self, commit: Commit) -> None:
        """Stand where a commit stands."""
        self.lineage.load(commit)
        self.book = self.desk.load(Book.of(self.spec, commit))
        self.cursor = commit.cursor
        if self.virtual:
            self.clock.wait(commit.at)

    def go(self) -> None:
        """Replay what the stream knows beyond the commit, then go on to the last version and its evaluation.

        Raises QuorumError, LeaseLost, Cancelled, and what stores and bus raise.
        """
        self.replay()
        self.evaluate()
        while self.book.version < self.plan.versions:
            self.absorb()
            self.turn()
            self.evaluate()
        while any(o.kind == "evaluate" for o in self.book.open.values()):
            self.listen(self.book.progress().next_expiry)

    def replay(self) -> None:
        """Take in the stream behind the commit without sending anything; then send what may not have been sent."""
        if not self.virtual and self.runtime.state.load(self.run) is None:
            self._start_over()
        while entries := self.runtime.stream.read(self.run, self.cursor, self.clock.now()):
            for entry in entries:
                if self.virtual:
                    self.clock.wait(entry.at)
                self.take(entry, replaying=True)
                if self.cursor != entry.id:
                    break  # another loop's version was adopted: go on from its cursor
            if self.tenure.due():
                self._keep_lease(self.book.version)
        self.settle()
        for failure in list(self.failed.values()):
            self.desk.again(failure.task_id, failure.attempt, f"{failure.code}: {failure.message}")
        self.desk.send(self.book.unsent())

    def turn(self) -> None:
        """Ask, or do what the round rule says. Raises QuorumError.

        A round that can close does so before anyone else is asked; but one that has just opened asks first.
        """
        if self.spec.refill == "at_close" and self.ask():
            return
        verdict = rounds.decide(self.spec, self.book.progress(), self.clock.now())
        if isinstance(verdict, rounds.Close):
            self.close()
        elif self.ask():
            return
        elif isinstance(verdict, rounds.Abort):
            self.retry()
        else:
            self.listen(verdict.until)

    # --- asking

    def ask(self) -> bool:
        """Ask as many free clients as the round rule allows; whether that was a decision."""
        budget = self.book.budget()
        free = self.book.free(orders.sites(self.lineage.commit)) if budget else []
        if not budget or (not free and self.spec.refill == "at_arrival"):
            return False
        random = Random(derive(self.plan.experiment.seed, self.book.version, "select", self.book.batches))
        picked = [c for c in dict.fromkeys(self.plan.selector.pick(free, budget, random)) if c in free][:budget]
        if not picked and self.spec.refill == "at_arrival":
            return False
        state, commit = self.lineage.state, self.lineage.commit
        self.desk.ask(orders.training(self.book, commit, state, picked, self.clock.now()))
        return True

    def evaluate(self) -> None:
        """Ask for an evaluation of the current version if it is due and not asked. It never blocks the next one."""
        version, spec = self.book.version, self.plan.experiment.evaluate
        last = version == self.plan.versions
        if not (version == 0 or (last and spec.final) or (spec.every and version % spec.every == 0)):
            return
        tasks = orders.evaluation(self.book, self.lineage.commit, self.clock.now())
        if new := tuple(t for t in tasks if not self.book.knows(t)):
            self.desk.ask(new)

    # --- listening

    def listen(self, until: float) -> None:
        """Let time pass until `until` or an arrival, take in what comes, and give up what is overdue."""
        if self.tenure.due():
            self.look_around()
        wake = min(until, self.intake.next_due(self.book))
        wake = wake if self.virtual else min(wake, self.clock.now() + EVERY_S)
        for entry in self.runtime.stream.read(self.run, self.cursor, wake):
            self.take(entry)
        self.settle()

    def absorb(self) -> None:
        """Take in all that has come already. What is decided next then does not depend on whether this is a replay."""
        while entries := self.runtime.stream.read(self.run, self.cursor, self.clock.now()):
            for entry in entries:
                self.take(entry)
        self.settle()

    def settle(self) -> None:
        """Let in what is due, and give up what is overdue."""
        now = self.clock.now()
        self.intake.release(self.book, now, self.lineage.state.tensors)
        for task in [o for o in self.book.open.values() if self.book.expires(o) <= now]:
            self.desk.expire(task, "deadline")

    def take(self, entry: Entry, *, replaying: bool = False) -> None:
        """One entry of the stream. The loop's own decisions are news only in a replay."""
        self.cursor = entry.id
        try:
            said = read_entry(entry.author, entry.body)
        except ValidationError as e:
            reason = f"unreadable {entry.author}: {e.errors()[0]['msg']}"[:200]
            self.journal.record("ignored", entry.at, self.book.version, task="", reason=reason)
            return
        if isinstance(said, Manifest):
            self.intake.receive(self.book, said, entry.at)
        elif isinstance(said, TaskFailure):
            self.fails(said, entry.at, replaying)
        elif replaying:
            self.redo(said, entry.at)

    def redo(self, decision: Decision, at: float) -> None:
        """A decision of an earlier life. What a commit has taken in already is of an earlier version."""
        if decision.version != self.book.version:
            return
        named = {task_id for task_id, _ in decision.counted} if isinstance(decision, Closed) else set()
        self.intake.release(self.book, at, self.lineage.state.tensors, named)
        if isinstance(decision, Closed):
            self.commit(decision, at)
        else:
            self.desk.redo(decision, at)

    def fails(self, failure: TaskFailure, at: float, replaying: bool) -> None:
        """A worker says that a task did not finish: `client` is final, the rest is sent again."""
        task = self.book.open.get(failure.task_id)
        if task is None or failure.run != self.run or failure.attempt != task.attempt:
            return
        if task not in self.book.unanswered():
            return  # its manifest is here, so it has been done after all
        if failure.code == "client":
            self.intake.gives_up(self.book, task, at, failure.message)
        elif replaying:
            self.failed[failure.task_id] = failure  # what was decided then may follow in the stream
        else:
            self.desk.again(failure.task_id, failure.attempt, f"{failure.code}: {failure.message}")

    def look_around(self) -> None:
        """Extend the lease, send what the bus did not take, and see which workers have gone silent."""
        self._keep_lease(self.book.version)
        self.desk.send(self.book.unsent())
        if not self.virtual:
            self.desk.look(self.vigil, self.clock.now())

    # --- closing

    def retry(self) -> None:
        """Too few updates: ask replacements, or give up. Raises QuorumError."""
        if self.book.retries >= self.spec.retries:
            raise QuorumError(
                f"version {self.book.version + 1} of run {self.run} got {len(self.book.accepted)} updates, at least "
                f"{self.spec.floor} are needed, and asking {self.spec.retries} times more did not help",
                hint="lower rounds.floor, raise rounds.deadline_s, or see in the ledger which clients are lost",
            )
        self.desk.retry()

    def close(self) -> None:
        """End the round and commit the next version."""
        counted = tuple((a.task_id, a.client) for a in self.book.accepted.values())
        decision = Closed(version=self.book.version, counted=counted, without=self.book.without())
        self.commit(decision, self.desk.log(decision))

    def commit(self, closed: Closed, at: float) -> None:
        """Make the next version true, then tidy up. Raises LeaseLost if another loop owns the run.

        That the version exists already does not say who owns the run: the lease does.
        """
        standing = self.lineage.extend(self.book, closed, at, self.cursor)
        whole = self.tenure.keep(standing.version)
        if standing != self.lineage.commit:
            self.load(standing)
        else:
            self.lineage.tidy(self.book)
            self.desk.tidy()
            self.runtime.stream.trim(self.run, self.cursor)
        if not whole:
            self._start_over()

    def _keep_lease(self, version: int) -> None:
        if not self.tenure.keep(version):
            self._start_over()

    def _start_over(self) -> None:
        # The state store was emptied, and perhaps stream and queues with it: a new stream counts from its beginning.
        self.book.forgets_sending()
        self.vigil.begin()
        self.cursor = START
