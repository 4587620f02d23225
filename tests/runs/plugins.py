"""Plugins that behave badly, or just so, by dotted name."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import torch

from schemas.base import Frozen
from workers.data.images import Images, Indices
from workers.method import Client, Update
from workers.methods.fedclip import FedClip


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
