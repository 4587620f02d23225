"""The update that has the nearest neighbours, or the mean of a few such."""

import torch
from pydantic import NonNegativeInt, PositiveInt

from orchestrator.aggregators._stacked import Stacked
from schemas.base import Frozen
from workers.tensors import Tensors


class Krum:
    """The updates whose n - f - 2 nearest neighbours are nearest: one (Krum), or the mean of `multi` (Multi-Krum).

    f of n >= 2 f + 3 updates may be anything. The score is the sum of squared distances. Weights are of no account,
    and a single update is noisy: `multi` above 1 is steadier.
    """

    when = (
        "Some owners may send anything, and you want whole updates in the place of mixtures of numbers; honest ones "
        "must be alike, for whoever differs is taken for hostile. What it held against: docs/benchmarks.md. Try "
        "`quorate run experiments/robust.yaml --set 'aggregator={name: krum, params: {hostile: 2}}' --set "
        "rounds.floor=7`."
    )
    costs = (
        "All decoded updates of a version lie in memory at once, and every pair of them is compared. With `multi: 1` "
        "the work of all but one client is dropped. The floor must be 2 `hostile` + 3 at least."
    )
    sends = "Nothing more. Single updates are looked at, so they cannot be hidden from the orchestrator."
    paper = "Blanchard et al., Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent, NIPS 2017"
    deviations = ("an update that lags is discounted first; the paper has no late ones",)
    per_owner = True

    class Params(Frozen):
        """hostile: f. multi: m, how many are averaged, at most n - f - 2."""

        hostile: NonNegativeInt = 1
        multi: PositiveInt = 1

    def __init__(self, params: Params) -> None:
        self.params = params
        self.least = max(2 * params.hostile + 3, params.multi + params.hostile + 2)

    def fold(self, kept: Tensors | None = None) -> "KrumFold":
        """An empty stack."""
        return KrumFold(self.least, self.params.hostile, self.params.multi)


class KrumFold(Stacked):
    """The updates so far."""

    def __init__(self, least: int, hostile: int, multi: int) -> None:
        super().__init__(least)
        self.hostile, self.multi = hostile, multi

    def combine(self, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """(n, D), (n) -> (D). Of equal scores the first client's counts."""
        nearest = self.scores(rows.double()).argsort(stable=True)[: self.multi]
        return rows[nearest.sort().values].double().mean(dim=0)

    def scores(self, rows: torch.Tensor) -> torch.Tensor:
        """Sum of squared distances to the n - f - 2 nearest others: (n, D) -> (n)."""
        squares = torch.stack([(rows - row).square().sum(dim=1) for row in rows])
        squares.fill_diagonal_(torch.inf)
        return squares.sort(dim=1).values[:, : len(rows) - self.hostile - 2].sum(dim=1)
