"""How long it takes after a failure until the work goes on, on the real stack with processes that are really killed."""

import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.machine import Where, here
from benchmarks.markdown import place, table, verdict
from infra.servers import start_s3
from orchestrator.commits import Commits
from schemas.base import Frozen
from tests.stack.field import SYNC, Field

REPETITIONS = 3
AGAIN_S, RESUMED_S = 10.0, 15.0
"""The goals: a killed worker's task runs again, a killed orchestrator's run goes on."""
SLEEPER_S, GRACE_S = 30.0, 1.0
QUORUM = {"in_flight": 4, "quorum": 3, "floor": 2, "grace_s": GRACE_S, "deadline_s": 60, "max_staleness": 2}


class Recovery(Frozen):
    """Seconds, one number per repetition.

    worker: from SIGKILL of a worker in training until another process trains. resume: from SIGKILL of an
    orchestrator, after which another is started with --resume, until that one owns the run. standby: the same with one
    that was waiting. quorum, waiting: of the version in which one of four clients takes 30 s.
    """

    where: Where
    worker: tuple[float, ...]
    resume: tuple[float, ...]
    standby: tuple[float, ...]
    quorum: float
    waiting: float


def measure() -> Recovery:
    """All of it, on a stack of its own with two workers."""
    where = here()
    with tempfile.TemporaryDirectory(prefix="quorate-bench-") as name:
        s3 = start_s3(Path(name) / "s3")
        field = Field(s3, Path(name) / "field")
        try:
            return Recovery(
                where=where,
                worker=tuple(_worker(field, f"worker-{i}") for i in range(REPETITIONS)),
                resume=tuple(_orchestrator(field, f"resume-{i}", standby=False) for i in range(REPETITIONS)),
                standby=tuple(_orchestrator(field, f"standby-{i}", standby=True) for i in range(REPETITIONS)),
                quorum=_sleeper(field, "quorum", QUORUM),
                waiting=_sleeper(field, "waiting", SYNC),
            )
        finally:
            field.close()
            s3.child.stop()


def section(found: Recovery) -> str:
    """Its part of docs/benchmarks.md."""
    rows = [
        ["worker killed in training, until its task runs again", *_cells(found.worker, AGAIN_S)],
        ["orchestrator killed, until one started with `--resume` owns the run", *_cells(found.resume, RESUMED_S)],
        ["orchestrator killed, until one that was waiting owns the run", *_cells(found.standby, RESUMED_S)],
    ]
    return f"""## After a failure

SIGKILL to real processes (tests/stack/field.py), two workers, four clients; the time of starting a process is part of
the second line. Again: `python -m benchmarks recovery`.

{table(["", "seconds", "goal at most", ""], rows)}
One of four clients takes {SLEEPER_S:g} s: a version with quorum 3 and {GRACE_S:g} s of grace takes
**{found.quorum:.1f} s**, one that waits for all of them {found.waiting:.1f} s.

{place(found.where)}
"""


def _cells(seconds: tuple[float, ...], most: float) -> list[str]:
    return [", ".join(f"{s:.1f}" for s in seconds), f"{most:g}", verdict(max(seconds), most)]


def _worker(field: Field, run: str) -> float:
    orders = field.orders(run)
    field.staff(2)
    with orders.tell("wait", "flat-0", 0):
        orchestrator = field.run(run, versions=1)
        pid = orders.trains("flat-0", 0)
        killed = time.time()
        field.worker_of(pid).kill()
        other = orders.trains("flat-0", 0, besides=[pid])
        again = orders.begun("flat-0", 0)[other]
    orchestrator.leaves()
    return round(again - killed, 2)


def _orchestrator(field: Field, run: str, *, standby: bool) -> float:
    orders = field.orders(run)
    field.staff(2)
    with orders.tell("wait", "flat-0", 0):
        first = field.run(run, versions=1)
        orders.trains("flat-0", 0)
        owner = field.owner(run)
        second = field.resume(run) if standby else None
        if second is not None:
            field.uses(second)
        killed = time.monotonic()
        first.kill()
        second = second or field.resume(run)
        field.passes_on(run, owner)
        took = time.monotonic() - killed
    second.leaves()
    return round(took, 2)


def _sleeper(field: Field, run: str, rounds: Mapping[str, float]) -> float:
    orders = field.orders(run)
    field.staff(2)
    with orders.tell("wait", "flat-0", 0) as asleep:
        orchestrator = field.run(run, versions=1, rounds=rounds)
        orders.trains("flat-0", 0)
        waking = threading.Timer(SLEEPER_S, asleep.unlink, kwargs={"missing_ok": True})
        waking.start()
        orchestrator.leaves()
        waking.cancel()
    start, end = Commits(run, field.runtime.blobs).all()
    return round(end.at - start.at, 2)
