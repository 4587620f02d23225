"""Seconds per version through the real stack, and where they go. The job: benchmarks.job, 4 owners, 4 workers, 2 MB."""

import itertools
from statistics import median, quantiles

from benchmarks import job
from benchmarks.machine import Where, here
from benchmarks.stack import stack
from benchmarks.timed import Calls, timed
from infra.runtime import Runtime, connect
from orchestrator.plan import plan
from orchestrator.run import execute
from schemas.base import Frozen
from schemas.errors import RunFailed
from schemas.log import Event
from schemas.messages import ALL, Manifest

VERSIONS, REPETITIONS, WORKERS = 25, 3, 4

LOOP = {
    "publish": ("bus send",),
    "log decisions": ("stream append",),
    "wait for workers": ("stream read",),
    "get updates": ("get update",),
    "put model": ("put model",),
    "put commit and journal": ("put commit", "put journal"),
    "lease": ("state save", "state flagged", "state beating"),
    "tidy": ("delete update", "delete model", "delete private", "stream trim"),
}
"""Parts of a version as the loop spends them, one after the other, and the calls in each."""


class Repetition(Frozen):
    """One run. seconds: of each version, from its asking to the next one's. loop, worker: median ms of each part."""

    load: float
    seconds: tuple[float, ...]
    loop: dict[str, float]
    worker: dict[str, float]

    @property
    def median(self) -> float:
        """Seconds per version."""
        return median(self.seconds)

    @property
    def p90(self) -> float:
        """Seconds per version that nine of ten stay below."""
        return quantiles(self.seconds, n=10, method="inclusive")[-1]


class Overhead(Frozen):
    """All repetitions, the job and the place."""

    where: Where
    workers: int
    repetitions: tuple[Repetition, ...]


def measure(versions: int = VERSIONS, repetitions: int = REPETITIONS, workers: int = WORKERS) -> Overhead:
    """Run the job on a stack of its own. The workers stay, as a deployment's do; a run that comes first warms them."""
    where = here()
    with stack(workers) as settings:
        runtime = connect(settings)
        _run(runtime, 3, "warm")
        found = tuple(_repetition(runtime, versions, f"overhead-{i}") for i in range(repetitions))
    return Overhead(where=where, workers=workers, repetitions=found)


def seconds_per_version(events: list[Event]) -> list[float]:
    """From the first asking of each version to that of the next; the last version has no next one."""
    first: dict[int, float] = {}
    for e in events:
        if e.event == "asked":
            first.setdefault(e.version, e.wall)
    return [first[n + 1] - first[n] for n in sorted(first) if n + 1 in first]


def _repetition(runtime: Runtime, versions: int, name: str) -> Repetition:
    load = here().load
    shown, calls = timed(runtime)
    events = _run(shown, versions, name)
    return Repetition(
        load=load,
        seconds=tuple(round(s, 4) for s in seconds_per_version(events)),
        loop=_loop(events, calls),
        worker=_worker(events, calls),
    )


def _run(runtime: Runtime, versions: int, name: str) -> list[Event]:
    """The events of a run of the job. Raises RunFailed if its numbers are not those that must come out."""
    outcome = execute(plan(job.experiment(versions)), runtime, name, lambda event: None)
    report = outcome.report
    if report.status != "finished" or not job.holds(outcome.tensors[ALL], versions):
        raise RunFailed(f"{name}: {report.status} at version {report.version}, and the numbers are wrong")
    return outcome.events


def _loop(events: list[Event], calls: Calls) -> dict[str, float]:
    """Median ms of a version in each part of the loop's own work; `fold, merge, rest` is what no call accounts for."""
    starts = sorted({e.version: e.wall for e in reversed(events) if e.event == "asked"}.values())
    rows = []
    for begin, end in itertools.pairwise(starts):
        parts = {part: sum(calls.within(n, begin, end) for n in names) for part, names in LOOP.items()}
        rows.append(parts | {"fold, merge, rest": end - begin - sum(parts.values())})
    return {part: round(1000 * median(row[part] for row in rows), 1) for part in rows[0]}


def _worker(events: list[Event], calls: Calls) -> dict[str, float]:
    """Median ms of a task in each part of its way. Several tasks run at a time, so these do not add up to a version.

    A worker says how long it worked and the method when it trained; the stream says when the report was there.
    """
    asked = {e.facts["task"]: e.wall for e in events if e.event == "asked"}
    trained = {e.facts["task"]: e.facts["metrics"] for e in events if e.event == "accepted"}
    rows = []
    for entry in (e for e in calls.entries if e.author == "manifest"):
        manifest = Manifest.model_validate_json(entry.body)
        if manifest.task_id not in trained:
            continue
        times, ended = trained[manifest.task_id], int(entry.id.partition("-")[0]) / 1000
        began = ended - manifest.seconds
        rows.append(
            {
                "asked to begun (publish and queue)": began - asked[manifest.task_id],
                "get model, make ready": times["began"] - began,
                "add 1.0": times["ended"] - times["began"],
                "pack, put update": ended - times["ended"],
                "reported to read by the loop": entry.at - ended,
            }
        )
    return {part: round(1000 * median(row[part] for row in rows), 1) for part in rows[0]}
