"""A method: what a client trains and what the server makes of it, both halves in one class of one file.

`Method` holds the defaults (FedAvg of the trainable part); only `build` and `train` must be written.
Knows neither transport nor round rule: updates may arrive in any order, late, or never.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch
from torch import nn

from schemas.base import Frozen
from schemas.messages import ALL
from workers.tensors import Tensors, generator

if TYPE_CHECKING:
    from workers.setting import Setting


@dataclass(frozen=True)
class Traits:
    """What may be done with a method's updates; `orchestrator.compatibility` refuses the rest.

    sums: updates may be added. lossy: they may be compressed, clipped, noised. discounted: they may be weighted by
    staleness. trains: false for a method that only evaluates (the run then stays at version 0). pools: a client
    trains on the images of all clients, which only a simulation can give it. needs_public: it wants images that are
    nobody's. cached: false if clients train on images themselves, inside the image tower. aggregates: false for a
    method that adds up by itself, so that no aggregator, `apply` or `server_lr` has a say. sees_each: the server
    half looks at single updates, so that what becomes of their sum is not what becomes of them. groups: it may keep
    several models, each for some of the clients.
    """

    sums: bool = True
    lossy: bool = True
    discounted: bool = True
    trains: bool = True
    pools: bool = False
    needs_public: bool = False
    cached: bool = True
    aggregates: bool = True
    sees_each: bool = False
    groups: bool = False


@dataclass(frozen=True)
class Examples:
    """Frozen features of images: x float32 (N, D), raw and not normalised; y int64 (N,), indices into the classes.

    For a method that is not `cached`, x are the images themselves (workers.data.pictures): it has a length, and indexed
    it is float32 (B, 3, H, W), preprocessed. Nothing else can be done with it.
    """

    x: torch.Tensor
    y: torch.Tensor

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Client:
    """What `train` gets: one owner's features, the model of its group, and the owner's private state."""

    name: str
    base: int
    setting: "Setting"
    incoming: Tensors
    train: Examples
    val: Examples
    private: Tensors = field(default_factory=dict)
    group: str = ALL

    def generator(self, purpose: str) -> torch.Generator:
        """Random numbers for one purpose of this client at this base version, wherever and whenever it runs."""
        return generator(self.setting.experiment.seed, self.base, self.name, purpose)


@dataclass(frozen=True)
class Merged:
    """What `refine` gets: a merged model, and what it was merged of.

    members: the models that the counted clients sent, in client order. public: raw features float32 (N, D) of images
    that are nobody's, whose labels nobody reads; N is 0 where the experiment names none. base: the version before.
    """

    base: int
    setting: "Setting"
    group: str
    model: Tensors
    members: tuple[Tensors, ...]
    public: torch.Tensor

    def generator(self, purpose: str) -> torch.Generator:
        """Random numbers for one purpose of this merge, wherever and whenever it runs."""
        return generator(self.setting.experiment.seed, self.base, self.group, "merge", purpose)


@dataclass(frozen=True)
class Update:
    """What a client contributes.

    tensors: float32 deltas from the incoming model, under its names, or what the method's `form` asks for.
    weight: its share in a weighted mean (often the number of training images). private: its next private state.
    """

    tensors: Tensors
    weight: float
    metrics: dict[str, float] = field(default_factory=dict)
    private: Tensors = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """The global state of a version. tensors: the model of each group, float32 on CPU. server: moments, caches."""

    tensors: dict[str, Tensors]
    server: Tensors = field(default_factory=dict)
    assignment: Mapping[str, str] = field(default_factory=dict)


class Fold(Protocol):
    """Sums updates, one after the other, in client order.

    Before an update is added, `recall(client, update)`, if there is one, gets the client's last counted one, and
    `hear(client, loss)` the mean loss of its last epoch, if it says that and its update lags no merge.
    """

    def add(self, client: str, update: Tensors, weight: float, discount: float) -> None:
        """Take one update. weight > 0; discount in (0, 1] for its staleness."""

    def result(self) -> Tensors:
        """What all of them amount to, float32: the step that the model takes at server_lr 1."""


class Aggregator(Protocol):
    """A rule to make one step of many updates. `least`, if it has one: how few owners' updates it can do with.

    `per_owner`, if it has that: of an owner's updates in a version only the newest has a say.
    """

    def fold(self, kept: Tensors | None = None) -> Fold:
        """An empty fold, for the updates of one group and one version.

        kept: what the fold of the group's version before has left in its attribute `kept`, if it has one.
        """


KEPT = "aggregator/"
"""Server tensors `aggregator/<group>/<name>` are what an aggregator keeps from version to version."""


def kept_by(server: Tensors, group: str) -> Tensors:
    """What the aggregator has kept for a group."""
    start = f"{KEPT}{group}/"
    return {name.removeprefix(start): t for name, t in server.items() if name.startswith(start)}


class Method(ABC):
    """One federated method. `paper` names the source, `deviations` what is different here or from memory.

    when, costs, sends: for who has to choose, beyond what goes for any; plugins of other families may say it too.
    """

    paper: ClassVar[str] = ""
    deviations: ClassVar[tuple[str, ...]] = ()
    when: ClassVar[str] = ""
    costs: ClassVar[str] = ""
    sends: ClassVar[str] = ""
    traits: Traits = Traits()

    class Params(Frozen):
        """No parameters."""

    def __init__(self, params: Frozen) -> None:
        self.params = params

    @abstractmethod
    def build(self, setting: "Setting", group: str, generator: torch.Generator) -> nn.Module:
        """The model: features (B, D) -> logits (B, K). Its state_dict is what travels and is aggregated.

        Frozen parts (class texts) are non-persistent buffers. Initial values come from the generator.
        """

    @abstractmethod
    def train(self, client: Client) -> Update:
        """One client's work on its own examples, from the incoming model."""

    def train_many(self, clients: Sequence[Client]) -> Iterator[Update | Exception]:
        """`train` for clients of one task: of each, in this order, its update or why there is none. Here one by one."""
        for client in clients:
            try:
                yield self.train(client)
            except Exception as e:  # the others must not miss theirs
                yield e

    def init(self, setting: "Setting") -> State:
        """Version 0: the tensors that `build` starts from, in one group."""
        module = self.build(setting, ALL, generator(setting.experiment.seed, "init"))
        return State(tensors={ALL: {k: v.detach().clone() for k, v in module.state_dict().items()}})

    def form(self, model: Tensors) -> Tensors:
        """What an update must be like, in names and shapes: by default like the model. On any device, `meta` too."""
        return model

    def implausible(self, update: Tensors, model: Tensors) -> str:
        """What in an update of the right form cannot be, in words; empty if nothing. Such an update is rejected."""
        return ""

    def fold(self, aggregator: Aggregator, state: "State", group: str) -> Fold:
        """Where the updates of a group go, from the state on: by default the chosen aggregator's fold."""
        return aggregator.fold(kept_by(state.server, group))

    def merge(self, state: State, folded: Mapping[str, Tensors], server_lr: float) -> State:
        """The next state: per group that closed, model + server_lr * folded step; the others stay."""
        tensors = dict(state.tensors)
        for group, step in folded.items():
            tensors[group] = {k: v + server_lr * step[k] if k in step else v for k, v in tensors[group].items()}
        return State(tensors=tensors, server=state.server, assignment=state.assignment)

    def refines(self, version: int) -> bool:
        """Whether a worker goes on with the model that is merged for this version, by `refine`."""
        return False

    def refine(self, merged: "Merged") -> Tensors:
        """What a worker makes of a merged model, before it is committed: here the model as it is."""
        return merged.model

    def personal(self, setting: "Setting", group: str, incoming: Tensors, private: Tensors) -> nn.Module:
        """The model that a client is judged by: here the global one."""
        return self.restore(setting, group, incoming)

    def restore(self, setting: "Setting", group: str, tensors: Tensors) -> nn.Module:
        """`build` with given tensors instead of initial ones."""
        module = self.build(setting, group, torch.Generator())
        module.load_state_dict(tensors)
        return module
