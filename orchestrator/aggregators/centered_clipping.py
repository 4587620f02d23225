"""The mean of updates, each clipped around where the last step was."""

import torch
from pydantic import PositiveFloat, PositiveInt

from orchestrator.aggregators._stacked import Stacked
from schemas.base import Frozen
from workers.tensors import Tensors

CENTRE = "centre"


class CenteredClipping:
    """v <- v + 1/n sum((x_i - v) min(1, tau / |x_i - v|)), a few times, from the step of the version before.

    The centre is kept between versions, one per group. Weights are of no account. Without the clients'
    momentum an attack that stays the same over many versions can drift the centre.
    """

    when = (
        "Some owners may send anything, and the step of one version resembles that of the next. `tau` is how far an "
        "honest update may be from the step; a value that is too low slows all down. What it held against: "
        "docs/benchmarks.md. Try `quorate run experiments/robust.yaml --set 'aggregator={name: centered_clipping, "
        "params: {tau: 0.5}}'`."
    )
    costs = (
        "All decoded updates of a version lie in memory at once; `steps` passes over them. The state holds one more "
        "model per group."
    )
    sends = "Nothing more. Single updates are looked at, so they cannot be hidden from the orchestrator."
    paper = "Karimireddy, He, Jaggi, Learning from History for Byzantine Robust Optimization, arXiv 2012.10333"
    deviations = (
        "an update that lags is discounted first; in the authors' asynchronous variant whoever is missing counts as 0",
        "the momentum of the clients is a transform of its own, `momentum`",
    )
    per_owner = True

    class Params(Frozen):
        """tau: how far an update may pull. steps: L."""

        tau: PositiveFloat = 1.0
        steps: PositiveInt = 3

    def __init__(self, params: Params) -> None:
        self.params, self.least = params, 1

    def fold(self, kept: Tensors | None = None) -> "ClippingFold":
        """An empty stack around the kept centre, or around 0."""
        return ClippingFold(self.least, self.params, kept)


class ClippingFold(Stacked):
    """The updates so far. kept: the centre, float32 (D)."""

    def __init__(self, least: int, params: CenteredClipping.Params, kept: Tensors | None) -> None:
        super().__init__(least, kept)
        self.params = params

    def combine(self, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """(n, D), (n) -> (D), which is the next centre too."""
        x = rows.double()
        known = self.kept.get(CENTRE)
        point = torch.zeros(x.shape[1], dtype=torch.float64) if known is None else known.double()
        for _ in range(self.params.steps):
            away = x - point
            shares = (self.params.tau / away.norm(dim=1).clamp(min=1e-300)).clamp(max=1.0)
            point = point + (away * shares[:, None]).mean(dim=0)
        self.kept = {CENTRE: point.float()}
        return point
