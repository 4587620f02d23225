"""The stack that chaos takes apart, and the runs that go on in it, one after the other.

Knows how a run is begun, taken over and judged when it has ended; knows no fault.
"""

import dataclasses
import shutil
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from infra.runtime import Runtime
from infra.servers import start_s3
from orchestrator import keys
from orchestrator.audit import audit
from orchestrator.commits import Commits
from schemas.errors import QuorateError
from schemas.experiment import Experiment
from tests.runs import here
from tests.stack.field import Field
from tests.stack.processes import Process

SYNCHRONOUS = {"in_flight": 4, "quorum": 4, "floor": 4, "grace_s": 0, "deadline_s": 20, "max_staleness": 0}
ASYNCHRONOUS = {"in_flight": 3, "quorum": 2, "floor": 1, "grace_s": 0, "deadline_s": 20, "max_staleness": 3,
                "refill": "at_arrival"}  # fmt: skip
MANY = {"retries": 1000}
"""As often as it takes: that updates were lost is no reason to give a run up here."""
WORKERS = 3
UNREACHED = "right?)"
"""How the line ends of an orchestrator that finds no server as it starts. Whoever started it starts it again."""


class Storage:
    """A SeaweedFS that can be killed, and started again at the same port on what it has kept."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.server = folder, start_s3(folder)

    def kill(self) -> None:
        """SIGKILL."""
        self.server.child.process.kill()
        self.server.child.process.wait()

    def start(self) -> None:
        """On the data that are there."""
        port = urlsplit(self.server.url).port
        self.server = start_s3(self.folder, port=port, secret=self.server.secret_key)


@dataclass
class Track:
    """Runs of one kind. sha256: what each must end in, if that is known. told: processes whose end is no surprise.

    alive: the orchestrators and the run of each; two may have seen the same run to its end.
    """

    field: Field
    runtime: Runtime
    name: str
    changes: dict[str, Any]
    sha256: str | None = None
    number: int = 0
    committed: int = 0
    judged: int = 0
    before: int = 0
    alive: dict[str, list[Process]] = dataclasses.field(default_factory=lambda: defaultdict(list))
    told: list[Process] = dataclasses.field(default_factory=list)
    violations: list[str] = dataclasses.field(default_factory=list)

    @property
    def run(self) -> str:
        """The run that goes on."""
        return f"{self.name}-{self.number:03}"

    @property
    def mine(self) -> list[Process]:
        """Its orchestrators."""
        return self.alive[self.run]

    def begin(self) -> None:
        """The next run."""
        self.number, self.before = self.number + 1, self.committed
        self.mine.append(self.field.run(self.run, **self.changes))

    def resume(self) -> None:
        """One more orchestrator, that takes the run over as soon as it may; or begins it, if nobody has."""
        known = next(self.runtime.blobs.keys(keys.experiment(self.run)), None) is not None
        self.mine.append(self.field.resume(self.run) if known else self.field.run(self.run, **self.changes))

    def look(self) -> None:
        """See which orchestrators have ended, judge a run that is over and begin the next; count the versions."""
        for run, process in [(run, p) for run, those in self.alive.items() for p in those if p.child.ended()]:
            self.alive[run].remove(process)
            self._ended(run, process)
        if not self.mine:
            self.resume()
        found = list(self.runtime.blobs.keys(keys.versions(self.run)))
        self.committed = max(self.committed, self.before + len(found))

    def give_up(self, why: str) -> None:
        """Leave the run as it stands, for whoever looks for the cause."""
        self.violations.append(f"{self.run}: {why}")
        for process in self.mine:
            process.stop()
        self.mine.clear()
        self.begin()

    def _ended(self, run: str, process: Process) -> None:
        status, said = process.child.process.returncode, process.child.ended()
        if status == 0:
            if run == self.run:
                self._judge()
                self.begin()
        elif process not in self.told and status != 3 and not self._may_not_begin(run, said):
            self.violations.append(f"{run}: {process.child.ended()}")

    def _may_not_begin(self, run: str, said: str) -> bool:
        """A new run whose store is away says so and ends: a wrong address looks the same. A known one would wait."""
        begun = next(self.runtime.blobs.keys(keys.experiment(run)), None) is not None
        return not begun and UNREACHED in said

    def _judge(self) -> None:
        """Whether the run that has ended is whole."""
        found = self.field.outcome(self.run).report
        self.judged += 1
        self.committed = self.before + found.version + 1
        wrong = list(audit(Commits(self.run, self.runtime.blobs)).violations)
        if found.status != "finished":
            wrong.append(f"ended as {found.status}: {found.reason}")
        if self.sha256 not in (None, found.adapter_sha256):
            wrong.append(f"ended in {found.adapter_sha256}, and should in {self.sha256}")
        self.violations += [f"{self.run}: {what}" for what in wrong]


class Ground:
    """Valkey, S3, workers and two tracks of runs, each part of which can be done harm to.

    versions: of each synchronous run and of each asynchronous one.
    """

    def __init__(self, folder: Path, versions: tuple[int, int]) -> None:
        self.folder = folder
        self.storage = Storage(folder / "s3")
        self.field = Field(self.storage.server, folder)
        runtime = self.field.runtime
        method = {"name": "scripts.unhurried:Unhurried", "params": {"longest_s": 0.4}}
        shared: dict[str, Any] = {"method": method, "evaluate": {"every": 3, "final": True}}
        one = shared | {"versions": versions[0], "rounds": {**SYNCHRONOUS, **MANY}}
        other = shared | {"versions": versions[1], "rounds": {**ASYNCHRONOUS, **MANY}}
        self.tracks = [
            Track(self.field, runtime, "synchronous", one, self._undisturbed(one)),
            Track(self.field, runtime, "asynchronous", other),
        ]

    def open(self) -> None:
        """Start the workers and the first runs."""
        self.field.staff(WORKERS)
        for track in self.tracks:
            track.begin()

    def close(self) -> None:
        """Stop all of it."""
        self.field.close()
        self.storage.server.child.stop()

    def workers(self) -> list[Process]:
        """Those that live."""
        return [p for p in self.field.processes if p.child.name.startswith("worker") and not p.child.ended()]

    def look(self) -> None:
        """At every track. What cannot be seen now is seen later."""
        for track in self.tracks:
            try:
                track.look()
            except QuorateError:
                continue
            except AssertionError as e:
                track.give_up(str(e))

    def _undisturbed(self, changes: dict[str, Any]) -> str | None:
        """What the synchronous run ends in, computed in one process without any server."""
        asked = Experiment.model_validate(self.field.experiment("undisturbed", **changes))
        quick = asked.method.model_copy(update={"params": {"longest_s": 0.0}})
        folder = self.folder / "undisturbed"
        outcome = here.run(asked.model_copy(update={"method": quick}), folder)
        shutil.rmtree(folder)
        return outcome.report.adapter_sha256
