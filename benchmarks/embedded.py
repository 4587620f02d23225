"""Milliseconds per client update in one process: of the overhead job (2 MB) and of the demo (real training)."""

import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median

from benchmarks import job, process
from benchmarks.machine import Where, here
from schemas.base import Frozen
from schemas.experiment import Experiment
from schemas.log import Event

VERSIONS, REPETITIONS = 25, 3


class Embedded(Frozen):
    """Milliseconds per client update of the median version, one number per repetition: wall, and processor time.

    Processor time (all threads of the process) hardly depends on what else runs; without waiting both are the same.
    """

    where: Where
    median_ms: dict[str, tuple[float, ...]]
    cpu_ms: dict[str, tuple[float, ...]]


def measure(cache: Path) -> Embedded:
    """Run the job and the demo, each once to warm up. cache: where the demo's features are kept."""
    where = here()
    with tempfile.TemporaryDirectory(prefix="quorate-bench-") as own:
        jobs = {"2 MB, adds 1.0": (job.experiment(VERSIONS), Path(own)), "demo": (process.demo(), cache)}
        found = {name: _repeated(experiment, folder) for name, (experiment, folder) in jobs.items()}
    return Embedded(
        where=where,
        median_ms={name: tuple(wall for wall, _ in rows) for name, rows in found.items()},
        cpu_ms={name: tuple(cpu for _, cpu in rows) for name, rows in found.items()},
    )


def ms_per_update(asked: list[tuple[int, float]]) -> float:
    """Median over the versions: from their first asking to the next one's, shared among the updates asked.

    asked: (version, seconds on some clock) of each asking, in order.
    """
    first = dict(reversed(asked))
    counts = Counter(version for version, _ in asked)
    return 1000 * median((first[n + 1] - first[n]) / counts[n] for n in first if n + 1 in first)


def _repeated(experiment: Experiment, cache: Path) -> list[tuple[float, float]]:
    process.run(experiment, cache)
    return [_once(experiment, cache) for _ in range(REPETITIONS)]


def _once(experiment: Experiment, cache: Path) -> tuple[float, float]:
    wall: list[tuple[int, float]] = []
    cpu: list[tuple[int, float]] = []

    def watch(event: Event) -> None:
        if event.event == "asked":
            wall.append((event.version, time.perf_counter()))
            cpu.append((event.version, time.process_time()))

    process.run(experiment, cache, watch)
    return round(ms_per_update(wall), 2), round(ms_per_update(cpu), 2)
