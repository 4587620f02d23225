"""The CLIP that ships with the project: 3 million parameters, pretrained on drawings (weights/README.md).

Knows where its files lie. Everything else is `_clip`.
"""

import json
from pathlib import Path

from schemas.base import Frozen
from workers.models._clip import Checkpoint, Clip

WEIGHTS = Path(__file__).parent / "weights"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the original CLIP's preprocessing, per RGB channel."""


class Tiny(Clip):
    """A CLIP with a 32-pixel ResNet and a two-layer text tower that knows 24 drawn things. Needs no download."""

    class Params(Frozen):
        """No parameters."""

    def __init__(self, params: Frozen) -> None:
        self.params = params

    def find(self) -> Checkpoint:
        """The bundled files."""
        config = WEIGHTS / "tiny.json"
        architecture = json.loads(config.read_text())
        size = architecture["vision_cfg"]["image_size"]
        preprocess = {"size": size, "mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}
        return Checkpoint(config.stem, WEIGHTS / "tiny.safetensors", architecture, preprocess, config)
