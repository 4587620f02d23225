"""Distillation of several models into one on unlabelled examples: teachers' mean logits, divergence, the steps.

Knows modules and features; labels never come near it.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn import functional

from workers.optimiser import Adam


@torch.no_grad()
def mean_logits(models: Sequence[nn.Module], x: torch.Tensor) -> torch.Tensor:
    """The mean of the models' logits: x (N, D) -> (N, K), without gradients."""
    return torch.stack([model(x) for model in models]).mean(dim=0)


def divergence(logits: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """KL(softmax(teacher / T) || softmax(logits / T)), mean over the batch: (B, K), (B, K) -> scalar >= 0."""
    ours, theirs = (functional.log_softmax(z / temperature, dim=1) for z in (logits, teacher))
    return functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def distil(
    student: nn.Module,
    x: torch.Tensor,
    teacher: torch.Tensor,
    *,
    steps: int,
    batch: int,
    lr: float,
    temperature: float,
    generator: torch.Generator,
) -> Iterator[float]:
    """Train the student in place by Adam whose rate falls from lr to 0 along a cosine; the loss of each step.

    x: (N, D), and the teacher's logits on them, (N, K). Passes over the examples in drawn order, anew each time.
    """
    optimiser = Adam(student.parameters(), lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, coupled=True)
    for step, chosen in zip(range(steps), _batches(len(x), batch, generator), strict=False):
        optimiser.lr = lr * (1 + math.cos(math.pi * step / steps)) / 2
        optimiser.zero_grad()
        loss = divergence(student(x[chosen]), teacher[chosen], temperature)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        yield float(loss.detach())


def _batches(count: int, batch: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    while count:
        order = torch.randperm(count, generator=generator)
        yield from (order[start : start + batch] for start in range(0, count, batch))
