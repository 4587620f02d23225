"""The beginning of a run: ask the owners what they hold, agree on classes and backbone, and commit version 0.

Describe and init are sent again when a worker says that it could not do them, when it vanished without a word, or
when the queues were emptied.
"""

from collections.abc import Callable

import torch
from pydantic import ValidationError

from infra.clock import VirtualClock
from infra.runtime import Runtime
from infra.stream import START
from orchestrator import keys
from orchestrator.commits import Commits
from orchestrator.descriptions import received, sort_out
from orchestrator.desk import ATTEMPTS
from orchestrator.journal import Journal
from orchestrator.plan import Plan
from orchestrator.post import Post
from orchestrator.simulate import Simulator
from orchestrator.tenure import EVERY_S, Tenure
from orchestrator.vigil import Vigil
from schemas.base import alike, canonical
from schemas.errors import BlobCorrupt, BlobMissing, BusError, CodecError, RunFailed
from schemas.experiment import Setting
from schemas.log import Commit, Event, Open
from schemas.messages import ALL, BlobRef, Description, Manifest, TaskFailure
from workers.method import State
from workers.pipeline import read_assignment
from workers.tensors import Tensors, is_finite, unpack

LARGEST_STATE = 4 * 1024**3
"""Bytes of the tensors of version 0: adapters, or all of a CLIP."""


class Start:
    """From an experiment to version 0."""

    def __init__(
        self, plan: Plan, runtime: Runtime, commits: Commits, tenure: Tenure, watch: Callable[[Event], None]
    ) -> None:
        self.plan, self.runtime, self.commits, self.tenure = plan, runtime, commits, tenure
        self.clock, self.run = runtime.bus.clock, commits.run
        self.journal = Journal(watch)
        self.post = Post(self.run, plan.experiment, runtime.blobs, runtime.bus)
        self.virtual = isinstance(self.clock, VirtualClock)
        self.vigil = Vigil(self.run, runtime.state, runtime.bus, Simulator.of(plan, virtual=self.virtual))
        self.missing: tuple[Open, ...] = ()
        self.given_up: dict[str, tuple[Open, str]] = {}
        self.unable: dict[str, str] = {}
        self.cursor = START

    def commit(self, code_version: str) -> Commit:
        """Version 0. Raises RunFailed if nobody answers, or what they answer does not fit together."""
        experiment, now = self.plan.experiment, self.clock.now()
        facts: dict[str, object] = {"seed": experiment.seed, "code_version": code_version, "virtual": self.virtual}
        self.journal.record("started", now, 0, experiment=experiment.model_dump(mode="json"), **facts)
        descriptions = self.describe()
        setting = self.agree(descriptions)
        described = {c: s.model_dump() for d in descriptions for c, s in d.clients.items()}
        held_out = sorted({h for d in descriptions for h in d.held_out})
        facts = {
            "clients": described,
            "held_out": held_out,
            "skipped": {d.site or "pool": d.skipped for d in descriptions if d.skipped},
            "domains": {c: names for d in descriptions for c, names in d.domains.items()},
            "classes": setting.classes,
            "fingerprint": setting.fingerprint,
        }
        self.journal.record("described", self.clock.now(), 0, **facts)
        ref = self.commits.put_setting(canonical(setting))
        state = self.init(ref, descriptions)
        models = {group: self.commits.put_model(0, tensors) for group, tensors in state.tensors.items()}
        self.tenure.keep(0)  # so that a store without this value is one that was emptied
        return self.commits.write(
            Commit(
                run=self.run, version=0, at=self.clock.now(), began=self.clock.now(), setting=ref,
                descriptions=descriptions,
                open=self.missing, models={0: models}, assignment=dict(state.assignment), cursor=self.cursor,
                selector=self.plan.selector.dump(), journal=self.commits.put_journal(0, self.journal.events),
            )
        )  # fmt: skip

    def describe(self) -> tuple[Description, ...]:
        """What the owners hold: of all of them, or after `start_s` of those that have answered, if `floor` train."""
        setting = self.commits.put_setting(canonical(Setting(experiment=self.plan.experiment)))
        sites: tuple[str | None, ...] = self.plan.experiment.sites or (None,)
        asked = [self._task("describe", site) for site in sites]
        answers = self.exchange(asked, setting)
        found = sort_out(self._said(asked, answers), self.plan.experiment.model.classes)
        later = [*self.unanswered.values(), *(task for task, _ in self.given_up.values())]
        self.missing = tuple(t.model_copy(update={"started_at": None, "sent": False}) for t in later)
        clients = [c for d in found.fitting for c, split in d.clients.items() if split.train]
        enough = len(clients) >= max(1, self.plan.experiment.rounds.floor)
        for site, reason in found.refused.items():
            if not enough:
                raise RunFailed(f"run {self.run}: {site} cannot take part: {reason}")
            self.journal.record("refused", self.clock.now(), 0, site=site, reason=reason)
        for _, reason in () if enough else self.given_up.values():
            raise RunFailed(f"run {self.run}: {reason}")
        if self.missing and not enough:
            queues = "; ".join(self.runtime.bus.waiting(t.site) for t in self.missing)
            silent = ", ".join(t.site or "the pool" for t in self.missing)
            raise RunFailed(f"run {self.run}: no answer from {silent}: {queues}",
                            hint="is a worker running, and does it serve that queue?")  # fmt: skip
        if not clients:
            raise RunFailed(f"run {self.run}: no client has images to train on")
        return tuple(found.fitting)

    def agree(self, descriptions: tuple[Description, ...]) -> Setting:
        """One list of classes and one backbone for all. Raises RunFailed."""
        prints = sorted({d.fingerprint for d in descriptions})
        if len(prints) > 1:
            raise RunFailed(f"run {self.run}: the workers hold {len(prints)} different backbones",
                            hint="same weights, architecture and preprocessing are needed everywhere")  # fmt: skip
        named = self.plan.experiment.model.classes
        classes = named or tuple(sorted({c for d in descriptions for c in d.classes}))
        if len(classes) < 2:
            raise RunFailed(f"run {self.run}: {len(classes)} class is not enough to tell apart")
        if clash := alike(classes):
            raise RunFailed("run {}: CLIP cannot tell the classes {!r} and {!r} apart".format(self.run, *clash),
                            hint="the owners must agree on one spelling")  # fmt: skip
        return Setting(experiment=self.plan.experiment, classes=classes, fingerprint=prints[0])

    def init(self, setting: BlobRef, descriptions: tuple[Description, ...]) -> State:
        """Version 0: the tensors per group and who is in which, made by a worker because it has the backbone."""
        task = self._task("init", descriptions[0].site)
        if task.task_id not in (answers := self.exchange([task], setting)):
            raise RunFailed(f"run {self.run}: nobody made version 0: {self.runtime.bus.waiting(task.site)}")
        named, assignment = self._read_state(answers[task.task_id])
        groups: dict[str, Tensors] = {}
        for name, tensor in named.items():
            group, _, key = name.partition("/")
            groups.setdefault(group, {})[key] = tensor
        groups = groups or {ALL: {}}
        if nowhere := sorted(set(assignment.values()) - set(groups)):
            raise RunFailed(f"run {self.run}: version 0 assigns clients to {nowhere[0]!r}, which is no group of it")
        return State(tensors=groups, assignment=assignment)

    def exchange(self, tasks: list[Open], setting: BlobRef) -> dict[str, Manifest]:
        """Send tasks and wait, at most `start_s`, for their manifests. What is in the stream already is not sent."""
        until = self.clock.now() + self.plan.experiment.start_s
        self.unanswered = waiting = {t.task_id: t for t in tasks}
        answers = self.listen(waiting, self.clock.now())
        unsent = set(waiting)
        while waiting and (now := self.clock.now()) < until:
            for task in [waiting[t] for t in sorted(unsent & set(waiting))]:
                if self._sends(task, setting):
                    waiting[task.task_id] = task.model_copy(update={"sent": True})
                    unsent.remove(task.task_id)
            before = dict(waiting)
            if self.tenure.due():
                unsent |= self.look(waiting, now)
            answers |= self.listen(waiting, min(until, now + EVERY_S))
            unsent |= {t for t, task in waiting.items() if task.attempt > before[t].attempt}
        return answers

    def look(self, waiting: dict[str, Open], now: float) -> set[str]:
        """Extend the lease, see who is at work and who has gone; tasks to send again as they are."""
        if not self.tenure.keep(0):
            self.vigil.begin()
            self.cursor = START
            return set(waiting)
        heard, gone = self.vigil.look(waiting.values(), now)
        for task in heard:
            waiting[task.task_id] = task.model_copy(update={"started_at": now})
        for task, reason in gone:
            self._again(task, waiting, reason)
        return set()

    def listen(self, waiting: dict[str, Open], until: float) -> dict[str, Manifest]:
        """Take in the stream: what is answered leaves `waiting`, what failed for no fault of its own stays, renewed."""
        answers = {}
        for entry in self.runtime.stream.read(self.run, self.cursor, until):
            self.cursor = entry.id
            try:
                if entry.author == "manifest":
                    manifest = Manifest.model_validate_json(entry.body)
                    if (task := waiting.get(manifest.task_id)) and self._is_whole(manifest, task):
                        del waiting[task.task_id]
                        answers[manifest.task_id] = manifest
                        facts = {"encodes": manifest.encodes, "seconds": manifest.seconds, "worker": manifest.worker}
                        self.journal.record("answered", entry.at, 0, task=manifest.task_id, **facts)
                elif entry.author == "failure":
                    self._fails(TaskFailure.model_validate_json(entry.body), waiting)
            except ValidationError as e:
                self.journal.ignores(entry.at, 0, f"unreadable {entry.author}: {e.errors()[0]['msg']}")
        return answers

    def _is_whole(self, manifest: Manifest, task: Open) -> bool:
        granted = {keys.start(self.run, task.task_id, n) for n in range(1, task.attempt + 1)}
        name = {"describe": "description", "init": "state"}[task.kind]
        key = manifest.outputs[name].key if set(manifest.outputs) == {name} else ""
        return manifest.run == self.run and key in granted

    def _fails(self, failure: TaskFailure, waiting: dict[str, Open]) -> None:
        if (task := waiting.get(failure.task_id)) is None or failure.attempt != task.attempt:
            return
        if failure.code != "client":
            return self._again(task, waiting, failure.message)
        if task.kind == "init":
            raise RunFailed(f"run {self.run}: init failed at {task.site or 'the pool'}: {failure.message}")
        self.unable[task.task_id] = failure.message
        del waiting[task.task_id]

    def _again(self, task: Open, waiting: dict[str, Open], reason: str) -> None:
        if task.attempt >= ATTEMPTS:
            said = f"{task.kind} failed at {task.site or 'the pool'} ({ATTEMPTS} attempts): {reason}"
            if task.kind == "init":
                raise RunFailed(f"run {self.run}: {said}")
            self.given_up[task.task_id] = (waiting.pop(task.task_id), said)  # a run may begin without this owner
            return
        waiting[task.task_id] = task.model_copy(update={"attempt": task.attempt + 1, "started_at": None, "sent": False})

    def _sends(self, task: Open, setting: BlobRef) -> bool:
        try:
            self.post.send(task, setting, None)
        except BusError:
            return False
        return True

    def _said(self, asked: list[Open], answers: dict[str, Manifest]) -> dict[str, Description | str]:
        said: dict[str, Description | str] = {}
        for task in sorted(asked, key=lambda task: task.task_id):
            site, last = task.site or "the pool", task.model_copy(update={"attempt": ATTEMPTS})
            if task.task_id in answers:  # of which attempt it may be was seen as it came
                said[site] = received(self.runtime.blobs, self.run, last, answers[task.task_id])
            elif task.task_id in self.unable:
                said[site] = self.unable[task.task_id]
        return said

    def _read_state(self, manifest: Manifest) -> tuple[Tensors, dict[str, str]]:
        blob = manifest.outputs["state"]
        try:
            if blob.size > LARGEST_STATE:
                raise BlobCorrupt(f"{blob.size} bytes are too many")
            data = self.runtime.blobs.get(blob)
            tensors, assignment = unpack(data), read_assignment(data)
        except (CodecError, BlobMissing, BlobCorrupt) as e:
            raise RunFailed(f"run {self.run}: version 0 is unreadable: {e}") from None
        odd = sorted(k for k, t in tensors.items() if t.dtype != torch.float32 or not is_finite(t))
        if odd:
            raise RunFailed(f"run {self.run}: version 0 holds numbers that are not finite float32 in {odd[0]}")
        return tensors, assignment

    def _task(self, kind: str, site: str | None) -> Open:
        facts = {"task_id": f"v0-{kind}-{site or 'pool'}", "kind": kind, "site": site, "asked_at": self.clock.now()}
        return Open.model_validate({**facts, "base": 0, "clients": ()})
