"""`make soak MINUTES=30`: run after run with nothing to train on a real stack, and whether anything grows meanwhile.

One orchestrator process sees every run to its end, and what a run leaves in the store is deleted then, as whoever has
fetched its result may do. Memory of orchestrator and workers, keys and memory in Valkey and objects in the S3 must stay
flat from the first fifth on. Exit status 1 if one of them grows faster than its bound.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import click
import redis
from rich.console import Console
from rich.table import Table

from benchmarks import job
from benchmarks.machine import here
from benchmarks.stack import crew, environment
from benchmarks.trials import RESULTS, Series, Soak
from infra import logs
from infra.blobs import BlobStore
from infra.runtime import connect
from infra.servers import Child, start
from infra.settings import Settings, read
from orchestrator import keys
from orchestrator.audit import audit
from orchestrator.commits import Commits
from orchestrator.plan import plan
from orchestrator.run import execute
from schemas.errors import RunFailed, StoreError
from tests.stack.processes import sessions

WORKERS, VERSIONS, NUMBERS = 2, 40, 16
"""Workers; versions of each run; float32 values of the model: nothing to train, and next to nothing to send."""
EVERY_S = 5.0
BOUNDS = {"memory": ("MB", 24.0, 8.0), "keys": ("keys", 20.0, 10.0), "objects": ("objects", 20.0, 10.0)}
"""Unit, how much of it may be added in an hour, and what says nothing in a short time."""


class Watch:
    """Samples of everything, taken from outside. Times in hours since its beginning."""

    def __init__(self, settings: Settings, blobs: BlobStore, processes: list[Child]) -> None:
        self.blobs, self.processes = blobs, processes
        self.redis = redis.Redis.from_url(settings.state_url)
        self.began = time.monotonic()
        self.samples: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)

    @property
    def minutes(self) -> float:
        """How long it has lasted."""
        return (time.monotonic() - self.began) / 60

    def sample(self) -> None:
        """Memory and keys, which may be looked at at any time. Raises StoreError if a process has ended."""
        for process in self.processes:
            if how := process.ended():
                raise StoreError(how)
            self._note("memory", process.name, _resident_mb(process.process.pid))
        self._note("memory", "valkey", self.redis.info("memory")["used_memory"] / 2**20)
        self._note("keys", "valkey", _lasting(self.redis))

    def run_ended(self, run: str) -> None:
        """What a run has left behind: in its folder of the store, which is deleted then, and elsewhere."""
        left = list(self.blobs.keys(keys.root(run)))
        for key in left:
            self.blobs.delete(key)
        self._note("objects", "left by a run", len(left))
        self._note("objects", "elsewhere", len([k for k in self.blobs.keys("") if not k.startswith("runs/")]))

    def series(self) -> tuple[Series, ...]:
        """All of it."""
        return tuple(
            Series(what=f"{kind} {what}", unit=BOUNDS[kind][0], most=BOUNDS[kind][1], noise=BOUNDS[kind][2],
                   samples=tuple((round(at, 5), round(value, 2)) for at, value in found))
            for (kind, what), found in self.samples.items()
        )  # fmt: skip

    def _note(self, kind: str, what: str, value: float) -> None:
        self.samples[kind, what].append((self.minutes / 60, value))


def soak(minutes: float, versions: int = VERSIONS) -> Soak:
    """So many minutes of it, and at least three runs. Raises StoreError if a part of it ends by itself."""
    where = here()
    with crew(WORKERS) as (settings, folder, workers), _orchestrator(settings, folder, versions) as orchestrator:
        watch, done = Watch(settings, connect(settings).blobs, [orchestrator, *workers]), 0
        while watch.minutes < minutes or done < 3:
            watch.sample()
            for run in orchestrator.log.read_text().split()[done:]:
                watch.run_ended(run)
                done += 1
            time.sleep(min(EVERY_S, 60 * minutes / 20))
    return Soak(
        where=where, minutes=round(watch.minutes, 1), runs=done, versions=done * versions,
        updates=done * versions * job.CLIENTS, series=watch.series(),
    )  # fmt: skip


def orchestrate(versions: int) -> None:
    """Runs for ever, the name of each on a line of its own as soon as it has ended. Raises RunFailed."""
    runtime, asked = connect(read()), job.experiment(versions, numbers=NUMBERS, name="soak")
    for number in count():
        run = f"soak-{number}"
        report = execute(plan(asked), runtime, run, lambda event: None).report
        if report.status != "finished" or any(s.accepted != versions for s in report.ledger.values()):
            raise RunFailed(f"{run}: {report.status} at version {report.version}, {report.ledger}")
        if wrong := audit(Commits(run, runtime.blobs)).violations:
            raise RunFailed(f"{run}: {wrong[0]}")
        print(run, flush=True)


def show(found: Soak, out: Console) -> None:
    """What grew, by how much, and whether it may."""
    table = Table("", "at first", "at the end", "per hour", "may grow by", "")
    for s in found.series:
        values = [f"{s.settled[0][1]:g}", f"{s.settled[-1][1]:g}", f"{s.slope:+.1f} {s.unit}", f"{s.most:g} {s.unit}"]
        table.add_row(s.what, *values, "flat" if s.flat else "GROWS")
    out.print(table)
    out.print(f"{found.minutes:g} minutes, {found.runs} runs, {found.versions} versions, {found.updates} updates")


@contextmanager
def _orchestrator(settings: Settings, folder: Path, versions: int) -> Iterator[Child]:
    command = [sys.executable, "-m", "scripts.soak", "--orchestrate", str(versions)]
    child = start("orchestrator", command, folder, env=environment(settings))
    try:
        yield child
    finally:
        child.stop()


def _lasting(server: redis.Redis) -> int:
    """Keys that do not go by themselves, as leases and beats do: of those there are more when tasks are short."""
    return sum(found["keys"] - found["expires"] for found in server.info("keyspace").values())


def _resident_mb(leader: int) -> float:
    """Of a process and all that it has started."""
    return sum(_pages(pid) for pid in sessions().get(leader, [])) * 4096 / 2**20


def _pages(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0


@click.command(help=__doc__)
@click.option("--minutes", default=30.0, show_default=True)
@click.option("--versions", default=VERSIONS, show_default=True, help="Of each run.")
@click.option("--record", is_flag=True, help="Keep the figures for docs/benchmarks.md.")
@click.option(
    "--orchestrate",
    "orchestrate_versions",
    type=int,
    hidden=True,
    help="Be the orchestrator, with runs of so many versions.",
)
def main(minutes: float, versions: int, orchestrate_versions: int | None, *, record: bool) -> None:
    logs.setup("error")
    if orchestrate_versions is not None:
        orchestrate(orchestrate_versions)
        return
    found = soak(minutes, versions)
    show(found, Console())
    if record:
        (RESULTS / "soak.json").write_text(found.model_dump_json(indent=1) + "\n")
    sys.exit(not all(s.flat for s in found.series))


if __name__ == "__main__":
    main()
