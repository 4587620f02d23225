"""A site whose worker is there only after version 0, in virtual time and on a bus of its own."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from infra.blobs import FileBlobs
from infra.clock import Clock, VirtualClock
from infra.runtime import Runtime
from infra.state import FileState
from infra.stream import FileStream
from orchestrator import keys
from orchestrator import run as runs
from orchestrator.commits import Commits
from orchestrator.plan import plan
from orchestrator.run import Outcome
from schemas.base import Choice, canonical
from schemas.experiment import Data, SiteData
from schemas.log import Event
from schemas.messages import Description, Manifest, Split, Task, TaskFailure
from tests.checked import whole
from tests.runs.here import Fuse, Fused, Killed, ignore
from tests.runs.test_embedded import events
from tests.toys import ToyBackbone, experiment, paint
from workers.execute import Worker
from workers.place import Site

SITES = ("early", "late")
ROUNDS = {"versions": 6, "in_flight": 4, "quorum": 4, "floor": 1, "max_staleness": 0, "grace_s": 0}
Lie = Callable[[Task, "Sites"], None]


@dataclass
class Broker:
    """What outlives a loop: the queue of `late`, and the version with whose tasks its worker starts; then 0."""

    opens: int = 2
    queue: list[Task] = field(default_factory=list)


class Sites:
    """A worker for each site."""

    def __init__(self, root: Path, images: Path, broker: Broker, fuse: Fuse | None, lie: Lie | None) -> None:
        self.clock: Clock = VirtualClock()
        self.stream: Any = FileStream(root / "state", self.clock)
        self.blobs: Any = FileBlobs(root / "blobs")
        if fuse is not None:
            self.stream, self.blobs = (
                Fused(self.stream, fuse, "append", "trim"),
                Fused(self.blobs, fuse, "put", "delete"),
            )
        self.state, self.broker, self.lie = FileState(root / "state"), broker, lie
        self.workers = {name: self._worker(name, root, images) for name in SITES}

    def _worker(self, name: str, root: Path, images: Path) -> Worker:
        hold_out = {"early": ("noisy", "striped"), "late": ("flat",)}[name]
        data = Data(params={"root": str(images)}, hold_out=hold_out, partition=Choice(name="by_domain"))
        site = SiteData(data=data, private=root / name, plugins=("tests.toys:ToyBackbone",))
        return Worker(name=name, stream=self.stream, state=self.state, cache=root / "cache", site=Site(name, site))

    def send(self, task: Task, site: str | None) -> None:
        if site == "late":
            self.broker.queue.append(task)
        if task.kind == "train" and task.base >= self.broker.opens:
            self.broker.opens = 0
        while self.broker.opens == 0 and self.broker.queue:
            self._late(self.broker.queue[0])
            self.broker.queue.pop(0)  # acknowledged when it is done, so it comes again if this process dies
        if site == "early":
            self.workers["early"].handle(task.model_dump_json())

    def _late(self, task: Task) -> None:
        if self.lie is not None and task.kind == "describe":
            self.lie(task, self)
        else:
            self.workers["late"].handle(task.model_dump_json())

    def backlog(self, site: str | None) -> int:
        return len(self.broker.queue) if site == "late" else 0

    def waiting(self, site: str | None) -> str:
        return "unknown"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("images"))


def go(
    root: Path,
    images: Path,
    *,
    broker: Broker | None = None,
    fuse: Fuse | None = None,
    lie: Lie | None = None,
    watch: Callable[[Event], None] = ignore,
    floor: int = 1,
    **changes: object,
) -> Outcome:
    bus = Sites(root, images, broker or Broker(), fuse, lie)
    asked = experiment(sites=SITES, rounds={**ROUNDS, "floor": floor}, start_s=5, evaluate={"every": 1}, **changes)
    runtime = Runtime(blobs=bus.blobs, state=bus.state, stream=bus.stream, bus=bus)
    outcome = runs.execute(plan(asked), runtime, "r", watch)
    whole(Commits("r", FileBlobs(root / "blobs")))
    return outcome


def test_a_late_site_is_asked_and_evaluated_from_its_joining_on(images: Path, tmp_path: Path) -> None:
    outcome = go(tmp_path, images)
    (joined,) = events(outcome.events, "joined")
    assert (joined.version, joined.facts["site"]) == (2, "late")
    assert list(joined.facts["clients"]) == ["late.noisy-0", "late.striped-0"]
    share = outcome.report.ledger
    assert (share["early.flat-0"].accepted, share["late.noisy-0"].accepted) == (6, 3)  # versions 4, 5 and 6
    told = {c: {e.version for e in events(outcome.events, "evaluated") if e.client == c} for c in
            ("early.flat-0", "late.noisy-0", "late.flat", "early.striped")}  # fmt: skip
    assert told["early.flat-0"] == told["early.striped"] == set(range(7))
    assert told["late.noisy-0"] == told["late.flat"] == {3, 4, 5, 6}, "held-out owners of the late site too"
    assert set(outcome.report.accuracy.final) == {"early.flat-0", "late.noisy-0", "late.striped-0"}
    assert set(outcome.report.accuracy.held_out) == {"early.noisy", "early.striped", "late.flat"}


@pytest.mark.parametrize("adapter", ["lora", "tower"])
def test_sites_train_inside_the_image_tower_on_their_own_images(images: Path, tmp_path: Path, adapter: str) -> None:
    report = go(tmp_path, images, method={"name": "fedavg", "params": {"adapter": adapter}}).report
    assert (report.ledger["early.flat-0"].accepted, report.ledger["late.noisy-0"].accepted) == (6, 3)
    assert set(report.accuracy.held_out) == {"early.noisy", "early.striped", "late.flat"}


def test_a_site_that_never_comes_delays_nothing(images: Path, tmp_path: Path) -> None:
    outcome = go(tmp_path, images, broker=Broker(opens=99))
    assert (outcome.report.status, outcome.report.version) == ("finished", 6)
    assert not events(outcome.events, "joined", "refused")


def test_a_process_that_takes_the_run_up_later_hears_of_the_site(images: Path, tmp_path: Path) -> None:
    broker, lives = Broker(), ([], [])  # type: tuple[list[Event], list[Event]]
    fuse = Fuse(left=10**9)

    def watch(event: Event) -> None:
        lives[0].append(event)
        if event.event == "committed" and event.version == 4:
            fuse.left = 1

    with contextlib.suppress(Killed):
        go(tmp_path, images, broker=broker, fuse=fuse, watch=watch)
    go(tmp_path, images, broker=broker, watch=lives[1].append)
    assert lives[0][-1].version < 5 and events(lives[1], "loaded")[0].version == 4
    for life in lives:
        assert [e.facts["site"] for e in events(life, "joined")] == ["late"]


def test_a_loop_killed_while_a_site_joins_ends_as_if_undisturbed(images: Path, tmp_path: Path) -> None:
    def facts(outcome: Outcome) -> dict[str, object]:
        return outcome.report.model_dump(exclude={"seconds", "encodes"})

    fuse = Fuse(left=10**9)
    undisturbed = facts(go(tmp_path / "whole", images, fuse=fuse))
    count = 10**9 - fuse.left
    for place in range(count // 3, 2 * count // 3, max(1, count // 36)):
        root, broker = tmp_path / str(place), Broker()
        with contextlib.suppress(Killed):
            go(root, images, broker=broker, fuse=Fuse(place, bool(place % 2)))
        assert facts(go(root, images, broker=broker)) == undisturbed, f"killed at operation {place}"


def described(task: Task, sites: Sites, **changes: Any) -> None:
    """The late site answers with this description."""
    own = {"site": "late", "clients": {"late.x": Split(train=3, val=1, test=2)}, "classes": ("amber",),
           "fingerprint": ToyBackbone(ToyBackbone.Params()).fingerprint}  # fmt: skip
    answer(task, sites, canonical(Description.model_validate({**own, **changes})))


def answer(task: Task, sites: Sites, data: bytes, key: str = "") -> None:
    blob = sites.blobs.put(key or keys.start("r", task.task_id, task.attempt), data)
    facts: dict[str, Any] = {
        "run": "r",
        "task_id": task.task_id,
        "attempt": task.attempt,
        "worker": "w",
        "seconds": 0.1,
    }
    sites.stream.append("r", "manifest", Manifest(**facts, outputs={"description": blob}).model_dump_json())


def failed(task: Task, sites: Sites) -> None:
    facts: dict[str, Any] = {"run": "r", "task_id": task.task_id, "attempt": task.attempt, "code": "client"}
    sites.stream.append("r", "failure", TaskFailure(**facts, message="no images").model_dump_json())


def unable(task: Task, sites: Sites) -> None:
    """It fails for no fault of its own, however often it is asked."""
    facts: dict[str, Any] = {"run": "r", "task_id": task.task_id, "attempt": task.attempt, "code": "infra"}
    sites.stream.append("r", "failure", TaskFailure(**facts, message="out of memory").model_dump_json())


LIES: dict[str, tuple[Lie, str]] = {
    "backbone": (lambda t, s: described(t, s, fingerprint="0" * 64), "another backbone"),
    "class": (lambda t, s: described(t, s, classes=("mauve",)), "'mauve' is none of the run's classes"),
    "name": (lambda t, s: described(t, s, clients={"early.flat-0": Split(train=1)}), "early.flat-0 already"),
    "held out": (lambda t, s: described(t, s, held_out={"early.striped": Split(test=1)}), "early.striped already"),
    "site": (lambda t, s: described(t, s, site="early"), "described itself as early"),
    "nothing": (lambda t, s: described(t, s, clients={}), "holds no data"),
    "unreadable": (lambda t, s: answer(t, s, b"\xff\x00"), "an unreadable description"),
    "elsewhere": (lambda t, s: answer(t, s, b"{}", key="runs/r/start/other"), "no description under a key"),
    "failure": (failed, "no images"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_description_that_does_not_fit_is_a_recorded_refusal(images: Path, tmp_path: Path, lie: str) -> None:
    tell, says = LIES[lie]
    outcome = go(tmp_path, images, lie=tell)
    (refused,) = events(outcome.events, "refused")
    assert says in refused.facts["reason"] and refused.facts["site"] == "late"
    assert (outcome.report.status, outcome.report.version) == ("finished", 6)
    assert set(outcome.report.ledger) == {"early.flat-0"}
    assert not events(outcome.events, "joined")
