"""FedProx: local training that is held near the model it started from."""

import torch
from pydantic import NonNegativeFloat
from torch import nn

from workers.local import Fit
from workers.methods._local import LocalTraining, Training
from workers.setting import Setting
from workers.tensors import Tensors


class FedProx(LocalTraining):
    """FedAvg whose clients also pay mu/2 ||w - w_t||^2 for leaving the incoming model w_t; with mu 0 it is FedAvg."""

    when = (
        "As `fedavg`, where owners differ so much that several local epochs lead them apart. There is no study of it "
        "here. Try `quorate run experiments/demo.yaml --set 'method={name: fedprox, params: {epochs: 3}}'`."
    )
    costs = (
        "Clients: the distance to the incoming model in each step, hardly more than `fedavg`. Too high a `mu` slows "
        "everybody."
    )
    sends = "As many bytes as `fedavg`."
    paper = "Li et al., Federated Optimization in Heterogeneous Networks, arXiv 1812.06127"
    deviations = (
        "an adapter on a frozen CLIP instead of a whole network, unless the adapter is `tower`",
        "AdamW in the client instead of SGD",
        "every client trains all its epochs: who is slow counts late instead of doing less",
        "clients are drawn evenly and weighted by their images; the paper draws by images and weighs evenly",
    )

    class Params(Training):
        """How a client trains what. mu: the paper tunes it per data set, over 0.001, 0.01, 0.1 and 1."""

        mu: NonNegativeFloat = 0.01

    def __init__(self, params: Params) -> None:
        super().__init__(params)
        self.mu = params.mu

    def local(self, setting: Setting, group: str, incoming: Tensors) -> Fit:
        """The incoming adapter, near it. The metric `loss` has the proximal term in it."""
        module = self.restore(setting, group, incoming)
        start = [p.detach() for p in module.parameters()]

        def proximal(trained: nn.Module) -> torch.Tensor:
            moved = [(p - w).square().sum() for p, w in zip(trained.parameters(), start, strict=True)]
            return self.mu / 2 * torch.stack(moved).sum()

        return Fit(module, self.recipe, proximal)
