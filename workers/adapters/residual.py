"""CLIP-Adapter's bottleneck on the image feature."""

import math
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import nn

from schemas.base import Frozen
from workers.readout import Cosine
from workers.setting import Setting


class Bottleneck(nn.Module):
    """CLIP-Adapter (arXiv 2110.04544): f* = alpha relu(relu(f W1) W2) + (1 - alpha) f, then the cosine.

    down is W1 (D to D / reduction), up is W2, both without bias and U(-1/sqrt(n), 1/sqrt(n)) at the start, n numbers
    in, from the generator; ratio is alpha. Untrained, f* turns f by a few degrees at most: nearly zero-shot.
    """

    def __init__(
        self, texts: torch.Tensor, scale: float, generator: torch.Generator, *, ratio: float, reduction: int
    ) -> None:
        super().__init__()
        dim = texts.shape[1]
        width = max(1, dim // reduction)
        self.down, self.up = _drawn(width, dim, generator), _drawn(dim, width, generator)
        self.ratio, self.readout = ratio, Cosine(texts, scale)

    def adapted(self, x: torch.Tensor) -> torch.Tensor:
        """x: (B, D), raw -> f* (B, D)."""
        changed = torch.relu(torch.relu(x @ self.down.T) @ self.up.T)
        return self.ratio * changed + (1 - self.ratio) * x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (B, D) -> (B, K)."""
        logits: torch.Tensor = self.readout(self.adapted(x))
        return logits


def _drawn(rows: int, columns: int, generator: torch.Generator) -> nn.Parameter:
    bound = 1 / math.sqrt(columns)
    return nn.Parameter(torch.empty(rows, columns).uniform_(-bound, bound, generator=generator))


class Residual:
    """A two-layer bottleneck beside the feature, mixed into it by a fixed ratio. Nearly zero-shot at the start."""

    paper = "Gao et al., CLIP-Adapter: Better Vision-Language Models with Feature Adapters, arXiv 2110.04544"
    deviations = (
        "on the image feature alone: the adapter on the texts is left out",
        "the second relu is that of the released code; the paper's formula has the first alone",
        "the ratio is a given number, which the paper searches per data set",
    )

    class Params(Frozen):
        """ratio: alpha, how much of the result is the bottleneck's. reduction: D over the bottleneck's width."""

        ratio: Annotated[float, Field(ge=0, le=1)] = 0.2
        reduction: PositiveInt = 4

    def __init__(self, params: Params) -> None:
        self.params = params

    def build(self, setting: Setting, generator: torch.Generator) -> nn.Module:
        """The bottleneck: 2 D^2 / reduction parameters."""
        params = self.params
        return Bottleneck(setting.texts, setting.scale, generator, ratio=params.ratio, reduction=params.reduction)
