"""What the state machine once found, small and by name."""

import pytest

from tests.runs.test_machine import Engine


@pytest.mark.parametrize(("max_staleness", "fate"), [(0, "rejected"), (1, "late")])
def test_what_came_before_a_closing_unseen_belongs_behind_it_in_a_replay_too(max_staleness: int, fate: str) -> None:
    """The third manifest reaches the stream after the loop's last look and before its closing; then the loop dies."""
    engine = Engine()
    rounds = {"versions": 2, "in_flight": 3, "quorum": 2, "floor": 1, "grace_s": 0, "max_staleness": max_staleness}
    engine._begin(rounds, 3)
    engine.steps(2)
    tasks = [t for t in engine.world.bus.queue if t.kind == "train"]
    for number, task in enumerate(tasks):
        engine.world.bus.queue.remove(task)
        engine._answer(task, "well", sneaking=number == 2)
    engine.world.fuse.left = 2  # the closing is in the stream, the model of the version is not in the store
    engine.steps(1)
    assert engine.loop is None and engine.world.stream.entries[-1].author == "decision"
    engine.teardown()
    last = engine.commits.last()
    assert last is not None
    share = last.ledger[tasks[2].clients[0].client]
    assert getattr(share, fate) == 1 and share.accepted == 1


def test_the_private_state_that_an_expired_task_may_still_read_is_not_deleted() -> None:
    engine = Engine()
    rounds = {"versions": 4, "in_flight": 2, "quorum": 1, "floor": 1, "grace_s": 0, "deadline_s": 4, "max_staleness": 3}
    engine._begin(rounds, 2, virtual=True)
    for _ in range(60):
        queue = engine.world.bus.queue
        slow = [t for t in queue if t.clients[0].client == "c0" and t.base > 0]
        for task in [t for t in queue if t not in slow]:
            queue.remove(task)
            engine._answer(task, "well")
        if not engine.ended:
            engine.steps(1)
        engine.world.passes(0.5)
    engine.teardown()


def test_a_closing_whose_round_the_stream_has_lost_costs_at_most_the_open_version() -> None:
    """Redis is emptied after the asking; then the loop dies between the closing and the commit."""
    engine = Engine()
    rounds = {"versions": 2, "in_flight": 2, "quorum": 2, "floor": 1, "grace_s": 0}
    engine._begin(rounds, 2)
    engine.steps(2)
    engine.world.empty()
    engine.world.passes(1.5)  # to the next look at the lease, after which what is open is sent again
    engine.steps(2)
    queue = engine.world.bus.queue
    for task in [t for t in queue if t.kind == "train"]:
        queue.remove(task)
        engine._answer(task, "well")
    engine.world.fuse.left = 2  # the closing is in the stream, the model of the version is not in the store
    engine.steps(1)
    assert engine.loop is None and '"closed"' in engine.world.stream.entries[-1].body
    engine.teardown()
    last = engine.commits.last()
    assert last is not None and last.version == 2
    assert {share.accepted for share in last.ledger.values()} == {2}


def test_a_manifest_that_names_another_run_is_ignored() -> None:
    engine = Engine()
    engine._begin({"versions": 1, "in_flight": 1, "quorum": 1, "floor": 1}, 1)
    engine.steps(2)
    (task,) = [t for t in engine.world.bus.queue if t.kind == "train"]
    engine._answer(task, "other run")
    engine.steps(2)
    assert engine.loop is not None and engine.loop.book.version == 0 and task.task_id in engine.loop.book.open
    engine._answer(task, "well")
    engine.steps(2)
    assert engine.loop.book.version == 1


def test_a_decision_that_stands_twice_in_the_stream_is_made_once() -> None:
    engine = Engine()
    rounds = {"versions": 2, "in_flight": 3, "quorum": 1, "floor": 1, "refill": "at_arrival", "max_staleness": 2}
    engine._begin(rounds, 3)
    engine.world.stream.stammers = True
    engine.steps(3)
    engine.a_replay_knows_the_same()
    assert engine.loop is not None and len(engine.loop.book.training()) == 3
    engine.loop = None
    engine.steps(1)
    engine.teardown()
