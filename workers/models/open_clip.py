"""Any CLIP of the open_clip library, from a published tag, a local file or a local folder.

Knows where weights come from, and which activation they were trained with. How they are read and used is `_clip`.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from difflib import get_close_matches
from pathlib import Path
from textwrap import shorten
from typing import Any, Self

import structlog
from pydantic import model_validator

from schemas.base import Frozen
from schemas.errors import ConfigError
from workers.models import _folder
from workers.models._clip import HINT, Checkpoint, Clip, Precision, library, one_line

LOCAL = "local-dir:"

log = structlog.get_logger()


class OpenClip(Clip):
    """A CLIP by its open_clip name and tag (downloaded once), or from a file or folder of your own."""

    class Params(Frozen):
        """model: open_clip's name, e.g. ViT-B-32. pretrained: a tag of it, e.g. laion2b_s34b_b79k, downloaded if no

        weights are named. weights: a local file, safetensors or a state dict without pickled code; or a folder with
        open_clip_config.json (`local-dir:`), which says everything itself. A file is prepared for as its tag says, or
        as OpenAI's. quick_gelu: whether a file without a tag was trained with QuickGELU (OpenAI's, MetaCLIP's and
        some DFN's were). precision: in which the towers compute.
        """

        model: str | None = None
        pretrained: str | None = None
        weights: Path | None = None
        quick_gelu: bool | None = None
        precision: Precision = "fp32"

        @model_validator(mode="after")
        def _some_source(self) -> Self:
            local = (self.model or "").startswith(LOCAL)
            if not local and self.pretrained is None and self.weights is None:
                raise ValueError("give either `pretrained` (a tag) or `weights` (a local file or folder)")
            if self.model is None and self.weights is None:
                raise ValueError("give the `model` of which `pretrained` is a tag")
            if local and (self.weights is not None or not Path(str(self.model).removeprefix(LOCAL)).is_absolute()):
                raise ValueError("`local-dir:` needs an absolute path and nothing beside it; or say `weights: FOLDER`")
            return self

    def __init__(self, params: Params) -> None:
        self.params = params

    @property
    def untrained(self) -> str:
        """It is trained in full precision alone."""
        if self.params.precision == "fp32":
            return ""
        return f"is in {self.params.precision} and trained in fp32 alone; use model.backbone.params.precision: fp32"

    def find(self) -> Checkpoint:
        """The architecture and its weights, fetched if a tag needs it. Raises ConfigError."""
        model, where = self.params.model or "", self.params.weights
        folder = Path(model.removeprefix(LOCAL)) if model.startswith(LOCAL) else where
        found = self._in(folder) if folder is not None and (where is None or folder.is_dir()) else self._named(where)
        size = found.architecture["vision_cfg"].get("image_size", 224)
        preprocess = asdict(library().transform.PreprocessCfg(**{**found.preprocess, "size": size}))
        return replace(found, preprocess=preprocess, precision=self.params.precision)

    def _in(self, folder: Path) -> Checkpoint:
        found, params = _folder.find(folder), self.params
        tag = params.pretrained if params.model and not params.model.startswith(LOCAL) else None
        published = _published(library(), str(params.model), tag) if tag else {}
        for what, quick in self._said(published, "the folder").items():
            _refuse_other_activation(str(folder), found.architecture, quick, what)
        if params.model and not params.model.startswith(LOCAL):
            _refuse_other_sizes(folder, found.architecture, params.model)
        return found

    def _named(self, where: Path | None) -> Checkpoint:
        """A named architecture, with the weights of a tag or of a file; its preprocessing is the tag's."""
        if self.params.model is None:
            missing = "" if where and where.exists() else "there is none; "
            raise ConfigError(f"weights {where}: {missing}a file needs `model`, what open_clip calls it", hint=HINT)
        open_clip, name = library(), self.params.model
        architecture = _architecture(name)
        published = _published(open_clip, name, self.params.pretrained) if self.params.pretrained else {}
        for what, quick in self._trained_with(published, where).items():
            _refuse_other_activation(name, architecture, quick, what)
        preprocess = {k: v for k, v in published.items() if k in ("mean", "std", "interpolation", "resize_mode")}
        return Checkpoint(name, where or _download(open_clip, name, published), architecture, preprocess)

    def _trained_with(self, published: dict[str, Any], where: Path | None) -> dict[str, bool]:
        """Whether with QuickGELU, as their tag and the user say. Raises ConfigError if neither does."""
        said = self._said(published, str(where or "named"))
        if not said:
            raise ConfigError(
                f"weights {where}: a file does not say with which activation it was trained",
                hint="add its tag (pretrained: ...), or quick_gelu: true (OpenAI's, MetaCLIP's) or false (most others)",
            )
        return said

    def _said(self, published: dict[str, Any], weights: str) -> dict[str, bool]:
        """What the tag and the user say of the activation, if they do."""
        said = {str(self.params.pretrained): bool(published.get("quick_gelu"))} if published else {}
        return said if self.params.quick_gelu is None else {**said, weights: self.params.quick_gelu}


def _architecture(name: str) -> dict[str, Any]:
    _refuse_unknown("model", name, library().list_models())
    found: dict[str, Any] = library().get_model_config(name)
    return found


def _published(open_clip: Any, name: str, tag: str) -> dict[str, Any]:
    _refuse_unknown(f"tag of {name}", tag, open_clip.list_pretrained_tags_by_model(name))
    published: dict[str, Any] = open_clip.get_pretrained_cfg(name, tag)
    return published


def _refuse_other_activation(name: str, architecture: dict[str, Any], quick: bool, weights: str) -> None:
    """The wrong activation gives wrong features and no error."""
    if quick != bool(architecture.get("quick_gelu")):
        needed = f"{name}-quickgelu" if quick else name.removesuffix("-quickgelu")
        hint = f"use model: {needed}" if needed in library().list_models() else ""
        raise ConfigError(f"the weights {weights} do not go with the activation of {name}", hint=hint)


def _refuse_other_sizes(folder: Path, architecture: dict[str, Any], name: str) -> None:
    """A folder says itself what it is; the name beside it must not say otherwise."""
    here, named = _sizes(architecture), _sizes(_architecture(name))
    for what in sorted(here.keys() & named.keys()):
        if here[what] != named[what]:
            raise ConfigError(
                f"weights {folder}: {what} is {here[what]}, of {name} it is {named[what]}",
                hint="leave out `model`: a folder says itself what it is",
            )


def _sizes(architecture: dict[str, Any]) -> dict[str, Any]:
    """What has to be the same for two configs to be one architecture, as far as they say it."""
    found = {"embed_dim": architecture.get("embed_dim"), "quick_gelu": bool(architecture.get("quick_gelu"))}
    for part in ("vision_cfg", "text_cfg"):
        told = {f"{part}.{what}": value for what, value in architecture.get(part, {}).items()}
        found |= {k: v for k, v in told.items() if type(v) in (int, float, list) or k.endswith("_model_name")}
    return found


def _download(open_clip: Any, name: str, published: dict[str, Any]) -> Path:
    try:
        with _one_word_about_trying(name, str(published.get("hf_hub") or published.get("url"))):
            return Path(open_clip.download_pretrained(published))
    except Exception as e:  # of the hub, of sockets, of proxies: every one means that there is no file
        raise ConfigError(f"cannot get the weights of {name}: {shorten(one_line(e), 160)}", hint=HINT) from e


@contextmanager
def _one_word_about_trying(name: str, where: str) -> Iterator[None]:
    """The hub's library says of each of a dozen attempts that it failed: said here is that there are others."""
    hub, told = logging.getLogger("huggingface_hub"), _Trying(name, where)
    before = hub.handlers, hub.propagate
    hub.handlers, hub.propagate = [told], False
    try:
        yield
    finally:
        hub.handlers, hub.propagate = before


class _Trying(logging.Handler):
    """Hears that a download is tried again, and says so once: as an error, for nothing else shows for a minute."""

    def __init__(self, model: str, where: str) -> None:
        super().__init__()
        self.facts: dict[str, str] | None = {"model": model, "where": where}

    def emit(self, record: logging.LogRecord) -> None:
        if self.facts is not None and "Retry" in record.getMessage():
            log.error("cannot get the weights yet, trying again for about a minute", **self.facts)
            self.facts = None


def _refuse_unknown(what: str, name: str, known: list[str]) -> None:
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known[:20]) or 'none'}"
        raise ConfigError(f"open_clip has no {what} {name!r}", hint=hint)
