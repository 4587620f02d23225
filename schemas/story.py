"""A run's story, version by version, as `quorate report --json` prints it. Seconds are of the run's clock."""

from typing import Literal

from pydantic import Field, NonNegativeInt

from schemas.base import Frozen, Name
from schemas.messages import ALL
from schemas.report import Report

Status = Literal["running", "unfinished", "finished", "failed", "cancelled"]
"""running: a loop owns the run now. unfinished: none does, and the run has not ended."""


class Late(Frozen):
    """An update counted in a later round than the one it was asked in. lag: merges of its group since its base."""

    client: Name
    lag: NonNegativeInt


class Gone(Frozen):
    """An update that did not count: lost or refused, and why."""

    client: Name
    task: str
    reason: str
    detail: str = ""


class Again(Frozen):
    """A task that was sent again, as attempt `attempt`, and why."""

    task: str
    attempt: int
    reason: str


class Round(Frozen):
    """From one version to the next. version: the one that it made, or will make.

    at: seconds from the beginning of the run to its close. asked: clients, in this round. counted: asked in this round
    and counted in it, or of an open one: arrived for it. late: the same, of those asked earlier. without: asked and not
    waited for, or of an open one: not here yet. taken_up: times that a loop went on from the version before, as far as
    they are known.
    """

    version: NonNegativeInt
    group: str = Field(default=ALL, description="whose round it was; what else happened may be of other groups")
    at: float | None = None
    wall: float | None = Field(default=None, description="Unix seconds of its close")
    seconds: float | None = None
    quorum_s: float | None = Field(
        default=None, description="from its opening to the quorum; null if a deadline closed it"
    )
    grace_s: float | None = Field(default=None, description="from the quorum to its close")
    asked: tuple[Name, ...] = ()
    counted: tuple[Name, ...] = ()
    late: tuple[Late, ...] = ()
    without: tuple[Name, ...] = ()
    rejected: tuple[Gone, ...] = ()
    lost: tuple[Gone, ...] = ()
    resent: tuple[Again, ...] = ()
    retries: NonNegativeInt = 0
    ignored: dict[str, int] = Field(default={}, description="messages that answered nothing, by reason")
    taken_up: NonNegativeInt = 0
    fold_s: float | None = Field(default=None, description="wall seconds of fold and merge")
    commit_s: float | None = Field(default=None, description="wall seconds of storing the version")
    accuracy: dict[Name, float] = Field(
        default={}, description="of the version, per client and held-out domain, 0 to 1"
    )
    mean: float | None = Field(default=None, description="mean accuracy of the training clients, 0 to 1")


class Owner(Frozen):
    """The loop that owns a run. silent_s: seconds since it last renewed its lease; null where none is renewed."""

    name: str
    silent_s: float | None = None


class Story(Frozen):
    """A run from its beginning to now. began, last: Unix seconds of its first event and of the last one known."""

    run: Name
    status: Status
    reason: str = ""
    method: str = ""
    owner: Owner | None = None
    version: NonNegativeInt = 0
    versions: NonNegativeInt = Field(default=0, description="the version with which it ends")
    clients: NonNegativeInt = 0
    began: float | None = None
    last: float | None = None
    rounds: tuple[Round, ...] = ()
    open: Round | None = None
    report: Report | None = None
