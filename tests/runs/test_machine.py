"""A state machine that plays the world around the real loop, in whatever order hypothesis likes.

Messages are worked on well and badly, lost, doubled and answered out of order; the bus fails, the stores are emptied,
the loop dies between any two operations, is replayed, and meets its own ghost. After every step the numbers of the
engine hold; at the end hypothesis keeps its hands off, the run must end by itself, and its history passes the audit.
"""

import copy
import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from infra.clock import VirtualClock
from orchestrator import keys
from orchestrator.audit import audit
from orchestrator.commits import Commits
from orchestrator.loop import Loop
from orchestrator.plan import plan
from orchestrator.tenure import LEASE_S, Tenure
from schemas.errors import LeaseLost, QuorumError, StoreError
from schemas.experiment import Experiment
from schemas.log import Event, Final
from tests.runs.world import HandClock, Killed, Turn, World, commit_zero
from workers.private import OWN
from workers.tensors import unpack

OUTCOMES = (
    "well", "not finite", "shapes", "names", "garbage", "too large", "wrong hash", "absent", "not granted", "no update",
    "weightless", "private elsewhere", "unreadable", "unknown task", "other run", "no result", "two results",
    "other client", "one fails", "client", "infra", "grant",
)  # fmt: skip
MOSTLY_WELL = st.sampled_from(["well", "well", "well", "ill"])
"""`ill` is one of the other outcomes, each in its turn: hypothesis by itself draws some of them hardly ever."""
HAPPENINGS = st.lists(st.tuples(
    st.integers(0, 9), MOSTLY_WELL, st.sampled_from([0.0, 0.0, 0.3, 1.1]),
    st.sampled_from(["step", "step", "no", "sneak"]),
), min_size=1, max_size=8)  # fmt: skip
"""Which message, how it is worked on, seconds, and whether the loop looks then, or not, or is about to speak."""

SEEN: Counter[str] = Counter()
"""How often each situation occurred, over all examples."""


POLYNOMIAL = {"name": "polynomial", "params": {"a": 1.5}}
HINGE = {"name": "hinge", "params": {"a": 2, "b": 1}}


@st.composite
def rounds(draw: st.DrawFn) -> dict[str, Any]:
    """The round rule of any mode, by numbers."""
    in_flight = draw(st.integers(1, 5))
    quorum = draw(st.integers(1, in_flight))
    return {
        "versions": draw(st.integers(1, 6)),
        "in_flight": in_flight,
        "quorum": quorum,
        "floor": draw(st.integers(1, quorum)),
        "grace_s": draw(st.sampled_from([0, 0.5, 2])),
        "deadline_s": draw(st.sampled_from([4, 10, 60])),
        "refill": draw(st.sampled_from(["at_close", "at_arrival"])),
        "max_staleness": draw(st.integers(0, 3)),
        "staleness": draw(st.sampled_from(["sqrt", "constant", POLYNOMIAL, HINGE])),
        "apply": draw(st.sampled_from(["delta", "mix"])),
        "server_lr": draw(st.sampled_from([1.0, 0.6])),
        "retries": draw(st.integers(0, 3)),
        "clients_per_task": draw(st.sampled_from([1, 1, 2, 3])),
    }  # fmt: skip


def simulated(draw: st.DrawFn) -> dict[str, Any] | None:
    slow = {"latency": {"name": "lognormal", "params": {"median_s": 2, "sigma": 1}}}
    sessions = {"on_s": 9, "off_s": 4, "comes": {"c0": 2}, "goes": {"c1c1": 30}}
    comes_and_goes = {**slow, "presence": {"name": "sessions", "params": sessions}}
    return draw(st.sampled_from([None, None, slow, {**slow, "dropout": 0.3}, comes_and_goes]))


FEDAVG = {"name": "fedavg"}
METHODS = st.sampled_from([
    FEDAVG,
    FEDAVG,
    {"name": "tests.runs.plugins:Halves", "params": {"right": ["c1c1", "c2"], "moves": {1: "c0", 2: "c2"}}},
    {"name": "tests.runs.plugins:Halves", "params": {"right": ["c1c1", "c2"], "joined": 3}},
    {"name": "tests.runs.plugins:Refining", "params": {"last": 4}},
    {"name": "tests.runs.plugins:RefiningHalves", "params": {"right": ["c1c1", "c2"]}},
])  # fmt: skip
"""One group, or two: clients move, or one of the groups ends. Or a worker goes on with merged models."""


class Engine(RuleBasedStateMachine):
    """The loop of one run, and everything around it."""

    @initialize(
        rounds=rounds(), simulate=st.composite(simulated)(), clients=st.integers(1, 6), virtual=st.booleans(),
        method=METHODS,
    )  # fmt: skip
    def begin(self, rounds: dict[str, Any], clients: int, **others: Any) -> None:
        self.ill = 7 * rounds["versions"] + 3 * rounds["in_flight"] + clients  # so that examples begin elsewhere
        self._begin(rounds, clients, **others)

    @precondition(lambda self: self.ended)
    @rule(
        rounds=rounds(), simulate=st.composite(simulated)(), clients=st.integers(1, 6), virtual=st.booleans(),
        method=METHODS,
    )  # fmt: skip
    def begin_another(self, **drawn: Any) -> None:
        self.its_history_is_whole()
        self._begin(**drawn)

    def _begin(
        self,
        rounds: dict[str, Any],
        clients: int,
        *,
        simulate: dict[str, Any] | None = None,
        virtual: bool = False,
        method: Mapping[str, Any] = FEDAVG,
    ) -> None:
        self.world = World(VirtualClock() if virtual else HandClock())
        self.ended = False
        self.owner = 0
        rounds = rounds if simulate is None else {**rounds, "clients_per_task": 1}  # else they are refused together
        self.version = 0
        self.torn = -1
        self.experiment = Experiment.model_validate({
            "name": "r", "data": {"params": {"root": "/nowhere"}}, "method": method, "rounds": rounds,
            "simulate": simulate, "evaluate": {"every": 2}, "codec": {"name": "raw"},
        })  # fmt: skip
        names = [f"c{i}" * (1 + i % 2) for i in range(clients)]
        self.commits = commit_zero(self.world, self.experiment, names, self._watch)
        self.loop: Loop | None = None
        self.ghost: Loop | None = None
        self._live()

    def _watch(self, event: Event) -> None:
        SEEN["restated" if event.event == "late" and "weight" not in event.facts else event.event] += 1
        if "reason" in event.facts:
            SEEN[f"{event.event}: {str(event.facts['reason']).partition(':')[0]}"] += 1

    # --- lives of the loop

    def _live(self) -> None:
        """A process takes the run up, as soon as its lease is free, and replays."""
        self.owner += 1
        tenure = Turn("r", f"owner-{self.owner}", self.world.state)
        tenure.clock, tenure._looked = self.world.clock, self.world.clock.now()
        if not self.world.state.acquire("r", tenure.owner, LEASE_S):
            self.world.passes(LEASE_S)
            assert self.world.state.acquire("r", tenure.owner, LEASE_S)
        self.loop = Loop(plan(self.experiment), self.world.runtime, self.commits, tenure, self._watch)
        self._guarded(self._take_up)

    def _take_up(self) -> None:
        assert self.loop is not None
        last = self.commits.last()
        assert last is not None
        self.loop.load(last)
        self.loop.replay()

    def _guarded(self, act: Any) -> None:
        """One act of the living loop, and what a process does about how it ends."""
        try:
            act()
        except Killed:
            SEEN["killed"] += 1
            self.loop = None
        except StoreError:
            SEEN["a store failed"] += 1
            self.loop = None
        except LeaseLost:
            SEEN["lease lost"] += 1
            self.loop = None
        except QuorumError as e:
            self._end("failed", str(e))

    def _end(self, status: str, reason: str = "") -> None:
        assert self.loop is not None
        SEEN[status] += 1
        self.world.fuse.left = -1
        number, journal = self.loop.book.version, self.loop.journal
        journal.record("finished", self.world.clock.now(), number, status=status, reason=reason)
        ref = self.commits.put_journal(number, journal.events)
        facts = {"run": "r", "status": status, "reason": reason, "version": number, "journal": ref}
        self.commits.finish(Final.model_validate(facts))
        self.ended = True

    def _step(self) -> None:
        if self.loop is None:
            self._live()
        elif not self.ended:
            loop = self.loop
            more = []
            self._guarded(lambda: more.append(loop.step()))
            if more == [False]:
                self._end("finished")
        self.the_numbers_hold()
        self.what_a_task_refers_to_is_there()

    # --- what may happen

    going = precondition(lambda self: not self.ended)

    @going
    @rule(times=st.integers(1, 4))
    def steps(self, times: int) -> None:
        for _ in range(times):
            self._step()

    @precondition(lambda self: not self.ended and self.world.bus.queue)
    @rule(which=st.integers(0, 9), how=MOSTLY_WELL, sneaking=st.booleans())
    def work(self, which: int, how: str, sneaking: bool) -> None:
        task = self.world.bus.queue.pop(which % len(self.world.bus.queue))
        self._answer(task, how, sneaking=sneaking)

    @going
    @rule(happenings=HAPPENINGS)
    def traffic(self, happenings: list[tuple[int, str, float, str]]) -> None:
        """Messages are worked on in some order; the loop looks in between, or is about to say something itself."""
        for which, how, seconds, then in happenings:
            if self.ended:
                return
            if queue := self.world.bus.queue:
                self._answer(queue.pop(which % len(queue)), how, sneaking=then == "sneak")
            self.world.passes(seconds)
            if then != "no":
                self._step()

    def _answer(self, task: Any, how: str, *, sneaking: bool = False) -> None:
        if how == "ill":
            self.ill += 1
            how = OUTCOMES[1 + self.ill % (len(OUTCOMES) - 1)]
        SEEN[f"worked: {how}"] += 1
        SEEN["sneaking"] += sneaking
        self.world.says(self.world.works(task, how), sneaking=sneaking)
        self.world.done.append(task)

    @precondition(lambda self: not self.ended and self.world.done)
    @rule(which=st.integers(0, 20), how=st.sampled_from(OUTCOMES))
    def work_again(self, which: int, how: str) -> None:
        """A message is delivered twice, or a worker that was given up answers after all."""
        SEEN["worked again"] += 1
        self.world.says(self.world.works(self.world.done[-1 - which % len(self.world.done)], how))

    @precondition(lambda self: not self.ended and self.world.bus.queue)
    @rule(which=st.integers(0, 9))
    def lose(self, which: int) -> None:
        SEEN["message lost"] += 1
        self.world.done.append(self.world.bus.queue.pop(which % len(self.world.bus.queue)))

    @precondition(lambda self: not self.ended and self.world.bus.queue)
    @rule(which=st.integers(0, 9))
    def start_work(self, which: int) -> None:
        SEEN["work started"] += 1
        self.world.busy.append(self.world.bus.queue.pop(which % len(self.world.bus.queue)))
        self.world.passes(0)

    @precondition(lambda self: not self.ended and self.world.busy)
    @rule(which=st.integers(0, 9), how=st.sampled_from(["falls silent", "well", "ill"]))
    def end_work(self, which: int, how: str) -> None:
        task = self.world.busy.pop(which % len(self.world.busy))
        if how == "falls silent":
            SEEN["worker silent"] += 1
            self.world.done.append(task)
        else:
            self._answer(task, how)

    @going
    @rule(seconds=st.sampled_from([0.1, 0.6, 1.1, 3.5, 11.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.passes(seconds)

    @going
    @rule(mood=st.sampled_from(["well", "refuses", "takes and fails"]))
    def bus(self, mood: Any) -> None:
        SEEN[f"bus: {mood}"] += 1
        self.world.bus.mood = mood

    @going
    @rule(stammers=st.booleans())
    def stream(self, stammers: bool) -> None:
        SEEN["stream stammers"] += stammers
        self.world.stream.stammers = stammers

    @going
    @rule(left=st.integers(1, 25), after=st.booleans(), error=st.sampled_from([Killed, StoreError]))
    def dies(self, left: int, after: bool, error: type[BaseException]) -> None:
        """The loop goes on, and dies before or after some operation; or a store fails there."""
        self.world.fuse.left, self.world.fuse.after, self.world.fuse.error = left, after, error
        for _ in range(8):
            if self.loop is not None and not self.ended:
                if self.world.bus.queue:
                    self._answer(self.world.bus.queue.pop(0), "well")
                self._step()
        self.world.fuse.left = -1

    @going
    @rule(really=st.sampled_from([False, False, True]))
    def emptied(self, really: bool) -> None:
        if not really:
            return
        SEEN["emptied"] += 1
        self.torn = self.version
        self.world.empty()

    @precondition(lambda self: not self.ended and self.loop is not None and self.ghost is None)
    @rule()
    def freezes(self) -> None:
        """The process is frozen; another takes its run over."""
        if isinstance(self.world.clock, HandClock):
            SEEN["frozen"] += 1
            self.ghost, self.loop = self.loop, None

    @precondition(lambda self: not self.ended and self.ghost is not None)
    @rule(times=st.integers(1, 4))
    def thaws(self, times: int) -> None:
        ghost, self.ghost = self.ghost, None
        self.torn = self.version
        assert ghost is not None
        try:
            for _ in range(times):
                ghost.step()
        except (LeaseLost, QuorumError, StoreError):
            SEEN["ghost gone"] += 1

    @precondition(lambda self: not self.ended and self.loop is not None and self.ghost is None)
    @rule()
    def a_replay_knows_the_same(self) -> None:
        """A copy of the world, in which another process replays: it comes to the same book."""
        assert self.loop is not None
        self._guarded(self._hear_all)
        if self.loop is not None and not self.ended:
            self._guarded(self.loop.absorb)  # what sneaked in before the decisions of the first time
        if self.loop is None or self.ended or self.torn >= self.loop.book.version:
            return  # what an emptied store has lost, or a ghost has said, only the next commit settles
        SEEN["compared"] += 1
        other = copy.deepcopy(self.world)
        other.fuse.left = -1
        commits = Commits("r", other.blobs)
        last = commits.last()
        assert last is not None
        loop = Loop(plan(self.experiment), other.runtime, commits, self._tenure(other), lambda event: None)
        loop.load(last)
        loop.replay()
        replayed, lived = known(loop), known(self.loop)
        assert {k: (v, lived[k]) for k, v in replayed.items() if v != lived[k]} == {}, "(replayed, lived)"

    def _hear_all(self) -> None:
        assert self.loop is not None
        if not self.loop.replayed:  # it has adopted what another one committed
            self.loop.replay()
        self.loop.absorb()

    def _tenure(self, world: World) -> Tenure:
        tenure = Turn("r", world.state.lease[0] if world.state.lease else "copy", world.state)
        tenure.clock, tenure._looked = world.clock, world.clock.now()
        return tenure

    # --- what always holds

    def the_numbers_hold(self) -> None:
        if self.loop is None or self.ended:
            return
        book = self.loop.book
        assert sum(len(o.clients) for o in book.training()) <= self.experiment.rounds.in_flight
        assert book.version >= self.version
        self.version = book.version
        clients = [c for o in book.training() for c in o.clients]
        assert len(clients) == len(set(clients)), "a client has one unexpired task at most"

    def what_a_task_refers_to_is_there(self) -> None:
        if self.loop is None or self.ended:
            return
        if keys.version("r", self.loop.book.version + 1) in self.world.blobs.objects:
            return  # a ghost was faster: the loop adopts that version at its next commit
        book, there = self.loop.book, self.world.blobs.objects
        late = [o for o in book.expired.values() if o.kind == "train" and book.lag(o) <= book.spec.max_staleness]
        for task in [*book.open.values(), *late]:
            assert self.loop.lineage.models[task.base][task.group].key in there
            assert all(b.key in there for b in task.private.values() if not b.key.startswith(OWN)), task
        assert all(a.update.key in there for a in book.accepted.values())

    def teardown(self) -> None:
        """Nobody interferes any more: the run ends by itself, and its history is whole."""
        if not hasattr(self, "loop"):
            return
        self.world.bus.mood, self.world.fuse.left, self.world.stream.stammers = "well", -1, False
        for _ in range(3000):
            if self.ended:
                break
            while self.world.busy:
                self.world.bus.queue.append(self.world.busy.pop())
            while self.world.bus.queue:
                self._answer(self.world.bus.queue.pop(0), "well")
            before = self.world.stream.number
            self._step()
            if self.world.stream.number == before and self.world.stream.wanted < float("inf"):
                self.world.passes(max(0.0, self.world.stream.wanted - self.world.clock.now()))
        assert self.ended, "the run does not end"
        self.its_history_is_whole()
        self._moved_by_what_counted()

    def its_history_is_whole(self) -> None:
        told = audit(self.commits).violations
        assert not told, "\n".join(told)

    def _moved_by_what_counted(self) -> None:
        last = self.commits.last()
        assert last is not None
        for blob in last.models[last.version].values():
            assert unpack(self.world.blobs.get(blob))["w"].isfinite().all()


def known(loop: Loop) -> dict[str, Any]:
    """What a loop knows. When it learnt it is another matter on a wall clock, and sending is not a fact of the book."""
    dump = loop.book.dump()
    dump["open"] = sorted((o.task_id, o.attempt) for o in dump["open"])
    dump["expired"] = sorted((o.task_id, o.attempt) for o in dump["expired"])
    dump["held"] = sorted(h.manifest.task_id for h in dump["held"])
    dump["accepted"] = sorted((a.task_id, a.client, a.update.sha256) for a in dump["accepted"])
    return dump


EXAMPLES = int(os.environ.get("QUORATE_EXAMPLES", "0"))
TestEngine = pytest.mark.timeout(300 + 10 * EXAMPLES)(Engine.TestCase)
"""Hypothesis takes a test that was cut off in an example for one that generates data in another way each time."""
TestEngine.settings = settings(
    max_examples=EXAMPLES or 120, stateful_step_count=40, deadline=None, database=None, derandomize=not EXAMPLES,
    suppress_health_check=list(HealthCheck), print_blob=False,
    phases=[Phase.generate, *([Phase.shrink] if EXAMPLES else [])],  # to shrink may take minutes
)  # fmt: skip

SITUATIONS = (
    "accepted", "late", "lost: deadline", "ignored: duplicate", "ignored: unknown or too old", "retried",
    "unevaluated: deadline", "worked again", "message lost", "work started", "sneaking",
    "stream stammers",
    "bus: refuses", "bus: takes and fails", "killed", "a store failed", "emptied", "frozen", "compared", "finished",
    "failed",
)  # fmt: skip


def test_what_luck_brings_to_few_examples_is_played_by_hand() -> None:
    """An answer without a result, and one that comes after the last version."""
    engine = Engine()
    rounds = {"versions": 1, "in_flight": 2, "quorum": 1, "floor": 1, "refill": "at_arrival", "max_staleness": 2}
    engine._begin(rounds, 3)
    engine.steps(2)
    for how in ("no result", "well", "well"):
        queue = engine.world.bus.queue
        task = next(t for t in queue if t.kind == "train")
        queue.remove(task)
        engine._answer(task, how)
        engine.steps(2)
    engine.teardown()
    last = engine.commits.last()
    assert last is not None and last.version == 1
    assert SEEN["lost: no result in the manifest"] and SEEN["rejected: run over"]


@pytest.fixture(scope="module")
def seen() -> Counter[str]:
    """What has occurred once the machine has run: before these tests in the order of the file, else now."""
    if not SEEN["compared"]:
        run_state_machine_as_test(Engine, settings=TestEngine.settings)  # type: ignore[no-untyped-call]
    return SEEN


@pytest.mark.parametrize("situation", SITUATIONS)
def test_each_situation_occurred(seen: Counter[str], situation: str) -> None:
    assert seen[situation]


@pytest.mark.parametrize("how", OUTCOMES)
def test_however_one_client_answers_the_run_ends_and_is_whole(how: str) -> None:
    """Each way once for sure: the machine meets some of them hardly ever."""
    engine = Engine()
    rounds = {"versions": 2, "in_flight": 3, "quorum": 3, "floor": 1, "deadline_s": 4, "max_staleness": 1}
    engine._begin(rounds, 3)
    engine.steps(2)
    task = next(t for t in engine.world.bus.queue if t.kind == "train")
    engine.world.bus.queue.remove(task)
    engine._answer(task, how)
    engine.steps(4)
    engine.teardown()
    final = engine.commits.final()
    assert final is not None and (final.status, final.version) == ("finished", 2)
