"""What methods share whose clients train an adapter by plain local steps.

Knows the family of adapters, and no adapter by name but the default.
"""

from dataclasses import replace
from typing import Annotated, Any, Protocol

import torch
from pydantic import AfterValidator, BeforeValidator, NonNegativeFloat, PositiveFloat
from torch import nn

from schemas.base import Choice
from workers.local import Fit, LocalMethod
from workers.plugins import load
from workers.setting import Setting
from workers.tensors import Tensors
from workers.training import Recipe


class Adapter(Protocol):
    """A family of trainable models (workers/adapters). One with `cached = False` is on images and not on features.

    One with `steers = True` learns words, for which the backbone must have a text tower.
    """

    def build(self, setting: Setting, generator: torch.Generator) -> nn.Module:
        """The model: raw features float32 (B, D), or preprocessed images (B, 3, H, W), -> logits (B, K).

        Initial values come from the generator.
        """


def _by_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _ours(choice: Choice) -> Choice:
    if ":" in choice.name:  # a site lists the methods that it allows; what they load would go past that list
        raise ValueError("an adapter of your own needs a method of its own")
    return choice


Named = Annotated[Choice, AfterValidator(_ours), BeforeValidator(_by_name)]
"""An adapter of workers/adapters: its name, or name and params."""


class Training(Recipe):
    """How a client trains what. lr and weight_decay suit the linear head."""

    adapter: Named = Choice(name="linear")
    lr: PositiveFloat = 3e-3
    weight_decay: NonNegativeFloat = 0.01


class LocalTraining(LocalMethod):
    """Each client trains the incoming adapter on its own images and sends the difference."""

    def __init__(self, params: Training) -> None:
        super().__init__(params)
        self.recipe = params
        self.adapter: Adapter = load("workers.adapters", params.adapter)
        if not getattr(self.adapter, "cached", True):
            self.traits = replace(self.traits, cached=False)

    def build(self, setting: Setting, group: str, generator: torch.Generator) -> nn.Module:
        """The adapter."""
        return self.adapter.build(setting, generator)

    def local(self, setting: Setting, group: str, incoming: Tensors) -> Fit:
        """The incoming adapter, by the recipe."""
        return Fit(self.restore(setting, group, incoming), self.recipe)
