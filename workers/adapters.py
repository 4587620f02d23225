"""The trainable parts on top of frozen features: float32 (B, D) raw features in, logits (B, K) out.

All of them answer like zero-shot CLIP before training. They know class texts and scale, and no data.
"""

import math

import torch
from torch import nn
from torch.nn import functional


class Cosine(nn.Module):
    """Zero-shot CLIP: logits = scale * cos(feature, class text). Nothing to train, an empty state_dict."""

    texts: torch.Tensor

    def __init__(self, texts: torch.Tensor, scale: float) -> None:
        super().__init__()
        self.register_buffer("texts", texts, persistent=False)
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (B, D) -> (B, K)."""
        return self.scale * functional.normalize(x, dim=1) @ self.texts.T


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
