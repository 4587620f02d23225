"""The mean of updates, none of them longer than a bound."""

import torch
from pydantic import PositiveFloat

from orchestrator.aggregators._stacked import Stacked
from schemas.base import Frozen
from workers.tensors import Tensors


class NormBound:
    """The mean of the updates, each shortened to an L2 norm of `bound` where it is longer.

    Who sends a large blow counts no more than others; who lies within the bound is not noticed. Weights are of no
    account, for they are what owners say of themselves.
    """

    when = (
        "Updates may be far too long by mistake or malice, and otherwise the mean is right: honest owners who differ "
        "keep their say. It does not see who lies within the bound, so a sign flip costs accuracy "
        "(docs/benchmarks.md). Try `quorate run experiments/robust.yaml --set 'aggregator={name: norm_bound, params: "
        "{bound: 1.0}}'`."
    )
    costs = (
        "All decoded updates of a version lie in memory at once, and one norm of each is taken. A bound that is too "
        "low slows all of them down."
    )
    sends = "Nothing more. Single updates are looked at, so they cannot be hidden from the orchestrator."
    paper = "Sun et al., Can You Really Backdoor Federated Learning?, arXiv 1911.07963"
    deviations = (
        "an update that lags is discounted first; the paper has no late ones",
        "without their noise",
    )
    per_owner = True

    class Params(Frozen):
        """bound: C. Three times the usual norm of an update is a good choice; `quorate report` does not tell it."""

        bound: PositiveFloat = 1.0

    def __init__(self, params: Params) -> None:
        self.bound, self.least = params.bound, 1

    def fold(self, kept: Tensors | None = None) -> "BoundFold":
        """An empty stack."""
        return BoundFold(self.least, self.bound)


class BoundFold(Stacked):
    """The updates so far."""

    def __init__(self, least: int, bound: float) -> None:
        super().__init__(least)
        self.bound = bound

    def combine(self, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """(n, D), (n) -> (D): mean of x_i min(1, C / |x_i|)."""
        lengths = rows.double().norm(dim=1)
        shares = (self.bound / lengths.clamp(min=1e-300)).clamp(max=1.0)
        return torch.mean(rows.double() * shares[:, None], dim=0)
