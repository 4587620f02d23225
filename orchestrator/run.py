"""One run from its experiment to its report. This module alone knows the order of the steps."""

import contextlib
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Literal

from pydantic import ValidationError

from infra.runtime import Runtime
from orchestrator import keys, report
from orchestrator.commits import Commits
from orchestrator.joining import come_since
from orchestrator.journal import Journal
from orchestrator.loop import Loop
from orchestrator.news import News
from orchestrator.patience import PASSING, Patience
from orchestrator.plan import Plan
from orchestrator.start import Start
from orchestrator.tenure import OwnedBlobs, OwnedStream, Tenure
from schemas.base import canonical
from schemas.complaints import first_of
from schemas.errors import BlobExists, BlobMissing, Cancelled, ConfigError, RunFailed, StoreError
from schemas.experiment import Experiment
from schemas.log import Commit, Event, Final
from schemas.report import Report
from workers.tensors import Tensors

LARGEST_EXPERIMENT = 16 * 1024 * 1024
Status = Literal["finished", "failed", "cancelled"]


@dataclass(frozen=True)
class Outcome:
    """What a run leaves: its report, its events, the final tensors of each group and the classes they tell apart."""

    report: Report
    events: list[Event]
    tensors: dict[str, Tensors]
    commit: Commit | None


def execute(
    plan: Plan,
    runtime: Runtime,
    run: str,
    watch: Callable[[Event], None],
    *,
    wait_s: float = 0.0,
    patience_s: float = 0.0,
) -> Outcome:
    """Start or continue a run and see it to its end. Raises LeaseLost; KeyboardInterrupt leaves it resumable.

    A store that does not answer is waited for; then the loop goes on from the last commit, as after a crash.

    wait_s: how long to wait until another loop gives the run up. patience_s: how long a store may be away.
    """
    tenure = Tenure(run, f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}", runtime.state)
    patience, news = Patience(tenure, patience_s), News(watch)
    owned = replace(runtime, blobs=OwnedBlobs(runtime.blobs, tenure), stream=OwnedStream(runtime.stream, tenure))
    try:
        while True:
            try:
                tenure.begin(wait_s=wait_s)
                wait_s = 0.0
                return _live(plan, owned, tenure, news)
            except PASSING as e:
                now = runtime.bus.clock.now()
                facts = {"reason": e.message}
                news.watch(Event(event="away", at=now, wall=time.time(), version=tenure.version, facts=facts))
                patience.bear(e)
                runtime.bus.clock.restart()
    finally:
        with contextlib.suppress(StoreError):  # then the lease ends by itself
            tenure.end()


def _live(plan: Plan, runtime: Runtime, tenure: Tenure, news: News) -> Outcome:
    commits = Commits(tenure.run, runtime.blobs)
    remember(plan.experiment, runtime, tenure.run)
    if commits.final() is None:
        news.recall(_until_now(commits))
        _finish(commits, _see_through(plan, runtime, commits, tenure, news.watch))
    _clean(commits, runtime)
    found = outcome(commits)
    runtime.state.forget(tenure.run)  # last of all: whoever reads for long extends the lease, and keeps a value with it
    return found


def _until_now(commits: Commits) -> list[Event]:
    """What somebody who begins to watch has to know of a run that has begun: its beginning, and the sites since."""
    last = commits.last()
    if last is None:
        return []
    events = commits.beginning()
    known = {c for e in events if e.event == "described" for c in (*e.facts["clients"], *e.facts["held_out"])}
    return [*events, *come_since(known, last)]


def remember(experiment: Experiment, runtime: Runtime, run: str) -> None:
    """Keep the experiment with the run. Raises ConfigError if the run was started with another one."""
    try:
        runtime.blobs.put(keys.experiment(run), canonical(experiment), if_absent=True)
    except BlobExists:
        if canonical(recall(runtime, run)) != canonical(experiment):
            raise ConfigError(f"run {run} exists with another experiment", hint="choose another --name") from None


def recall(runtime: Runtime, run: str) -> Experiment:
    """The experiment of a run that was started before. Raises ConfigError if there is none, or none to be read."""
    try:
        text = runtime.blobs.read(keys.experiment(run), limit=LARGEST_EXPERIMENT)
    except BlobMissing:
        raise ConfigError(f"there is no run {run!r} in the store", hint="quorate runs lists them") from None
    try:
        return Experiment.model_validate_json(text)
    except ValidationError as e:
        found = first_of(e)
        what = ": ".join(filter(None, [".".join(map(str, found["loc"])), found["msg"]]))
        hint = "is it of another version of quorate?"
        raise ConfigError(
            f"the experiment of run {run!r} cannot be read: {' '.join(what.split())[:200]}", hint=hint
        ) from None


def known(runtime: Runtime, run: str) -> bool:
    """Whether the store holds anything of this run."""
    return next(iter(runtime.blobs.keys(keys.root(run))), None) is not None


def outcome(commits: Commits) -> Outcome:
    """The outcome of a run, from what is stored of it."""
    commit, events = commits.last(), commits.journal()
    models = commit.models[commit.version] if commit else {}
    tensors = {group: commits.get_model(blob) for group, blob in models.items()}
    return Outcome(report.build(commits.run, events, tensors), events, tensors, commit)


@dataclass(frozen=True)
class _Ending:
    """How it went, and the events that no commit has taken in. at: the run's clock."""

    journal: Journal
    at: float
    status: Status
    reason: str = ""


def _see_through(
    plan: Plan, runtime: Runtime, commits: Commits, tenure: Tenure, watch: Callable[[Event], None]
) -> _Ending:
    start = Start(plan, runtime, commits, tenure, watch)
    journal, clock = start.journal, runtime.bus.clock
    try:
        commit = commits.last() or start.commit(version("quorate"))
        loop = Loop(plan, runtime, commits, tenure, watch)
        journal = loop.journal
        loop.load(commit)
        loop.go()
        return _Ending(journal, clock.now(), "finished")
    except Cancelled as e:
        return _Ending(journal, clock.now(), "cancelled", str(e))
    except RunFailed as e:
        return _Ending(journal, clock.now(), "failed", str(e))


def _finish(commits: Commits, ending: _Ending) -> None:
    last = commits.last()
    number = last.version if last else 0
    ending.journal.record("finished", ending.at, number, status=ending.status, reason=ending.reason)
    journal = commits.put_journal(number, ending.journal.events)
    final = Final(run=commits.run, status=ending.status, reason=ending.reason, version=number, journal=journal)
    commits.finish(final)


def _clean(commits: Commits, runtime: Runtime) -> None:
    """Leave nothing behind that nobody refers to. Done again if an earlier life did not come to its end."""
    commits.sweep(commits.last())
    runtime.stream.delete(commits.run)
