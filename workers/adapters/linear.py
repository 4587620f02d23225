"""A linear head."""

import torch
from torch import nn
from torch.nn import functional

from schemas.base import Frozen
from workers.setting import Setting


class LinearHead(nn.Module):
    """A linear classifier of the normalised feature that starts as the class texts: logits = scale * (W f + b)."""

    def __init__(self, texts: torch.Tensor, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(texts.clone())
        self.bias = nn.Parameter(torch.zeros(len(texts)))
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (B, D) -> (B, K)."""
        return self.scale * functional.linear(functional.normalize(x, dim=1), self.weight, self.bias)


class Linear:
    """A linear head that starts as the class texts. It answers for these classes only."""

    class Params(Frozen):
        """No parameters."""

    def __init__(self, params: Params) -> None:
        self.params = params

    def build(self, setting: Setting, generator: torch.Generator) -> nn.Module:
        """The head: weight (K, D) and bias (K)."""
        return LinearHead(setting.texts, setting.scale)
