"""FedCLIP's attention gate on the image feature."""

import math

import torch
from torch import nn

from schemas.base import Frozen
from workers.readout import Cosine
from workers.setting import Setting


class AttentionGate(nn.Module):
    """FedCLIP's adapter (arXiv 2302.13485): a = softmax(W2 tanh(W1 f + b1) + b2), logits of the gated feature a * f.

    hidden is W1, b1 and gate is W2, b2: 2 (D^2 + D) parameters, U(-1/sqrt(D), 1/sqrt(D)) at the start, from the
    generator. A near-uniform softmax followed by normalisation changes little: untrained, it is nearly zero-shot.
    """

    def __init__(self, texts: torch.Tensor, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        dim = texts.shape[1]
        self.hidden, self.gate = _linear(dim, generator), _linear(dim, generator)
        self.readout = Cosine(texts, scale)

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        """x: (B, D), raw: unit-length features would leave tanh idle -> (B, D), positive, rows sum to 1."""
        return torch.softmax(self.gate(torch.tanh(self.hidden(x))), dim=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (B, D) -> (B, K)."""
        logits: torch.Tensor = self.readout(self.attention(x) * x)
        return logits


def _linear(dim: int, generator: torch.Generator) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):  # torch draws values of its own, and nobody else shall notice
        layer = nn.Linear(dim, dim)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -1 / math.sqrt(dim), 1 / math.sqrt(dim), generator=generator)
    return layer


class Gate:
    """A positive gate on the feature: two D x D layers whose softmax weighs the D coordinates. Nearly zero-shot."""

    paper = (
        "Lu et al., FedCLIP: Fast Generalization and Personalization for CLIP in Federated Learning, arXiv 2302.13485"
    )

    class Params(Frozen):
        """No parameters."""

    def __init__(self, params: Params) -> None:
        self.params = params

    def build(self, setting: Setting, generator: torch.Generator) -> nn.Module:
        """The gate: 2 (D^2 + D) parameters."""
        return AttentionGate(setting.texts, setting.scale, generator)
