"""10,000 virtual clients in one process: where the seconds of a version go, and whether memory grows.

Every figure comes from a process of its own (`python -m benchmarks.crowd CLIENTS_PER_TASK VERSIONS`). The parts are
timed from outside: the loop under test is the product's own. Images are drawn and encoded before version 1.
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from pydantic import PositiveInt

from benchmarks import process
from benchmarks.machine import Where, here
from benchmarks.markdown import place, table
from infra import logs
from orchestrator.audit import audit
from orchestrator.commits import Commits
from orchestrator.intake import Intake
from orchestrator.lineage import Lineage
from orchestrator.loop import Loop
from orchestrator.plan import plan
from orchestrator.run import execute
from schemas.base import Choice, Frozen
from schemas.errors import RunFailed
from schemas.experiment import Experiment
from schemas.log import Event
from workers import local
from workers.data.images import Images
from workers.execute import Worker
from workers.job import Job
from workers.plugins import load

CLIENTS, ASKED, VERSIONS, EACH = 10_000, 500, 20, 10
"""Clients in all and in each version, versions, and images of each client."""
TOGETHER = (1, 250)
"""Clients in one task."""
PARTS = {
    "training": ((local, "_updates"), (local, "local_update")),
    "encode, put": ((Job, "_seal"),),
    "worker, rest": ((Worker, "handle"),),
    "admit": ((Intake, "release"),),
    "fold, merge": ((Lineage, "merge"),),
    "commit": ((Loop, "commit"),),
}
"""What is timed: of each part the seconds that are of none of the others."""
ROOT = Path(__file__).parent.parent


class Crowd:
    """Clients who each have some of the images of `shapes`, drawn with repetition: 10,000 owners, few files."""

    class Params(Frozen):
        """owners: how many. each: images of one. per_class: of the images drawn."""

        owners: PositiveInt = CLIENTS
        each: PositiveInt = EACH
        per_class: PositiveInt = 20

    def __init__(self, params: Params) -> None:
        self.params = params

    def images(self, cache: Path) -> Images:
        """The files of `shapes`, named again and again."""
        drawn = load("workers.datasets", Choice(name="shapes", params={"per_class": self.params.per_class}))
        shapes, count = drawn.images(cache), self.params.owners * self.params.each
        chosen = shapes.take(np.random.default_rng(0).integers(len(shapes), size=count))
        names = tuple(f"client-{i // self.params.each:05}" for i in range(count))
        return Images(chosen.paths, chosen.labels, chosen.domains, chosen.classes, clients=names)


class Version(Frozen):
    """Seconds by the wall of one version, from the commit before to its own: as a whole, and by part."""

    whole: float
    parts: dict[str, float]


class Walk(Frozen):
    """One run. resident_mb, peak_mb: of the process, after version 2 and at the end. start_s: until version 0 and all
    clients evaluated. accuracy: of the last version, the mean over clients."""

    clients_per_task: int
    start_s: float
    versions: tuple[Version, ...]
    resident_mb: tuple[float, float]
    peak_mb: tuple[float, float]
    accuracy: float


class Crowded(Frozen):
    """All runs."""

    where: Where
    clients: int
    asked: int
    walks: tuple[Walk, ...]


def measure() -> Crowded:
    """With one client in a task, and with many."""
    where = here()
    return Crowded(where=where, clients=CLIENTS, asked=ASKED, walks=tuple(_apart(n) for n in TOGETHER))


def section(found: Crowded) -> str:
    """The part of docs/benchmarks.md."""
    heads = ["part", *(f"{w.clients_per_task} per task" for w in found.walks)]
    names = [*found.walks[0].versions[0].parts]
    rows = [[name, *(f"{median(v.parts[name] for v in w.versions[1:]):.2f}" for w in found.walks)] for name in names]
    rows += [["whole", *(f"{median(v.whole for v in w.versions[1:]):.2f}" for w in found.walks)]]
    grown = [[f"{w.clients_per_task}", *(f"{mb:.0f}" for mb in (*w.resident_mb, *w.peak_mb)), f"{w.start_s:.0f}"]
             for w in found.walks]  # fmt: skip
    memory = ["clients per task", "resident MB after version 2", "at the end", "peak MB after version 2", "at the end",
              "s before version 1"]  # fmt: skip
    scores = " and ".join(f"{100 * w.accuracy:.2f} %" for w in found.walks)
    versions = len(found.walks[0].versions)
    return f"""## A crowd: {found.clients:,} clients in one process

{found.clients:,} virtual clients of {EACH} images each on the tiny backbone, {versions} versions of {found.asked}
clients each, `fedclip` with its default preset and the codec `fp16`, in one process on files. Median wall seconds of a
version, the first left out:

{table(heads, rows)}
*training* is the local loop; *encode, put* all from an update to its blob, with the private state beside it; *worker,
rest* reading the task, the model and the examples; *commit* has the tidying behind it in it; *other* is choosing,
asking, grants and messages. All clients' images are drawn and encoded, and all are evaluated, before version 1.
Mean accuracy at the end: {scores}. Both runs pass the audit.

{table(memory, grown)}
{place(found.where)}
"""


def experiment(together: int, versions: int, *, clients: int = CLIENTS, asked: int = ASKED) -> Experiment:
    """Everybody who is asked counts, in every version."""
    rounds = {"in_flight": asked, "quorum": asked, "floor": asked, "grace_s": 0, "max_staleness": 0, "deadline_s": 600}
    return Experiment.model_validate(
        {
            "name": "crowd",
            "data": {"name": "benchmarks.crowd:Crowd", "params": {"owners": clients}},
            "method": {"name": "fedclip"},
            "rounds": {**rounds, "versions": versions, "clients_per_task": together},
            "codec": {"name": "fp16"},
            "evaluate": {"every": 0},
        }
    )


def walk(asked: Experiment, cache: Path) -> Walk:
    """Run it in this process."""
    versions, marks = list[Version](), list[tuple[float, dict[str, float]]]()
    resident, peak, began = list[float](), list[float](), time.perf_counter()

    def watch(event: Event) -> None:
        if (event.event == "asked" and not marks) or event.event == "committed":
            marks.append((time.perf_counter(), dict(spent)))
        if event.event == "committed":
            versions.append(_between(*marks[-2:]))
        if event.event == "committed" and event.version in (2, asked.rounds.versions):
            resident.append(_memory("VmRSS"))
            peak.append(_memory("VmHWM"))

    with tempfile.TemporaryDirectory(prefix="quorate-bench-") as folder, timing() as spent:
        runtime = process.runtime(Path(folder), cache)
        outcome = execute(plan(asked), runtime, asked.name, watch)
        broken = audit(Commits(asked.name, runtime.blobs)).violations
    if outcome.report.status != "finished" or broken:
        raise RunFailed(f"{asked.name}: {outcome.report.status}; {'; '.join(broken[:3])}")
    mean = outcome.report.accuracy.mean
    return Walk(
        clients_per_task=asked.rounds.clients_per_task, start_s=round(marks[0][0] - began, 1), versions=tuple(versions),
        resident_mb=(resident[0], resident[-1]), peak_mb=(peak[0], peak[-1]), accuracy=mean or 0.0,
    )  # fmt: skip


def _between(before: tuple[float, dict[str, float]], now: tuple[float, dict[str, float]]) -> Version:
    parts = {name: round(now[1].get(name, 0.0) - before[1].get(name, 0.0), 4) for name in PARTS}
    whole = now[0] - before[0]
    return Version(whole=round(whole, 4), parts={**parts, "other": round(whole - sum(parts.values()), 4)})


@contextmanager
def timing() -> Iterator[dict[str, float]]:
    """Seconds spent in each part so far, while the block runs. What happens in a part within another counts once."""
    spent, inside, before = defaultdict[str, float](float), list[float](), list[tuple[Any, str, Any]]()
    for part, places in PARTS.items():
        for owner, name in places:
            before.append((owner, name, getattr(owner, name)))
            setattr(owner, name, _timed(getattr(owner, name), part, spent, inside))
    try:
        yield spent
    finally:
        for owner, name, call in before:
            setattr(owner, name, call)


def _timed(call: Callable[..., Any], part: str, spent: dict[str, float], inside: list[float]) -> Callable[..., Any]:
    """inside: of each timed call that is going on, the seconds of those within it."""

    @functools.wraps(call)
    def timed(*given: Any, **named: Any) -> Any:
        began = time.perf_counter()
        inside.append(0.0)
        try:
            return call(*given, **named)
        finally:
            took = time.perf_counter() - began
            spent[part] += took - inside.pop()
            if inside:
                inside[-1] += took

    return timed


def _memory(name: str) -> float:
    """MB of this process, as the system says."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return round(int(line.split()[1]) / 1024, 1)


def _apart(together: int) -> Walk:
    command = [sys.executable, "-m", "benchmarks.crowd", str(together), str(VERSIONS)]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunFailed(f"crowd, {together} per task: status {done.returncode}: {done.stderr.strip()[-500:]}")
    return Walk.model_validate(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    from benchmarks.crowd import walk as _walk  # the module whose plugin the experiment names, not a second copy
    from infra.settings import read

    logs.setup("error")
    print(_walk(experiment(int(sys.argv[1]), int(sys.argv[2])), read().cache).model_dump_json())
