"""What a worker does with one task: read, work, write by reference, report.

Holds no storage credentials: it reads `Ref`s and writes `Outlet`s. Knows neither Celery nor the round rule. Nothing it
answers depends on which worker it is, on what it did before, or on the attempt.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from pydantic import ValidationError

from infra import logs
from infra.state import StateStore
from infra.stream import Author, Stream
from schemas.base import canonical
from schemas.complaints import complaint
from schemas.errors import BlobError, ConfigError, StoreError
from schemas.messages import BlobRef, ClientResult, Description, Letter, Manifest, Split, Task, read_message
from workers.beats import beating, report
from workers.data.owners import Owner
from workers.failure import failure, without_urls
from workers.job import Job
from workers.letters import opened
from workers.merge import refine
from workers.method import Method
from workers.pipeline import write_state
from workers.place import Place, Site
from workers.plugins import load
from workers.private import PoolPrivate, Private, SitePrivate
from workers.reach import Reach
from workers.setting import Setting

log = structlog.get_logger()


@dataclass(frozen=True)
class Answer:
    """What a task gives: per client, and as a whole."""

    results: tuple[ClientResult, ...] = ()
    outputs: dict[str, BlobRef] = field(default_factory=dict)
    encodes: int = 0


class Worker:
    """Executes tasks, for the pool or for one site. cache: folder of features and drawn data.

    files: in the loop's own process, on files as its stores (see Reach). What these say for good then ends the loop.
    """

    def __init__(
        self, *, name: str, stream: Stream, state: StateStore, cache: Path, site: Site | None = None, files: bool = True
    ) -> None:
        self.name, self.stream, self.state, self.site, self.files = name, stream, state, site, files
        self._reach = Reach(files=files)
        self._place = Place(cache, site, self._reach)
        self._private: Private = (
            SitePrivate(site.data.private, site.data.keep_days) if site else PoolPrivate(self._reach)
        )

    def handle(self, text: str) -> None:
        """Work on the JSON of a Task and append a Manifest or a TaskFailure to the run's stream."""
        started = time.monotonic()
        try:
            task = read_message(text)
        except ValidationError as e:
            log.error("task not understood", error=complaint(e, Task))
            return
        self._reach.begin(task.deadline_s)
        with structlog.contextvars.bound_contextvars(**logs.facts(task)), beating(self.state, task):
            author, body = self._attempt(task, started)
            report(self.stream, task, author, body, until=started + task.deadline_s)

    def _attempt(self, message: Task | Letter, started: float) -> tuple[Author, str]:
        try:
            task = opened(message, self._reach)
            answer = self._answer(task)
        except Exception as e:  # whatever a plugin or a library raises is this task's failure, not the worker's
            if self.files and type(e) in (BlobError, StoreError):
                raise
            log.warning("task failed", kind=message.kind, error=without_urls(f"{type(e).__name__}: {e}"))
            return "failure", failure(message, e, self.site).model_dump_json()
        seconds = time.monotonic() - started
        log.info("task done", kind=task.kind, clients=len(task.clients), seconds=round(seconds, 3))
        manifest = Manifest(
            run=task.run, task_id=task.task_id, attempt=task.attempt, worker=self.name, results=answer.results,
            outputs=answer.outputs, encodes=answer.encodes + sum(r.encodes for r in answer.results), seconds=seconds,
        )  # fmt: skip
        return "manifest", manifest.model_dump_json()

    def _answer(self, task: Task) -> Answer:
        if task.kind == "describe":
            return self._describe(task)
        setting = self._place.setting(task.setting)
        method: Method = load("workers.methods", setting.experiment.method, allowed=self._place.allowed)
        if task.kind == "init":
            return self._init(task, setting, method)
        if task.kind == "merge":
            made, encodes = refine(task, setting, method, self._place, self._reach)
            return Answer(outputs={"model": made}, encodes=encodes)
        model = self._place.model(task.inputs["model"])
        job = Job(task, setting, method, model, self._place, self._private, self._reach)
        return Answer(results=tuple(job.train() if task.kind == "train" else job.evaluate()))

    def _describe(self, task: Task) -> Answer:
        asked = self._place.proposed(task.setting).experiment
        owners = self._place.owners(asked)
        description = Description(
            site=self.site.name if self.site else None,
            clients={name: _count(owner) for name, owner in owners.clients.items()},
            held_out={name: _count(owner) for name, owner in owners.held_out.items()},
            classes=owners.classes,
            skipped=len(owners.skipped),
            domains={name: owner.domains for name, owner in (owners.clients | owners.held_out).items()},
            fingerprint=self._place.features(asked.model.backbone).backbone.fingerprint,
        )
        uploaded, _ = self._reach.upload(task.outputs["description"], canonical(description))
        return Answer(outputs={"description": uploaded})

    def _init(self, task: Task, setting: Setting, method: Method) -> Answer:
        state = method.init(setting)
        if state.server:
            raise ConfigError(f"{type(method).__name__} starts with server tensors, which version 0 cannot hold")
        return Answer(outputs={"state": self._reach.upload(task.outputs["state"], write_state(state))[0]})


def _count(owner: Owner) -> Split:
    parts = owner.parts
    return Split(train=len(parts.train), val=len(parts.val), test=len(parts.test))
