"""Adam and AdamW in the few lines that they are.

torch.optim imports the compiler when the first optimiser is made: 6 s of a core in every worker process, for a step
that takes a millisecond. Same formulas, tested against it. Knows parameters and gradients only.
"""

import math
from collections.abc import Iterable, Sequence

import torch

BLOCK = 32_768
"""Numbers moved at a time: the ten passes over them then find them in the processor's cache."""


class Adam:
    """One optimiser of some parameters. coupled: weight decay is in the gradient (Adam, L2), else beside it (AdamW).

    Kingma and Ba, arXiv 1412.6980, algorithm 1, and Loshchilov and Hutter, arXiv 1711.05101, algorithm 2.
    lr: alpha. betas: beta_1, beta_2. mean and square are m and v, corrected for starting at zero.
    """

    def __init__(
        self,
        parameters: Iterable[torch.Tensor],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        coupled: bool,
    ) -> None:
        self.parameters = list(parameters)
        self.lr, self.betas, self.eps, self.weight_decay, self.coupled = lr, betas, eps, weight_decay, coupled
        self.steps = 0
        self._mean = [torch.zeros_like(p) for p in self.parameters]
        self._square = [torch.zeros_like(p) for p in self.parameters]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for p in self.parameters:
            p.grad = None

    def narrow(self, parameters: Iterable[torch.Tensor]) -> None:
        """Go on with these instead, which are the first rows of those so far."""
        self.parameters = list(parameters)
        self._mean = [mean[: len(p)] for p, mean in zip(self.parameters, self._mean, strict=True)]
        self._square = [square[: len(p)] for p, square in zip(self.parameters, self._square, strict=True)]

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient."""
        self.steps += 1
        for p, mean, square in zip(self.parameters, self._mean, self._square, strict=True):
            if p.grad is not None:
                for block in zip(*(_blocks(t) for t in (p, p.grad, mean, square)), strict=True):
                    self._move(*block)

    def _move(self, p: torch.Tensor, gradient: torch.Tensor, mean: torch.Tensor, square: torch.Tensor) -> None:
        one, two = (1 - beta**self.steps for beta in self.betas)
        if self.coupled:
            gradient = gradient.add(p, alpha=self.weight_decay)
        else:
            p.mul_(1 - self.lr * self.weight_decay)
        mean.mul_(self.betas[0]).add_(gradient, alpha=1 - self.betas[0])
        square.mul_(self.betas[1]).addcmul_(gradient, gradient, value=1 - self.betas[1])
        p.addcdiv_(mean, (square.sqrt().div_(math.sqrt(two))).add_(self.eps), value=-self.lr / one)


def _blocks(t: torch.Tensor) -> Sequence[torch.Tensor]:
    return torch.split(t.reshape(-1), BLOCK)
