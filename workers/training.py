"""The one local training loop: a recipe, two losses, and the update of a client that trains a copy of the model.

Works on frozen features, on CPU and on one thread, so the same client at the same base gives the same bytes
on every worker. Knows no method.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import nn
from torch.nn import functional

from schemas.base import Frozen
from workers.data.pictures import passes
from workers.method import Client, Examples, Update
from workers.optimiser import Adam
from workers.tensors import Tensors, keep_freed_memory

Decay = Annotated[float, Field(ge=0, lt=1)]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""logits (B, K) float32 and labels (B,) int64 -> scalar. Labels below 0 are padding, and their rows do not count."""
Penalty = Callable[[nn.Module], torch.Tensor]
"""What a model costs by itself, beside its loss on a batch: the model in training -> scalar."""
PADDING = -100
"""The label of a row that only fills a batch up; torch's own `ignore_index`."""


class Recipe(Frozen):
    """How one client trains.

    optimiser: adam has its weight decay in the gradient (L2), adamw beside it. It starts anew in every task.
    smallest: batches of fewer images are skipped. weight: a client's share in the mean, `images` (how many it trains
    on) or `uniform`.
    """

    optimiser: Literal["adam", "adamw"] = "adamw"
    lr: PositiveFloat = 1e-3
    betas: tuple[Decay, Decay] = (0.9, 0.98)
    eps: PositiveFloat = 1e-6
    weight_decay: NonNegativeFloat = 0.0
    loss: Literal["cross_entropy", "contrastive"] = "cross_entropy"
    batch: PositiveInt = 32
    epochs: PositiveInt = 1
    smallest: PositiveInt = 1
    weight: Literal["images", "uniform"] = "images"

    def optimise(self, parameters: Iterable[torch.Tensor]) -> Adam:
        """A fresh optimiser of these parameters."""
        return Adam(
            parameters,
            lr=self.lr,
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay,
            coupled=self.optimiser == "adam",
        )


def contrastive(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """CLIP's symmetric InfoNCE over the batch's (image, prompt of its class) pairs, from class logits alone.

    The pairwise loss takes every pair's position as its target, so two images of one class are each other's
    negatives. With n_c images of class c in the batch and Z the logits, this is the same number and gradient:
    L_img = mean_i(-Z[i, y_i] + log sum_c n_c exp Z[i, c]);
    L_txt = (1/B) (-sum_i Z[i, y_i] + sum_c n_c log sum_i exp Z[i, c]); L = (L_img + L_txt) / 2.
    Each term has a floor above zero: mean_i log n_{y_i}.
    """
    real = labels >= 0
    there, size = labels.clamp(min=0), real.sum()
    counts = (functional.one_hot(there, logits.shape[1]) * real[:, None]).sum(dim=0).to(logits.dtype)
    own = logits.gather(1, there[:, None]).squeeze(1)
    image = torch.logsumexp(logits + counts.log(), dim=1) - own
    columns = torch.logsumexp(logits.masked_fill(~real[:, None], -math.inf), dim=0)
    text = (counts * columns).sum() / size - (own * real).sum() / size
    return ((image * real).sum() / size + text) / 2


LOSSES: dict[str, Loss] = {"cross_entropy": functional.cross_entropy, "contrastive": contrastive}


class Cost(nn.Module):
    """What one batch costs a client: the recipe's loss of the model, and the penalty."""

    def __init__(self, module: nn.Module, recipe: Recipe, penalty: Penalty | None) -> None:
        super().__init__()
        self.module, self.penalty, self.loss_of = module, penalty, LOSSES[recipe.loss]

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """x: (B, D), y: (B,) -> scalar."""
        loss = self.loss_of(self.module(x), y)
        return loss if self.penalty is None else loss + self.penalty(self.module)


def local_update(client: Client, module: nn.Module, recipe: Recipe, penalty: Penalty | None = None) -> Update:
    """The client half of federated averaging: train a copy of the module, send what changed.

    penalty: added to the loss of every batch.
    metrics: `loss` of the last epoch, and `validation`, the accuracy of the incoming model.
    """
    trained = copy.deepcopy(module)
    loss = fit(trained, client.train, recipe, client.generator("batches"), penalty)
    before, after = module.state_dict(), trained.state_dict()
    changed = {name: (after[name] - before[name]).detach() for name in before}
    return contribution(client, recipe, changed, loss=loss, validation=accuracy(module, client.val))


def contribution(client: Client, recipe: Recipe, changed: Tensors, *, loss: float, validation: float) -> Update:
    """What a client sends that has trained so: what changed, its weight, and its metrics."""
    metrics = {"loss": loss, "validation": validation}
    return Update(
        tensors=changed,
        weight=float(len(client.train)) if recipe.weight == "images" else 1.0,
        metrics={k: v for k, v in metrics.items() if math.isfinite(v)},
    )


def fit(
    module: nn.Module,
    examples: Examples,
    recipe: Recipe,
    generator: torch.Generator,
    penalty: Penalty | None = None,
) -> float:
    """Train in place; the mean loss per batch of the last epoch, nan if there was no batch."""
    keep_freed_memory()
    optimiser, cost = recipe.optimise(module.parameters()), Cost(module, recipe, penalty)
    losses: list[float] = []
    module.train()
    with one_thread():
        for _ in range(recipe.epochs):
            losses = []
            for chosen in batches(len(examples), recipe, generator):
                optimiser.zero_grad()
                loss = cost(examples.x[chosen], examples.y[chosen])
                loss.backward()
                optimiser.step()
                losses.append(float(loss.detach()))
    module.eval()
    return sum(losses) / len(losses) if losses else math.nan


def batches(count: int, recipe: Recipe, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """One epoch: all indices below count in drawn order, `batch` at a time; the last may be short."""
    order = torch.randperm(count, generator=generator)
    for start in range(0, count, recipe.batch):
        if min(recipe.batch, count - start) >= recipe.smallest:
            yield order[start : start + recipe.batch]


def accuracy(module: nn.Module, examples: Examples) -> float:
    """Share of examples whose largest logit is their label's; nan without examples."""
    if not len(examples):
        return math.nan
    with one_thread(), torch.no_grad():
        found = torch.cat([module(x).argmax(dim=1) for x in passes(examples.x)])
        return float((found == examples.y).float().mean())


@contextmanager
def one_thread() -> Iterator[None]:
    """The sums of a matrix product depend on how many threads share it: one thread, one result."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
