"""Plugins that behave badly, or just so, by dotted name."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any, Literal

import numpy as np
import torch

from schemas.base import Frozen
from workers.data.images import Images, Indices
from workers.method import Client, Merged, State, Update
from workers.methods.fedclip import FedClip
from workers.setting import Setting
from workers.tensors import Tensors


class Only:
    """A selector that asks one client."""

    class Params(Frozen):
        """client: who."""

        client: str

    def __init__(self, params: Params) -> None:
        self.client = params.client

    def pick(self, free: Sequence[str], budget: int, random: Random) -> list[str]:
        return [c for c in free if c == self.client]

    def dump(self) -> dict[str, Any]:
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """No state."""


class Lopsided:
    """A partition that gives everything to one of two clients."""

    class Params(Frozen):
        """No parameters."""

    def __init__(self, params: Params) -> None: ...

    def split(self, images: Images, generator: np.random.Generator) -> dict[str, Indices]:
        return {"rich": np.arange(len(images), dtype=np.int64), "poor": np.empty(0, dtype=np.int64)}


class Interrupted(FedClip):
    """FedCLIP whose process gets a signal at a base version, in the midst of a library that makes light of it."""

    class Params(FedClip.Params):
        """number: the signal. so: what becomes of KeyboardInterrupt there."""

        base: int
        number: int
        so: Literal["dropped", "an error"]

    def __init__(self, params: Params) -> None:
        super().__init__(FedClip.Params())
        self.told = params

    def train(self, client: Client) -> Update:
        if client.base == self.told.base:
            try:
                os.kill(os.getpid(), self.told.number)
            except KeyboardInterrupt as e:
                if self.told.so == "an error":
                    raise ValueError(f"it has failed: {e!r}") from None
        return super().train(client)


class Poisoned(FedClip):
    """FedCLIP in which one client sends what is no number."""

    class Params(FedClip.Params):
        """client: who."""

        client: str

    def __init__(self, params: Params) -> None:
        super().__init__(FedClip.Params())
        self.client = params.client

    def train(self, client: Client) -> Update:
        update = super().train(client)
        if client.name != self.client:
            return update
        return replace(update, tensors={k: torch.full_like(t, torch.nan) for k, t in update.tensors.items()})


class Halves(FedClip):
    """FedCLIP in two groups, `left` and `right`, of which each has a gate of its own."""

    class Params(FedClip.Params):
        """right: who begins there. moves: {merge: who changes sides then}. joined: the merge that ends `right`."""

        right: tuple[str, ...]
        moves: dict[int, str] = {}
        joined: int = 0

    def __init__(self, params: Params) -> None:
        super().__init__(FedClip.Params())
        self.sides = params

    def init(self, setting: Setting) -> State:
        gate = super().init(setting).tensors["all"]
        sides = {group: {name: t.clone() for name, t in gate.items()} for group in ("left", "right")}
        return State(tensors=sides, assignment=dict.fromkeys(self.sides.right, "right"))

    def merge(self, state: State, folded: Mapping[str, Tensors], server_lr: float) -> State:
        merged = super().merge(state, folded, server_lr)
        merges = state.server.get("merges", torch.zeros(1)) + 1
        assignment, tensors = dict(merged.assignment), dict(merged.tensors)
        if mover := self.sides.moves.get(int(merges)):
            assignment[mover] = "left" if assignment.get(mover) == "right" else "right"
        if int(merges) == self.sides.joined:
            tensors, assignment = {"left": tensors["left"]}, {}
        return State(tensors=tensors, server={"merges": merges}, assignment=assignment)


class Refining(FedClip):
    """FedCLIP whose merged models a worker draws towards the mean of the members, or does something else with."""

    class Params(FedClip.Params):
        """last: the last version that is refined. so: what the worker does."""

        last: int = 10**9
        so: Literal["well", "fails", "names", "shapes", "nan", "nothing"] = "well"

    def __init__(self, params: Params) -> None:
        super().__init__(FedClip.Params())
        self.told = params

    def refines(self, version: int) -> bool:
        return version <= self.told.last

    def refine(self, merged: Merged) -> Tensors:
        model = merged.model
        match self.told.so:
            case "fails":
                raise ValueError("it cannot be done")
            case "names":
                return {"other": torch.zeros(1)}
            case "shapes":
                return {k: t[:1] for k, t in model.items()}
            case "nan":
                return {k: torch.full_like(t, torch.nan) for k, t in model.items()}
            case "nothing":
                return {k: t.clone() for k, t in model.items()}
        mean = {k: torch.stack([m[k] for m in merged.members]).mean(0) for k in model}
        noise = merged.generator("noise")
        return {k: (t + mean[k]) / 2 + 1e-3 * torch.randn(t.shape, generator=noise) for k, t in model.items()}


class Aiming(FedClip):
    """Clients that all end at 1, wherever they begin; a worker puts the merged model at their mean plus its version."""

    def train(self, client: Client) -> Update:
        return Update({k: 1 - t for k, t in client.incoming.items()}, 1.0)

    def refines(self, version: int) -> bool:
        return True

    def refine(self, merged: Merged) -> Tensors:
        return {k: torch.stack([m[k] for m in merged.members]).mean(0) + merged.base for k in merged.model}


class RefiningHalves(Halves):
    """Two groups, and a worker that goes on with the model of each."""

    class Params(Halves.Params):
        """Who begins where."""

    def refines(self, version: int) -> bool:
        return True

    def refine(self, merged: Merged) -> Tensors:
        return {k: t / 2 for k, t in merged.model.items()}


class Blow(FedClip):
    """FedCLIP in which one client sends its update many times over."""

    class Params(FedClip.Params):
        """client: who. times: by what its update is multiplied."""

        client: str
        times: float

    def __init__(self, params: Params) -> None:
        super().__init__(FedClip.Params(lr=0.02))
        self.told = params

    def train(self, client: Client) -> Update:
        update = super().train(client)
        if client.name != self.told.client:
            return update
        return replace(update, tensors={k: self.told.times * t for k, t in update.tensors.items()})
