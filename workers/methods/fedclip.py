"""FedCLIP: an attention gate on the image feature is all that is trained and sent."""

from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import nn

from schemas.base import Frozen
from workers.adapters.gate import AttentionGate
from workers.local import Fit, LocalMethod
from workers.setting import Setting
from workers.tensors import Tensors
from workers.training import Recipe

PRESETS = {
    "paper": Recipe(
        optimiser="adam",
        lr=5e-5,
        betas=(0.9, 0.98),
        eps=1e-6,
        weight_decay=0.2,
        loss="contrastive",
        batch=32,
        epochs=1,
        smallest=2,
        weight="uniform",
    ),
    "default": Recipe(optimiser="adamw", lr=3e-3, weight_decay=0.0, loss="cross_entropy", batch=32, weight="images"),
}


class FedClip(LocalMethod):
    """FedCLIP: clients train a positive gate on raw CLIP features against frozen class texts; the server averages.

    Preset `paper` is the released code: Adam with L2 0.2 at 5e-5, started anew each round, the contrastive loss over
    image-prompt pairs (computed from class logits, the same number), one epoch of 32, equal weights. Preset `default`
    is AdamW on class cross-entropy, weighted by the number of images; docs/log.md says how it was chosen.
    """

    when = (
        "Zero-shot is nearly good enough, and shall stay so for domains that nobody trains on: the gate sharpens it "
        "and turns little. A linear head is far smaller, and the two were not told apart (docs/benchmarks.md). Try "
        "`quorate run experiments/demo.yaml`."
    )
    costs = "One local training per update, on cached features."
    sends = "Up and down: the gate, two square layers of the feature, many times a linear head of few classes."
    paper = (
        "Lu et al., FedCLIP: Fast Generalization and Personalization for CLIP in Federated Learning, arXiv 2302.13485"
    )
    deviations = (
        "the split is stratified per class, unless `data.split` is `permutation`, which is that of the released code",
        "features are rounded to half precision once, where the released code encodes in half precision each time",
        "a quorum below the number of clients averages those that answered; the released code waits for all",
        "a model that a client could keep for itself is not built: in the released code it is the global gate too",
    )

    class Params(Frozen):
        """A preset and what to change in it; the fields are those of workers.training.Recipe."""

        preset: Literal["default", "paper"] = "default"
        optimiser: Literal["adam", "adamw"] | None = None
        lr: PositiveFloat | None = None
        weight_decay: NonNegativeFloat | None = None
        loss: Literal["cross_entropy", "contrastive"] | None = None
        batch: PositiveInt | None = None
        epochs: PositiveInt | None = None
        weight: Literal["images", "uniform"] | None = None

    def __init__(self, params: Params) -> None:
        super().__init__(params)
        changes = params.model_dump(exclude={"preset"}, exclude_none=True)
        self.recipe = PRESETS[params.preset].model_copy(update=changes)

    def build(self, setting: Setting, group: str, generator: torch.Generator) -> nn.Module:
        """The gate: 2 (D^2 + D) parameters."""
        return AttentionGate(setting.texts, setting.scale, generator)

    def local(self, setting: Setting, group: str, incoming: Tensors) -> Fit:
        """The incoming gate, by the recipe."""
        return Fit(self.restore(setting, group, incoming), self.recipe)
