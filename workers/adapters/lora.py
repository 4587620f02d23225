"""LoRA inside the image tower."""

import math
from collections.abc import Callable
from textwrap import shorten

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import nn

from schemas.base import Frozen
from schemas.errors import ConfigError
from workers.setting import Setting
from workers.tensors import Tensors
from workers.tower import Inside, frozen, matrices, spoken


class LowRank(Inside):
    """The image tower with matrices W + alpha/r B A in the place of W (out, in): up is B (out, r), down is A (r, in).

    A convolution's (out, in, h, w) is the matrix (out, in h w). B is 0 at the start and A ~ U(-1/sqrt(in), 1/sqrt(in)).
    A matrix whose smaller side is below r has that side's rank.
    """

    def __init__(self, tower: nn.Module, setting: Setting, params: "Lora.Params", generator: torch.Generator) -> None:
        super().__init__(tower, setting.texts, setting.scale)
        every = matrices(tower)
        chosen = {name: w for name, w in every.items() if any(t in name for t in params.targets or ("",))}
        if not chosen:
            called, there = " or ".join(params.targets) or "anything", shorten(", ".join(every) or "none", 200)
            raise ConfigError(f"lora: no matrix of this image tower is called {called}", hint=f"there are: {there}")
        self.names, self.share = tuple(chosen), params.alpha / params.rank
        self.base: Callable[[str], torch.Tensor] = lambda name: chosen[name].detach().cpu()  # as in Inside
        for name, weight in chosen.items():
            rows, columns = len(weight), weight[0].numel()
            rank, bound = min(params.rank, rows, columns), 1 / math.sqrt(columns)
            down = torch.empty(rank, columns)
            nn.init.uniform_(down, -bound, bound, generator=generator)
            self.register_parameter(f"{spoken(name)}-down", nn.Parameter(down))
            self.register_parameter(f"{spoken(name)}-up", nn.Parameter(torch.zeros(rows, rank)))

    def weights(self) -> Tensors:
        """The changed matrices."""
        return {name: self._changed(name) for name in self.names}

    def _changed(self, name: str) -> torch.Tensor:
        up, down = (self.get_parameter(f"{spoken(name)}-{part}") for part in ("up", "down"))
        weight = self.base(name)
        return weight + (self.share * up @ down).reshape(weight.shape)


class Lora:
    """Low-rank changes of the image tower's matrices. Zero-shot at the start; every step passes through the tower.

    Images are not encoded once but decoded and passed through the tower in each step: hundreds of times the work of an
    adapter on cached features, for changes that those cannot make. What travels is small.
    """

    paper = "Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, arXiv 2106.09685"
    deviations = (
        "every matrix and convolution of the image tower by default, where the paper changes those of attention",
        "no dropout on the low-rank path",
    )
    cached = False

    class Params(Frozen):
        """rank: r. alpha: the change is alpha/r B A. targets: parts of the names of the matrices that change, none for

        all; `[attn]` is a ViT's attention.
        """

        rank: PositiveInt = 4
        alpha: PositiveFloat = 8.0
        targets: tuple[str, ...] = ()

    def __init__(self, params: Params) -> None:
        self.params = params

    def build(self, setting: Setting, generator: torch.Generator) -> nn.Module:
        """Two factors per matrix: r (out + in) parameters each. Raises ConfigError if there is nothing to change."""
        return LowRank(frozen(setting), setting, self.params, generator)
