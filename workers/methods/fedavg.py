"""Federated averaging of a linear head on frozen features."""

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import nn

from workers.adapters import LinearHead
from workers.method import Client, Method, Update
from workers.setting import Setting
from workers.training import Recipe, local_update


class FedAvg(Method):
    """Each client trains a linear head that starts as the class texts; the server takes the weighted mean."""

    paper = (
        "McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, arXiv 1602.05629"
    )
    deviations = (
        "a linear head on frozen CLIP features instead of a whole network",
        "AdamW in the client instead of SGD",
    )

    class Params(Recipe):
        """How a client trains; lr and weight_decay suit a head that starts as unit rows."""

        lr: PositiveFloat = 3e-3
        weight_decay: NonNegativeFloat = 0.01

    def __init__(self, params: Params) -> None:
        super().__init__(params)
        self.recipe = params

    def build(self, setting: Setting, group: str, generator: torch.Generator) -> nn.Module:
        """The head: weight (K, D) and bias (K)."""
        return LinearHead(setting.texts, setting.scale)

    def train(self, client: Client) -> Update:
        """One local training of the incoming head."""
        return local_update(client, self.restore(client.setting, client.group, client.incoming), self.recipe)
