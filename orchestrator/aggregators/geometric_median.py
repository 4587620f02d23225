"""The point with the least sum of distances to the updates."""

import torch
from pydantic import PositiveFloat, PositiveInt

from orchestrator.aggregators._stacked import Stacked, weighted
from schemas.base import Frozen
from workers.tensors import Tensors


class GeometricMedian:
    """The point with the least weighted sum of distances to the updates, by smoothed steps of Weiszfeld (RFA).

    v <- sum(b_i x_i) / sum(b_i), b_i = w_i / max(nu, |x_i - v|), from the weighted mean on. Less than half of the
    weight may be anything; but weights are what owners say of themselves, and one who lies about its own has it all.
    Where a share h of the weight is hostile, a step leaves h / (1 - h) of a blow's pull. Four steps,
    as in the authors' code, are outlasted by a thousandfold one.
    """

    when = (
        "Some owners may send anything, fewer than half by weight, and you trust what owners say of how many images "
        "they have: weights count here, unlike in the other robust rules. Few steps do not get away from an enormous "
        "update, so leave `steps` high or set `rounds.max_norm`. What it held against: docs/benchmarks.md. Try "
        "`quorate run experiments/robust.yaml --set 'aggregator={name: geometric_median}'`."
    )
    costs = (
        "All decoded updates of a version lie in memory at once; up to `steps` passes over them. The floor must be 3 "
        "at least."
    )
    sends = "Nothing more. Single updates are looked at, so they cannot be hidden from the orchestrator."
    paper = "Pillutla et al., Robust Aggregation for Federated Learning, arXiv 1912.13445"
    deviations = (
        "an update that lags is discounted first; the paper has no late ones",
        "up to 32 steps in the place of four",
    )
    per_owner = True

    class Params(Frozen):
        """steps: at most. smoothing: nu. tolerance: it ends when v moves by less than this share of its length."""

        steps: PositiveInt = 32
        smoothing: PositiveFloat = 1e-5
        tolerance: PositiveFloat = 1e-6

    def __init__(self, params: Params) -> None:
        self.params, self.least = params, 3

    def fold(self, kept: Tensors | None = None) -> "WeiszfeldFold":
        """An empty stack."""
        return WeiszfeldFold(self.least, self.params)


class WeiszfeldFold(Stacked):
    """The updates so far."""

    def __init__(self, least: int, params: GeometricMedian.Params) -> None:
        super().__init__(least)
        self.params = params

    def combine(self, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """(n, D), (n) -> (D)."""
        point, x = weighted(rows, weights), rows.double()
        for _ in range(self.params.steps):
            before = point
            shares = weights / (x - point).norm(dim=1).clamp(min=self.params.smoothing)
            point = weighted(rows, shares)
            if float((point - before).norm()) <= self.params.tolerance * float(before.norm()):
                break
        return point
