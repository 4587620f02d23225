"""The run's setting as a worker sees it: the experiment, the agreed classes and the frozen backbone's view of them.

Knows the backbone by its protocol. Must not know owners, images or tasks.
"""

from dataclasses import dataclass

import torch

from schemas import experiment
from schemas.errors import ConfigError
from workers.data.features import Features


@dataclass(frozen=True)
class Setting:
    """What methods build upon.

    classes: K names, in the order of the logits. texts: float32 (K, D), unit rows. scale: exp(logit_scale).
    dim: D, the length of a feature. fingerprint: of the backbone.
    """

    experiment: experiment.Experiment
    classes: tuple[str, ...]
    texts: torch.Tensor
    scale: float
    dim: int
    fingerprint: str


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
    )
