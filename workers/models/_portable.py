"""A backbone for people who have open_clip and not Quorate: a published tag, or a folder in open_clip's own layout.

Knows checkpoints. How they are found is each backbone's own affair.
"""

import json
from pathlib import Path
from typing import Any

import torch

from schemas.base import Choice
from schemas.errors import ConfigError
from workers.models._clip import Clip, build
from workers.tensors import pack

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
"""Files of a folder that open_clip reads as `local-dir:`."""


def tag(backbone: Choice) -> tuple[str, str] | None:
    """Model and tag under which open_clip itself downloads this backbone, or None if it lies in files alone."""
    model, published = backbone.params.get("model"), backbone.params.get("pretrained")
    elsewhere = backbone.name != "open_clip" or bool(backbone.params.get("weights"))
    return None if elsewhere or not model or not published else (str(model), str(published))


def write(backbone: Any, folder: Path) -> None:
    """Make the folder, with weights in float32 and without pickled code, and how to prepare images for them.

    Raises ConfigError for a backbone that is none of open_clip's; OSError.
    """
    if not isinstance(backbone, Clip):
        raise ConfigError(f"{type(backbone).__name__} is no CLIP of open_clip, so nobody else could load it")
    found = backbone.checkpoint
    config = {
        "model_cfg": {k: v for k, v in found.architecture.items() if k != "tokenizer"},
        "preprocess_cfg": {k: v for k, v in found.preprocess.items() if k != "size"},  # the architecture's
    }
    model = build(found, torch.device("cpu")).float()
    folder.mkdir()
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    (folder / WEIGHTS).write_bytes(pack({name: t.clone() for name, t in model.state_dict().items()}))
