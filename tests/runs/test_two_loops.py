"""Two loops on one run: who has lost the lease writes nothing, and a version that another has committed is adopted."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from infra.blobs import FileBlobs
from infra.bus import LocalBus
from infra.runtime import Runtime
from infra.stream import Entry, FileStream
from orchestrator import keys, orders
from orchestrator import run as runs
from orchestrator.book import Book
from orchestrator.commits import Commits
from orchestrator.loop import Loop
from orchestrator.plan import plan
from schemas.decisions import Asked
from schemas.errors import BlobMissing, LeaseLost
from schemas.experiment import Experiment
from schemas.messages import BlobRef
from tests.checked import whole
from tests.runs import here
from tests.runs.here import Killed, ignore
from tests.runs.stage import Stage
from tests.runs.test_crash import MODES, facts
from tests.runs.test_embedded import small
from tests.runs.world import Fuse, HandClock, MemoryState
from tests.toys import paint
from workers.execute import Worker

V1, V2 = keys.version("r", 1), keys.version("r", 2)
V3 = keys.version("r", 3)


class SharedStream(FileStream):
    """A file that more than one loop writes, so it is read anew each time."""

    def _load(self, run: str) -> list[Entry]:
        if run in self._files:
            os.close(self._files.pop(run))
        self._entries.pop(run, None)
        return super()._load(run)


@dataclass
class Stopping:
    """An object store whose loop stands still right before one of its writes, while something happens."""

    inner: FileBlobs
    key: str
    happens: Callable[[], None]
    reached: bool = False

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> BlobRef:
        if key == self.key and not self.reached:
            self.reached = True
            self.happens()
        return self.inner.put(key, data, if_absent=if_absent)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def side(root: Path, state: MemoryState, key: str = "", happens: Callable[[], None] = lambda: None) -> Runtime:
    """One loop's own way to the stores of a run; it stops before a key is written."""
    bus = LocalBus(lambda text: None)
    stream = SharedStream(root / "state", bus.clock)
    blobs: Any = Stopping(FileBlobs(root / "blobs"), key, happens)
    bus.execute = Worker(name="here", stream=stream, state=state, cache=root / "cache").handle  # type: ignore[arg-type]
    return Runtime(blobs=blobs, state=state, stream=stream, bus=bus)  # type: ignore[arg-type]


def dies(*what: object) -> None:
    raise Killed


def ends(made: Experiment, root: Path, runtime: Runtime) -> dict[str, object]:
    """How the run ends, if its history is whole."""
    outcome = runs.execute(plan(made), runtime, "r", ignore)
    whole(Commits("r", FileBlobs(root / "blobs")))
    return facts(outcome)


def files(root: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in root.rglob("*") if p.is_file() and "cache" not in p.parts}


def two_have_answered(stage: Stage) -> Loop:
    """A loop that has asked, and as many answers as a version takes have come: its next step closes."""
    loop = stage.loop("first")
    loop.step()
    for client in ("ann", "bob"):
        stage.works(client)
    return loop


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("images"))


def longer(images: Path, mode: str) -> Experiment:
    made = small(images, codec={"name": "fp16"}, **MODES[mode])
    return made.model_copy(update={"rounds": made.rounds.model_copy(update={"versions": 4})})


@pytest.mark.parametrize("mode", ["synchronous", "fedbuff"])
def test_a_loop_that_lost_its_lease_before_its_commit_leaves_with_3_and_has_changed_nothing(
    images: Path, tmp_path: Path, mode: str
) -> None:
    made, state = longer(images, mode), MemoryState(HandClock(), Fuse())
    left: list[dict[str, bytes]] = []

    def taken_over() -> None:
        state.lease = None
        with pytest.raises(Killed):
            runs.execute(plan(made), side(tmp_path, state, V3, dies), "r", ignore)
        state.lease = "the other", float("inf")
        left.append(files(tmp_path))

    with pytest.raises(LeaseLost) as lost:
        runs.execute(plan(made), side(tmp_path, state, V2, taken_over), "r", ignore)
    assert lost.value.exit_code == 3
    assert [files(tmp_path)] == left and state.lease == ("the other", float("inf"))
    state.lease = None
    assert ends(made, tmp_path, side(tmp_path, state)) == facts(here.run(made, tmp_path / "undisturbed"))


@pytest.mark.parametrize("mode", ["synchronous", "k of n", "fedbuff", "groups"])
def test_a_loop_that_owns_the_run_adopts_what_another_has_committed_and_goes_on(
    images: Path, tmp_path: Path, mode: str
) -> None:
    made, state = longer(images, mode), MemoryState(HandClock(), Fuse())

    def overtaken() -> None:
        state.lease = None
        with pytest.raises(Killed):
            runs.execute(plan(made), side(tmp_path, state, V3, dies), "r", ignore)
        assert state.lease is None and FileBlobs(tmp_path / "blobs").read(V2, limit=10**6)

    stopped = side(tmp_path, state, V2, overtaken)
    assert ends(made, tmp_path, stopped) == facts(here.run(made, tmp_path / "undisturbed"))
    assert stopped.blobs.reached  # type: ignore[attr-defined]


@pytest.mark.parametrize("left", [V1, V3])
def test_a_loop_that_is_overtaken_before_version_0_goes_on_from_the_last(
    images: Path, tmp_path: Path, left: str
) -> None:
    made, state = longer(images, "synchronous"), MemoryState(HandClock(), Fuse())

    def overtaken() -> None:
        state.lease = None
        with pytest.raises(Killed):
            runs.execute(plan(made), side(tmp_path, state, left, dies), "r", ignore)

    stopped = side(tmp_path, state, keys.version("r", 0), overtaken)
    assert ends(made, tmp_path, stopped) == facts(here.run(made, tmp_path / "undisturbed"))
    assert stopped.blobs.reached  # type: ignore[attr-defined]


# --- in a world where time and work are by hand


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_a_version_adopted_in_a_replay_is_gone_on_from_where_it_stands(stage: Stage) -> None:
    """One loop had seen two updates and another three; the commit of the first lands while a third loop replays."""
    first = two_have_answered(stage)
    third: list[Loop] = []

    def second_closes_with_all(*what: str) -> None:
        stage.works("cem")
        second = stage.loop("second")
        second.replay()
        stage.before("put", V1, dies)
        with pytest.raises(Killed):
            second.step()

    def third_replays(key: str, commit: bytes) -> None:
        third.append(stage.loop("third"))
        stage.before("put", V1, lambda *what: stage.world.blobs.write(key, commit))
        third[0].replay()

    stage.before("arrive", '"closed"', second_closes_with_all)
    stage.before("put", V1, third_replays)
    with pytest.raises(LeaseLost):
        first.step()
    assert [len(d.counted) for d in stage.decided("closed")] == [3, 2]
    assert len(third[0].lineage.commit.counted) == 2
    assert [(a.client, a.base) for a in third[0].book.accepted.values()] == [("cem", 0)]
    stage.ends(third[0])
    last = stage.commits.last()
    assert last is not None and (last.ledger["cem"].late, last.ledger["cem"].lost) == (1, 0)


def test_who_adopts_a_version_takes_over_what_was_decided_after_it(stage: Stage) -> None:
    """A loop hangs before its commit; another commits that version and asks for the next; the first owns the run."""
    first = two_have_answered(stage)
    asked: list[tuple[str, int]] = []

    def overtaken(*what: str) -> None:
        second = stage.loop("second")
        second.replay()
        for _ in range(3):
            second.step()
        assert second.book.version == 1
        asked.extend((task.task_id, task.attempt) for task in second.book.training())
        stage.world.state.lease = None

    stage.before("put", V1, overtaken)
    while first.book.version == 0:
        first.step()
    first.step()
    assert [(o.task_id, o.attempt) for o in first.book.training()] == asked
    assert max(Counter((t.task_id, t.attempt) for t in stage.world.bus.queue).values()) == 1
    assert len([d for d in stage.decided("asked") if d.version == 1]) == 1
    stage.ends(first)


def test_who_was_overtaken_by_more_than_one_version_stands_at_the_last(stage: Stage) -> None:
    """The models of the version in between are deleted by then."""
    stage = Stage(versions=4, max_staleness=0)
    first = two_have_answered(stage)

    def overtaken(*what: str) -> None:
        second = stage.loop("second")
        while second.book.version < 3:
            second.step()
            for client in ("ann", "bob", "cem"):
                stage.works(client)
        stage.world.state.lease = None

    stage.before("put", V1, overtaken)
    while first.book.version == 0:
        first.step()
    assert first.book.version == 3
    stage.ends(first)


def test_whose_updates_another_loop_has_counted_and_deleted_goes_on_from_its_commit(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.intake.BUDGET", 0)  # so that a fold reads them from the store
    first = two_have_answered(stage)

    def overtaken(*what: str) -> None:
        second = stage.loop("second")
        while second.book.version == 0:
            second.step()
        stage.world.state.lease = None

    stage.before("arrive", '"closed"', overtaken)
    while first.book.version == 0:
        first.step()
    assert [e.version for e in stage.told if e.event == "committed"] == [1], "by the other"
    stage.ends(first)


def test_an_update_that_is_missing_though_nobody_was_faster_ends_the_loop(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.intake.BUDGET", 0)
    loop = two_have_answered(stage)
    stage.before(
        "arrive", '"closed"', lambda *what: stage.world.blobs.delete(*stage.world.blobs.keys("runs/r/updates/"))
    )
    with pytest.raises(BlobMissing):
        while loop.book.version == 0:
            loop.step()


def test_a_decision_about_updates_that_are_gone_is_ignored_and_the_run_goes_on(stage: Stage) -> None:
    loop = two_have_answered(stage)
    stage.before("arrive", '"closed"', lambda *what: stage.world.empty())
    stage.before("put", V1, dies)
    with pytest.raises(Killed):
        loop.step()
    assert [len(d.counted) for d in stage.decided("closed")] == [2]
    again = stage.loop("second")
    again.replay()
    assert [e.facts["reason"] for e in stage.told if e.event == "ignored"] == ["closed: 2 counted updates are gone"]
    stage.ends(again)
    last = stage.commits.last()
    assert last is not None and last.version == 2


@pytest.mark.parametrize("client", ["ann", "bob", "cem"])
def test_a_stream_that_tells_the_end_of_a_round_alone_leads_to_no_task_that_was_asked_before(client: str) -> None:
    """Who is asked again after a retry got the number of the one task that the emptied stream still knew."""
    stage = Stage(in_flight=1, quorum=1, floor=1)
    (asked,) = orders.training(Book(stage.made.rounds, seq=1), stage.loop("never").lineage.commit, [client], 1000.0)
    assert asked.task_id == f"v0-{client}-1"
    stage.world.stream.arrive("decision", Asked(version=0, tasks=(asked,)).model_dump_json())
    loop = stage.loop("first")
    loop.replay()
    stage.works(client, "no update")
    steps = 0
    while loop.book.version == 0 and (steps := steps + 1) < 20:
        loop.step()
        while stage.world.bus.queue:
            stage.world.says(stage.world.works(stage.world.bus.queue.pop(0), "well"))
    assert loop.book.version == 1
    stage.ends(loop)


@pytest.mark.parametrize("free", [False, True])
def test_what_another_loop_asked_and_may_not_is_ignored(*, free: bool) -> None:
    """A loop that was frozen speaks once more before it hears that it has lost the run."""
    stage = Stage(in_flight=2)
    stage.loop("first").step()
    (asked,) = (d for d in stage.decided("asked") if d.tasks[0].kind == "train")
    busy = [task.clients[0] for task in asked.tasks]
    client = next(c for c in ("ann", "bob", "cem") if (c not in busy) == free)
    task = asked.tasks[0].model_copy(update={"task_id": "v0-ghost-9", "clients": (client,)})
    ghost = asked.model_copy(update={"batch": asked.batch + 1, "tasks": (task,)})
    stage.world.stream.arrive("decision", ghost.model_dump_json())
    second = stage.loop("second")
    second.replay()
    said = "asked: more than may be in flight" if free else f"asked: {client} is not free"
    assert [e.facts["reason"] for e in stage.told if e.event == "ignored"] == [said]
    assert sorted(c for o in second.book.training() for c in o.clients) == sorted(busy)
    stage.ends(second)


@pytest.mark.parametrize("logged", [False, True])
def test_a_failure_in_a_replay_is_followed_by_what_was_decided_then_or_by_a_new_attempt(
    stage: Stage, logged: bool
) -> None:
    loop = stage.loop("first")
    loop.step()
    stage.works("ann", "infra")
    if logged:
        loop.step()
    else:
        stage.before("arrive", '"resent"', dies)
        with pytest.raises(Killed):
            loop.step()
    assert len(stage.decided("resent")) == logged
    again = stage.loop("second")
    again.replay()
    assert [d.attempt for d in stage.decided("resent")] == [2]
    assert {o.clients[0]: o.attempt for o in again.book.open.values()} == {"ann": 2, "bob": 1, "cem": 1}
    assert [t.attempt for t in stage.world.bus.queue if t.kind == "train" and t.clients[0].client == "ann"] == [1, 2]
    stage.ends(again)
