"""Updates per second through Celery, Redis and S3, against what the same S3 can do, measured by turns.

Asynchronous: 64 clients, 2 MB of adapter, a version at every eighth update, a client that only adds 1.0. An update
costs the store at least one PUT (the worker's) and one GET (the loop's), so the rate of such pairs from four threads
that do nothing else is the bound.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median

from benchmarks import job
from benchmarks.machine import Where, here
from benchmarks.stack import stack
from infra import http
from infra.blobs import BlobStore
from infra.runtime import Runtime, connect
from orchestrator.plan import plan
from orchestrator.run import execute
from schemas.base import Frozen
from schemas.errors import RunFailed
from schemas.log import Event
from schemas.messages import ALL, Grant

REPETITIONS, WORKERS, THREADS = 16, 2, 4
CLIENTS, QUORUM, IN_FLIGHT = 64, 8, 8
VERSIONS, WARM, PAIRS = 32, 4, 160
TTL_S = 600.0


class Repetition(Frozen):
    """By turns. pairs, updates: per second. staleness: versions that a counted update lagged, mean."""

    load: float
    pairs: float
    updates: float
    staleness: float


class Throughput(Frozen):
    """All repetitions, the job and the place."""

    where: Where
    workers: int
    clients: int
    quorum: int
    in_flight: int
    megabytes: float
    repetitions: tuple[Repetition, ...]

    @property
    def share(self) -> float:
        """Median update rate over median pair rate."""
        return median(r.updates for r in self.repetitions) / median(r.pairs for r in self.repetitions)


def measure(repetitions: int = REPETITIONS, versions: int = VERSIONS, in_flight: int = IN_FLIGHT) -> Throughput:
    """Pairs, then a run, then pairs again and so on, on a stack of its own with warm workers."""
    where = here()
    with stack(WORKERS) as settings:
        runtime = connect(settings)
        _run(runtime, "warm", 3, in_flight)
        found = tuple(_repetition(runtime, f"throughput-{i}", versions, in_flight) for i in range(repetitions))
    return Throughput(
        where=where, workers=WORKERS, clients=CLIENTS, quorum=QUORUM, in_flight=in_flight,
        megabytes=4 * job.NUMBERS / 1e6, repetitions=found,
    )  # fmt: skip


def updates_per_s(events: list[Event], warm: int = WARM) -> float:
    """Updates counted per second, from the closing of version `warm` to that of the last one."""
    closed = [e for e in events if e.event == "closed"][warm - 1 :]
    return sum(int(e.facts["counted"]) for e in closed[1:]) / (closed[-1].wall - closed[0].wall)


def pairs_per_s(blobs: BlobStore, folder: str, pairs: int = PAIRS) -> float:
    """PUT and then GET of an object as large as an update, from a few threads at once, as one pair per object."""
    data = bytes(4 * job.NUMBERS)
    keys = [f"{folder}/{i}" for i in range(pairs)]
    grants = [(blobs.grant(key, "PUT", TTL_S), blobs.grant(key, "GET", TTL_S)) for key in keys]
    with ThreadPoolExecutor(THREADS) as threads:
        began = time.perf_counter()
        list(threads.map(partial(_there_and_back, data), grants))
        seconds = time.perf_counter() - began
        list(threads.map(blobs.delete, keys))
    return pairs / seconds


def _there_and_back(data: bytes, grants: tuple[Grant, Grant]) -> None:
    put, get = grants
    http.put(put, data)
    http.get(get, len(data))


def _repetition(runtime: Runtime, name: str, versions: int, in_flight: int) -> Repetition:
    load = here().load
    pairs = pairs_per_s(runtime.blobs, f"raw/{name}")
    events, staleness = _run(runtime, name, versions, in_flight)
    return Repetition(
        load=load, pairs=round(pairs, 1), updates=round(updates_per_s(events), 1), staleness=round(staleness, 2)
    )


def _run(runtime: Runtime, name: str, versions: int, in_flight: int) -> tuple[list[Event], float]:
    """The events of a run of the job. Raises RunFailed if its numbers are not what its journal says."""
    asked = job.experiment(
        versions, clients=CLIENTS, name="throughput",
        in_flight=in_flight, quorum=QUORUM, floor=QUORUM, refill="at_arrival", max_staleness=4,
    )  # fmt: skip
    outcome = execute(plan(asked), runtime, name, lambda event: None)
    report = outcome.report
    if report.status != "finished" or not job.adds_up(outcome.tensors[ALL], asked, outcome.events):
        raise RunFailed(f"{name}: {report.status} at version {report.version}, and the numbers are wrong")
    return outcome.events, report.mean_staleness
