"""Server optimisers (Reddi et al., Adaptive Federated Optimization, arXiv 2003.00295), and which of them to take.

Pure functions of a model, of the step that averaging would take, of moments and of losses. Knows no method.
"""

from dataclasses import dataclass

import torch

from workers.tensors import Tensors, norm

RULES = ("fedavg", "fedadagrad", "fedyogi", "fedadam")
"""In the order of scores; the first has no moments."""


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
            adagrad, yogi, adam = (kept.get(f"{rule}/{k}", start) for rule in RULES[1:])
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


def drifts(model: Tensors, candidates: list[Tensors]) -> torch.Tensor:
    """How much longer than the model each candidate is, as L2 norms, float64: by rule."""
    return torch.tensor([norm(c) - norm(model) for c in candidates], dtype=torch.float64)


def decreases(heard: Tensors, kept: Tensors) -> torch.Tensor:
    """What each rule has lately done to the members' losses: log of now / before; -inf for one that is untried.

    The losses heard now are of the model that the last rule made, so its score alone is new: the median over those
    members who were heard the last time too.
    """
    scores = kept.get("scores", torch.full((len(RULES),), -torch.inf)).clone()
    if both := sorted(heard.keys() & kept.keys()):
        changes = torch.stack([(heard[k] / kept[k]).log() for k in both])
        scores[int(kept["last"].argmax())] = changes.quantile(0.5)
    return scores
