"""Zero-shot CLIP's readout, in which every model on frozen features ends that keeps the class texts.

Knows class texts and scale, and no data.
"""

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
