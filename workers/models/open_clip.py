"""Any CLIP of the open_clip library, from a published tag or from a local file.

Knows where weights come from. How they are read and used is `_clip`.
"""

from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self

from pydantic import model_validator

from schemas.base import Frozen
from schemas.errors import ConfigError
from workers.models._clip import HINT, Checkpoint, Clip, library, one_line


class OpenClip(Clip):
    """A CLIP by its open_clip name, with weights from a tag (downloaded once) or from a file of your own."""

    class Params(Frozen):
        """model: open_clip's name, e.g. ViT-B-32. pretrained: a tag of it, e.g. laion2b_s34b_b79k; or instead

        weights: a local file, safetensors or a state dict without pickled code. It is preprocessed for as OpenAI's.
        """

        model: str
        pretrained: str | None = None
        weights: Path | None = None

        @model_validator(mode="after")
        def _one_source(self) -> Self:
            if (self.pretrained is None) == (self.weights is None):
                raise ValueError("give either `pretrained` (a tag) or `weights` (a local file)")
            return self

    def __init__(self, params: Params) -> None:
        self.params = params

    def find(self) -> Checkpoint:
        """The named architecture, and its weights, fetched if a tag needs it. Raises ConfigError."""
        open_clip, name = library(), self.params.model
        _refuse_unknown("model", name, open_clip.list_models())
        architecture = open_clip.get_model_config(name)
        size = architecture["vision_cfg"]["image_size"]
        if self.params.weights is not None:
            return Checkpoint(name, self.params.weights, architecture, _preprocess(open_clip, size, {}))
        published = _published(open_clip, name, str(self.params.pretrained), architecture)
        weights = _download(open_clip, name, published)
        return Checkpoint(name, weights, architecture, _preprocess(open_clip, size, published))


def _preprocess(open_clip: Any, size: int, published: dict[str, Any]) -> dict[str, Any]:
    own = {k: published[k] for k in ("mean", "std", "interpolation", "resize_mode") if k in published}
    return asdict(open_clip.transform.PreprocessCfg(size=size, **own))


def _published(open_clip: Any, name: str, tag: str, architecture: dict[str, Any]) -> dict[str, Any]:
    """What open_clip knows of a tag. Raises ConfigError also if the tag's activation is not the model's."""
    _refuse_unknown(f"tag of {name}", tag, open_clip.list_pretrained_tags_by_model(name))
    published: dict[str, Any] = open_clip.get_pretrained_cfg(name, tag)
    if bool(published.get("quick_gelu")) != bool(architecture.get("quick_gelu")):
        needed = f"{name}-quickgelu" if published.get("quick_gelu") else name.removesuffix("-quickgelu")
        hint = f"use model: {needed}" if needed in open_clip.list_models() else ""
        raise ConfigError(f"the weights {tag} do not go with the activation of {name}", hint=hint)
    return published


def _download(open_clip: Any, name: str, published: dict[str, Any]) -> Path:
    try:
        return Path(open_clip.download_pretrained(published))
    except Exception as e:  # of the hub, of sockets, of proxies: every one means that there is no file
        raise ConfigError(f"cannot get the weights of {name}: {one_line(e)}", hint=HINT) from e


def _refuse_unknown(what: str, name: str, known: list[str]) -> None:
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known[:20]) or 'none'}"
        raise ConfigError(f"open_clip has no {what} {name!r}", hint=hint)
