"""A bound on what one client can move."""

import torch
from pydantic import PositiveFloat

from schemas.base import Frozen
from workers.tensors import Tensors


class Clip:
    """Shrink the update so that its L2 norm, over all tensors together, is at most `norm`; its direction stays."""

    class Params(Frozen):
        """norm: the largest L2 norm of an update."""

        norm: PositiveFloat

    def __init__(self, params: Params) -> None:
        self.norm = params.norm

    def on_client(self, tensors: Tensors, kept: Tensors, generator: torch.Generator) -> tuple[Tensors, Tensors]:
        """The update, scaled down if it is too long; norms are taken in float64."""
        total = sum(float(t.double().square().sum()) for t in tensors.values()) ** 0.5
        factor = min(1.0, self.norm / total) if total > 0 else 1.0
        return {name: t * factor for name, t in tensors.items()}, {}
