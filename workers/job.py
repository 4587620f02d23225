"""The clients of one `train` or `evaluate` task: what each works on, and what it answers.

Clients that train are trained together where the method allows it; one that fails does not take the others with it.
Knows neither streams nor the round rule. Nothing a client answers depends on which worker it is, or on the attempt.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import structlog
from torch import nn

from schemas.errors import BlobCorrupt, BlobMissing, CodecError, ConfigError, DataError
from schemas.messages import ClientResult, ClientSlot, Task
from workers.data.owners import Owner
from workers.data.pictures import passed
from workers.failure import code_of, told, without_urls
from workers.method import Client, Examples, Method, Update
from workers.pipeline import Codec, Label, Transform, of_method, read_label, seal, write_update
from workers.place import Place, part, together
from workers.plugins import load
from workers.private import Private
from workers.reach import Reach
from workers.readout import Cosine
from workers.setting import Setting
from workers.tensors import Tensors
from workers.training import accuracy, one_thread

TOGETHER = 64
"""Clients of a task whose examples are in memory at the same time, and who may be trained together."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Job:
    """What the clients of one task share."""

    task: Task
    setting: Setting
    method: Method
    incoming: Tensors
    place: Place
    private: Private
    reach: Reach

    def train(self) -> Iterator[ClientResult]:
        """The results of all clients, in their order. Raises what the stores raise, and of a lone client anything."""
        slots = iter(self.task.clients)
        while some := list(islice(slots, TOGETHER)):
            yield from self._train(some)

    def evaluate(self) -> Iterator[ClientResult]:
        """The results of those who can be evaluated. Raises what the stores raise."""
        for slot in self.task.clients:
            try:
                yield self._evaluate(slot)
            except DataError as e:  # one owner's unreadable image must not hide how the others do
                log.warning("evaluation failed", who=slot.client, error=without_urls(str(e)))

    @one_thread()  # beside other processes, two threads that wait for each other take ten times as long as one
    def _train(self, slots: list[ClientSlot]) -> list[ClientResult]:
        results: dict[str, ClientResult] = {}
        ready: list[_Ready] = []
        for slot in slots:
            try:
                ready.append(self._ready(slot))
            except Exception as e:
                results[slot.client] = self._failed(slot, e)
        updates = self.method.train_many([r.client for r in ready])
        for r, update in zip(ready, updates, strict=True):
            try:
                results[r.slot.client] = self._seal(r, update)
            except Exception as e:
                results[r.slot.client] = self._failed(r.slot, e)
        return [results[slot.client] for slot in slots]

    def _failed(self, slot: ClientSlot, error: Exception) -> ClientResult:
        """What is told of a client that failed in company. Raises the error if it is the whole task's.

        So is a store's, which a new attempt may find well again, and whatever comes when nobody waits any more.
        """
        if len(self.task.clients) == 1 or code_of(error) != "client" or time.monotonic() > self.reach.ends:
            raise error
        log.warning("client failed", who=slot.client, error=without_urls(f"{type(error).__name__}: {error}"))
        return ClientResult(client=slot.client, failed=told(error, self.place.site))

    def _ready(self, slot: ClientSlot) -> "_Ready":
        """What a client trains on. Raises DataError."""
        seen = [(o.parts, *self._examples(o)) for o in self._whose(slot)]
        private, lost = self._private_of(slot)
        client = Client(
            name=slot.client,
            base=self.task.base,
            setting=self.setting,
            incoming=self.incoming,
            train=together([part(examples, parts.train) for parts, examples, _ in seen]),
            val=together([part(examples, parts.val) for parts, examples, _ in seen]),
            private=of_method(private),
            group=self.task.group,
        )
        return _Ready(slot, client, private, lost, sum(encodes for *_, encodes in seen))

    def _examples(self, owner: Owner) -> tuple[Examples, int]:
        """What the method learns from of an owner's images, and how many were encoded for it now."""
        if self.method.traits.cached:
            return self.place.examples(self.setting, owner)
        return self.place.pictures(self.setting, owner), 0

    def _whose(self, slot: ClientSlot) -> list[Owner]:
        """Whose images a client trains on: its own, but for a method that pools."""
        owners = self.place.owners(self.setting.experiment)
        own = owners.find(slot.client)
        if not self.method.traits.pools:
            return [own]
        if self.place.site:
            raise ConfigError(f"{type(self.method).__name__} trains on everybody's images at once, which no site has")
        return list(owners.clients.values())

    def _seal(self, ready: "_Ready", update: Update | Exception) -> ClientResult:
        """The result of a client's training, with its update uploaded. Raises what the training ended in."""
        if isinstance(update, Exception):
            raise update
        codec, transforms = self._way_out()
        sealed = seal(ready.client, update, private=ready.private, codec=codec, transforms=transforms)
        kept = self.private.write(self.task.run, ready.slot, sealed.private)
        encodes = ready.encodes + passed(ready.client.train.x)
        label = Label(ready.slot.client, update.weight, _finite(update.metrics) | ready.lost, kept, encodes)
        return self._send(ready.slot, write_update(sealed.packed, label))

    def _send(self, slot: ClientSlot, data: bytes) -> ClientResult:
        # What lies under the key counts: an earlier attempt may have died between its upload and its report.
        update, found = self.reach.upload(slot.outputs["update"], data)
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

    def _evaluate(self, slot: ClientSlot) -> ClientResult:
        owner = self.place.owners(self.setting.experiment).find(slot.client)
        examples, encodes = self._examples(owner)
        test = part(examples, owner.parts.test)
        private, lost = self._private_of(slot)
        own = of_method(private)
        personal = self._personal(own) if own else self._common
        metrics = {"accuracy": accuracy(personal, test), "examples": float(len(test))}
        encodes += passed(test.x)
        if self.task.base == 0:
            features, more = self.place.examples(self.setting, owner)
            encodes += more
            frozen = Cosine(self.setting.texts, self.setting.scale)
            metrics["zero_shot"] = accuracy(frozen, part(features, owner.parts.test))
        return ClientResult(client=slot.client, metrics=_finite(metrics) | lost, encodes=encodes)

    @cached_property
    def _common(self) -> nn.Module:
        """What all those are judged by who have kept nothing: one model, for ten thousand clients too."""
        return self._personal({})

    def _personal(self, private: Tensors) -> nn.Module:
        return self.method.personal(self.setting, self.task.group, self.incoming, private)

    def _private_of(self, slot: ClientSlot) -> tuple[Tensors, dict[str, float]]:
        """A client's private state, and what is to be said of it: one that is gone for good begins anew."""
        try:
            return self.private.read(self.task.run, slot), {}
        except (BlobMissing, BlobCorrupt, CodecError) as e:
            log.warning("private state is lost, beginning anew", who=slot.client, error=without_urls(str(e)))
            return {}, {"private_lost": 1.0}

    def _way_out(self) -> tuple[Codec, list[Transform]]:
        asked, allowed = self.setting.experiment, self.place.allowed
        codec: Codec = load("workers.codecs", asked.codec, allowed=allowed)
        return codec, [load("workers.transforms", c, allowed=allowed) for c in asked.transforms]


@dataclass(frozen=True)
class _Ready:
    """A client before its training. private: as read, with what was kept back; lost: what is to be said of it."""

    slot: ClientSlot
    client: Client
    private: Tensors
    lost: dict[str, float]
    encodes: int


def _finite(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if math.isfinite(value)}
