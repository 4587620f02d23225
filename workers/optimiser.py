"""Adam and AdamW by torch's own fused kernels, which torch.optim ends in too.

torch.optim imports the compiler when the first optimiser is made: 6 s of a core in every worker process, for a step
that takes a millisecond. Tested against it. Knows parameters and gradients only.
"""

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
        mine = [row for row in zip(self.parameters, self._mean, self._square, strict=True) if row[0].grad is not None]
        if not mine:
            return
        parameters, means, squares = (list(column) for column in zip(*mine, strict=True))
        done = torch.tensor(float(self.steps), device=parameters[0].device)
        move = torch._fused_adam_ if self.coupled else torch._fused_adamw_
        move(
            parameters, [p.grad for p in parameters], means, squares, [], [done] * len(mine),
            lr=self.lr, beta1=self.betas[0], beta2=self.betas[1], weight_decay=self.weight_decay, eps=self.eps,
            amsgrad=False, maximize=False,
        )  # fmt: skip
