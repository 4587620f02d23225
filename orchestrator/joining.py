"""Sites that come late: their description is asked for as long as the run goes on, and from then on they take part.

Decides whether a late description fits what the run has agreed on. One that does not is a recorded refusal.
"""

import time
from collections.abc import Collection
from typing import Any, Final

from pydantic import ValidationError

from infra.blobs import BlobStore
from orchestrator import keys
from orchestrator.book import Book
from orchestrator.desk import Desk
from orchestrator.groups import homes, trainers
from orchestrator.lineage import Lineage
from schemas.errors import BlobCorrupt, BlobMissing
from schemas.experiment import Setting
from schemas.log import Commit, Event, Joined, Open
from schemas.messages import BlobRef, Description, Manifest, TaskFailure

LARGEST_DESCRIPTION: Final = 16 * 1024 * 1024
"""Bytes of JSON: counts and names of very many clients."""

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
        if decision.task_id not in book.open:
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
        self.desk.journal.record("joined", at, book.version, **_facts(decision.site, found))

    def _decide(self, manifest: Manifest) -> None:
        task = self.desk.book.open.get(manifest.task_id)
        if task is None:
            self.arrived.pop(manifest.task_id, None)
            return
        found = self._description(task, manifest)
        refused = found if isinstance(found, str) else self._objection(found)
        self._log(task, None if refused or isinstance(found, str) else found, refused)

    def _log(self, task: Open, found: Description | None, refused: str) -> None:
        site, version = task.site or "pool", self.desk.book.version
        decision = Joined(version=version, task_id=task.task_id, site=site, description=found, refused=refused[:500])
        self.joins(decision, self.desk.log(decision))

    def _description(self, task: Open, manifest: Manifest) -> Description | str:
        blob, run = manifest.outputs.get("description"), self.lineage.commit.run
        granted = {keys.start(run, task.task_id, n) for n in range(1, task.attempt + 1)}
        if blob is None or manifest.run != run or blob.key not in granted:
            return "no description under a key that was granted"
        try:
            found = read_description(self.blobs, blob)
        except ValueError as e:
            return f"an unreadable description: {e}"
        return found if found.site == task.site else f"it described itself as {found.site or 'the pool'}"

    def _objection(self, found: Description) -> str:
        """Why a description does not fit the run, or nothing."""
        agreed = Setting.model_validate_json(self.blobs.get(self.lineage.commit.setting))
        taken = {name for d in self.lineage.commit.descriptions for name in (*d.clients, *d.held_out)}
        if found.fingerprint != agreed.fingerprint:
            return "it holds another backbone than the run"
        if unknown := sorted(set(found.classes) - set(agreed.classes or ())):
            return f"class {unknown[0][:80]!r} is none of the run's classes"
        if twice := sorted(taken & {*found.clients, *found.held_out}):
            return f"the run has a client of the name {twice[0]} already"
        return "" if found.clients or found.held_out else "it holds no data"


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


def read_description(blobs: BlobStore, blob: BlobRef) -> Description:
    """What a site says of itself. Raises ValueError for what is none."""
    if blob.size > LARGEST_DESCRIPTION:
        raise ValueError(f"{blob.size} bytes are too many")
    try:
        return Description.model_validate_json(blobs.get(blob))
    except ValidationError as e:
        raise ValueError(e.errors()[0]["msg"]) from None
    except (BlobMissing, BlobCorrupt) as e:
        raise ValueError(str(e)) from None


def is_open(book: Book, task_id: str) -> bool:
    """Whether this is a description that is waited for."""
    return task_id in book.open and book.open[task_id].kind == "describe"
