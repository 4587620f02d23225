"""The run's setting as a worker sees it: the experiment, the agreed classes and the frozen backbone's view of them.

Knows the backbone by its protocol. Must not know owners, images or tasks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from schemas import experiment
from schemas.errors import ConfigError
from workers.data.features import Features


@runtime_checkable
class TextTower(Protocol):
    """What of a backbone can learn a prompt. Not every backbone has it."""

    def embed(self, text: str) -> torch.Tensor:
        """The token embeddings of a text, without its start and end: float32 (M, W), CPU."""

    def encode_steered(self, texts: Sequence[str], context: torch.Tensor) -> torch.Tensor:
        """Features of N texts whose first M tokens are these embeddings: float32 (N, D), CPU, raw, with gradients."""


@runtime_checkable
class ImageTower(Protocol):
    """What of a backbone can be trained inside. Not every backbone has it.

    `untrained`, if there is one: why it cannot all the same, known before anything is built; empty if it can.
    """

    def image_tower(self) -> nn.Module:
        """float32 (B, 3, H, W) -> (B, D), raw, in evaluation mode, on the backbone's device. To be left alone."""


@dataclass(frozen=True)
class Setting:
    """What methods build upon.

    classes: K names, in the order of the logits. texts: float32 (K, D), unit rows. scale: exp(logit_scale).
    dim: D, the length of a feature. fingerprint: of the backbone. tower: for what learns on the side of the texts.
    vision: for what learns inside the image tower.
    """

    experiment: experiment.Experiment
    classes: tuple[str, ...]
    texts: torch.Tensor
    scale: float
    dim: int
    fingerprint: str
    tower: TextTower | None = None
    vision: ImageTower | None = None


def agree(agreed: experiment.Setting, features: Features) -> Setting:
    """The setting on this worker's backbone.

    Raises ConfigError if the run has not agreed on its classes, or agreed on a backbone that is not this one.
    """
    here = features.backbone.fingerprint
    if not agreed.classes or agreed.fingerprint is None:
        raise ConfigError("the run's classes and backbone are not agreed yet")
    if agreed.fingerprint != here:
        raise ConfigError(
            f"the backbone here is {here[:12]}, the run's is {agreed.fingerprint[:12]}",
            hint="install the same weights on every worker",
        )
    texts = features.texts(agreed.classes, agreed.experiment.model.prompts)
    return Setting(
        experiment=agreed.experiment,
        classes=agreed.classes,
        texts=texts,
        scale=features.scale(),
        dim=features.backbone.dim,
        fingerprint=here,
        tower=features.backbone if isinstance(features.backbone, TextTower) else None,
        vision=features.backbone if isinstance(features.backbone, ImageTower) else None,
    )
