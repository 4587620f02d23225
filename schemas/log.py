"""What a run remembers: one commit per version, and the journal's events. The stream between is schemas.decisions.

A commit is the only checkpoint: everything a loop needs to go on from there stands in it.
"""

from typing import Any, Literal

from pydantic import Field, NonNegativeInt

from schemas.base import WIRE, Frozen, Name, Wire
from schemas.messages import ALL, BlobRef, Description, Kind, Manifest


class Open(Frozen):
    """A task without its grants (they are secrets, and are made anew at each sending).

    asked_at, started_at: the run's clock; started_at is null until a worker is known to be at it.
    sent: the bus has surely taken this attempt. private: what the clients' private state was at the asking.
    inputs: of a merge, beside the setting.
    """

    task_id: str
    kind: Kind
    base: NonNegativeInt
    group: str = ALL
    clients: tuple[Name, ...]
    site: Name | None = None
    attempt: int = Field(default=1, ge=1)
    asked_at: float
    started_at: float | None = None
    sent: bool = False
    private: dict[Name, BlobRef] = {}
    inputs: dict[str, BlobRef] = {}


class Accepted(Frozen):
    """An admitted update. at: when it was let in. seconds: from the asking to then, of the run's clock.

    loss: the client's own word; null if it says none, or one below 0.
    """

    task_id: str
    client: Name
    base: NonNegativeInt
    group: str = ALL
    update: BlobRef
    weight: float
    at: float
    private: BlobRef | None = None
    seconds: float = 0.0
    loss: float | None = None


class Held(Frozen):
    """A manifest that has arrived and is let in later (simulated latency)."""

    due: float
    manifest: Manifest


class Share(Frozen):
    """A client's line in the ledger, in numbers of updates. asked = the rest + what is still open.

    accepted: counted in the round it was asked in. late: counted in a later one. rejected: refused. lost: never came
    or failed. weight: sum of (weight times staleness discount) over the versions it counted in.
    """

    asked: NonNegativeInt = 0
    accepted: NonNegativeInt = 0
    late: NonNegativeInt = 0
    rejected: NonNegativeInt = 0
    lost: NonNegativeInt = 0
    weight: float = 0.0


class Round(Frozen):
    """The open round of one group. Times of the run's clock.

    bases: the versions at which the group's model changed, oldest first, as far back as an admissible task may start
    from; tasks start from the last one. since: when the round opened; opened_at: when it opened or was last retried.
    asked: clients asked in it, in how many batches. tried: those asked since it was opened or retried.
    """

    bases: tuple[NonNegativeInt, ...] = (0,)
    since: float = 0.0
    opened_at: float = 0.0
    asked: NonNegativeInt = 0
    batches: NonNegativeInt = 0
    retries: NonNegativeInt = 0
    tried: tuple[Name, ...] = ()

    @property
    def base(self) -> int:
        """The version that tasks of the group start from."""
        return self.bases[-1]


class Event(Frozen):
    """One line of the journal. at: the run's clock, wall: Unix seconds. What the facts mean depends on the event."""

    event: str
    at: float
    wall: float
    version: NonNegativeInt
    client: str | None = None
    facts: dict[str, Any] = {}


class Commit(Frozen):
    """A committed version: `versions/{n}.json`, written once.

    models: of this version, and of those that a task may begin from or an admissible update began from.
    finished: answered tasks and their bases, as far back as somebody is at work; seen: (client, base, group) that have
    counted, where another answer could be admitted. began: the run's clock at version 0. assignment: the group of each
    client, as the method says. rounds: those of the groups that go on.
    accepted: admitted, but for a later version. cursor: the last entry of the stream that this commit has taken in.
    table: the last counted update of each client, where the aggregator recalls them.
    seq: number of training tasks so far. staleness: {lag: updates counted}.
    """

    wire: Wire = WIRE
    run: Name
    version: NonNegativeInt
    at: float
    began: float = 0.0
    setting: BlobRef
    descriptions: tuple[Description, ...]
    models: dict[int, dict[str, BlobRef]]
    server: BlobRef | None = None
    private: dict[Name, BlobRef] = {}
    counted: tuple[Accepted, ...] = ()
    table: dict[Name, Accepted] = {}
    without: tuple[Name, ...] = ()
    open: tuple[Open, ...] = ()
    expired: tuple[Open, ...] = ()
    held: tuple[Held, ...] = ()
    accepted: tuple[Accepted, ...] = ()
    finished: dict[str, int] = {}
    seen: tuple[tuple[Name, int, str], ...] = ()
    assignment: dict[Name, str] = {}
    rounds: dict[str, Round] = {}
    ledger: dict[Name, Share] = {}
    selector: dict[str, Any] = {}
    staleness: dict[int, int] = {}
    cursor: str
    seq: NonNegativeInt = 0
    journal: BlobRef


class Final(Frozen):
    """How a run ended: `final.json`, written once."""

    wire: Wire = WIRE
    run: Name
    status: Literal["finished", "failed", "cancelled"]
    reason: str = ""
    version: NonNegativeInt
    journal: BlobRef
