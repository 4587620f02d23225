"""Who is at work: heard once and then silent twice is gone; never heard and in no queue is lost."""

from pathlib import Path

import pytest

from infra.bus import LocalBus
from infra.state import FileState
from orchestrator.book import Book
from orchestrator.plan import plan
from orchestrator.simulate import Simulator
from orchestrator.vigil import ASTRAY, SETTLE_S, Vigil
from schemas.decisions import Asked
from schemas.experiment import Rounds
from schemas.log import Held, Open
from schemas.messages import Manifest
from tests.toys import experiment


class Beats(FileState):
    """A state store whose workers are heard as the test says."""

    heard: set[str] = set()

    def beating(self, run: str, works: object) -> set[str]:
        return self.heard & set(works)  # type: ignore[call-overload, no-any-return]


class Queue(LocalBus):
    """A bus whose queue is as long as the test says."""

    length = 1

    def backlog(self, site: str | None) -> int:
        return self.length


@pytest.fixture
def bus() -> Queue:
    return Queue(lambda _: None)


@pytest.fixture
def state(tmp_path: Path) -> Beats:
    return Beats(tmp_path)


@pytest.fixture
def book() -> Book:
    made = Book(Rounds())
    task = Open(task_id="v0-ann-0", kind="train", base=0, clients=("ann",), attempt=1, asked_at=0.0)
    made.asks(Asked(version=0, tasks=(task,)), 0.0, instant=False)
    return made


@pytest.fixture
def vigil(state: Beats, bus: Queue) -> Vigil:
    return Vigil("r", state, bus, Simulator.of(plan(experiment()), virtual=False))


def look(book: Book, vigil: Vigil, now: float) -> list[str]:
    """Look, note who was heard, and name the tasks to send again."""
    heard, gone = vigil.look(book.unanswered(), now)
    for task in heard:
        book.starts(task.task_id, now)
    return [task.task_id for task, _ in gone]


def test_a_worker_that_was_never_heard_is_not_missed(book: Book, vigil: Vigil) -> None:
    assert [look(book, vigil, t) for t in (1.0, 2.0, 3.0, 4.0, 5.0)] == [[]] * 5
    assert book.open["v0-ann-0"].started_at is None


def test_a_worker_heard_once_and_silent_twice_is_gone(book: Book, vigil: Vigil, state: Beats) -> None:
    state.heard = {"v0-ann-0.1"}
    assert [look(book, vigil, t) for t in (1.0, 2.0, 3.0)] == [[]] * 3
    assert book.open["v0-ann-0"].started_at == 1.0
    state.heard = set()
    assert [look(book, vigil, t) for t in (4.0, 5.0)] == [[], ["v0-ann-0"]]


def test_a_worker_that_an_earlier_life_heard_is_missed_within_seconds(book: Book, vigil: Vigil, state: Beats) -> None:
    book.starts("v0-ann-0", -100.0)
    assert [look(book, vigil, t) for t in (1.0, 2.0, 3.0)] == [[]] * 3  # it may be heard yet
    assert look(book, vigil, 1.0 + SETTLE_S) == ["v0-ann-0"]


def test_after_the_store_lost_all_beats_workers_have_time_to_be_heard_again(
    book: Book, vigil: Vigil, state: Beats
) -> None:
    state.heard = {"v0-ann-0.1"}
    assert [look(book, vigil, t) for t in (1.0, 5.0)] == [[], []]
    vigil.begin()
    state.heard = set()
    assert [look(book, vigil, t) for t in (6.0, 7.0, 8.0)] == [[]] * 3
    state.heard = {"v0-ann-0.1"}
    assert look(book, vigil, 9.0) == []


def test_one_silent_look_between_two_beats_is_forgiven(book: Book, vigil: Vigil, state: Beats) -> None:
    for now, heard in enumerate([{"v0-ann-0.1"}, set(), {"v0-ann-0.1"}, set(), {"v0-ann-0.1"}, set()]):
        state.heard = heard
        assert look(book, vigil, float(now)) == []


def test_a_task_whose_manifest_is_here_has_lost_nobody(book: Book, vigil: Vigil, state: Beats) -> None:
    state.heard = {"v0-ann-0.1"}
    look(book, vigil, 1.0)
    state.heard = set()
    look(book, vigil, 5.0)
    book.held.append(Held(due=9.0, manifest=Manifest(run="r", task_id="v0-ann-0", attempt=1, worker="w", seconds=1.0)))
    assert look(book, vigil, 6.0) == []


def test_a_task_that_is_in_no_queue_and_with_nobody_is_lost(book: Book, vigil: Vigil, bus: Queue) -> None:
    bus.length = 0
    assert [look(book, vigil, 0.0) for _ in range(ASTRAY)] == [[]] * ASTRAY  # the bus has not surely taken it
    book.sends(["v0-ann-0"])
    assert [look(book, vigil, 0.0) for _ in range(ASTRAY)] == [[]] * (ASTRAY - 1) + [["v0-ann-0"]]


def test_a_task_that_waits_in_a_queue_is_not_lost(book: Book, vigil: Vigil, bus: Queue) -> None:
    book.sends(["v0-ann-0"])
    bus.length = 0
    assert [look(book, vigil, 0.0) for _ in range(ASTRAY - 1)] == [[]] * (ASTRAY - 1)
    bus.length = 1
    assert look(book, vigil, 0.0) == []
    bus.length = 0
    assert look(book, vigil, 0.0) == [], "counted anew"


def test_a_task_that_somebody_is_at_is_not_lost(book: Book, vigil: Vigil, bus: Queue, state: Beats) -> None:
    book.sends(["v0-ann-0"])
    bus.length, state.heard = 0, {"v0-ann-0.1"}
    assert [look(book, vigil, 0.0) for _ in range(2 * ASTRAY)] == [[]] * (2 * ASTRAY)


def test_a_task_whose_queue_has_given_a_later_one_is_lost_though_more_wait_there(
    book: Book, vigil: Vigil, bus: Queue, state: Beats
) -> None:
    later = Open(task_id="v0-bob-1", kind="train", base=0, clients=("bob",), attempt=1, asked_at=1.0)
    book.asks(Asked(version=0, batch=1, tasks=(later,)), 1.0, instant=False)
    book.sends(["v0-ann-0", "v0-bob-1"])
    assert [look(book, vigil, 2.0) for _ in range(2 * ASTRAY)] == [[]] * (2 * ASTRAY)
    state.heard = {"v0-bob-1.1"}
    assert [look(book, vigil, 3.0) for _ in range(ASTRAY)] == [[]] * (ASTRAY - 1) + [["v0-ann-0"]]


def test_one_that_was_answered_before_anybody_was_heard_has_left_the_queue_too(
    book: Book, vigil: Vigil, bus: Queue
) -> None:
    later = Open(task_id="v0-bob-1", kind="train", base=0, clients=("bob",), attempt=1, asked_at=1.0)
    book.asks(Asked(version=0, batch=1, tasks=(later,)), 1.0, instant=False)
    book.sends(["v0-ann-0", "v0-bob-1"])
    assert look(book, vigil, 2.0) == []
    del book.open["v0-bob-1"]
    assert [look(book, vigil, 3.0) for _ in range(ASTRAY)] == [[]] * (ASTRAY - 1) + [["v0-ann-0"]]
