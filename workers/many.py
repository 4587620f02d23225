"""Many clients' local training at once: the loop of `workers.training.fit`, with a model for each in stacked tensors.

What one client's batch costs is written once, for one client; `torch.func.vmap` makes it many. Each client keeps its
own batches, its own number of steps and its own optimiser state, so it ends where it would alone, but for rounding.
Knows no method.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call, vmap

from workers.method import Examples
from workers.tensors import Tensors, keep_freed_memory
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
    """As `fit` for a copy of the module per client, on one thread. The module stays as it is, and where it is.

    parts, generators: of each client, on CPU. Raises RuntimeError for a module that torch.func.vmap cannot stack.
    """
    keep_freed_memory()
    cost, count = Cost(module, recipe, penalty), len(parts)
    plans = [_Plan.of(len(part), recipe, generator) for part, generator in zip(parts, generators, strict=True)]
    order = sorted(range(count), key=lambda i: -len(plans[i].steps))  # who still trains is then at the front
    steps = _steps([parts[i] for i in order], [plans[i] for i in order])
    start = {name: p.detach() for name, p in cost.named_parameters() if p.requires_grad}
    stacked = {name: p.expand(count, *p.shape).clone().requires_grad_() for name, p in start.items()}
    with one_thread():
        losses = _train(cost, stacked, steps, recipe)
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


def _steps(parts: Sequence[Examples], plans: Sequence[_Plan]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Of each step, x float32 (C, B, D) and y int64 (C, B) of the C clients that take it: the first of those given."""
    for step in range(max((len(plan.steps) for plan in plans), default=0)):
        chosen = [(part, plan.steps[step]) for part, plan in zip(parts, plans, strict=True) if len(plan.steps) > step]
        yield _batch(chosen)


def _batch(chosen: list[tuple[Examples, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """These rows of each client, filled up with its first one: zeros might be what a model cannot take."""
    width, like = max(len(rows) for _, rows in chosen), chosen[0][0].x
    x = like.new_empty(len(chosen), width, *like.shape[1:])
    y = torch.full((len(chosen), width), PADDING)
    for (part, rows), into, labels in zip(chosen, x, y, strict=True):
        torch.index_select(part.x, 0, rows, out=into[: len(rows)])
        labels[: len(rows)] = part.y[rows]
        into[len(rows) :] = into[0]
    return x, y


def _train(
    cost: nn.Module, stacked: Tensors, steps: Iterable[tuple[torch.Tensor, torch.Tensor]], recipe: Recipe
) -> list[list[float]]:
    """Train the stacked parameters in place; per step, the losses of the clients that take it."""
    optimiser, active = recipe.optimise(stacked.values()), stacked
    costs = vmap(lambda parameters, x, y: functional_call(cost, parameters, (x, y)))
    losses: list[list[float]] = []
    device = next((p.device for p in stacked.values()), torch.device("cpu"))
    cost.train()
    for images, labels in steps:
        x, y = images.to(device), labels.to(device)
        if any(len(p) > len(y) for p in active.values()):  # the others have had all their batches
            active = {name: p.detach()[: len(y)].requires_grad_() for name, p in stacked.items()}
            optimiser.narrow(active.values())
        optimiser.zero_grad()
        found = costs(active, x, y)
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
