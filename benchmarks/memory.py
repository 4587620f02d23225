"""What a run takes with few clients and with many: memory of the orchestrator, time per update, and peak disk.

Every figure comes from a process of its own (`python -m benchmarks.memory KIND CLIENTS VERSIONS`), so that none sees
the memory of another. In one process the orchestrator's memory includes the work and torch.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from benchmarks import job, process
from benchmarks.machine import Where, here
from benchmarks.stack import environment, stack
from infra import logs
from infra.runtime import connect
from infra.settings import read
from orchestrator.intake import BUDGET
from orchestrator.plan import plan
from orchestrator.run import execute
from schemas.base import Frozen
from schemas.errors import RunFailed
from schemas.experiment import Experiment
from schemas.log import Event
from schemas.messages import ALL

UPDATES, SMALL, DISK = 3000, 1024, 65_536
"""Updates of each run, whoever sends them (a fourth of it on the stack), for at the end its whole journal is read;
float32 values of the model: where memory and time are measured, and where disk is."""
EIGHT = {"in_flight": 8, "quorum": 8, "floor": 8, "refill": "at_arrival", "max_staleness": 2}
EMBEDDED, STACK, VERSIONS = (10, 100, 1000), (10, 100), (20, 200)
ROOT = Path(__file__).parent.parent


class Cost(Frozen):
    """One run. peak_mb: most resident memory; ms: processor time of the process per update; wall_ms: wall time."""

    clients: int
    peak_mb: float
    ms: float
    wall_ms: float


class Disk(Frozen):
    """One run. peak_mb: most bytes in the store, looked at whenever a version was committed; end_mb: at the end."""

    versions: int
    peak_mb: float
    end_mb: float


class Memory(Frozen):
    """By kind of run. budget_mb: of kept updates, as the loop has it. adapter_mb: of the runs whose disk is shown."""

    where: Where
    budget_mb: float
    adapter_mb: float
    costs: dict[str, tuple[Cost, ...]]
    disk: tuple[Disk, ...]


def measure() -> Memory:
    """Every kind of run with every number of clients, one after the other."""
    where = here()
    costs = {kind: tuple(_cost(kind, n, os.environ) for n in EMBEDDED) for kind in ("eight", "all")}
    with stack(2) as settings:
        costs["stack"] = tuple(_cost("stack", n, environment(settings)) for n in STACK)
    disk = tuple(Disk.model_validate(_apart("disk", 8, v, os.environ)) for v in VERSIONS)
    return Memory(
        where=where, budget_mb=BUDGET / 2**20, adapter_mb=round(4 * DISK / 2**20, 2), costs=costs, disk=disk
    )  # fmt: skip


def experiment(kind: str, clients: int, versions: int) -> Experiment:
    """eight, stack: so many in flight, whoever they are. all: everybody in every version. disk: as eight, larger."""
    rounds = {} if kind == "all" else EIGHT
    numbers = DISK if kind == "disk" else SMALL
    return job.experiment(versions, clients=clients, numbers=numbers, name=f"{kind}-{clients}", **rounds)


def ms_per_update(closed: list[tuple[float, int]]) -> float:
    """Median over the versions but the first: ms since the one before, shared among its updates.

    closed: (seconds on some clock, updates counted) at each closing.
    """
    pairs = itertools.pairwise(closed)
    return 1000 * median((now - before) / counted for (before, _), (now, counted) in pairs)


def _cost(kind: str, clients: int, env: Mapping[str, str]) -> Cost:
    each = clients if kind == "all" else 8
    versions = (UPDATES // 4 if kind == "stack" else UPDATES) // each
    return Cost.model_validate({"clients": clients, **_apart(kind, clients, versions, env)})


def _apart(kind: str, clients: int, versions: int, env: Mapping[str, str]) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.memory", kind, str(clients), str(versions)]
    done = subprocess.run(command, cwd=ROOT, env=dict(env), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunFailed(f"{kind} with {clients} clients: status {done.returncode}: {done.stderr.strip()[-500:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _alone(kind: str, clients: int, versions: int) -> dict[str, float]:
    """One run in this process, on files, or on the servers that the environment names."""
    asked = experiment(kind, clients, versions)
    with tempfile.TemporaryDirectory(prefix="quorate-bench-") as name:
        folder = Path(name)
        runtime = connect(read()) if kind == "stack" else process.runtime(folder, folder / "cache")
        wall, cpu, sizes = list[tuple[float, int]](), list[tuple[float, int]](), list[int]()

        def watch(event: Event) -> None:
            if event.event == "closed":
                wall.append((time.perf_counter(), event.facts["counted"]))
                cpu.append((time.process_time(), event.facts["counted"]))
                sizes.extend([_bytes(folder / "blobs")] if kind == "disk" else [])

        outcome = execute(plan(asked), runtime, asked.name, watch)
        if outcome.report.status != "finished" or not job.adds_up(outcome.tensors[ALL], asked, outcome.events):
            raise RunFailed(f"{asked.name}: {outcome.report.status}, and the numbers are wrong")
        if kind == "disk":
            end = _bytes(folder / "blobs")
            return {"versions": versions, "peak_mb": _mb(max(*sizes, end)), "end_mb": _mb(end)}
    return {"peak_mb": _mb(_peak()), "ms": round(ms_per_update(cpu), 3), "wall_ms": round(ms_per_update(wall), 3)}


def _bytes(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def _peak() -> int:
    """Bytes of resident memory at most so far."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def _mb(size: float) -> float:
    return round(size / 2**20, 1)


if __name__ == "__main__":
    logs.setup("error")
    print(json.dumps(_alone(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
