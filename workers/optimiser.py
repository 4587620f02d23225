"""Adam and AdamW in the few lines that they are.

torch.optim imports the compiler when the first optimiser is made: 6 s of a core in every worker process, for a step
that takes a millisecond. Same formulas, tested against it. Knows parameters and gradients only.
"""

import math
from collections.abc import Iterable

import torch


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
        one, two = (1 - beta**self.steps for beta in self.betas)
        for p, mean, square in zip(self.parameters, self._mean, self._square, strict=True):
            if p.grad is None:
                continue
            gradient = p.grad.add(p, alpha=self.weight_decay) if self.coupled else p.grad
            if not self.coupled:
                p.mul_(1 - self.lr * self.weight_decay)
            mean.mul_(self.betas[0]).add_(gradient, alpha=1 - self.betas[0])
            square.mul_(self.betas[1]).addcmul_(gradient, gradient, value=1 - self.betas[1])
            p.addcdiv_(mean, (square.sqrt() / math.sqrt(two)).add_(self.eps), value=-self.lr / one)
