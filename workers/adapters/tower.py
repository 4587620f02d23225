"""The whole image tower."""

import torch
from torch import nn

from schemas.base import Frozen
from workers.setting import Setting
from workers.tensors import Tensors
from workers.tower import Inside, frozen, spoken


class Whole(Inside):
    """The image tower with all its weights trained. Statistics of normalisation stay as they are."""

    def __init__(self, tower: nn.Module, setting: Setting) -> None:
        super().__init__(tower, setting.texts, setting.scale)
        self.names = tuple(name for name, _ in tower.named_parameters())
        for name, weight in tower.named_parameters():
            self.register_parameter(spoken(name), nn.Parameter(weight.detach().cpu().clone()))

    def weights(self) -> Tensors:
        """All of them."""
        return {name: self.get_parameter(spoken(name)) for name in self.names}


class Tower:
    """Every weight of the image tower: full fine-tuning, the baseline that adapters are measured against.

    What travels is the tower, hundreds of times an adapter; every step passes through it, and whoever trains needs
    room for four copies. Small learning rates (1e-5), or it forgets what it knew.
    """

    paper = (
        "McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, arXiv 1602.05629"
    )
    deviations = ("the text tower stays frozen: the classes are its texts",)
    cached = False

    class Params(Frozen):
        """No parameters."""

    def __init__(self, params: Params) -> None:
        self.params = params

    def build(self, setting: Setting, generator: torch.Generator) -> nn.Module:
        """A copy of the tower's weights. Raises ConfigError if the backbone has no such tower."""
        return Whole(frozen(setting), setting)
