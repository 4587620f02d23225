"""Sections of docs/benchmarks.md on throughput, memory, chaos and soak. Measures nothing."""

from benchmarks.markdown import place, table, verdict
from benchmarks.memory import Cost, Memory
from benchmarks.throughput import THREADS, Throughput
from benchmarks.trials import Chaos, Soak

LEAST_SHARE, MOST_MB = 0.5, 30.0
"""The goals: update rate over pair rate, and memory that many clients may take beyond few."""
RUNS = {
    "eight": "one process, 8 in flight (asynchronous)",
    "all": "one process, all in every version",
    "stack": "the orchestrator of the real stack, 8 in flight",
}


def throughput(found: Throughput) -> str:
    """Updates against pairs."""
    rows = [[f"{i}", f"{r.pairs:.1f}", f"{r.updates:.1f}", f"{100 * r.updates / r.pairs:.0f} %", f"{r.staleness:g}",
             f"{r.load:g}"] for i, r in enumerate(found.repetitions, 1)]  # fmt: skip
    reached = verdict(-found.share, -LEAST_SHARE)
    heads = ["repetition", "PUT + GET pairs per s", "updates per s", "share", "mean staleness", "load before"]
    return f"""## Updates per second, through the real stack

Asynchronous mode ({found.clients} clients, {found.in_flight} in flight, refill at arrival, a version for every
{found.quorum} updates), {found.workers} workers, {found.megabytes:.1f} MB per update, a client that only adds 1.0:
Celery, Valkey and S3 (SeaweedFS) on this machine. *Pairs*: one PUT and one GET of as many bytes through grants like a
worker's, {THREADS} threads that do nothing else, on the same S3; pairs and run by turns in one go. The model that comes
out must be the sum of the steps that the journal tells of. Both take all cores, so the share depends on what else runs:
with four workers on a quiet machine it was 46 % ([log.md](log.md)). Again: `python -m benchmarks throughput`.
Goal: at least {100 * LEAST_SHARE:.0f} % of the pairs. **Median over median: {100 * found.share:.0f} %, {reached}.**

{table(heads, rows)}
{place(found.where)}
"""


def memory(found: Memory) -> str:
    """Memory, time and disk."""
    rows = [[RUNS[kind], *row] for kind, costs in found.costs.items() for row in _costs(costs)]
    heads = ["run", "clients", "peak memory, MB", "beyond the fewest", "goal", "ms of processor per update", "wall ms"]
    disk = [[f"{d.versions}", f"{d.peak_mb:g}", f"{d.end_mb:g}"] for d in found.disk]
    slower = ", ".join(f"{costs[-1].ms / costs[0].ms:.1f}" for costs in found.costs.values())
    return f"""## Memory, time per update and disk, by number of clients

A model of 4 kB, a client that only adds 1.0; every run in a process of its own. Runs of a kind count equally many
updates, for at the end the whole journal is read. In one process the memory includes the work itself and torch. Updates
are kept in memory until the fold up to a budget of {found.budget_mb:g} MB and read again beyond it; these are too small
to come near it. *ms of processor*: what the process needed, whatever else ran (median over the versions). Again:
`python -m benchmarks memory`.
Goal: at most {MOST_MB:g} MB more with many clients than with few, and no more time per update. **Time with the most
clients, by that with the fewest, of each kind: {slower}.**

{table(heads, rows)}
Disk: an asynchronous run of 8 clients with adapters of {found.adapter_mb:g} MB, bytes in the store looked at whenever
a version was committed. Every tenth model is kept for good, all else goes:

{table(["versions", "peak, MB", "at the end, MB"], disk)}
{place(found.where)}
"""


def chaos(found: Chaos) -> str:
    """What was survived."""
    rows = [[kind, f"{n}", f"{longest:.1f}", f"{middle:.1f}"] for kind, n, longest, middle in found.table()]
    return f"""## Chaos: what a running stack survives

`make chaos MINUTES=10`: three workers, Valkey and S3 behind doors that can be shut, a long asynchronous run (a version
at every second update, staleness up to 3) and a synchronous one that must end in known bytes; the next run begins as
soon as one ends. Faults come at random and for up to 8 s, two at once in three of ten cases, until every run has
committed again. Each run is audited at its end (`quorate audit`), and no grant may stand in any log.
**{found.minutes:g} minutes, {len(found.blows)} blows (seed {found.seed}): {found.done}.**
*Recovery*: from the end of the fault (a killed part is then started again) to the next version of the run that took
longest. An orchestrator that ends by itself, also one that is started while Redis is away, is a violation.

{table(["fault", "times", "longest recovery, s", "median, s"], rows)}{_violations(found)}
{place(found.where)}
"""


def soak(found: Soak) -> str:
    """What stayed flat."""
    rows = []
    for s in found.series:
        values = [f"{s.settled[0][1]:g}", f"{s.settled[-1][1]:g}", f"{s.slope:+.1f} {s.unit}", f"{s.most:g} {s.unit}"]
        rows.append([s.what, *values, "flat" if s.flat else "**grows**"])
    heads = ["figure", "after a fifth of the time", "at the end", "slope per hour", "bound", ""]
    return f"""## Soak: nothing to train, run after run

`make soak MINUTES=30`, here for {found.minutes:g} minutes: {found.runs} runs, {found.versions} versions,
{found.updates} updates on one Valkey, one S3, two workers and one orchestrator process; each update counted once, or
the orchestrator ends. Memory of a worker is that of its parent process and its child. What a run leaves is counted and
deleted when it has ended. Keys are those that last: not the beats of tasks, nor leases. Slopes are those of the
straight line that fits best behind the first fifth of the time.

{table(heads, rows)}
{place(found.where)}
"""


def _costs(costs: tuple[Cost, ...]) -> list[list[str]]:
    few = costs[0].peak_mb
    return [
        [f"{c.clients}", f"{c.peak_mb:.0f}", f"{c.peak_mb - few:+.0f}", verdict(c.peak_mb - few, MOST_MB),
         f"{c.ms:.2f}", f"{c.wall_ms:.2f}"] for c in costs
    ]  # fmt: skip


def _violations(found: Chaos) -> str:
    return "".join(f"\n- {violation}" for violation in found.violations)
