"""The loop: asks, listens, closes and commits, until the last version. The only place where a run decides.

A loop that died is replayed from the last commit through the same code. One thread, one per run (orchestrator.tenure).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from infra.clock import VirtualClock
from infra.runtime import Runtime
from infra.stream import START, Entry
from orchestrator import rounds
from orchestrator.asking import Asking
from orchestrator.book import Book
from orchestrator.commits import Commits
from orchestrator.desk import Desk
from orchestrator.hearing import Hearing
from orchestrator.hindsight import understood
from orchestrator.intake import Intake
from orchestrator.joining import Joining
from orchestrator.journal import Journal
from orchestrator.lineage import Lineage
from orchestrator.merging import Merging
from orchestrator.plan import Plan
from orchestrator.post import Post
from orchestrator.simulate import Simulator
from orchestrator.tenure import EVERY_S, Tenure
from orchestrator.vigil import Vigil
from schemas.decisions import Closed, Refined
from schemas.errors import BlobExists, BlobMissing
from schemas.log import Commit, Event, Open
from workers.method import State


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
        self.desk = Desk(runtime, post, self.lineage, self.journal, instant=self.virtual, seen=lambda: self.cursor)
        self.asking = Asking(plan, self.lineage, self.desk, self.clock, simulator)
        self.merging = Merging(plan, self.desk, self.lineage, runtime.blobs)
        self.joining = Joining(self.desk, self.lineage, runtime.blobs, plan.experiment.start_s)
        self.hearing = Hearing(self.intake, self.lineage, self.desk, self.joining, self.merging)
        self.vigil = Vigil(self.run, runtime.state, runtime.bus, simulator)

    def load(self, commit: Commit) -> None:
        """Stand where a commit stands. What was decided after it, the next step takes in first."""
        self.replayed = False
        self.lineage.load(commit)
        self.intake.simulator.begins(commit.began)
        self.joining.begin()
        self.merging.begin()
        self.book = self.desk.load(Book.of(self.spec, commit, self.plan.least))
        self.cursor = commit.cursor
        self.clock.catch_up(commit.at)

    def go(self) -> None:
        """See the run through to its end. Raises QuorumError, LeaseLost, Cancelled, and what stores and bus raise."""
        while self.step():
            pass

    def step(self) -> bool:
        """Replay, if a commit was loaded; then evaluate, ask, close or listen, once. False if nothing is left to do."""
        self.replay()
        with self._adopting():
            return self._goes_on()
        return True

    def _goes_on(self) -> bool:
        self.asking.evaluate()
        if self.book.version < self.plan.versions:
            self.absorb()
            self.turn()
        elif any(o.kind == "evaluate" for o in self.book.open.values()):
            self.listen(self.book.next_expiry())
        else:
            return False
        return True

    def replay(self) -> None:
        """Take in the stream behind the commit without sending anything; then send what may not have been sent."""
        while not self.replayed:
            with self._adopting():
                self._replays()

    def _replays(self) -> None:
        if not self.virtual and self.runtime.state.load(self.run) is None:
            self._start_over()
        for entry in understood(lambda after: self.runtime.stream.read(self.run, after, self.clock.now()), self.cursor):
            self.clock.catch_up(entry.at)
            self.take(entry, replaying=True)
            if self.tenure.due():
                self._keep_lease()
        self.hearing.settle(self.clock.now())
        for failure in list(self.hearing.failed.values()):
            self.desk.again(failure.task_id, failure.attempt, f"{failure.code}: {failure.message}")
        self.joining.look(self.clock.now())
        self.desk.send(self.book.unsent())
        self.replayed = True

    @contextmanager
    def _adopting(self) -> Iterator[None]:
        """Where another loop has been faster, stand at its last commit. Raises LeaseLost: only the lease says who owns
        the run. What is missing though nobody was faster is an error."""
        try:
            yield
        except (BlobExists, BlobMissing):
            last = self.lineage.commits.last()
            if last is None or last.version <= self.lineage.commit.version:
                raise
            whole = self.tenure.keep(last.version)
            self.load(last)
            if not whole:
                self._start_over()

    def turn(self) -> None:
        """Do what the round rule says for one of the groups; if it has none of them do anything, listen.

        While a worker goes on with the model of a closed round, nothing else is decided.
        """
        if self.merging.underway:
            return self.refine()
        waits = []
        for group in self.book.turns():
            until = self.act(group)
            if until is None:
                return
            waits.append(until)
        self.listen(min(waits))

    def act(self, group: str) -> float | None:
        """Ask, or do what the round rule says for a group; or until when to wait. Raises QuorumError.

        A round that can close does so before anyone else is asked; but one that has just opened asks first.
        """
        if self.spec.refill == "at_close" and self.asking.train(group):
            return None
        progress = replace(self.book.progress(group), returns=self.asking.returns(group))
        verdict = rounds.decide(self.book.numbers(group), progress, self.clock.now())
        if isinstance(verdict, rounds.Wait | rounds.Abort) and self.asking.train(group):
            return None
        match verdict:
            case rounds.Wait():
                return verdict.until
            case rounds.Close():
                self.close(group)
            case rounds.Abort() if not progress.in_flight and self.book.slots() <= 0:
                return progress.next_expiry  # the other groups hold every slot, so nobody of this one could be asked
            case rounds.Abort():
                self.retry(group)
        return None

    # --- listening

    def listen(self, until: float) -> None:
        """Let time pass until `until` or an arrival, take in what comes, and give up what is overdue."""
        if self.tenure.due():
            self.look_around()
        wake = min(until, self.intake.next_due(self.book))
        wake = wake if self.virtual else min(wake, self.clock.now() + EVERY_S)
        for entry in self.runtime.stream.read(self.run, self.cursor, wake):
            self.take(entry)
        self.hearing.settle(self.clock.now())

    def absorb(self) -> None:
        """Take in all that has come already. What is decided next then does not depend on whether this is a replay."""
        while entries := self.runtime.stream.read(self.run, self.cursor, self.clock.now()):
            for entry in entries:
                self.take(entry)
        self.hearing.settle(self.clock.now())

    def take(self, entry: Entry, *, replaying: bool = False) -> None:
        """One entry of the stream. The loop's own decisions are news only in a replay."""
        self.cursor = entry.id
        match self.hearing.take(entry, replaying=replaying):
            case Closed() as decision:
                self.end_round(decision, entry.at)
            case Refined() as decision:
                self.end_merge(decision, entry.at)

    def look_around(self) -> None:
        """Extend the lease, send what the bus did not take, and see which workers have gone silent."""
        self._keep_lease()
        self.desk.send(self.book.unsent())
        if not self.virtual:
            self.desk.look(self.vigil, self.clock.now())
            self.joining.look(self.clock.now())

    # --- closing

    def retry(self, group: str) -> None:
        """Too few updates: ask replacements, or give up. Raises QuorumError."""
        if self.book.rounds[group].retries >= self.spec.retries:
            raise self.asking.failed(group)
        self.desk.retry(group)

    def close(self, group: str) -> None:
        """End the round of a group and commit the next version."""
        if task := self.end_round(*self.desk.close(group)):
            self.desk.send([task])

    def end_round(self, closed: Closed, at: float) -> Open | None:
        """Commit the next version, or open the task by which a worker goes on with it."""
        if self.merging.wanted(closed):
            return self.merging.opens(closed, at)
        self.commit(closed, at)
        return None

    def refine(self) -> None:
        """Wait for the worker that goes on with a merged model, or commit what came of it."""
        decision = self.merging.over()
        if decision is None:
            self.listen(self.book.next_expiry())
        else:
            self.end_merge(decision, self.desk.log(decision))

    def end_merge(self, decision: Refined, at: float) -> None:
        """Commit what a worker made of the merged model, or that model."""
        closed, state = self.merging.ends(decision, at)
        self.commit(closed, at, state)

    def commit(self, closed: Closed, at: float, made: State | None = None) -> None:
        """Make the next version true, then tidy up. Raises LeaseLost, BlobExists, BlobMissing."""
        self.lineage.extend(self.book, closed, at, self.cursor, made)
        cursor = self.cursor
        self._keep_lease()
        self.lineage.tidy(self.book)
        self.desk.tidy()
        self.runtime.stream.trim(self.run, cursor)

    def _keep_lease(self) -> None:
        if not self.tenure.keep(self.book.version):
            self._start_over()

    def _start_over(self) -> None:
        # The state store was emptied, and perhaps stream and queues with it: a new stream counts from its beginning.
        self.book.forgets_sending()
        self.vigil.begin()
        self.cursor = START
