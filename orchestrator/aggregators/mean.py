"""The weighted mean of updates."""

import torch

from schemas.base import Frozen
from schemas.errors import AggregationError
from workers.tensors import Tensors


class Mean:
    """Weighted mean of the updates, each discounted by its staleness.

    step = sum(w_i s_i delta_i) / sum(w_i): the discount s_i must not cancel, so it stands in the numerator alone
    (one update with s = 0.5 moves the model by half of its delta). FedAvg with s = 1 (arXiv 1602.05629);
    FedBuff with s = 1/sqrt(1 + lag) (arXiv 2106.06639). Sums are float64, so the order of arrival leaves no trace.
    """

    needs_sums = True

    class Params(Frozen):
        """No parameters."""

    def __init__(self, params: Params) -> None:
        self.params = params

    def fold(self, kept: Tensors | None = None) -> "MeanFold":
        """An empty sum."""
        return MeanFold()


class MeanFold:
    """A running weighted sum in float64."""

    def __init__(self) -> None:
        self.total: Tensors = {}
        self.weight = 0.0

    def add(self, client: str, update: Tensors, weight: float, discount: float) -> None:
        """Add one update: float32 tensors, weight > 0, discount in (0, 1]."""
        self.weight += weight
        for name, delta in update.items():
            term = delta.to(torch.float64, copy=True).mul_(weight * discount)
            if name in self.total:
                self.total[name].add_(term)
            else:
                self.total[name] = term

    def result(self) -> Tensors:
        """The mean, float32. Raises AggregationError if nothing with a weight was added."""
        if self.weight <= 0:
            raise AggregationError("the updates have no weight at all")
        return {name: (t / self.weight).to(torch.float32) for name, t in self.total.items()}
