"""CLIP as it comes: the line that every other method has to beat."""

import torch
from torch import nn

from schemas.base import Frozen
from workers.method import Client, Method, Traits, Update
from workers.readout import Cosine
from workers.setting import Setting


class ZeroShot(Method):
    """Zero-shot CLIP: cosine with the class texts. Nothing is trained, so the run ends at version 0."""

    when = (
        "To see what CLIP knows before anybody trains; the report of every other run has it beside the result. Try "
        "`quorate run experiments/demo.yaml --set 'method={name: zero_shot}'`."
    )
    costs = "One pass of every image through the backbone, and no version."
    sends = "Nothing but accuracies."
    paper = "Radford et al., Learning Transferable Visual Models From Natural Language Supervision, arXiv 2103.00020"
    deviations = ("one prompt by default, where the paper averages 80 for ImageNet; `model.prompts` takes any number",)
    traits = Traits(trains=False)

    class Params(Frozen):
        """No parameters."""

    def build(self, setting: Setting, group: str, generator: torch.Generator) -> nn.Module:
        """The cosine readout, without parameters."""
        return Cosine(setting.texts, setting.scale)

    def train(self, client: Client) -> Update:
        """Nothing to learn: an empty update."""
        return Update(tensors={}, weight=float(len(client.train)))
