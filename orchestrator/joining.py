"""Sites that come late: their description is asked for as long as the run goes on, and from then on they take part.

Takes in a late description that fits what the run has agreed on. One that does not is a recorded refusal.
"""

import time
from collections.abc import Collection
from typing import Any

from infra.blobs import BlobStore
from orchestrator.book import Book
from orchestrator.descriptions import objection, received
from orchestrator.desk import Desk
from orchestrator.groups import homes, trainers
from orchestrator.lineage import Lineage
from schemas.decisions import Joined
from schemas.experiment import Setting
from schemas.log import Commit, Event, Open
from schemas.messages import Description, Manifest, TaskFailure

PAUSE_S = 5.0
"""Between two sendings to a site that could not do it. Else a description is asked for anew when its grants end."""


class Joining:
    """The late sites of one run. renew_s: how long the grants of a describe task live."""

    def __init__(self, desk: Desk, lineage: Lineage, blobs: BlobStore, renew_s: float) -> None:
        self.desk, self.lineage, self.blobs, self.renew_s = desk, lineage, blobs, renew_s
        self.begin()

    def begin(self) -> None:
        """Stand at a commit."""
        self.arrived: dict[str, Manifest] = {}
        self.failed: set[str] = set()

    def arrives(self, manifest: Manifest, *, replaying: bool) -> None:
        """A late site answers. In a replay what was decided then follows in the stream."""
        if replaying:
            self.arrived[manifest.task_id] = manifest
        else:
            self._decide(manifest)

    def fails(self, failure: TaskFailure, *, replaying: bool) -> None:
        """A late site could not describe itself: that is final, or it is asked again after a pause."""
        task = self.desk.book.open[failure.task_id]
        if failure.code == "client" and not replaying:
            self._log(task, None, failure.message)
        elif failure.code != "client":
            self.failed.add(failure.task_id)

    def look(self, now: float) -> None:
        """Decide what no earlier life has decided, and ask again those whose grants have ended or who failed."""
        for manifest in list(self.arrived.values()):
            self._decide(manifest)
        for task in [o for o in self.desk.book.open.values() if o.kind == "describe"]:
            if now >= task.asked_at + (PAUSE_S if task.task_id in self.failed else self.renew_s):
                self.failed.discard(task.task_id)
                self.desk.again(task.task_id, task.attempt, "asked anew")

    def joins(self, decision: Joined, at: float) -> None:
        """Take a site in, or note why not."""
        book, commit = self.desk.book, self.lineage.commit
        self.arrived.pop(decision.task_id, None)
        if not is_open(book, decision.task_id):
            return  # a log whose answer was lost may hold an entry twice
        book.answered(book.open[decision.task_id])
        found = decision.description
        if found is None:
            self.desk.journal.record("refused", at, book.version, site=decision.site, reason=decision.refused)
            return
        self.lineage.commit = commit.model_copy(update={"descriptions": (*commit.descriptions, found)})
        clients = [client for d in self.lineage.commit.descriptions for client in d.clients]
        book.home = homes(clients, self.lineage.state.assignment, book.rounds)
        book.trainers = trainers(self.lineage.commit.descriptions)
        self.lineage.meet()
        self.desk.journal.record("joined", at, book.version, **_facts(decision.site, found))

    def _decide(self, manifest: Manifest) -> None:
        task = self.desk.book.open.get(manifest.task_id)
        if task is None:
            self.arrived.pop(manifest.task_id, None)
            return
        found = received(self.blobs, self.lineage.commit.run, task, manifest)
        refused = found if isinstance(found, str) else self._objection(found)
        self._log(task, None if refused or isinstance(found, str) else found, refused)

    def _log(self, task: Open, found: Description | None, refused: str) -> None:
        site, version = task.site or "pool", self.desk.book.version
        decision = Joined(version=version, task_id=task.task_id, site=site, description=found, refused=refused[:500])
        self.joins(decision, self.desk.log(decision))

    def _objection(self, found: Description) -> str:
        agreed = Setting.model_validate_json(self.blobs.get(self.lineage.commit.setting))
        others = self.lineage.commit.descriptions
        return objection(found, others, fingerprint=agreed.fingerprint, classes=agreed.classes or ())


def come_since(known: Collection[str], last: Commit) -> list[Event]:
    """The sites that a commit knows and the beginning of its run did not, for those who watch it only now.

    known: clients and held-out owners of version 0.
    """
    found = [d for d in last.descriptions if set(known).isdisjoint(names := {*d.clients, *d.held_out}) and names]
    facts = [_facts(d.site or "pool", d) for d in found]
    return [Event(event="joined", at=last.at, wall=time.time(), version=last.version, facts=f) for f in facts]


def _facts(site: str, found: Description) -> dict[str, Any]:
    clients = {client: split.model_dump() for client, split in found.clients.items()}
    return {"site": site, "held_out": sorted(found.held_out), "domains": found.domains, "clients": clients}


def is_open(book: Book, task_id: str) -> bool:
    """Whether this is a description that is waited for."""
    return task_id in book.open and book.open[task_id].kind == "describe"
