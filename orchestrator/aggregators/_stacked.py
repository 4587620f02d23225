"""What rules share that look at all updates of a version side by side: they are kept, and stacked at the close.

Memory: as many models as updates, float32. An update that lags is discounted before the rule sees it. Each owner has
one row, or a hostile one with a late update beside its newer one would be two. Knows no rule.
"""

from abc import ABC, abstractmethod

import torch

from schemas.errors import AggregationError
from workers.tensors import Tensors


class Stacked(ABC):
    """A fold over rows, one per owner: x_i = discount_i * update_i, all tensors of its last update."""

    def __init__(self, least: int, kept: Tensors | None = None) -> None:
        self.least, self.kept = least, dict(kept or {})
        self.rows: dict[str, torch.Tensor] = {}
        self.weights: dict[str, float] = {}
        self.form: Tensors = {}

    @abstractmethod
    def combine(self, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """rows: float32 (n, D). weights: float64 (n), > 0. The step, (D)."""

    def add(self, client: str, update: Tensors, weight: float, discount: float) -> None:
        """Keep one update."""
        self.form = {name: update[name] for name in sorted(update)}
        self.rows[client] = discount * torch.cat([torch.zeros(0), *(t.reshape(-1) for t in self.form.values())])
        self.weights[client] = weight

    def result(self) -> Tensors:
        """The step, float32. Raises AggregationError if there are fewer owners than the rule needs."""
        if len(self.rows) < self.least:
            raise AggregationError(
                f"updates of {len(self.rows)} owners, and the rule needs {self.least}", hint="raise rounds.floor"
            )
        if not self.form:  # of a method that sends no tensors
            return {}
        weights = torch.tensor(list(self.weights.values()), dtype=torch.float64)
        step = self.combine(torch.stack(list(self.rows.values())), weights).float()
        parts = torch.split(step, [t.numel() for t in self.form.values()])
        return {name: part.reshape(t.shape) for (name, t), part in zip(self.form.items(), parts, strict=True)}


def weighted(rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """sum(w_i x_i) / sum(w_i), summed in float64: (n, D), (n) -> (D)."""
    return (weights @ rows.double()) / weights.sum()
