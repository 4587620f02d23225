"""Turns an open task into a message with fresh grants, and sends it. Keeps nothing of what it sent."""

from dataclasses import dataclass

from infra.blobs import BlobStore, outlet, readable
from infra.bus import Bus
from orchestrator import keys
from schemas.experiment import Experiment
from schemas.log import Open
from schemas.messages import BlobRef, ClientSlot, Outlet, Ref, Task
from workers.private import OWN


@dataclass(frozen=True)
class Post:
    """The way out of one run."""

    run: str
    experiment: Experiment
    blobs: BlobStore
    bus: Bus

    def send(self, task: Open, setting: BlobRef, model: BlobRef | None) -> None:
        """Publish at least once. Raises BusError (unknown: send it again) and BlobError."""
        self.bus.send(self.message(task, setting, model), task.site)

    def message(self, task: Open, setting: BlobRef, model: BlobRef | None) -> Task:
        """The task with grants that live as long as its result could be admitted."""
        ttl = self._ttl(task)
        return Task(
            run=self.run,
            task_id=task.task_id,
            attempt=task.attempt,
            kind=task.kind,
            base=task.base,
            group=task.group,
            clients=tuple(self._slot(task, client, ttl) for client in task.clients),
            setting=readable(self.blobs, setting, ttl),
            inputs={"model": readable(self.blobs, model, ttl)} if model else {},
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
        name = {"describe": "description", "init": "state"}.get(task.kind)
        return {name: outlet(self.blobs, keys.start(self.run, task.task_id, task.attempt), ttl)} if name else {}

    def _deadline(self, task: Open) -> float:
        starting = task.kind in ("describe", "init")
        return self.experiment.start_s if starting else self.experiment.rounds.deadline_s

    def _ttl(self, task: Open) -> float:
        starting = task.kind in ("describe", "init")
        return self.experiment.start_s if starting else self.experiment.rounds.task_ttl_s
