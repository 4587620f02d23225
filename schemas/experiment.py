"""One experiment: the whole of what a run depends on, apart from the URLs of the environment.

Parsed from one YAML file (`orchestrator.plan`). Plugins validate their own params; this file knows none of them.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from schemas.base import Choice, Frozen, Name, Shown, alike
from schemas.staleness import Sqrt, Staleness

Probability = Annotated[float, Field(ge=0, lt=1)]
Seconds = Annotated[float, Field(ge=0, le=31_536_000)]
"""A year at most: whatever is made of such numbers stays finite."""


class Data(Frozen):
    """Images, which domains are only evaluated, and who owns what (partition: null is one client).

    split: 60/20/20 of each client's images, `stratified` by class or, as in FedCLIP's code, one `permutation` of all.
    """

    name: str = "folder"
    params: dict[str, object] = {}
    split: Literal["stratified", "permutation"] = "stratified"
    hold_out: tuple[str, ...] = ()
    partition: Choice | None = None


class Model(Frozen):
    """The frozen CLIP and its prompts. `classes: null` is the sorted union of what the clients describe."""

    backbone: Choice = Choice(name="tiny")
    prompts: tuple[str, ...] = ("a picture of a {}",)
    classes: tuple[Shown, ...] | None = None

    @model_validator(mode="after")
    def _classes_differ(self) -> Self:
        if self.classes is not None:
            if len(set(self.classes)) < max(2, len(self.classes)):
                raise ValueError("classes must be two at least, and each named once")
            if clash := alike(self.classes):
                raise ValueError("CLIP cannot tell the classes {!r} and {!r} apart".format(*clash))
        return self

    @model_validator(mode="after")
    def _prompts_have_a_place(self) -> Self:
        if not self.prompts or any("{}" not in p for p in self.prompts):
            raise ValueError("each prompt needs a {} where the class name goes")
        return self


class Rounds(Frozen):
    """The round rule (docs/architecture.md). Times in seconds of the run's clock.

    versions: how many to commit. in_flight: most tasks out at once. quorum: updates that close a version.
    floor: fewest with which a deadline may close it. grace_s: how much longer than quorum to wait for the rest.
    max_staleness: most versions an update may lag. staleness: how that discounts it (schemas.staleness).
    apply: `delta` adds updates to the current model, `mix` (FedAsync) moves it towards base + delta.
    retries: times that too few are asked again.
    clients_per_task: most clients of one group and one site that one task is about, which a worker may train together.
    max_norm: an update of a greater L2 norm, as it arrives, is refused; null refuses none. Leave room for what a lossy
    codec rounds and carries over.
    """

    versions: int = Field(default=20, ge=0, le=99_999_999)
    in_flight: int = Field(default=8, ge=1, le=1_000_000)
    quorum: PositiveInt = 6
    floor: PositiveInt = 4
    grace_s: Seconds = 2.0
    deadline_s: Seconds = Field(default=60.0, gt=0)
    refill: Literal["at_close", "at_arrival"] = "at_close"
    max_staleness: int = Field(default=2, ge=0, le=1_000_000)
    staleness: Staleness = Sqrt()
    apply: Literal["delta", "mix"] = "delta"
    server_lr: PositiveFloat = 1.0
    retries: int = Field(default=3, ge=0, le=1_000_000)
    max_norm: PositiveFloat | None = None
    clients_per_task: int = Field(default=1, ge=1, le=1000)

    @model_validator(mode="after")
    def _numbers_fit(self) -> Self:
        if self.quorum > self.in_flight:
            raise ValueError(f"quorum {self.quorum} can never be reached with in_flight {self.in_flight}")
        if self.floor > self.quorum:
            raise ValueError(f"floor {self.floor} must not be above quorum {self.quorum}")
        return self

    @property
    def task_ttl_s(self) -> float:
        """How long a task's grants live: as long as its result could still be admitted."""
        return self.deadline_s * (1 + self.max_staleness) + self.grace_s


class Evaluate(Frozen):
    """every: versions between two evaluations (0: none on the way). final: evaluate the last version."""

    every: NonNegativeInt = 5
    final: bool = True


class Simulate(Frozen):
    """Simulated clients: how long each takes (virtual seconds in process), and how often one never answers.

    presence: when each is there to be asked; who leaves while at work answers on coming back, if ever.
    With real workers an answer is let in only `latency * time_scale` seconds after the asking.
    """

    latency: Choice = Choice(name="none")
    presence: Choice = Choice(name="always")
    dropout: Probability = 0.0
    time_scale: float = Field(default=1.0, ge=0, le=1e6)


class Experiment(Frozen):
    """One run, whole. sites: null lets the pool play all clients; else the names of the sites that take part.

    public: a data set of images that are nobody's, for methods that need some. The pool's workers read it, no site.
    """

    name: Name
    seed: int = Field(default=0, ge=0, le=2**53)
    data: Data | None = None
    public: Choice | None = None
    model: Model = Model()
    method: Choice
    rounds: Rounds = Rounds()
    selector: Choice = Choice(name="uniform")
    aggregator: Choice = Choice(name="mean")
    codec: Choice = Choice(name="raw")
    transforms: tuple[Choice, ...] = ()
    evaluate: Evaluate = Evaluate()
    simulate: Simulate | None = None
    sites: tuple[Name, ...] | None = None
    start_s: Seconds = Field(default=600.0, gt=0)

    @model_validator(mode="after")
    def _somebody_has_data(self) -> Self:
        if (self.data is None) == (self.sites is None):
            raise ValueError("give either `data` (the pool plays all clients) or `sites` (each owner has its own data)")
        if self.sites is not None and len(set(self.sites)) < max(1, len(self.sites)):
            raise ValueError("sites must be one at least, and each named once")
        return self


class Setting(Frozen):
    """The experiment as workers see it: with the classes and the backbone that the whole run agreed on.

    Both are null in a `describe` task, which asks for them.
    """

    experiment: Experiment
    classes: tuple[str, ...] | None = None
    fingerprint: str | None = None


class SiteData(Frozen):
    """A site.yaml: what one owner holds. It stays on that machine.

    A site without a partition is one client that bears its name; with one, its clients are `<site>.<client>`.
    private: folder of its private state. keep_days: of a run that was not touched for so many days it is deleted when
    another one begins; null keeps all. plugins: dotted `package.module:Class` names that a task may load here beyond
    the built-in ones.
    """

    data: Data
    private: Path = Path("private")
    keep_days: int | None = Field(default=None, ge=1)
    plugins: tuple[str, ...] = ()
