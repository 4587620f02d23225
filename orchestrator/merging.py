"""Versions that a worker has a hand in: the merged model goes out as a task, and what comes back is committed.

The round is closed then and nothing else is decided; arrivals go to the next one. Whatever happens to the task, a
version comes of it: of what the worker made, or of the merged model as it was.
"""

from dataclasses import dataclass

from infra.blobs import BlobStore
from orchestrator import keys
from orchestrator.admit import largest, unlike
from orchestrator.desk import Desk
from orchestrator.lineage import Lineage
from orchestrator.plan import Plan
from schemas.base import canonical, digest
from schemas.decisions import Closed, Refined
from schemas.errors import BlobCorrupt, BlobExists, BlobMissing, CodecError
from schemas.log import Accepted, Open
from schemas.messages import BlobRef, Manifest, Rejected
from workers.method import State
from workers.tensors import Tensors, pack, unpack

MODEL = "model"
"""The name of the merged model among the inputs of the task, and of what comes back among its outputs."""


@dataclass
class Underway:
    """A closed round whose model is with a worker. came: what it wrote; reason: or why it wrote nothing."""

    closed: Closed
    state: State
    task: Open
    came: BlobRef | None = None
    reason: str = ""


class Merging:
    """The merge tasks of one run, one at a time."""

    def __init__(self, plan: Plan, desk: Desk, lineage: Lineage, blobs: BlobStore) -> None:
        self.plan, self.desk, self.lineage, self.blobs = plan, desk, lineage, blobs
        self.begin()

    def begin(self) -> None:
        """Stand at a commit: nothing is under way there."""
        self.underway: Underway | None = None

    def wanted(self, closed: Closed) -> bool:
        """Whether a worker shall go on with the model that this closing makes."""
        return self.plan.method.refines(closed.version + 1)

    def opens(self, closed: Closed, at: float) -> Open:
        """Merge, and open the task, which is not sent yet. The same closing gives the same task. Raises BlobError."""
        book = self.desk.book
        counted = book.counted(closed)
        replaced = self.lineage.replaced(counted)
        state = self.lineage.merge([(a, book.lag(a)) for a in counted], closed.version)
        task = Open(
            task_id=f"v{closed.version}-merge-{digest(canonical(closed.counted))[:12]}", kind="merge",
            base=book.rounds[closed.group].base, group=closed.group, clients=(), asked_at=at,
            inputs=self._inputs(state.tensors[closed.group], [a for a in counted if a not in replaced]),
        )  # fmt: skip
        book.open[task.task_id] = task.model_copy(update={"started_at": at if self.desk.instant else None})
        self.underway, book.closing = Underway(closed, state, task), closed.group
        return book.open[task.task_id]

    def is_for(self, manifest: Manifest) -> bool:
        """Whether this is the answer that is waited for."""
        now = self.underway
        return now is not None and manifest.run == self.lineage.commit.run and manifest.task_id in self._open(now)

    def arrives(self, manifest: Manifest, at: float) -> None:
        """Take in what a worker made, or what is wrong with it."""
        assert self.underway is not None, "is_for says so"
        task = self.desk.book.open[manifest.task_id]
        self.desk.book.answered(task)
        self.desk.journal.record(
            "answered", at, self.desk.book.version, task=task.task_id, kind=task.kind, attempt=manifest.attempt,
            worker=manifest.worker, seconds=manifest.seconds, encodes=manifest.encodes,
        )  # fmt: skip
        made = manifest.outputs.get(MODEL)
        granted = {keys.start(self.lineage.commit.run, task.task_id, n) for n in range(1, task.attempt + 1)}
        if made is None or made.key not in granted:
            self.underway.reason = "nothing under a key that was granted"
        else:
            self.underway.came = made

    def fails(self, message: str) -> None:
        """A worker says that it cannot be done."""
        assert self.underway is not None, "the failure is of its task"
        self.desk.book.open.pop(self.underway.task.task_id, None)
        self.underway.reason = message

    def over(self) -> Refined | None:
        """What is to be decided, if the task is answered or given up."""
        now = self.underway
        if now is None or self._open(now):
            return None
        found = self._read(now) if now.came is not None else Rejected(reason=now.reason or "given up")
        refused = isinstance(found, Rejected)
        said = ": ".join(filter(None, (found.reason, found.detail))) if isinstance(found, Rejected) else ""
        return Refined(
            version=now.closed.version, group=now.closed.group, task_id=now.task.task_id,
            model=None if refused else now.came, refused=said[:500],
        )  # fmt: skip

    def ends(self, decision: Refined, at: float) -> tuple[Closed, State]:
        """The closing and the state that it makes, as decided. What lies in the store for the task is rubbish then.

        Who came meanwhile comes now.
        """
        now = self.underway
        assert now is not None, "hindsight lets no other decision in"
        state, run, task = now.state, self.lineage.commit.run, self.desk.book.open.get(now.task.task_id, now.task)
        if decision.model is not None:
            now.came = decision.model
            made = self._read(now)
            if not isinstance(made, Rejected):
                tensors = {**state.tensors, now.closed.group: made}
                state = State(tensors=tensors, server=state.server, assignment=state.assignment)
        book = self.desk.book
        book.open.pop(task.task_id, None)
        book.expired.pop(task.task_id, None)
        book.closing = None
        book.held = [h.model_copy(update={"due": max(h.due, at)}) for h in book.held]
        own = [keys.start(run, task.task_id, n) for n in range(1, self.desk.attempts + 1)]
        self.lineage.intake.rubbish += [*own, task.inputs[MODEL].key]
        facts = {"group": decision.group, "model": decision.model is not None, "reason": decision.refused}
        self.desk.journal.record("refined", at, now.closed.version + 1, **facts)
        self.begin()
        return now.closed, state

    def _open(self, now: Underway) -> set[str]:
        return {now.task.task_id} & set(self.desk.book.open)

    def _inputs(self, merged: Tensors, counted: list[Accepted]) -> dict[str, BlobRef]:
        """The merged model, the models that the counted updates began from, and the updates."""
        models = {f"base/{a.base}": self.lineage.models[a.base][a.group] for a in counted}
        return {MODEL: self._put(merged), **models, **{f"update/{a.base}/{a.client}": a.update for a in counted}}

    def _put(self, merged: Tensors) -> BlobRef:
        data = pack(merged)
        key = keys.merged(self.lineage.commit.run, digest(data))
        try:
            return self.blobs.put(key, data, if_absent=True)
        except BlobExists:  # an earlier life closed this round too
            return BlobRef(key=key, sha256=digest(data), size=len(data))

    def _read(self, now: Underway) -> Tensors | Rejected:
        model, blob = now.state.tensors[now.closed.group], now.came
        assert blob is not None, "only asked where something came"
        if blob.size > largest(model):
            return Rejected(reason="too large", detail=f"{blob.size} bytes, at most {largest(model)}")
        try:
            found = unpack(self.blobs.get(blob))
        except (BlobMissing, BlobCorrupt, CodecError) as e:
            return Rejected(reason="unreadable", detail=e.message)
        return unlike(found, model) or found
