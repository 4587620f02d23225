"""The loop's own decisions, which it writes into the stream before it acts on them, among what workers say."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, StringConstraints, TypeAdapter

from schemas.base import Frozen, Name
from schemas.log import Open
from schemas.messages import ALL, BlobRef, Description, Manifest, TaskFailure


class Made(Frozen):
    """When a decision was made. version: the open one. at: the run's clock.

    seen: the last entry of the stream that the loop had taken in. What workers had appended behind it by then comes
    after this decision, for a replay too. Null before the decision is in the stream.
    """

    version: NonNegativeInt
    seen: Annotated[str, StringConstraints(pattern=r"^\d{1,20}(-\d{1,20})?$")] | None = None
    at: Annotated[float, Field(allow_inf_nan=False)] | None = None


class Asked(Made):
    """The loop asks these tasks, all or none of them.

    batch: how often clients of the group had been asked to train since its round opened.
    """

    kind: Literal["asked"] = "asked"
    group: str = ALL
    batch: NonNegativeInt = 0
    tasks: tuple[Open, ...]


class Sent(Made):
    """The bus has these tasks: after a crash they need not be sent again."""

    kind: Literal["sent"] = "sent"
    task_ids: tuple[str, ...]


class Started(Made):
    """Workers were heard at these tasks for the first time: their own deadlines count from the moment of this entry."""

    kind: Literal["started"] = "started"
    task_ids: tuple[str, ...]


class Resent(Made):
    """The loop sends a task again, as a new attempt."""

    kind: Literal["resent"] = "resent"
    task_id: str
    attempt: int
    reason: str


class Expired(Made):
    """The loop no longer waits for a task. It still counts if it comes while it is admissible."""

    kind: Literal["expired"] = "expired"
    task_id: str
    reason: str


class Retried(Made):
    """Too few at the deadline: what is accepted stays, replacements are asked. number: of the retry, from 1."""

    kind: Literal["retried"] = "retried"
    group: str = ALL
    number: int = Field(ge=1)


class Closed(Made):
    """The round of a group is over: these updates make `version + 1`. Whatever else arrives belongs to a later one."""

    kind: Literal["closed"] = "closed"
    group: str = ALL
    counted: tuple[tuple[str, Name], ...]
    without: tuple[Name, ...]


class Refined(Made):
    """A worker has gone on with the merged model of a closed round, or why that model stays as it was merged."""

    kind: Literal["refined"] = "refined"
    group: str = ALL
    task_id: str
    model: BlobRef | None = None
    refused: str = ""


class Joined(Made):
    """A site whose description came after version 0 takes part from now on, or why it does not."""

    kind: Literal["joined"] = "joined"
    task_id: str
    site: Name
    description: Description | None = None
    refused: str = ""


Decision = Annotated[
    Asked | Sent | Started | Resent | Expired | Retried | Closed | Refined | Joined, Field(discriminator="kind")
]
DECISION: TypeAdapter[Decision] = TypeAdapter(Decision)


def read_entry(author: str, body: str) -> Manifest | TaskFailure | Decision:
    """What one entry of the stream says. Raises ValidationError."""
    if author == "manifest":
        return Manifest.model_validate_json(body)
    if author == "failure":
        return TaskFailure.model_validate_json(body)
    return DECISION.validate_json(body if author == "decision" else f"{author!r} is nobody who writes here")
