"""What a worker does with one task: read, work, write by reference, report.

Holds no storage credentials: it reads `Ref`s and writes `Outlet`s. Knows neither Celery nor the round rule. Nothing it
answers depends on which worker it is, on what it did before, or on the attempt.
"""

import math
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
from schemas.errors import (
    BlobCorrupt,
    BlobError,
    BlobMissing,
    CodecError,
    ConfigError,
    DataError,
    StoreError,
)
from schemas.messages import BlobRef, ClientResult, ClientSlot, Description, Letter, Manifest, Split, Task, read_message
from workers.beats import beating, report
from workers.data.owners import Owner
from workers.failure import failure, without_urls
from workers.letters import opened
from workers.method import Client, Examples, Method
from workers.pipeline import Codec, Label, Transform, read_label, seal, without_residual, write_state, write_update
from workers.place import Place, Site, part, together
from workers.plugins import load
from workers.private import PoolPrivate, Private, SitePrivate
from workers.reach import Reach
from workers.readout import Cosine
from workers.setting import Setting
from workers.tensors import Tensors
from workers.training import accuracy, one_thread

log = structlog.get_logger()


@dataclass(frozen=True)
class Answer:
    """What a task gives: per client, and as a whole."""

    results: tuple[ClientResult, ...] = ()
    outputs: dict[str, BlobRef] = field(default_factory=dict)


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
            outputs=answer.outputs, encodes=sum(r.encodes for r in answer.results), seconds=seconds,
        )  # fmt: skip
        return "manifest", manifest.model_dump_json()

    def _answer(self, task: Task) -> Answer:
        if task.kind == "describe":
            return self._describe(task)
        setting = self._place.setting(task.setting)
        method: Method = load("workers.methods", setting.experiment.method, allowed=self._place.allowed)
        if task.kind == "init":
            return self._init(task, setting, method)
        job = _Job(task, setting, method, self._place.model(task.inputs["model"]))
        if task.kind == "train":
            return Answer(results=tuple(self._train(job, slot) for slot in task.clients))
        return Answer(results=tuple(r for slot in task.clients for r in self._evaluated(job, slot)))

    def _evaluated(self, job: "_Job", slot: ClientSlot) -> list[ClientResult]:
        try:
            return [self._evaluate(job, slot)]
        except DataError as e:  # one owner's unreadable image must not hide how the others do
            log.warning("evaluation failed", who=slot.client, error=without_urls(str(e)))
            return []

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

    def _train(self, job: "_Job", slot: ClientSlot) -> ClientResult:
        seen = [(o.parts, *self._place.examples(job.setting, o)) for o in self._whose(job, slot)]
        train = together([part(examples, parts.train) for parts, examples, _ in seen])
        val = together([part(examples, parts.val) for parts, examples, _ in seen])
        return self._trained(job, slot, train, val, sum(encodes for *_, encodes in seen))

    def _whose(self, job: "_Job", slot: ClientSlot) -> list[Owner]:
        """Whose images a client trains on: its own, but for a method that pools."""
        owners = self._place.owners(job.setting.experiment)
        own = owners.find(slot.client)
        if not job.method.traits.pools:
            return [own]
        if self.site:
            raise ConfigError(f"{type(job.method).__name__} trains on everybody's images at once, which no site has")
        return list(owners.clients.values())

    @one_thread()  # beside other processes, two threads that wait for each other take ten times as long as one
    def _trained(self, job: "_Job", slot: ClientSlot, train: Examples, val: Examples, encodes: int) -> ClientResult:
        private, lost = self._private_of(job, slot)
        client = Client(
            name=slot.client,
            base=job.task.base,
            setting=job.setting,
            incoming=job.incoming,
            train=train,
            val=val,
            private=without_residual(private),
            group=job.task.group,
        )
        update = job.method.train(client)
        codec, transforms = self._way_out(job.setting)
        sealed = seal(client, update, private=private, codec=codec, transforms=transforms)
        kept = self._private.write(job.task.run, slot, sealed.private)
        label = Label(slot.client, update.weight, _finite(update.metrics) | lost, kept, encodes)
        return self._send(slot, write_update(sealed.packed, label))

    def _evaluate(self, job: "_Job", slot: ClientSlot) -> ClientResult:
        owner = self._place.owners(job.setting.experiment).find(slot.client)
        examples, encodes = self._place.examples(job.setting, owner)
        test = part(examples, owner.parts.test)
        private, lost = self._private_of(job, slot)
        personal = job.method.personal(job.setting, job.task.group, job.incoming, without_residual(private))
        metrics = {"accuracy": accuracy(personal, test), "examples": float(len(test))}
        if job.task.base == 0:
            metrics["zero_shot"] = accuracy(Cosine(job.setting.texts, job.setting.scale), test)
        return ClientResult(client=slot.client, metrics=_finite(metrics) | lost, encodes=encodes)

    def _init(self, task: Task, setting: Setting, method: Method) -> Answer:
        state = method.init(setting)
        if state.server:
            raise ConfigError(f"{type(method).__name__} starts with server tensors, which version 0 cannot hold")
        return Answer(outputs={"state": self._reach.upload(task.outputs["state"], write_state(state))[0]})

    def _send(self, slot: ClientSlot, data: bytes) -> ClientResult:
        # What lies under the key counts: an earlier attempt may have died between its upload and its report.
        update, found = self._reach.upload(slot.outputs["update"], data)
        label = read_label(found)
        return ClientResult(
            client=slot.client,
            update=update,
            private=label.private,
            weight=label.weight,
            metrics=label.metrics,
            payload_bytes=update.size,
            encodes=label.encodes,
        )

    def _private_of(self, job: "_Job", slot: ClientSlot) -> tuple[Tensors, dict[str, float]]:
        """A client's private state, and what is to be said of it: one that is gone for good begins anew."""
        try:
            return self._private.read(job.task.run, slot), {}
        except (BlobMissing, BlobCorrupt, CodecError) as e:
            log.warning("private state is lost, beginning anew", who=slot.client, error=without_urls(str(e)))
            return {}, {"private_lost": 1.0}

    def _way_out(self, setting: Setting) -> tuple[Codec, list[Transform]]:
        allowed = self._place.allowed
        codec: Codec = load("workers.codecs", setting.experiment.codec, allowed=allowed)
        return codec, [load("workers.transforms", c, allowed=allowed) for c in setting.experiment.transforms]


@dataclass(frozen=True)
class _Job:
    """What the clients of one task share."""

    task: Task
    setting: Setting
    method: Method
    incoming: Tensors


def _count(owner: Owner) -> Split:
    parts = owner.parts
    return Split(train=len(parts.train), val=len(parts.val), test=len(parts.test))


def _finite(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if math.isfinite(value)}
