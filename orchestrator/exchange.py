"""The tasks at the beginning of a run, sent until they are answered: before version 0 there is no book.

They are sent again when a worker says that it could not do them, when it vanished without a word, or when the queues
were emptied. Knows nothing of what the answers mean.
"""

from pydantic import ValidationError

from infra.runtime import Runtime
from infra.stream import START
from orchestrator import keys
from orchestrator.desk import ATTEMPTS
from orchestrator.journal import Journal
from orchestrator.plan import Plan
from orchestrator.post import Post
from orchestrator.tenure import EVERY_S, Tenure
from orchestrator.vigil import Vigil
from schemas.errors import BusError, RunFailed
from schemas.log import Open
from schemas.messages import BlobRef, Manifest, TaskFailure


class Exchange:
    """Tasks out, manifests in.

    given_up: tasks that have had their attempts, and why. unable: what workers say that cannot be done. cursor: the
    last entry of the stream that was taken in.
    """

    def __init__(self, plan: Plan, runtime: Runtime, tenure: Tenure, vigil: Vigil, journal: Journal) -> None:
        self.plan, self.runtime, self.tenure, self.vigil, self.journal = plan, runtime, tenure, vigil, journal
        self.run, self.clock = tenure.run, runtime.bus.clock
        self.post = Post(self.run, plan.experiment, runtime.blobs, runtime.bus)
        self.unanswered: dict[str, Open] = {}
        self.given_up: dict[str, tuple[Open, str]] = {}
        self.unable: dict[str, str] = {}
        self.cursor = START

    def answers(self, tasks: list[Open], setting: BlobRef) -> dict[str, Manifest]:
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
