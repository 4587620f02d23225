"""Many clients' local training at once: the loop of `workers.training.fit`, with a model for each in stacked tensors.

What one client's batch costs is written once, for one client; `torch.func.vmap` makes it many. Each client keeps its
own batches, its own number of steps and its own optimiser state, so it ends where it would alone, but for rounding.
Knows no method.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call, vmap

from workers.method import Examples
from workers.tensors import Tensors
from workers.training import PADDING, Cost, Penalty, Recipe, batches, one_thread


@dataclass(frozen=True)
class Fitted:
    """What one client ends with. changed: trained minus incoming, per parameter. loss: as `fit` returns it."""

    changed: Tensors
    loss: float


def fit_many(
    module: nn.Module,
    parts: Sequence[Examples],
    recipe: Recipe,
    generators: Sequence[torch.Generator],
    penalty: Penalty | None = None,
) -> list[Fitted]:
    """As `fit` for a copy of the module per client, on one thread. The module stays as it is.

    parts, generators: of each client. Raises RuntimeError for a module that cannot be stacked (torch.func.vmap).
    """
    cost, count = Cost(module, recipe, penalty), len(parts)
    plans = [_Plan.of(len(part), recipe, generator) for part, generator in zip(parts, generators, strict=True)]
    order = sorted(range(count), key=lambda i: -len(plans[i].steps))  # who still trains is then at the front
    data = _Data.of([parts[i] for i in order], [plans[i] for i in order])
    start = {name: p.detach() for name, p in cost.named_parameters() if p.requires_grad}
    stacked = {name: p.expand(count, *p.shape).clone().requires_grad_() for name, p in start.items()}
    with one_thread():
        losses = _train(cost, stacked, data, recipe)
        changed = {name: p.detach() - start[name] for name, p in stacked.items()}
    names, found = _names(cost), dict[int, Fitted]()
    for row, i in enumerate(order):
        own = {name: changed[of][row] for name, of in names.items()}
        found[i] = Fitted(own, _mean([loss[row] for loss in losses[: len(plans[i].steps)]][-plans[i].last :]))
    return [found[i] for i in range(count)]


@dataclass(frozen=True)
class _Plan:
    """The batches of one client, over all epochs. last: how many of them are of the last epoch."""

    steps: list[torch.Tensor]
    last: int

    @classmethod
    def of(cls, count: int, recipe: Recipe, generator: torch.Generator) -> "_Plan":
        epochs = [list(batches(count, recipe, generator)) for _ in range(recipe.epochs)]
        return cls([chosen for epoch in epochs for chosen in epoch], len(epochs[-1]))


@dataclass(frozen=True)
class _Data:
    """All examples in a row, and which of them each client takes in each step.

    x, y: as Examples. rows: per step int64 (C, B) for the C clients that still train, filled up with one's own first
    example. filled: bool (C, B), where that was done.
    """

    x: torch.Tensor
    y: torch.Tensor
    rows: list[torch.Tensor]
    filled: list[torch.Tensor]

    @classmethod
    def of(cls, parts: Sequence[Examples], plans: Sequence[_Plan]) -> "_Data":
        """From the clients, those with most steps first."""
        begins = [0]
        for part in parts:
            begins.append(begins[-1] + len(part))
        rows, filled = [], []
        for step in range(max((len(plan.steps) for plan in plans), default=0)):
            chosen = [p.steps[step] + begin for p, begin in zip(plans, begins, strict=False) if len(p.steps) > step]
            row = nn.utils.rnn.pad_sequence(chosen, batch_first=True, padding_value=-1)
            filled.append(row < 0)
            rows.append(torch.where(row < 0, row[:, :1], row))
        return cls(torch.cat([p.x for p in parts]), torch.cat([p.y for p in parts]), rows, filled)

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """x float32 (C, B, D), y int64 (C, B)."""
        rows = self.rows[step]
        return self.x[rows], self.y[rows].masked_fill(self.filled[step], PADDING)


def _train(cost: nn.Module, stacked: Tensors, data: _Data, recipe: Recipe) -> list[list[float]]:
    """Train the stacked parameters in place; per step, the losses of the clients that take it."""
    optimiser, active = recipe.optimise(stacked.values()), stacked
    costs = vmap(lambda parameters, x, y: functional_call(cost, parameters, (x, y)))
    losses: list[list[float]] = []
    cost.train()
    for step, rows in enumerate(data.rows):
        if any(len(p) > len(rows) for p in active.values()):  # the others have had all their batches
            active = {name: p.detach()[: len(rows)].requires_grad_() for name, p in stacked.items()}
            optimiser.narrow(active.values())
        optimiser.zero_grad()
        found = costs(active, *data.batch(step))
        found.sum().backward()  # no client's loss depends on another one's parameters
        optimiser.step()
        losses.append(found.tolist())
    cost.eval()
    return losses


def _names(cost: Cost) -> dict[str, str]:
    """What the model calls its parameters, to what they are called in the cost; of tied ones, the first of them."""
    first = {id(p): name for name, p in cost.named_parameters() if p.requires_grad}
    return {name: first[id(p)] for name, p in cost.module.named_parameters(remove_duplicate=False) if p.requires_grad}


def _mean(losses: list[float]) -> float:
    return sum(losses) / len(losses) if losses else math.nan
