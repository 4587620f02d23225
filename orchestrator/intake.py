"""What comes in: manifests, held as long as the simulation says, admitted or refused, and kept for the fold.

Reads the object store; sends nothing and decides nothing about rounds.
"""

from collections.abc import Collection
from math import inf

from orchestrator import keys
from orchestrator.admit import admit, implausible, largest
from orchestrator.book import Book
from orchestrator.commits import Commits
from orchestrator.journal import Journal
from orchestrator.plan import Plan
from orchestrator.simulate import Simulator
from schemas.log import Accepted, Held, Open
from schemas.messages import ClientResult, Manifest, Rejected
from workers.pipeline import open_update
from workers.tensors import Tensors, size

BUDGET = 512 * 1024 * 1024
"""Bytes of decoded updates kept in memory until the fold; beyond it they are read again."""

STRANGERS = 8
"""Results of clients that a task is not about, at most, that are recorded of one manifest."""


class Intake:
    """The door of one run. `models`: the current tensors of each group, whose form updates must have."""

    def __init__(self, plan: Plan, commits: Commits, simulator: Simulator, journal: Journal) -> None:
        self.plan, self.commits, self.simulator, self.journal = plan, commits, simulator, journal
        self.kept: dict[str, Tensors] = {}
        self.used = 0
        self.rubbish: list[str] = []

    def receive(self, book: Book, manifest: Manifest, at: float) -> None:
        """Take a manifest: refuse it, forget it (a simulated dropout), or hold it until it is due."""
        task = book.find(manifest)
        here = {h.manifest.task_id for h in book.held}
        if task is None or manifest.task_id in here or manifest.run != self.commits.run:
            again = manifest.task_id in book.finished or manifest.task_id in here
            reason = "duplicate" if again else "unknown or too old"
            self.journal.record("ignored", at, book.version, task=manifest.task_id, reason=reason)
            if manifest.task_id not in here:
                self._discard_all(book, manifest)
            return
        if task.task_id in book.open and task.started_at is None:
            book.starts(task.task_id, task.asked_at)  # it was worked on, so its deadline counts
        due = self.simulator.due(task, at)
        if due < inf and not self.simulator.drops(task):
            book.held.append(Held(due=due, manifest=manifest))

    def next_due(self, book: Book) -> float:
        """When the next held manifest may be let in; infinity if none is held."""
        return min((h.due for h in book.held if not _waits(book, h)), default=float("inf"))

    def release(self, book: Book, now: float, models: dict[str, Tensors], named: Collection[str] = ()) -> None:
        """Let in what is due, in the order in which it fell due; and the named tasks, due or not."""
        due = [h for h in book.held if (h.due <= now or h.manifest.task_id in named) and not _waits(book, h)]
        book.held = [h for h in book.held if h not in due]
        for held in sorted(due, key=lambda h: (h.due, h.manifest.task_id)):
            self._let_in(book, held, models)

    def tensors(self, accepted: Accepted) -> Tensors:
        """The decoded update, from memory or read again."""
        if accepted.update.key in self.kept:
            return self.kept[accepted.update.key]
        return open_update(self.commits.blobs.get(accepted.update), self.plan.codec)[0]

    def forget(self, needed: Collection[str] = ()) -> None:
        """Nothing that was kept is needed any more; of the rubbish, keys still needed wait for another time."""
        self.kept.clear()
        self.rubbish = [key for key in self.rubbish if key in needed]
        self.used = 0

    def _let_in(self, book: Book, held: Held, models: dict[str, Tensors]) -> None:
        manifest, task = held.manifest, book.find(held.manifest)
        if task is None:
            self.journal.record("ignored", held.due, book.version, task=manifest.task_id, reason="unknown or too old")
            return
        book.answered(task)
        self.journal.record(
            "answered", held.due, book.version, task=task.task_id, kind=task.kind, attempt=manifest.attempt,
            worker=manifest.worker, seconds=manifest.seconds, encodes=manifest.encodes,
        )  # fmt: skip
        if task.attempt > 1:
            self.abandon(task)  # the other attempts may have uploaded too
        results = {result.client: result for result in reversed(manifest.results)}  # the first of a client counts
        strangers = sorted(set(results) - set(task.clients))[:STRANGERS]
        for client in (*task.clients, *strangers):
            result = results.get(client)
            if result is None:
                self._lose(book, task, client, held.due, "no result in the manifest")
            elif task.kind == "train" and result.failed and client in task.clients:
                self.abandon(task.model_copy(update={"clients": (client,)}))
                self._lose(book, task, client, held.due, result.failed)
            elif task.kind == "train":
                self._weigh_up(book, task, result, held.due, models.get(task.group, {}))
            elif client in task.clients and (odd := implausible(result)):
                self._lose(book, task, client, held.due, odd)
            elif client in task.clients:
                self.journal.record("evaluated", held.due, task.base, client, **result.metrics)

    def _weigh_up(self, book: Book, task: Open, result: ClientResult, at: float, model: Tensors) -> None:
        form = self.plan.method.form(model) if model else model
        found = self._admit(book, task, result, form)
        if not isinstance(found, Rejected) and (odd := self.plan.method.implausible(found, model)):
            found = Rejected(reason="implausible", detail=odd)
        facts: dict[str, object] = {
            "task": task.task_id,
            "base": task.base,
            "group": task.group,
            "bytes": self._size_of_own(task, result, form),
        }
        if isinstance(found, Rejected):
            if result.client in task.clients:
                book.rejects(result.client)
                self._discard(task, result)
            facts |= {"reason": found.reason, "detail": found.detail}
            self.journal.record("rejected", at, book.version, result.client, **facts)
            return
        before = book.private.get(result.client)
        self._keep(book.accepts(task, result, at), found)
        now = book.private.get(result.client)
        self.rubbish.extend({b.key for b in (before, result.private) if b is not None and b != now})
        event = "late" if book.lag(task) else "accepted"
        facts |= {"weight": result.weight, "lag": book.lag(task), "metrics": result.metrics}
        self.journal.record(event, at, book.version, result.client, **facts)

    def _size_of_own(self, task: Open, result: ClientResult, form: Tensors) -> int:
        """Bytes of an update, if it lies where it should; no more than an update may have."""
        blob = result.update
        own = blob is not None and result.client in task.clients
        if blob is None or not own or not keys.is_upload(blob, self.commits.run, "updates", task, result.client):
            return 0
        return min(blob.size, largest(form))

    def _discard(self, task: Open, result: ClientResult) -> None:
        """Refused blobs go, but only from where this client was given leave to write: the rest is not its to name."""
        for kind, blob in (("updates", result.update), ("private", result.private)):
            if blob is not None and keys.is_upload(blob, self.commits.run, kind, task, result.client):
                self.rubbish.append(blob.key)

    def _discard_all(self, book: Book, manifest: Manifest) -> None:
        """What came too late or again goes too: an earlier attempt, or a task that nobody knows any more."""
        run, task, attempt = self.commits.run, manifest.task_id, manifest.attempt
        counts = {a.update for a in book.accepted.values()} | set(book.private.values())
        for result in manifest.results if manifest.run == run else ():
            for kind, blob in (("updates", result.update), ("private", result.private)):
                granted = keys.upload(run, kind, task, attempt, result.client)
                if blob is not None and blob.key == granted and blob not in counts:
                    self.rubbish.append(blob.key)

    def abandon(self, task: Open) -> None:
        """Whatever was uploaded for a task is rubbish, but for what was accepted of it."""
        self.rubbish.extend(keys.uploads_of(self.commits.run, task))

    def _admit(self, book: Book, task: Open, result: ClientResult, form: Tensors) -> Tensors | Rejected:
        if book.version >= self.plan.versions:
            return Rejected(reason="run over", detail="the last version is committed")
        if (result.client, task.base, task.group) in book.seen:
            return Rejected(reason="counted", detail=f"{result.client} has counted for version {task.base}")
        if book.has_moved(task, result.client):
            return Rejected(reason="moved", detail=f"{result.client} is not in {task.group} any more")
        spec, blobs, codec = self.plan.experiment.rounds, self.commits.blobs, self.plan.codec
        if book.lag(task) > spec.max_staleness:
            return Rejected(reason="too stale", detail=f"lags more than {spec.max_staleness} versions")
        run, max_norm = self.commits.run, spec.max_norm
        return admit(result, task, run, form=form, blobs=blobs, codec=codec, max_norm=max_norm)

    def gives_up(self, book: Book, task: Open, at: float, reason: str) -> None:
        """A worker said that the task cannot be done: nobody of it answers any more."""
        book.answered(task)
        self.abandon(task)
        for client in task.clients:
            self._lose(book, task, client, at, reason)

    def _lose(self, book: Book, task: Open, client: str, at: float, reason: str) -> None:
        if task.kind == "train":
            book.loses(client)
        event = "lost" if task.kind == "train" else "unevaluated"
        facts = {"task": task.task_id, "base": task.base, "reason": reason}
        self.journal.record(event, at, book.version, client, **facts)

    def _keep(self, accepted: Accepted, tensors: Tensors) -> None:
        if self.used + size(tensors) <= BUDGET:
            self.kept[accepted.update.key] = tensors
            self.used += size(tensors)


def _waits(book: Book, held: Held) -> bool:
    """Whether a manifest is of a round that is closed already: how late it is, only the next version tells."""
    task = book.find(held.manifest) if book.closing is not None else None
    return task is not None and task.kind == "train" and task.group == book.closing
