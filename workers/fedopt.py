"""Server optimisers: FedAdagrad, FedYogi and FedAdam (Reddi et al., Adaptive Federated Optimization, arXiv 2003.00295).

Pure functions of a model, of the step that averaging would take, and of moments. Knows no method.
"""

from dataclasses import dataclass

import torch

from workers.tensors import Tensors

RULES = ("fedadagrad", "fedyogi", "fedadam")


@dataclass(frozen=True)
class FedOpt:
    """Their algorithm 2. eta: step size. beta1, beta2: decays. tau: in the denominator; v starts as its square."""

    eta: float
    beta1: float
    beta2: float
    tau: float

    def moments(self, step: Tensors, kept: Tensors) -> Tensors:
        """The next `m/<name>`, and `<rule>/<name>`, the v of every rule, from those that are kept; {} at first."""
        made = Tensors()
        for k, d in step.items():
            square, start = d.square(), torch.full_like(d, self.tau**2)
            adagrad, yogi, adam = (kept.get(f"{rule}/{k}", start) for rule in RULES)
            made[f"m/{k}"] = self.beta1 * kept.get(f"m/{k}", torch.zeros_like(d)) + (1 - self.beta1) * d
            made[f"fedadagrad/{k}"] = adagrad + square
            made[f"fedyogi/{k}"] = yogi - (1 - self.beta2) * square * torch.sign(yogi - square)
            made[f"fedadam/{k}"] = self.beta2 * adam + (1 - self.beta2) * square
        return made

    def moved(self, model: Tensors, moments: Tensors, rule: str) -> Tensors:
        """model + eta m / (sqrt(v) + tau)."""
        return {
            k: t + self.eta * moments[f"m/{k}"] / (moments[f"{rule}/{k}"].sqrt() + self.tau) for k, t in model.items()
        }
