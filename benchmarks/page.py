"""docs/benchmarks.md from the results that are kept. Measures nothing."""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import (
    accuracy,
    accuracy_page,
    crowd,
    encode,
    epoch,
    gpu,
    hostile,
    kept,
    load_page,
    many,
    race,
    race_page,
    recovery,
)
from benchmarks.accuracy import Scores
from benchmarks.crowd import Crowded
from benchmarks.embedded import Embedded
from benchmarks.encode import Encode
from benchmarks.epoch import Epoch
from benchmarks.first_run import FirstRun
from benchmarks.gpu import Card
from benchmarks.hostile import Held
from benchmarks.many import Many
from benchmarks.markdown import place, table, verdict
from benchmarks.memory import Memory
from benchmarks.overhead import Overhead, Repetition
from benchmarks.race import Race
from benchmarks.recovery import Recovery
from benchmarks.throughput import Throughput
from benchmarks.trials import Chaos, Soak

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
MOST_S, MOST_MS = 0.3, 15.0
"""The goals: seconds per version through the stack, milliseconds per client update in one process."""

HEAD = """# Benchmarks

Written by `make bench` (`python -m benchmarks`) from what it measured, whatever came out (`benchmarks/results/`).
"""


def write() -> None:
    """The page, from all results there are."""
    readers = {
        "overhead": (Overhead, _overhead), "throughput": (Throughput, load_page.throughput),
        "embedded": (Embedded, _embedded), "many": (Many, many.section),
        "crowd": (Crowded, crowd.section), "encode": (Encode, encode.section), "epoch": (Epoch, epoch.section),
        "memory": (Memory, load_page.memory), "race": (Race, race_page.section),
        "recovery": (Recovery, recovery.section),
        "chaos": (Chaos, load_page.chaos), "soak": (Soak, load_page.soak),
        "accuracy": (Scores, accuracy_page.demo), "accuracy_larger": (Scores, accuracy_page.larger),
        "hostile": (Held, hostile.section), "first_run": (FirstRun, _first_run),
        "gpu": (Card, gpu.section),
    }  # fmt: skip
    parts = [HEAD]
    for name, (model, section) in readers.items():
        if (found := _found(RESULTS / f"{name}.json", model)) is not None:
            parts.append(section(found))  # type: ignore[operator]
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text("\n".join(parts))


MISSING: dict[Any, Callable[[Any], list[Any]]] = {
    Race: race.missing, Scores: accuracy.missing, Held: hostile.missing,
}  # fmt: skip
"""Of what is kept by state of the code: which runs are still to be done."""


def _found(path: Path, model: Any) -> Any:
    """What is kept there; of what is kept by state of the code, the newest that is complete. None: nothing is."""
    if model in MISSING:
        return kept.newest(path, model, lambda found: not MISSING[model](found))
    return model.model_validate_json(path.read_text()) if path.exists() else None


def _overhead(found: Overhead) -> str:
    rows = [[f"{i}", f"{r.median:.3f}", f"{r.p90:.3f}", f"{len(r.seconds)}", f"{r.load:g}"]
            for i, r in enumerate(found.repetitions, 1)]  # fmt: skip
    whole = median(s for r in found.repetitions for s in r.seconds)
    return f"""## Overhead per version, through the real stack

4 clients, {found.workers} workers, a model of 524,288 float32 (2 MiB), a client that only adds 1.0: Valkey, S3
(SeaweedFS) and Celery workers on this machine, started for the measurement. From the asking of a version to the asking
of the next; every run must end with exactly the numbers that so many versions of adding 1.0 give.
Goal: at most {MOST_S} s. **Median of all: {whole:.3f} s, {verdict(whole, MOST_S)}.**

{table(["repetition", "median s", "p90 s", "versions", "load before"], rows)}
The same job elsewhere, on 2 cores, as given to us and not measured by this script: flwr 1.41 takes 6.2 to 12.5 s,
NVFLARE 2.9 takes 2.5 s.

Where a version goes, as the loop spends it (ms, median version of each repetition):

{_parts(found.repetitions, "loop")}
Where a task goes (ms, median task; tasks run at the same time, so this is no sum of the above). Begin and end of the
work are told from the worker's own seconds and the stream's id, so a few ms may stand in the wrong row:

{_parts(found.repetitions, "worker")}
{place(found.where)}
"""


def _embedded(found: Embedded) -> str:
    rows = []
    for name, walls in found.median_ms.items():
        all_walls, cpus = (", ".join(f"{x:.1f}" for x in xs) for xs in (walls, found.cpu_ms[name]))
        rows.append([name, f"{median(walls):.1f}", all_walls, cpus, verdict(median(walls), MOST_MS)])
    heads = ["job", "ms per update", "repetitions", "of it on a processor", "goal"]
    return f"""## Embedded: one process, no server

Wall milliseconds per client update, median version; the updates asked share the version's time. The column
*of it on a processor* is what the process itself needed, whatever else ran.
Goal: at most {MOST_MS:g} ms.

{table(heads, rows)}
{place(found.where)}
"""


def _first_run(found: FirstRun) -> str:
    rows = [[name, f"{d.seconds:.1f}", f"{d.report_seconds:.1f}", f"{d.encodes}", f"`{d.adapter_sha256[:12]}`"]
            for name, d in (("first", found.first), ("second", found.second))]  # fmt: skip
    heads = ["run", "s, whole command", "s, report", "images encoded", "adapter"]
    return f"""## The demo, first and second run

`quorate run experiments/demo.yaml` with an empty cache, and again.

{table(heads, rows)}
{place(found.where)}
"""


def _parts(repetitions: tuple[Repetition, ...], kind: str) -> str:
    by = [getattr(r, kind) for r in repetitions]
    rows = [[part, *(f"{parts[part]:.1f}" for parts in by)] for part in by[0]]
    return table(["part", *(f"repetition {i}" for i, _ in enumerate(by, 1))], rows)
