"""The mean of each number without its extremes."""

import torch
from pydantic import NonNegativeInt

from orchestrator.aggregators._stacked import Stacked
from schemas.base import Frozen
from workers.tensors import Tensors


class TrimmedMean:
    """The mean of each number without its `hostile` largest and smallest values over the updates.

    So many updates may be anything. Weights are of no account.
    """

    when = (
        "As `median`, if you can say how many may be hostile: it keeps more of the honest ones. What it held "
        "against: docs/benchmarks.md. Try `quorate run experiments/robust.yaml --set 'aggregator={name: "
        "trimmed_mean, params: {hostile: 2}}'`."
    )
    costs = (
        "All decoded updates of a version lie in memory at once, and each number is sorted. The floor must be above "
        "twice `hostile`."
    )
    sends = "Nothing more. Single updates are looked at, so they cannot be hidden from the orchestrator."
    paper = "Yin et al., Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates, arXiv 1803.01498"
    deviations = ("an update that lags is discounted first; the paper has no late ones",)
    per_owner = True

    class Params(Frozen):
        """hostile: k, how many values are dropped at either end."""

        hostile: NonNegativeInt = 1

    def __init__(self, params: Params) -> None:
        self.hostile, self.least = params.hostile, 2 * params.hostile + 1

    def fold(self, kept: Tensors | None = None) -> "TrimmedFold":
        """An empty stack."""
        return TrimmedFold(self.least, self.hostile)


class TrimmedFold(Stacked):
    """The updates so far."""

    def __init__(self, least: int, hostile: int) -> None:
        super().__init__(least)
        self.hostile = hostile

    def combine(self, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """(n, D), (n) -> (D)."""
        return rows.sort(dim=0).values[self.hostile : len(rows) - self.hostile].double().mean(dim=0)
