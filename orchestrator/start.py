"""The beginning of a run: ask the owners what they hold, agree on classes and backbone, and commit version 0.

Knows what the answers mean; how tasks come to be answered, only `orchestrator.exchange` knows.
"""

from collections.abc import Callable

import torch

from infra.clock import VirtualClock
from infra.runtime import Runtime
from orchestrator.commits import Commits
from orchestrator.descriptions import received, sort_out
from orchestrator.desk import ATTEMPTS
from orchestrator.exchange import Exchange
from orchestrator.journal import Journal
from orchestrator.plan import Plan
from orchestrator.simulate import Simulator
from orchestrator.tenure import Tenure
from orchestrator.vigil import Vigil
from schemas.base import alike, canonical
from schemas.errors import BlobCorrupt, BlobExists, BlobMissing, CodecError, RunFailed
from schemas.experiment import Setting
from schemas.log import Commit, Event, Open
from schemas.messages import ALL, BlobRef, Description, Manifest
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
        self.virtual = isinstance(self.clock, VirtualClock)
        self.simulator = Simulator.of(plan, virtual=self.virtual)
        vigil = Vigil(self.run, runtime.state, runtime.bus, self.simulator)
        self.exchange = Exchange(plan, runtime, tenure, vigil, self.journal)
        self.missing: tuple[Open, ...] = ()

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
            "unknown": self.simulator.unknown(described),
        }
        self.journal.record("described", self.clock.now(), 0, **facts)
        ref = self.commits.put_setting(canonical(setting))
        state = self.init(ref, descriptions)
        models = {group: self.commits.put_model(0, tensors) for group, tensors in state.tensors.items()}
        self.tenure.keep(0)  # so that a store without this value is one that was emptied
        made = Commit(
            run=self.run, version=0, at=self.clock.now(), began=self.clock.now(), setting=ref,
            descriptions=descriptions,
            open=self.missing, models={0: models}, assignment=dict(state.assignment), cursor=self.exchange.cursor,
            selector=self.plan.selector.dump(), journal=self.commits.put_journal(0, self.journal.events),
        )  # fmt: skip
        try:
            return self.commits.write(made)
        except BlobExists:  # another loop has been faster
            return self.commits.last() or made

    def describe(self) -> tuple[Description, ...]:
        """What the owners hold: of all of them, or after `start_s` of those that have answered, if `floor` train."""
        setting = self.commits.put_setting(canonical(Setting(experiment=self.plan.experiment)))
        sites: tuple[str | None, ...] = self.plan.experiment.sites or (None,)
        asked = [self._task("describe", site) for site in sites]
        answers = self.exchange.answers(asked, setting)
        found = sort_out(self._said(asked, answers), self.plan.experiment.model.classes)
        later = [*self.exchange.unanswered.values(), *(task for task, _ in self.exchange.given_up.values())]
        self.missing = tuple(t.model_copy(update={"started_at": None, "sent": False}) for t in later)
        clients = [c for d in found.fitting for c, split in d.clients.items() if split.train]
        enough = len(clients) >= max(1, self.plan.experiment.rounds.floor)
        for site, reason in found.refused.items():
            if not enough:
                raise RunFailed(f"run {self.run}: {site} cannot take part: {reason}")
            self.journal.record("refused", self.clock.now(), 0, site=site, reason=reason)
        for _, reason in () if enough else self.exchange.given_up.values():
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
        if task.task_id not in (answers := self.exchange.answers([task], setting)):
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

    def _said(self, asked: list[Open], answers: dict[str, Manifest]) -> dict[str, Description | str]:
        said: dict[str, Description | str] = {}
        for task in sorted(asked, key=lambda task: task.task_id):
            site, last = task.site or "the pool", task.model_copy(update={"attempt": ATTEMPTS})
            if task.task_id in answers:  # of which attempt it may be was seen as it came
                said[site] = received(self.runtime.blobs, self.run, last, answers[task.task_id])
            elif task.task_id in self.exchange.unable:
                said[site] = self.exchange.unable[task.task_id]
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
