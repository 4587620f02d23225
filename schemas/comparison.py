"""Runs side by side, as `quorate compare --json` prints them. Accuracies are 0 to 1."""

from typing import Any

from pydantic import Field, NonNegativeInt

from schemas.base import Frozen, Name
from schemas.report import Accuracy
from schemas.story import Status


class Estimate(Frozen):
    """The mean over seeds with its two-sided 95 % interval by Student's t, which one seed alone does not give."""

    mean: float
    low: float | None = None
    high: float | None = None
    seeds: int = Field(ge=1, description="how many values, one per seed")


class Compared(Frozen):
    """One run. Accuracy is of its last version."""

    run: Name
    group: str
    seed: NonNegativeInt
    status: Status
    version: NonNegativeInt
    mean: Accuracy = Field(None, description="mean over the training clients")
    worst: Accuracy = Field(None, description="lowest of the training clients")
    held_out: Accuracy = Field(None, description="mean over the held-out domains")
    bytes_up: NonNegativeInt
    bytes_down: NonNegativeInt
    seconds: float = Field(description="of the run's clock, from its beginning to its last version")
    virtual: bool = Field(description="whether that clock was virtual")


class Alike(Frozen):
    """Runs that differ in nothing but their seed.

    differs: the settings in which this group is another than the rest, by path. estimates: of `mean`, `worst` and
    `held_out`, over the finished runs; a seed that ran twice counts once, with its mean.
    """

    group: str
    method: str
    codec: str
    mode: str
    differs: dict[str, Any] = {}
    runs: tuple[Name, ...]
    estimates: dict[str, Estimate]


class Difference(Frozen):
    """One group minus another, seed by seed, over the seeds that both have."""

    group: str
    minus: str
    estimates: dict[str, Estimate]


class Comparison(Frozen):
    """What `quorate compare` found."""

    runs: tuple[Compared, ...]
    groups: tuple[Alike, ...]
    differences: tuple[Difference, ...] = ()
