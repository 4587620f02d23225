"""The round that is open: what the stream says behind the last commit, to be looked at and not to be acted on.

The loop itself goes by orchestrator.book; here, what cannot be read is passed over. Never imports torch.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from pydantic import ValidationError

from infra.stream import Entry
from schemas.decisions import Asked, Decision, Expired, Resent, Retried, read_entry
from schemas.log import Commit, Open
from schemas.messages import Manifest, TaskFailure
from schemas.story import Again, Gone, Late, Round


@dataclass
class Afoot:
    """The open round so far. here: base version by (task, client) of what has arrived."""

    commit: Commit
    tasks: dict[str, Open] = field(default_factory=dict)
    here: dict[tuple[str, str], int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    resent: list[Again] = field(default_factory=list)
    lost: list[Gone] = field(default_factory=list)
    retries: int = 0

    @classmethod
    def behind(cls, commit: Commit, entries: Iterable[Entry]) -> "Afoot":
        """What followed a commit."""
        tasks = {o.task_id: o for o in (*commit.open, *commit.expired) if o.kind == "train"}
        afoot = cls(commit, tasks, {(a.task_id, a.client): a.base for a in commit.accepted})
        for held in commit.held:
            afoot.arrives(held.manifest)
        for entry in entries:
            afoot.take(entry)
        return afoot

    def round(self) -> Round:
        """As a round of the story."""
        gone = {g.task for g in self.lost} | {o.task_id for o in self.commit.expired}
        open_tasks = [o for o in self.tasks.values() if o.task_id not in gone]
        version = self.commit.version
        return Round(
            version=version + 1,
            asked=tuple(self.asked),
            counted=tuple(sorted(c for (_, c), base in self.here.items() if base == version)),
            late=tuple(Late(client=c, lag=version - b) for (_, c), b in sorted(self.here.items()) if b < version),
            without=tuple(sorted({c for o in open_tasks for c in o.clients if (o.task_id, c) not in self.here})),
            lost=tuple(g for g in self.lost if (g.task, g.client) not in self.here),
            resent=tuple(self.resent),
            retries=self.retries,
        )

    def take(self, entry: Entry) -> None:
        """One entry of the stream."""
        try:
            said = read_entry(entry.author, entry.body)
        except ValidationError:
            return
        if isinstance(said, Manifest):
            self.arrives(said)
        elif isinstance(said, TaskFailure):
            if said.code == "client":
                self._lose(said.task_id, said.message)
        elif said.version == self.commit.version:
            self._decided(said)

    def arrives(self, manifest: Manifest) -> None:
        """The clients of a manifest are here, if they were asked."""
        task = self.tasks.get(manifest.task_id)
        if task is not None:
            self.here |= {
                (task.task_id, r.client): self._base(task) for r in manifest.results if r.client in task.clients
            }

    def _base(self, task: Open) -> int:
        """The base, or the version now if the group's model is still the same."""
        now, then = (self.commit.models.get(n, {}).get(task.group) for n in (self.commit.version, task.base))
        return self.commit.version if now is not None and now == then else task.base

    def _decided(self, decision: Decision) -> None:
        match decision:
            case Asked():
                new = {o.task_id: o for o in decision.tasks if o.kind == "train" and o.task_id not in self.tasks}
                self.tasks |= new
                self.asked += [c for o in new.values() for c in o.clients]
            case Resent() if decision.task_id in self.tasks:
                self.resent.append(Again(task=decision.task_id, attempt=decision.attempt, reason=decision.reason))
            case Expired():
                self._lose(decision.task_id, decision.reason)
            case Retried():
                self.retries = decision.number

    def _lose(self, task_id: str, reason: str) -> None:
        clients = self.tasks[task_id].clients if task_id in self.tasks else ()
        self.lost += [Gone(client=client, task=task_id, reason=reason) for client in clients]
