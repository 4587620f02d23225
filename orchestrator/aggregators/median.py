"""The median of each number."""

import torch
from pydantic import NonNegativeInt

from orchestrator.aggregators._stacked import Stacked
from schemas.base import Frozen
from workers.tensors import Tensors


class Median:
    """The median of each number over the updates; of an even count the mean of the two in the middle.

    Less than half of the updates may be anything. Weights are of no account, and honest owners who differ from most
    lose their say.
    """

    when = (
        "Some owners may be broken or hostile, fewer than half of each version, and the honest ones are alike: where "
        "they differ, the rarer ones lose their say. What it held against: docs/benchmarks.md. Try `quorate run "
        "experiments/robust.yaml`, which asks for it."
    )
    costs = (
        "All decoded updates of a version lie in memory at once, and each number is sorted. The floor must be above "
        "twice `hostile`: a version waits for so many."
    )
    sends = "Nothing more. Single updates are looked at, so they cannot be hidden from the orchestrator."
    paper = "Yin et al., Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates, arXiv 1803.01498"
    deviations = ("an update that lags is discounted first; the paper has no late ones",)
    per_owner = True

    class Params(Frozen):
        """hostile: how many updates of a version may be anything; the floor must leave more honest ones."""

        hostile: NonNegativeInt = 1

    def __init__(self, params: Params) -> None:
        self.least = 2 * params.hostile + 1

    def fold(self, kept: Tensors | None = None) -> "MedianFold":
        """An empty stack."""
        return MedianFold(self.least)


class MedianFold(Stacked):
    """The updates so far."""

    def combine(self, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """(n, D), (n) -> (D)."""
        ordered, n = rows.sort(dim=0).values, len(rows)
        return (ordered[(n - 1) // 2].double() + ordered[n // 2].double()) / 2
