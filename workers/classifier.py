"""An adapter on its backbone: image files in, probabilities of the classes out, as its run computed them.

Knows adapter files, plugins and frozen features. Must not know runs, reports or who asks.
"""

import io
from collections.abc import Collection, Iterator, Sequence
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
from schemas.errors import ConfigError, DataError, PluginError
from schemas.experiment import Experiment, Model
from schemas.messages import ALL
from workers.adapter import Adapter
from workers.data.features import Features
from workers.data.pictures import Pictures, passes
from workers.method import Method
from workers.plugins import load
from workers.setting import Setting, agree
from workers.tensors import Tensors
from workers.training import one_thread

TOGETHER = 64
"""Images that are decoded and classified at a time, so that memory depends neither on how many there are nor on how
large a folder is: of 336 pixels a side, 87 MB."""


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
    if odd := _oddity(facts, method, setting, shared, private):
        raise ConfigError(f"the adapter cannot be one of method {facts.method.name}: {odd}")
    try:
        module = method.personal(setting, facts.group or ALL, shared, private)
        settled: nn.Module = module.settled() if isinstance(module, Settles) else module
    except Exception as e:  # of any method, torch included: whatever it raises means that these are not its tensors
        why = " ".join(str(e).split())[:200]
        raise ConfigError(f"the tensors of the adapter do not fit method {facts.method.name}: {why}") from e
    probabilities = Probabilities(settled, cached=method.traits.cached).eval().requires_grad_(False)
    return Classifier(facts, features, probabilities)


def _oddity(facts: AdapterFacts, method: Method, setting: Setting, shared: Tensors, private: Tensors) -> str:
    """What of an adapter its method would pass over in silence, though no run could have made it so; empty if nothing.

    The rest shows when the tensors are put into the model.
    """
    personal = type(method).personal is not Method.personal
    if private and not personal:
        return "its clients have no models of their own"
    if bool(private) != (facts.client is not None):
        return "of a client's own model there are the name or the tensors alone"
    if facts.group is not None and not method.traits.groups:
        return f"it keeps one model, and none for a group {facts.group}"
    if personal and _form(shared) != _form(next(iter(method.init(setting).tensors.values()))):
        return "its tensors are not those of version 0, in names and shapes"
    return ""


def _form(tensors: Tensors) -> dict[str, torch.Size]:
    return {name: t.shape for name, t in tensors.items()}


def _loaded(package: str, choice: Choice, allowed: Collection[str] | None) -> Any:
    if ":" in choice.name and allowed is not None and choice.name not in allowed:
        hint = f"if you trust it: --plugin {cut(choice.name)}"
        raise PluginError(f"the adapter needs {cut(choice.name)}, which is not Quorate's own", hint=hint)
    return load(package, choice, allowed=allowed)


def _agreed(facts: AdapterFacts) -> experiment.Setting:
    """The setting of the run, as far as an adapter tells it."""
    try:
        model = Model(backbone=facts.backbone, prompts=facts.prompts, classes=facts.classes)
        asked = Experiment(name=facts.run, seed=facts.seed, method=facts.method, model=model, sites=(facts.run,))
    except ValidationError as e:
        raise ConfigError(f"the adapter names what no run could have: {complaint(e, Experiment)}") from None
    return experiment.Setting(experiment=asked, classes=facts.classes, fingerprint=facts.backbone_fingerprint)
