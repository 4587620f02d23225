"""An adapter on its backbone: image files in, probabilities of the classes out, as its run computed them.

Knows adapter files, plugins and frozen features. Must not know runs, reports or who asks.
"""

import io
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from PIL import Image
from pydantic import ValidationError
from torch import nn

from schemas import experiment
from schemas.adapter import PRIVATE, AdapterFacts
from schemas.base import Choice
from schemas.complaints import complaint, cut
from schemas.errors import CodecError, ConfigError, DataError, PluginError
from schemas.experiment import Experiment, Model
from schemas.messages import ALL, VISITORS
from workers.data.features import Features
from workers.data.pictures import Pictures, passes
from workers.method import Method
from workers.plugins import load
from workers.setting import agree
from workers.tensors import Tensors, fingerprint, is_finite, metadata, unpack
from workers.training import one_thread

LARGEST = 4 * 2**30
"""Bytes of an adapter file: as much as the tensors of a run may have."""

TOGETHER = 64
"""Images that are decoded and classified at a time, so that memory depends neither on how many there are nor on how
large a folder is: of 336 pixels a side, 87 MB."""


@dataclass(frozen=True)
class Adapter:
    """The tensors of an adapter file, float32, and what they belong to."""

    facts: AdapterFacts
    tensors: Tensors


def read_adapter(path: Path) -> Adapter:
    """The adapter of a file, whole and as it was written. Raises ConfigError for anything else."""
    try:
        size = path.stat().st_size
        if not path.is_file() or size > LARGEST:
            raise ConfigError(f"{path} is no adapter: not a file of at most {LARGEST} bytes")
        data = path.read_bytes()
        tensors = unpack(data)
        facts = _facts(metadata(data), path)
    except OSError as e:
        raise ConfigError(f"cannot read {path}: {e.strerror}", hint="name an adapter.safetensors or its run") from None
    except CodecError as e:
        raise ConfigError(f"{path} is no adapter: {e.message}") from None
    if fingerprint(tensors) != facts.sha256 or not all(map(is_finite, tensors.values())):
        raise ConfigError(f"{path} is damaged: its tensors are not those that its sha256 was taken of")
    return Adapter(facts, tensors)


def _facts(found: Mapping[str, str], path: Path) -> AdapterFacts:
    try:
        return AdapterFacts.model_validate({name: json.loads(text) for name, text in found.items()})
    except (ValueError, RecursionError) as e:
        why = complaint(e, AdapterFacts) if isinstance(e, ValidationError) else "its metadata are not JSON"
        hint = "quorate run writes runs/NAME/adapter.safetensors"
        raise ConfigError(f"{path} is no adapter of Quorate: {why}", hint=hint) from None


class Probabilities(nn.Module):
    """Raw features, float32 (B, D), to the probabilities of the classes, (B, K): softmax of the method's logits.

    Features are rounded to half precision first, as those are that the adapter was trained on. cached: false for a
    method on images, which takes them preprocessed, float32 (B, 3, H, W), and as they are.
    """

    def __init__(self, logits: nn.Module, *, cached: bool = True) -> None:
        super().__init__()
        self.logits, self.cached = logits, cached

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (B, D), or (B, 3, H, W) -> (B, K); rows sum to 1."""
        return torch.softmax(self.logits(x.half().float() if self.cached else x), dim=1)


@runtime_checkable
class Settles(Protocol):
    """A model whose use needs less than its training: no text tower, for instance. Most are used as they are."""

    def settled(self) -> nn.Module:
        """A model of the same logits."""


@dataclass(frozen=True)
class Unreadable:
    """An image that nothing can be said of, and why."""

    why: str


@dataclass(frozen=True)
class Classifier:
    """An adapter on its backbone. What it says of an image depends on those beside it in the last bits alone."""

    facts: AdapterFacts
    features: Features
    module: Probabilities

    def classify(self, paths: Sequence[Path]) -> Iterator[torch.Tensor | Unreadable]:
        """Per image file, in order, float32 (K,), or why it cannot be read."""
        for start in range(0, len(paths), TOGETHER):
            yield from self._some(paths[start : start + TOGETHER])

    def program(self) -> bytes:
        """The module as a torch.export archive: raw features (B, D) in, or images, (B, K) probabilities out, any B.

        All that the method is made of lies in its graph, class texts included, so no code of Quorate is needed to run
        it, and no method has to do anything for it. TorchScript could do that too; torch is giving it up.
        Raises ConfigError for a method of whose logits torch can make no graph.
        """
        backbone, sizes = self.features.backbone, ({0: torch.export.Dim("images")},)
        one = torch.zeros(backbone.dim) if self.module.cached else backbone.preprocess(Image.new("RGB", (64, 64)))
        try:
            made = torch.export.export(self.module, (torch.stack([one, one]),), dynamic_shapes=sizes)
            for node in made.graph.nodes:
                node.meta.pop("stack_trace", None)  # paths of this machine
            archive = io.BytesIO()
            torch.export.save(made, archive)
        except Exception as e:  # torch raises dozens of kinds
            why = " ".join(str(e).split())[:200]
            raise ConfigError(f"torch.export can make no graph of method {self.facts.method.name}: {why}") from e
        return archive.getvalue()

    def _some(self, paths: Sequence[Path]) -> Iterator[torch.Tensor | Unreadable]:
        # One bad file among many is found by halving: what is well is encoded together all the same.
        try:
            seen = self._seen(paths)
        except DataError as e:
            if len(paths) == 1:
                yield Unreadable(str(e))
                return
            half = len(paths) // 2
            yield from self._some(paths[:half])
            yield from self._some(paths[half:])
            return
        with one_thread(), torch.no_grad():
            found = [row for x in passes(seen) for row in self.module(x)]
        yield from found

    def _seen(self, paths: Sequence[Path]) -> torch.Tensor:
        """What the module takes of these files. Raises DataError."""
        if self.module.cached:
            return self.features.images(paths).features
        return Pictures(tuple(paths), self.features.backbone)[torch.arange(len(paths))]


def classifier(adapter: Adapter, cache: Path, allowed: Collection[str] | None = ()) -> Classifier:
    """The adapter on the backbone that it names.

    allowed: dotted names of plugins from outside of Quorate that may be loaded; None allows all. Raises ConfigError
    (PluginError), also if the backbone here is not the one of the adapter's fingerprint.
    """
    facts = adapter.facts
    features = Features(_loaded("workers.models", facts.backbone, allowed), cache)
    if features.backbone.fingerprint != facts.backbone_fingerprint:
        here, there = features.backbone.fingerprint[:12], facts.backbone_fingerprint[:12]
        hint = "take the weights of the run; the same name can stand for others"
        raise ConfigError(f"the backbone {facts.backbone.name!r} here is {here}, the adapter's is {there}", hint=hint)
    return attached(adapter, features, allowed)


def attached(adapter: Adapter, features: Features, allowed: Collection[str] | None = ()) -> Classifier:
    """The adapter on its backbone, with class texts as in its run; `allowed` and errors as for `classifier`."""
    facts = adapter.facts
    setting = agree(_agreed(facts), features)
    method: Method = _loaded("workers.methods", facts.method, allowed)
    shared = {name: t for name, t in adapter.tensors.items() if not name.startswith(PRIVATE)}
    private = {name.removeprefix(PRIVATE): t for name, t in adapter.tensors.items() if name not in shared}
    try:
        module = method.personal(setting, facts.group or ALL, shared, private)
        settled: nn.Module = module.settled() if isinstance(module, Settles) else module
    except Exception as e:  # of any method, torch included: whatever it raises means that these are not its tensors
        why = " ".join(str(e).split())[:200]
        raise ConfigError(f"the tensors of the adapter do not fit method {facts.method.name}: {why}") from e
    probabilities = Probabilities(settled, cached=method.traits.cached).eval().requires_grad_(False)
    return Classifier(facts, features, probabilities)


def _loaded(package: str, choice: Choice, allowed: Collection[str] | None) -> Any:
    if ":" in choice.name and allowed is not None and choice.name not in allowed:
        hint = f"if you trust it: --plugin {cut(choice.name)}"
        raise PluginError(f"the adapter needs {cut(choice.name)}, which is not Quorate's own", hint=hint)
    return load(package, choice, allowed=allowed)


def of_group(adapter: Adapter, group: str | None) -> Adapter:
    """The adapter of one group of a run that keeps several; None: of the only one, or that for visitors.

    Raises ConfigError if there is no such group, or the choice is not ours.
    """
    there = sorted({name.partition("/")[0] for name in adapter.tensors if "/" in name})
    wanted = group or (VISITORS if VISITORS in there else None)
    if not there and group is None:
        return adapter
    if wanted not in there:
        hint = f"--group takes one of {', '.join(there)}" if there else "leave out --group"
        raise ConfigError(
            f"group {group} is not in this adapter" if group else "this adapter has several models", hint=hint
        )
    tensors = {k.partition("/")[2]: t for k, t in adapter.tensors.items() if k.partition("/")[0] == wanted}
    return Adapter(adapter.facts.model_copy(update={"group": wanted, "sha256": fingerprint(tensors)}), tensors)


def with_weights(adapter: Adapter, weights: Path | None) -> Adapter:
    """The adapter of a run whose backbone's weights lie in another file here; None: where the run had them."""
    if weights is None:
        return adapter
    name, params = adapter.facts.backbone.name, dict(adapter.facts.backbone.params)
    if str(params.get("model", "")).startswith("local-dir:"):
        del params["model"]
    backbone = Choice(name=name, params={**params, "weights": str(weights.absolute())})
    return Adapter(adapter.facts.model_copy(update={"backbone": backbone}), adapter.tensors)


def _agreed(facts: AdapterFacts) -> experiment.Setting:
    """The setting of the run, as far as an adapter tells it."""
    try:
        model = Model(backbone=facts.backbone, prompts=facts.prompts, classes=facts.classes)
        asked = Experiment(name=facts.run, seed=facts.seed, method=facts.method, model=model, sites=(facts.run,))
    except ValidationError as e:
        raise ConfigError(f"the adapter names what no run could have: {complaint(e, Experiment)}") from None
    return experiment.Setting(experiment=asked, classes=facts.classes, fingerprint=facts.backbone_fingerprint)
