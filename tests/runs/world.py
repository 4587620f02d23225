"""A world in memory around the real loop: a store, a stream, a queue, workers and a clock that others move.

Nothing happens here by itself. Time passes, messages are worked on, lost or doubled, servers fail and processes die
only when a test says so. Work costs microseconds: an update is two numbers.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from pydantic import SecretStr

from infra.blobs import verified
from infra.clock import Clock, VirtualClock
from infra.runtime import Runtime
from infra.state import Answer
from infra.stream import Author, Entry
from orchestrator import keys
from orchestrator.commits import Commits
from orchestrator.journal import Journal
from orchestrator.plan import plan
from orchestrator.tenure import EVERY_S, Tenure
from schemas.base import canonical, digest
from schemas.errors import BlobCorrupt, BlobExists, BlobMissing, BusError
from schemas.experiment import Experiment, Setting
from schemas.log import Commit, Event
from schemas.messages import ALL, BlobRef, ClientResult, Description, Grant, Manifest, Split, Task, TaskFailure
from workers.pipeline import Label, write_update
from workers.tensors import generator, pack, unpack

BEAT_S = 3.0


class Killed(BaseException):
    """The process is gone: nothing catches it."""


class HandClock:
    """A wall clock that passes only when it is told to."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def wait(self, until: float) -> None:
        """A process on a wall clock cannot make time pass."""

    def catch_up(self, moment: float) -> None:
        self.time = max(self.time, moment)


@dataclass
class Fuse:
    """Blows at the n-th operation from now on, before or after it is done; -1 never."""

    left: int = -1
    after: bool = False
    error: type[BaseException] = Killed

    def around(self, operation: Callable[[], Any]) -> Any:
        self.left -= self.left >= 0
        if self.left == 0 and not self.after:
            raise self._blown()
        result = operation()
        if self.left == 0:
            raise self._blown()
        return result

    def _blown(self) -> BaseException:
        self.left = -1
        return self.error("by the test")


@dataclass
class MemoryBlobs:
    """An object store in a dictionary."""

    fuse: Fuse
    objects: dict[str, bytes] = field(default_factory=dict)

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> BlobRef:
        return self.fuse.around(lambda: self.write(key, data, if_absent=if_absent))  # type: ignore[no-any-return]

    def write(self, key: str, data: bytes, *, if_absent: bool = True) -> BlobRef:
        if if_absent and key in self.objects:
            raise BlobExists(f"{key}: written already")
        self.objects[key] = data
        return BlobRef(key=key, sha256=digest(data), size=len(data))

    def get(self, ref: BlobRef) -> bytes:
        return verified(ref, self.read(ref.key, limit=ref.size))

    def read(self, key: str, *, limit: int) -> bytes:
        if key not in self.objects:
            raise BlobMissing(f"{key}: not in the store")
        if len(self.objects[key]) > limit:
            raise BlobCorrupt(f"{key}: larger than {limit} bytes")
        return self.objects[key]

    def grant(self, key: str, method: Literal["GET", "PUT"], ttl_s: float) -> Grant:
        return Grant(url=SecretStr(f"memory:{key}"), method=method, expires=ttl_s)

    def delete(self, *keys: str) -> None:
        for key in keys:
            self.fuse.around(lambda key=key: self.objects.pop(key, None))  # type: ignore[misc]

    def keys(self, prefix: str) -> Iterator[str]:
        yield from sorted(k for k in self.objects if k.startswith(prefix))


@dataclass
class MemoryStream:
    """A log like that of Redis: ids of milliseconds, and an entry's moment is when it came, whenever it is read.

    sneaking: what workers append between the loop's last look and its next word. stammers: the loop's word stands there
    twice, as when a client library asks again because an answer was lost.
    """

    clock: Clock
    fuse: Fuse
    entries: list[Entry] = field(default_factory=list)
    sneaking: list[tuple[Author, str]] = field(default_factory=list)
    stammers: bool = False
    number: int = 0
    wanted: float = 0.0

    def append(self, run: str, author: Author, body: str) -> Entry:
        while self.sneaking:
            self.arrive(*self.sneaking.pop(0))
        if self.stammers:
            self.arrive(author, body)
        return self.fuse.around(lambda: self.arrive(author, body))  # type: ignore[no-any-return]

    def arrive(self, author: Author, body: str) -> Entry:
        self.number += 1
        self.entries.append(Entry(f"{self.number}-0", self.clock.now(), author, body))
        return self.entries[-1]

    def read(self, run: str, after: str, until: float) -> list[Entry]:
        behind = int(after.partition("-")[0])
        found = [e for e in self.entries if int(e.id.partition("-")[0]) > behind]
        self.wanted = until
        return found

    def trim(self, run: str, upto: str) -> None:
        last = int(upto.partition("-")[0])
        self.fuse.around(lambda: self.keep(last))

    def keep(self, last: int) -> None:
        self.entries = [e for e in self.entries if int(e.id.partition("-")[0]) > last]

    def delete(self, run: str) -> None:
        self.entries.clear()


@dataclass
class MemoryState:
    """Leases and beats that end by the clock."""

    clock: Clock
    fuse: Fuse
    lease: tuple[str, float] | None = None
    value: str | None = None
    flags: set[str] = field(default_factory=set)
    beats: dict[str, float] = field(default_factory=dict)

    def acquire(self, run: str, owner: str, ttl_s: float) -> bool:
        if self._owner() not in (None, owner):
            return False
        self.lease = owner, self.clock.now() + ttl_s
        return True

    def save(self, run: str, owner: str, ttl_s: float, value: str | None = None) -> Answer:
        return self.fuse.around(lambda: self._save(owner, ttl_s, value))  # type: ignore[no-any-return]

    def _save(self, owner: str, ttl_s: float, value: str | None) -> Answer:
        if self._owner() != owner:
            return "taken" if self._owner() else "missing"
        self.lease = owner, self.clock.now() + ttl_s
        self.value = value if value is not None else self.value
        return "mine"

    def _owner(self) -> str | None:
        return self.lease[0] if self.lease and self.lease[1] > self.clock.now() else None

    def load(self, run: str) -> str | None:
        return self.value

    def release(self, run: str, owner: str) -> None:
        self.lease = None if self._owner() == owner else self.lease

    def flag(self, run: str, name: str) -> None:
        self.flags.add(name)

    def flagged(self, run: str, name: str) -> bool:
        return name in self.flags

    def forget(self, run: str) -> None:
        self.value = None
        self.flags.clear()

    def beat(self, run: str, work: str, ttl_s: float) -> None:
        self.beats[work] = self.clock.now() + ttl_s

    def beating(self, run: str, works: Iterable[str]) -> set[str]:
        return {work for work in works if self.beats.get(work, 0) > self.clock.now()}


@dataclass
class HandBus:
    """A queue. mood: what happens to the next messages."""

    clock: Clock
    fuse: Fuse
    mood: Literal["well", "refuses", "takes and fails"] = "well"
    queue: list[Task] = field(default_factory=list)

    def send(self, task: Task, site: str | None) -> None:
        self.fuse.around(lambda: self._send(task))

    def _send(self, task: Task) -> None:
        if self.mood != "refuses":
            self.queue.append(Task.model_validate_json(task.model_dump_json()))
        if self.mood != "well":
            raise BusError("by the test")

    def backlog(self, site: str | None) -> int:
        return len(self.queue)

    def waiting(self, site: str | None) -> str:
        return "nothing is known"


@dataclass
class World:
    """All of it. done: messages that were worked on; busy: those whose worker beats."""

    clock: Clock
    fuse: Fuse = field(default_factory=Fuse)
    done: list[Task] = field(default_factory=list)
    busy: list[Task] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.blobs = MemoryBlobs(self.fuse)
        self.stream = MemoryStream(self.clock, self.fuse)
        self.state = MemoryState(self.clock, self.fuse)
        self.bus = HandBus(self.clock, self.fuse)

    @property
    def runtime(self) -> Runtime:
        return Runtime(blobs=self.blobs, state=self.state, stream=self.stream, bus=self.bus)  # type: ignore[arg-type]

    def passes(self, seconds: float) -> None:
        """Time, and the beats of whoever is at work."""
        if isinstance(self.clock, HandClock):
            self.clock.time += seconds
        else:
            self.clock.wait(self.clock.now() + seconds)
        for task in self.busy:
            self.state.beat(task.run, task.work, BEAT_S)

    def empty(self) -> None:
        """The Redis was replaced by an empty one."""
        self.stream.entries.clear()
        self.bus.queue.clear()
        self.state.lease = self.state.value = None
        self.state.beats.clear()
        self.state.flags.clear()

    def says(self, said: Manifest | TaskFailure | str, *, sneaking: bool = False) -> None:
        """A worker appends to the stream; or will, right before the loop's next word."""
        author: Author = "failure" if isinstance(said, TaskFailure) else "manifest"
        body = said if isinstance(said, str) else said.model_dump_json()
        if sneaking:
            self.stream.sneaking.append((author, body))
        else:
            self.stream.arrive(author, body)

    def works(self, task: Task, how: str) -> Manifest | TaskFailure | str:
        """What a worker does with a message, well or badly; its blobs are in the store then."""
        if how in ("client", "infra", "grant"):
            facts = {"run": task.run, "task_id": task.task_id, "attempt": task.attempt}
            return TaskFailure.model_validate({**facts, "code": how, "message": "bad luck"})
        try:
            if task.kind == "merge":
                return self._merges(task, how)
            results = tuple(self._result(task, i, how) for i in range(len(task.clients)))
        except (BlobMissing, BlobCorrupt):  # the task is too stale, and nobody waits for it; another wrote there since
            return self.works(task, "infra")
        manifest = Manifest(
            run=task.run, task_id=task.task_id, attempt=task.attempt, worker="w", results=results, seconds=0.1
        )
        strangers = tuple(r.model_copy(update={"client": "stranger"}) for r in results)
        changes: dict[str, dict[str, object]] = {
            "unknown task": {"task_id": "v0-nobody-99"},
            "other run": {"run": "other"},
            "no result": {"results": ()},
            "two results": {"results": results * 2},
            "other client": {"results": results + strangers},
            "one fails": {"results": (_failed(results[0]), *results[1:])},
        }
        manifest = manifest.model_copy(update=changes.get(how, {}))
        return manifest.model_dump_json()[:-5] if how == "unreadable" else manifest

    def _merges(self, task: Task, how: str) -> Manifest | str:
        """What a worker makes of a merged model: it moves it by a little, the same in each attempt, or does worse."""
        for ref in task.inputs.values():
            self.blobs.get(ref.blob)  # all of them are there for as long as it may be done
        merged = unpack(self.blobs.get(task.inputs["model"].blob))
        moved = {"w": merged["w"] + 0.01 * torch.randn(2, generator=generator(task.seed, task.task_id))}
        odd = {"not finite": {"w": moved["w"] * torch.nan}, "shapes": {"w": torch.zeros(3)}, "names": {"v": moved["w"]}}
        data = {"garbage": b"no safetensors", "too large": bytes(200_000)}.get(how) or pack(odd.get(how, moved))
        key = task.outputs["model"].key
        made = BlobRef(key=key, sha256=digest(data), size=len(data)) if how == "absent" else self._once(key, data)
        changes: dict[str, dict[str, object]] = {
            "wrong hash": {"sha256": "0" * 64}, "not granted": {"key": "runs/r/experiment.json"},
        }  # fmt: skip
        manifest = Manifest(
            run="other" if how == "other run" else task.run, attempt=task.attempt, worker="w", seconds=0.1,
            task_id="v0-nobody-99" if how == "unknown task" else task.task_id,
            outputs={"model": made.model_copy(update=changes.get(how, {}))} if not how.startswith("no ") else {},
        )  # fmt: skip
        return manifest.model_dump_json()[:-5] if how == "unreadable" else manifest

    def _result(self, task: Task, number: int, how: str) -> ClientResult:
        slot = task.clients[number]
        if task.kind == "evaluate":
            return ClientResult(client=slot.client, metrics={"accuracy": 0.5, "zero_shot": 0.5})
        for needed in (task.inputs["model"], *([slot.private] if slot.private else [])):
            self.blobs.get(needed.blob)
        before = slot.private.blob.sha256 if slot.private else ""
        private = self._once(slot.outputs["private"].key, f"{before} {task.base} {slot.client}".encode())
        data, key = self._update(task, slot.client, private, how), slot.outputs["update"].key
        update: BlobRef | None = BlobRef(key=key, sha256=digest(data), size=len(data))
        if how != "absent":
            update = self._once(key, data)
        assert update is not None
        label = {"weight": 3.0 + len(slot.client) + task.base, "private": private}
        match how:
            case "wrong hash":
                update = update.model_copy(update={"sha256": "0" * 64})
            case "not granted":
                update = update.model_copy(update={"key": "runs/r/experiment.json"})
            case "no update":
                update = None
            case "weightless":
                label["weight"] = 0.0
            case "private elsewhere":
                label["private"] = private.model_copy(update={"key": "runs/r/experiment.json"})
        return ClientResult(client=slot.client, update=update, metrics={"loss": 1.0}, **label)  # type: ignore[arg-type]

    def _once(self, key: str, data: bytes) -> BlobRef:
        try:
            return self.blobs.write(key, data)
        except BlobExists:
            found = self.blobs.objects[key]
            return BlobRef(key=key, sha256=digest(found), size=len(found))

    def _update(self, task: Task, client: str, private: BlobRef, how: str) -> bytes:
        random = generator(task.seed, task.base, client, f"attempt {task.attempt}")  # as on a GPU
        tensors = {"w": 0.1 * torch.randn(2, generator=random)}
        match how:
            case "not finite":
                tensors["w"][0] = torch.nan
            case "shapes":
                tensors["w"] = torch.zeros(3)
            case "names":
                tensors["v"] = torch.zeros(2)
            case "garbage":
                return b"no safetensors"
            case "too large":
                return bytes(200_000)
        return write_update(tensors, Label(client, 3.0 + len(client) + task.base, {"loss": 1.0}, private, 0))


def _failed(result: ClientResult) -> ClientResult:
    return ClientResult(client=result.client, failed="bad luck")


MODEL = pack({"w": torch.zeros(2)})
"""Version 0."""


class Turn(Tenure):
    """Looks at the lease by the clock of the world."""

    clock: Any = None

    def due(self) -> bool:
        if self.clock.now() - self._looked < EVERY_S:
            return False
        self._looked = self.clock.now()
        return True


def commit_zero(world: World, experiment: Experiment, clients: list[str], watch: Callable[[Event], None]) -> Commits:
    """Version 0 of a run `r` of these clients."""
    commits, now = Commits("r", world.blobs), world.clock.now()
    journal, asked = Journal(watch), experiment.model_dump(mode="json")
    held_out = {"sketch": Split(test=5)}
    journal.record(
        "started", now, 0, experiment=asked, seed=0, code_version="0", virtual=isinstance(world.clock, VirtualClock)
    )
    described = {"clients": {c: {} for c in clients}, "held_out": ["sketch"], "classes": ["a"], "fingerprint": "f"}
    journal.record("described", now, 0, **described)
    description = Description(
        clients={c: Split(train=3) for c in clients}, held_out=held_out, classes=("a", "b"), fingerprint="f"
    )
    right = experiment.method.params.get("right", ())
    groups = ("left", "right") if right else (ALL,)
    model = world.blobs.write(keys.model("r", 0, "0"), MODEL)
    setting = commits.put_setting(canonical(Setting(experiment=experiment)))
    commits.write(Commit(
        run="r", version=0, at=now, setting=setting, descriptions=(description,),
        models={0: dict.fromkeys(groups, model)},
        assignment={c: "right" for c in clients if c in right} if right else {},
        cursor="0", selector=plan(experiment).selector.dump(), journal=commits.put_journal(0, journal.events),
    ))  # fmt: skip
    return commits
