"""The result of a run: report.json. Every number carries its unit in its description."""

from typing import Literal

from pydantic import Field, NonNegativeInt

from schemas.base import Frozen, Name, Sha256
from schemas.log import Share

Accuracy = float | None
"""Share of images classified right, 0 to 1; null where nobody answered."""


class HeldOut(Frozen):
    """A domain that nobody trains on."""

    zero_shot: Accuracy = Field(None, description="accuracy of the frozen backbone, 0 to 1")
    final: Accuracy = Field(None, description="accuracy of the last version, 0 to 1")


class Accuracies(Frozen):
    """Accuracy on the test splits, 0 to 1."""

    zero_shot: dict[Name, Accuracy] = Field({}, description="per training client, frozen backbone, 0 to 1")
    final: dict[Name, Accuracy] = Field({}, description="per training client, last version, 0 to 1")
    held_out: dict[Name, HeldOut] = Field({}, description="per held-out domain, 0 to 1")
    mean: Accuracy = Field(None, description="mean of `final` over the training clients, 0 to 1")
    worst: Accuracy = Field(None, description="lowest of `final` over the training clients, 0 to 1")


class Report(Frozen):
    """What a run did and what came of it."""

    run: Name
    status: Literal["finished", "failed", "cancelled"]
    reason: str = Field("", description="why, if the run did not finish")
    version: NonNegativeInt = Field(description="number of the last committed version")
    seconds: float = Field(ge=0, description="wall seconds from the first to the last event, pauses included")
    virtual_seconds: float | None = Field(None, description="virtual seconds; null where the clock was the wall's")
    accuracy: Accuracies
    bytes_up: NonNegativeInt = Field(description="bytes of the updates that arrived (updates only)")
    bytes_down: NonNegativeInt = Field(description="bytes of the models that training tasks were given (models only)")
    wasted_share: float = Field(ge=0, le=1, description="client updates asked and never counted, or replaced / asked")
    mean_staleness: float = Field(ge=0, description="versions that a counted update lagged, mean over updates")
    ledger: dict[Name, Share] = Field(description="numbers of updates per client; weight without unit")
    closed_without: dict[int, tuple[Name, ...]] = Field(description="per version, clients asked and not waited for")
    encodes: NonNegativeInt = Field(description="images passed through the backbone; 0 if all features were cached")
    adapter_sha256: Sha256 | None = Field(
        description="over sorted (name, dtype, shape, raw bytes) of the final tensors; null before version 0"
    )
    skipped: dict[str, NonNegativeInt] = Field({}, description="files left out as unreadable, per site (or `pool`)")
    seed: NonNegativeInt
    code_version: str
    backbone_fingerprint: str
