"""Turns an open task into a message with fresh grants, and sends it. Keeps nothing of what it sent.

A task that is too large for the bus is put into the run's store, and a letter goes in its place.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from infra.blobs import BlobStore, outlet, readable
from infra.bus import LARGEST, Bus
from orchestrator import keys
from schemas.base import digest
from schemas.errors import BlobExists
from schemas.experiment import Experiment
from schemas.log import Open
from schemas.messages import BlobRef, ClientSlot, Header, Kind, Letter, Outlet, Ref, Task
from workers.private import OWN


@dataclass
class Post:
    """The way out of one run. documents: keys of those that lie in the store."""

    run: str
    experiment: Experiment
    blobs: BlobStore
    bus: Bus
    documents: set[str] = field(default_factory=set)

    def send(self, task: Open, setting: BlobRef, model: BlobRef | None) -> None:
        """Publish at least once. Raises BusError (unknown: send it again) and BlobError."""
        message = self.message(task, setting, model)
        text = message.model_dump_json().encode()
        self.bus.send(message if len(text) <= LARGEST else self.letter(message, text), task.site)

    def letter(self, task: Task, text: bytes) -> Letter:
        """Keep the document of a task in the store, for a letter that says where it lies. Raises BlobError."""
        key = keys.document(self.run, task.task_id, task.attempt, digest(text))
        try:
            blob = self.blobs.put(key, text, if_absent=True)
        except BlobExists:  # the answer to a repeated request was lost
            blob = BlobRef(key=key, sha256=digest(text), size=len(text))
        self.documents.add(key)
        ttl = self._ttl(task.kind)
        facts = task.model_dump(include=set(Header.model_fields))
        return Letter(**facts, label=task.label, document=readable(self.blobs, blob, ttl))

    def recall(self) -> None:
        """Find the documents that an earlier life of the loop left."""
        self.documents = set(self.blobs.keys(keys.documents(self.run)))

    def forget(self, needed: Callable[[str], bool]) -> None:
        """Delete the documents of tasks that nobody may do any more. needed: says it of a task id."""
        gone = [key for key in sorted(self.documents) if not needed(keys.task_of(key, self.run))]
        self.blobs.delete(*gone)
        self.documents.difference_update(gone)

    def message(self, task: Open, setting: BlobRef, model: BlobRef | None) -> Task:
        """The task with grants that live as long as its result could be admitted."""
        ttl = self._ttl(task.kind)
        return Task(
            run=self.run,
            task_id=task.task_id,
            attempt=task.attempt,
            kind=task.kind,
            base=task.base,
            group=task.group,
            clients=tuple(self._slot(task, client, ttl) for client in task.clients),
            setting=readable(self.blobs, setting, ttl),
            inputs={
                name: readable(self.blobs, blob, ttl) for name, blob in ({"model": model} | task.inputs).items() if blob
            },
            outputs=self._outputs(task, ttl),
            seed=self.experiment.seed,
            deadline_s=self._deadline(task),
        )

    def _slot(self, task: Open, client: str, ttl: float) -> ClientSlot:
        state, private = None, task.private.get(client)
        if private is not None:
            state = Ref(blob=private) if private.key.startswith(OWN) else readable(self.blobs, private, ttl)
        return ClientSlot(client=client, private=state, outputs=self._uploads(task, client, ttl))

    def _uploads(self, task: Open, client: str, ttl: float) -> dict[str, Outlet]:
        if task.kind != "train":
            return {}
        kinds = {"update": "updates"} if task.site else {"update": "updates", "private": "private"}
        return {
            name: outlet(self.blobs, keys.upload(self.run, kind, task.task_id, task.attempt, client), ttl)
            for name, kind in kinds.items()
        }

    def _outputs(self, task: Open, ttl: float) -> dict[str, Outlet]:
        name = {"describe": "description", "init": "state", "merge": "model"}.get(task.kind)
        return {name: outlet(self.blobs, keys.start(self.run, task.task_id, task.attempt), ttl)} if name else {}

    def _deadline(self, task: Open) -> float:
        starting = task.kind in ("describe", "init")
        return self.experiment.start_s if starting else self.experiment.rounds.deadline_s

    def _ttl(self, kind: Kind) -> float:
        starting = kind in ("describe", "init")
        return self.experiment.start_s if starting else self.experiment.rounds.task_ttl_s
