"""A stack that tests take apart: Valkey, workers and orchestrators as processes of its own, S3 and Redis behind doors.

Knows how to start, kill, freeze and thaw each of them, and how to see what a run has done; knows no case. What a test
looks at (`runtime`) does not go through the doors, so no fault hits the one who looks.
"""

import contextlib
import json
import re
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
import urllib3
import yaml

from infra.redis_state import key
from infra.runtime import Runtime, connect
from infra.servers import S3, Redis, answers, free_port, start, valkey, wait_for
from infra.stream import START
from orchestrator import keys
from orchestrator import run as runs
from orchestrator.audit import audit
from orchestrator.commits import Commits
from orchestrator.run import Outcome
from schemas.decisions import Decision, read_entry
from schemas.experiment import Experiment
from schemas.log import Event
from schemas.messages import Manifest, TaskFailure
from tests.runs import here
from tests.stack.orders import Orders
from tests.stack.processes import DONE_S, Memory, Process, sessions
from tests.stack.proxy import RedisDoor
from tests.stack.s3_door import S3Door
from tests.stack.servers import asked_to_tell, environment, eventually, needed, settings
from tests.toys import paint

ROOT = Path(__file__).parents[2]
READY_S = 90.0
"""A worker imports torch, on a machine that may be busy."""
SYNC = {"in_flight": 4, "quorum": 4, "floor": 4, "grace_s": 0, "deadline_s": 600, "max_staleness": 0}
"""All clients in every version: what a run ends in does not depend on what befell it. No deadline comes to its aid."""


class Field:
    """The stack. redis, s3: the doors. env: of whatever process belongs to it."""

    def __init__(self, s3: S3, folder: Path) -> None:
        needed(valkey(), "Valkey")
        self.folder = folder
        self.storage = replace(s3, url=f"{s3.url}-{secrets.token_hex(4)}")  # no run of another module has been here
        self.memory = Memory(folder / "redis")
        self.redis = RedisDoor(self.memory.connect)
        self.s3 = S3Door(urlsplit(s3.url).port or 0)
        bucket = urlsplit(self.storage.url).path
        seen = replace(s3, url=f"http://127.0.0.1:{self.s3.port}{bucket}")
        door = Redis(self.memory.server.child, f"redis://127.0.0.1:{self.redis.port}/0")
        self.env = environment(door, seen, folder / "cache") | {"PYTHONPATH": str(ROOT)}
        self.images = paint(folder / "images")
        self.processes: list[Process] = []

    @property
    def runtime(self) -> Runtime:
        """The servers, seen past the doors."""
        return connect(settings(self.memory.server, self.storage, self.folder / "cache"))

    def close(self) -> None:
        """Stop all that was started."""
        for process in self.processes:
            process.stop()
        for door in (self.redis, self.s3):
            door.shut()
        self.memory.server.child.stop()

    # --- processes

    def begin(self, name: str, command: Sequence[str | Path], env: Mapping[str, str]) -> Process:
        """Start a process that belongs here; its number makes its log's name its own."""
        child = start(f"{name}-{len(self.processes)}", command, self.folder, env=env, cwd=self.folder)
        self.processes.append(Process(child))
        return self.processes[-1]

    def worker(self, env: Mapping[str, str] | None = None, *, ready: bool = True) -> Process:
        """One of the pool; ready: it serves its queue when this returns."""
        given = {k: v for k, v in self.env.items() if "S3" not in k and "BLOBS" not in k}
        command = [sys.executable, "-m", "workers.celery_worker", "--pool", "--concurrency", "1"]
        made = self.begin("worker", command, given | dict(env or {}))
        if ready:
            self.serves(made)
        return made

    def staff(self, count: int) -> list[Process]:
        """So many living workers: some are started or stopped if need be."""
        alive = [p for p in self.processes if p.child.name.startswith("worker") and not p.child.ended()]
        for extra in alive[count:]:
            extra.stop()
        new = [self.worker(ready=False) for _ in range(count - len(alive))]
        for one in new:
            self.serves(one)
        return [*alive[:count], *new]

    def serves(self, worker: Process) -> None:
        """Wait until a worker takes tasks."""
        wait_for(lambda: '"event": "ready"' in worker.text, worker.child, READY_S)

    def run(self, name: str, env: Mapping[str, str] | None = None, **changes: Any) -> Process:
        """An orchestrator with a new run."""
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(self.experiment(name, **changes)))
        return self._orchestrator([str(path), "--name", name], env)

    def resume(self, name: str, env: Mapping[str, str] | None = None) -> Process:
        """An orchestrator that takes a run over."""
        return self._orchestrator(["--resume", name], env)

    def _orchestrator(self, arguments: list[str], env: Mapping[str, str] | None) -> Process:
        command = [sys.executable, "-m", "orchestrator.cli", "run", *arguments, "--json"]
        return self.begin("orchestrator", command, self.env | dict(env or {}))

    def experiment(
        self, name: str, versions: int = 3, rounds: Mapping[str, Any] = SYNC, **changes: Any
    ) -> dict[str, Any]:
        """FedCLIP on toy images, four clients of two domains, a third domain held out."""
        return {
            "name": "field",
            "data": {"params": {"root": str(self.images)}, "hold_out": ["striped"],
                     "partition": {"name": "by_domain", "params": {"clients_per_domain": 2}}},
            "model": {"backbone": {"name": "tests.toys:ToyBackbone"}},
            "method": {"name": "tests.stack.plugins:Obedient", "params": {"orders": str(self.orders(name).folder)}},
            "rounds": {**rounds, "versions": versions},
            "codec": {"name": "fp16"},
            "evaluate": {"every": 0, "final": True},
        } | changes  # fmt: skip

    @contextlib.contextmanager
    def monitor(self) -> Iterator[Callable[[], str]]:
        """A Celery Flower; what it knows of tasks."""
        port, headers = free_port(), urllib3.make_headers(basic_auth="ops:pw")
        url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "celery", "-A", "infra.celery_app", "flower", "--address=127.0.0.1"]
        flower = self.begin("flower", [*command, f"--port={port}"], self.env | {"FLOWER_BASIC_AUTH": "ops:pw"})
        wait_for(lambda: answers(f"{url}/healthcheck"), flower.child, READY_S)
        asked_to_tell(self.env["QUORATE_BUS"])
        yield lambda: str(urllib3.request("GET", f"{url}/api/tasks?limit=10000", headers=headers, timeout=10).data)
        flower.stop()

    # --- who is at what

    def orders(self, name: str) -> Orders:
        """What the clients of a run are told."""
        return Orders(self.folder / "orders" / name)

    def worker_of(self, pid: int) -> Process:
        """The worker to which a process belongs."""
        leader = next(leader for leader, pids in sessions().items() if pid in pids)
        return next(p for p in self.processes if p.child.process.pid == leader)

    # --- what a run has done

    def reaches(self, name: str, version: int, within_s: float = DONE_S) -> None:
        """Wait until a version is committed."""
        store, commit = self.runtime.blobs, keys.version(name, version)
        eventually(lambda: commit in store.keys(keys.versions(name)), f"{name} reaches version {version}", within_s)

    def owner(self, name: str) -> str:
        """Which loop holds the lease of a run; empty if none does."""
        memory = redis.Redis.from_url(self.memory.server.url, decode_responses=True)
        return str(memory.get(key(name, "lease")) or "")

    def passes_on(self, name: str, owner: str, within_s: float = READY_S) -> None:
        """Wait until another loop than this one holds the lease."""
        eventually(lambda: self.owner(name) not in ("", owner), f"another takes {name} over", within_s)

    def uses(self, process: Process) -> None:
        """Wait until a process has a connection to Redis: it has been loaded."""
        before = self.redis.taken
        eventually(lambda: self.redis.taken > before or bool(process.child.ended()), "it connects", READY_S)

    def said(self, name: str) -> list[Manifest | TaskFailure | Decision]:
        """What stands in the stream now: since the last commit."""
        stream, cursor, found = self.runtime.stream, START, []
        while entries := stream.read(name, cursor, 0.0):
            cursor = entries[-1].id
            found += [read_entry(e.author, e.body) for e in entries]
        return found

    def events(self, name: str, kind: str) -> list[Event]:
        """The events of a kind in the journal of all commits."""
        return [e for e in Commits(name, self.runtime.blobs).journal() if e.event == kind]

    def outcome(self, name: str) -> Outcome:
        """What a run has left, and that its history holds."""
        commits = Commits(name, self.runtime.blobs)
        verdict = audit(commits)
        assert not verdict.violations, verdict.violations
        assert verdict.ended, f"{name} has not ended"
        self.shows_no_grant()
        return runs.outcome(commits)

    def equals(self, name: str, undisturbed: Outcome) -> Outcome:
        """What a run has left, which is what it leaves undisturbed."""
        found = self.outcome(name)
        assert found.report.adapter_sha256 == undisturbed.report.adapter_sha256
        assert found.report.ledger == undisturbed.report.ledger
        return found

    def shows_no_grant(self) -> None:
        """No grant that was used here stands in any log."""
        text = "".join(p.text for p in self.processes)
        assert not [s for s in list(self.s3.signatures) if s in text]  # doors go on meanwhile
        assert not re.search(r"X-Amz-Signature=(?!\*\*\*)", text)


@pytest.fixture(scope="module")
def stage(s3_server: S3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    """One for the tests of a module, which leave it whole: servers up, doors open."""
    made = Field(s3_server, tmp_path_factory.mktemp("field"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def undisturbed(stage: Field) -> Outcome:
    """What every synchronous run of three versions must end in: computed in one process, without any server."""
    return here.run(Experiment.model_validate(stage.experiment("undisturbed")), stage.folder / "undisturbed")


def report(process: Process) -> dict[str, Any]:
    """The report that an orchestrator has printed."""
    text = process.text
    return dict(json.loads(text[text.index("{") :]))
