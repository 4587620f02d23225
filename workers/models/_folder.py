"""A CLIP in a folder, as open_clip's `local-dir:` has it: open_clip_config.json beside one file of weights.

Knows what such a folder must hold, and reads no weights. How they are read and used is `_clip`.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from infra.files import whole
from schemas.errors import ConfigError
from workers.models._clip import HINT, Checkpoint

CONFIG = "open_clip_config.json"
FIRST = "open_clip_model.safetensors"
"""Of several files of weights the one that open_clip takes."""

LARGEST = 2**20
"""Most bytes of the config."""

LARGEST_TOKENIZER = 256 * 2**20
"""Most bytes of each file that the tokenizer may be made of. Gemma's is the largest known: 34 MB."""

Three = Annotated[tuple[float, float, float], Field(strict=False)]
Spread = Annotated[float, Field(gt=0)]


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, strict=True)


class _Model(_Read):
    """What every architecture of open_clip has, whatever else it has."""

    model_config = ConfigDict(extra="allow")
    embed_dim: PositiveInt
    vision_cfg: dict[str, Any]
    text_cfg: dict[str, Any]
    quick_gelu: bool = False


class _Preprocess(_Read):
    mean: Three | None = None
    std: Annotated[tuple[Spread, Spread, Spread], Field(strict=False)] | None = None
    interpolation: Literal["bicubic", "bilinear", "random"] | None = None
    resize_mode: Literal["shortest", "longest", "squash"] | None = None
    fill_color: int | None = None


class _Config(_Read):
    model_cfg: _Model
    preprocess_cfg: _Preprocess = _Preprocess()


def find(folder: Path) -> Checkpoint:
    """The checkpoint in a folder, which says itself what it is and how images are prepared for it.

    Its preprocessing holds what the config sets, without the size: that is the architecture's. Raises ConfigError.
    """
    config = _read(folder / CONFIG)
    architecture = config.model_cfg.model_dump()
    text = config.model_cfg.text_cfg
    if (text.get("tokenizer_kwargs") or {}).get("trust_remote_code"):
        raise ConfigError(f"{folder / CONFIG} wants to run code of its own (trust_remote_code)", hint="take it out")
    if text.get("hf_tokenizer_name"):
        architecture["tokenizer"] = _tokenizer(folder)
    preprocess = config.preprocess_cfg.model_dump(exclude_none=True)
    return Checkpoint(f"local-dir:{folder.absolute()}", _weights(folder), architecture, preprocess)


def _read(path: Path) -> _Config:
    try:
        return _Config.model_validate_json(whole(path, LARGEST))
    except OSError as e:
        raise ConfigError(f"weights {path.parent}: {CONFIG}: {e.strerror}", hint=HINT) from None
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: {where}{': ' if where else ''}{first['msg'][:200]}", hint=HINT) from None


def _weights(folder: Path) -> Path:
    """The file that open_clip will load. Raises ConfigError if that could be one of several."""
    found = sorted(p for ending in ("safetensors", "bin", "pth") for p in folder.glob(f"*.{ending}"))
    if folder / FIRST in found:
        return folder / FIRST
    if len(found) != 1:
        told = ", ".join(p.name for p in found[:5]) or "none"
        raise ConfigError(f"weights {folder}: one .safetensors, .bin or .pth is needed ({told})", hint=HINT)
    return found[0]


def _tokenizer(folder: Path) -> str:
    """Hex sha256 of the files that the tokenizer may be made of: other ones give other texts. Raises ConfigError."""
    files = sorted(p for ending in ("json", "txt", "model") for p in folder.glob(f"*.{ending}") if p.name != CONFIG)
    told = "".join(f"{path.name} {_sum(path)}\n" for path in files)
    return hashlib.sha256(told.encode()).hexdigest()


def _sum(path: Path) -> str:
    try:
        return hashlib.sha256(whole(path, LARGEST_TOKENIZER)).hexdigest()
    except OSError as e:
        raise ConfigError(f"weights {path.parent}: {path.name}: {e.strerror}", hint=HINT) from None
