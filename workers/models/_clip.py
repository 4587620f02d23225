"""A frozen CLIP: images and texts in, raw features out, the same bits in whatever company they are encoded.

Knows open_clip (imported when a model is built, never before) and the device. Must not know classes, prompts,
caches or which plugin asks.
"""

import copy
import hashlib
import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import nn

from schemas.base import canonical
from schemas.errors import ConfigError
from workers import device as devices
from workers.models import _steered
from workers.models._passes import alone, encode

LARGEST = 16 * 2**30
"""Most bytes of a weights file."""

HINT = "give a local file or folder: model.backbone.params.weights"

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Checkpoint:
    """What a backbone is: the architecture under its open_clip name, the file of its weights, and the preprocessing.

    architecture: open_clip's model config. preprocess: arguments of open_clip's PreprocessCfg.
    config: the file of an architecture of our own, whose stem is the name, that open_clip must be told of.
    precision: in which the towers compute; with fp32, without TF32, different machines agree to about 1e-3.
    """

    name: str
    weights: Path
    architecture: dict[str, Any]
    preprocess: dict[str, Any]
    config: Path | None = None
    precision: Precision = "fp32"


class Clip(ABC):
    """A frozen CLIP in evaluation mode, built at the first encoding.

    Raises ConfigError, from whatever needs them first, if the weights are missing or not of this architecture.
    """

    @property
    def untrained(self) -> str:
        """Why the image tower cannot be trained inside: what is said behind its name; empty if it can."""
        return ""

    @abstractmethod
    def find(self) -> Checkpoint:
        """The checkpoint, its file present. Raises ConfigError."""

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """What `find` found, with a file that is readable. Builds nothing."""
        found = self.find()
        inspect(found.weights)
        return found

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 over the weights' bytes, the architecture, the preprocessing and a precision other than fp32."""
        found = self.checkpoint
        with found.weights.open("rb") as f:
            weights = hashlib.file_digest(f, "sha256").hexdigest()
        other = [] if found.precision == "fp32" else [found.precision]
        return hashlib.sha256(canonical([weights, found.architecture, found.preprocess, *other])).hexdigest()

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        return int(self.checkpoint.architecture["embed_dim"])

    @cached_property
    def scale(self) -> float:
        """exp(logit_scale): what cosines are multiplied by."""
        return float(self._model.logit_scale.detach().exp().cpu())

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """The evaluation transform of CLIP: resize, crop, normalise. Returns float32 (3, H, W)."""
        tensor: torch.Tensor = self._transform(image)
        return tensor

    def encode_images(self, batch: torch.Tensor) -> torch.Tensor:
        """Features of preprocessed images: float32 (B, 3, H, W) -> float32 (B, D) on CPU, raw, not normalised."""
        dtype = DTYPES[self.checkpoint.precision]
        return encode(lambda rows: self._model.encode_image(rows.to(dtype)), batch, self._device, self.dim)

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Features of N texts: float32 (N, D) on CPU, raw, not normalised. What exceeds the context is cut."""
        if not texts:
            return torch.zeros(0, self.dim)
        return encode(self._model.encode_text, self._tokenizer(list(texts)), self._device, self.dim)

    def image_tower(self) -> nn.Module:
        """The image tower, to be trained inside: float32 (B, 3, H, W) -> (B, D), raw. Raises ConfigError."""
        if self.untrained:
            raise ConfigError(f"the image tower of this backbone {self.untrained}")
        tower: Any = self._model.visual
        if getattr(tower, "output_tokens", False):  # CoCa's gives what its captions are made of, too
            tower = copy.copy(tower)  # the same weights; `encode_images` goes on with the one that gives both
            tower.output_tokens = False
        made: nn.Module = tower
        return made

    def embed(self, text: str) -> torch.Tensor:
        """The token embeddings of a text, without its start and end: float32 (M, W) on CPU. Raises ConfigError."""
        return _steered.embeddings(self._model, self._tokenizer, text)

    def encode_steered(self, texts: Sequence[str], context: torch.Tensor) -> torch.Tensor:
        """`encode_texts` with `context` (M, W) for the embeddings of the first M tokens; gradients reach it."""
        with alone():
            return _steered.encode(self._model, self._tokenizer, texts, context)

    @cached_property
    def _device(self) -> torch.device:
        return devices.best()

    @cached_property
    def _model(self) -> Any:
        return build(self.checkpoint, self._device)

    @cached_property
    def _transform(self) -> Any:
        transform = library(self.checkpoint.config).transform
        return transform.image_transform_v2(transform.PreprocessCfg(**self.checkpoint.preprocess), is_train=False)

    @cached_property
    def _tokenizer(self) -> Any:
        try:
            return library(self.checkpoint.config).get_tokenizer(self.checkpoint.name)
        except Exception as e:  # of a library that is not there, or of the files of a tokenizer
            raise ConfigError(f"no tokenizer for {self.checkpoint.name}: {one_line(e)}", hint=HINT) from e


def inspect(weights: Path) -> None:
    """Refuse a weights file that is missing, too large, or not what its ending says, before it is read.

    Raises ConfigError.
    """
    try:
        size = weights.stat().st_size
        if not weights.is_file() or size == 0 or size > LARGEST:
            raise ConfigError(f"weights {weights}: not a file of 1 to {LARGEST} bytes ({size})", hint=HINT)
        if weights.suffix == ".safetensors":
            with safe_open(weights, framework="pt") as f:
                f.keys()
        elif _is_torchscript(weights):
            raise ConfigError(f"weights {weights}: TorchScript, which holds code", hint="take them as safetensors")
    except OSError as e:
        raise ConfigError(f"weights {weights}: {e.strerror or e}", hint=HINT) from None
    except SafetensorError as e:
        raise ConfigError(f"weights {weights}: no safetensors file: {one_line(e)}", hint=HINT) from None


def _is_torchscript(weights: Path) -> bool:
    """OpenAI's own files are: an archive with a `code` folder."""
    if not zipfile.is_zipfile(weights):
        return False
    try:
        with zipfile.ZipFile(weights) as archive:
            return any("/code/" in name for name in archive.namelist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return False  # torch will say what is wrong with it


def library(config: Path | None = None) -> Any:
    """The open_clip module, told of an architecture of our own."""
    import open_clip  # noqa: PLC0415  (3 to 15 seconds, and not for those who only ask what there is)

    if config is not None and config.stem not in open_clip.list_models():
        open_clip.add_model_config(config)
    return open_clip


def build(checkpoint: Checkpoint, device: torch.device) -> nn.Module:
    """The model with its weights, in evaluation mode, nothing to train. Raises ConfigError."""
    folder = checkpoint.name.startswith("local-dir:")  # of which open_clip finds the weights itself
    try:
        model: nn.Module = library(checkpoint.config).create_model_from_pretrained(
            checkpoint.name,
            pretrained=None if folder else os.fspath(checkpoint.weights),
            precision=checkpoint.precision,
            device=device,
            return_transform=False,
        )
    except Exception as e:  # open_clip, pickle and torch raise a dozen kinds; every one means: not these weights
        raise ConfigError(f"weights {checkpoint.weights} do not fit {checkpoint.name}: {one_line(e)}", hint=HINT) from e
    return model.eval().requires_grad_(False)


def one_line(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
