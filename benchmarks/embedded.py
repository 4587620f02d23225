"""Milliseconds per client update in one process: of the overhead job (2 MB) and of the demo (real training)."""

import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks import job, process
from benchmarks.machine import Where, here
from orchestrator.run import Outcome
from schemas.base import Frozen
from schemas.experiment import Experiment
from schemas.log import Event

VERSIONS, REPETITIONS = 25, 3


class Embedded(Frozen):
    """Milliseconds per client update, one number per repetition: the median version's, and of processor time in all.

    Processor time of the whole process, start and end of the run included; it hardly depends on what else runs.
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


def ms_per_update(events: list[Event]) -> float:
    """Median over the versions: from their first asking to the next one's, shared among the updates asked."""
    asked = [e for e in events if e.event == "asked"]
    first = {e.version: e.wall for e in reversed(asked)}
    shares = [(first[n + 1] - first[n]) / sum(e.version == n for e in asked) for n in first if n + 1 in first]
    return 1000 * median(shares)


def _repeated(experiment: Experiment, cache: Path) -> list[tuple[float, float]]:
    process.run(experiment, cache)
    return [_once(experiment, cache) for _ in range(REPETITIONS)]


def _once(experiment: Experiment, cache: Path) -> tuple[float, float]:
    began = time.process_time()
    _, outcome = process.run(experiment, cache)
    cpu = time.process_time() - began
    return round(ms_per_update(outcome.events), 2), round(1000 * cpu / _updates(outcome), 2)


def _updates(outcome: Outcome) -> int:
    return sum(share.asked for share in outcome.report.ledger.values())
