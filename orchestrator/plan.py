"""From a YAML file to a plan: one experiment, its plugins loaded and their parameters validated, or one clear error.

Knows every family of plugins. Touches neither stores nor data.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from orchestrator.families import FAMILIES
from schemas.base import Choice
from schemas.errors import ConfigError
from schemas.experiment import Data, Experiment
from workers import plugins
from workers.method import Aggregator, Method
from workers.pipeline import Codec, Transform

M = TypeVar("M", bound=BaseModel)

LARGEST_FILE = 1_000_000
"""Bytes. An experiment is a page of text."""

NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)
"""ValueError: bytes that are no text, a date like 2001-13-45, an integer of thousands of digits."""


@dataclass(frozen=True)
class Plan:
    """An experiment whose plugins have been loaded."""

    experiment: Experiment
    method: Method
    codec: Codec
    aggregator: Aggregator
    selector: Any
    latency: Any
    transforms: tuple[Transform, ...]

    @property
    def versions(self) -> int:
        """Versions to commit: none for a method that does not train."""
        return self.experiment.rounds.versions if self.method.traits.trains else 0


def read_experiment(path: Path, overrides: Iterable[str] = ()) -> Experiment:
    """The experiment of a file, with `path=YAML` overrides. Relative paths in it count from the file's folder.

    Raises ConfigError.
    """
    document = read_yaml(path)
    for override in overrides:
        _override(document, override)
    experiment = parse(Experiment, document, str(path))
    return _absolute(experiment, path.absolute().parent)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError if it is no file, too large, no YAML or no mapping."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ConfigError(f"{path}: larger than {LARGEST_FILE} bytes", hint="an experiment is a page of text")
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise ConfigError(f"cannot read {path}: {e.strerror}") from None
    except NOT_YAML as e:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(e).split())[:200]}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path} holds no settings", hint="a mapping such as `name: demo` is needed")
    return document


def parse(model: type[M], document: Mapping[str, Any], where: str) -> M:
    """The model made of a document. Raises ConfigError that names the key and the nearest known one."""
    try:
        return model.model_validate(document)
    except ValidationError as e:
        location = plugins.first_of(e)["loc"]
        raise ConfigError(f"{where}: {plugins.complaint(e, _known_at(model, location))}") from None


def plan(experiment: Experiment) -> Plan:
    """Load every plugin of the experiment and see that they fit. Raises PluginError, ConfigError."""
    made = Plan(
        experiment=experiment,
        method=plugins.load(FAMILIES["method"], experiment.method),
        codec=plugins.load(FAMILIES["codec"], experiment.codec),
        aggregator=plugins.load(FAMILIES["aggregator"], experiment.aggregator),
        selector=plugins.load(FAMILIES["selector"], experiment.selector),
        latency=plugins.load(FAMILIES["latency"], _latency(experiment)),
        transforms=tuple(plugins.load(FAMILIES["transform"], c) for c in experiment.transforms),
    )
    plugins.load(FAMILIES["backbone"], experiment.model.backbone)
    if experiment.data is not None:
        plugins.load(FAMILIES["dataset"], _dataset(experiment.data))
        if experiment.data.partition is not None:
            plugins.load(FAMILIES["partition"], experiment.data.partition)
    objection = compatible(made)
    if objection:
        raise ConfigError(objection)
    return made


def compatible(made: Plan) -> str | None:
    """Why these parts would give a wrong result together, in one sentence, or None. A pure function of traits."""
    e, traits = made.experiment, made.method.traits
    if not traits.lossy and not made.codec.lossless:
        return f"method {e.method.name} sends exact numbers, so codec {e.codec.name} would falsify them; use raw"
    if not traits.lossy and made.transforms:
        return f"method {e.method.name} sends exact numbers, so transforms would falsify them; use none"
    if not traits.sums and getattr(made.aggregator, "needs_sums", True):
        return f"updates of method {e.method.name} may not be added, as aggregator {e.aggregator.name} does"
    discounts = e.rounds.max_staleness > 0 and e.rounds.staleness.name != "constant"
    if discounts and not traits.discounted:
        return f"updates of method {e.method.name} may not be discounted; use staleness: constant or max_staleness: 0"
    return None


def _latency(experiment: Experiment) -> Choice:
    return experiment.simulate.latency if experiment.simulate else Choice(name="none")


def _dataset(data: Data) -> Choice:
    return Choice(name=data.name, params=dict(data.params))


def _override(document: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set {override!r}", hint="write --set path=value, e.g. --set rounds.versions=5")
    *parents, last = path.split(".")
    for parent in parents:
        inner = document.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {path}: {parent} holds no keys")
        document = inner
    try:
        document[last] = yaml.safe_load(text)
    except NOT_YAML:
        raise ConfigError(f"--set {path}: {text[:80]!r} is not YAML") from None


def _known_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Field names beside the last part of a location: what an unknown key may have meant."""
    found: list[type[BaseModel]] = [model]
    for part in location[:-1]:
        fields = [field for m in found if (field := m.model_fields.get(str(part)))]
        inner = [t for field in fields for t in _types(field.annotation) if isinstance(t, type)]
        found = [t for t in inner if issubclass(t, BaseModel)] or found  # a part that is no field tells a union apart
    return list(dict.fromkeys(name for m in found for name in m.model_fields))


def _types(annotation: Any) -> list[Any]:
    return [annotation, *(t for argument in get_args(annotation) for t in _types(argument))]


def _absolute(experiment: Experiment, folder: Path) -> Experiment:
    """Paths among the plugins' parameters, made absolute."""
    changes: dict[str, Any] = {}
    if experiment.data is not None:
        params = _paths(FAMILIES["dataset"], _dataset(experiment.data), folder)
        changes["data"] = experiment.data.model_copy(update={"params": params})
    backbone = experiment.model.backbone
    params = _paths(FAMILIES["backbone"], backbone, folder)
    changes["model"] = experiment.model.model_copy(update={"backbone": Choice(name=backbone.name, params=params)})
    return experiment.model_copy(update=changes)


def files_of(experiment: Experiment) -> dict[str, Path]:
    """Files and folders that the data set and the backbone name, by parameter."""
    choices = [(FAMILIES["backbone"], experiment.model.backbone)]
    if experiment.data is not None:
        choices.append((FAMILIES["dataset"], _dataset(experiment.data)))
    return {
        f"{choice.name}.{name}": Path(str(choice.params[name]))
        for package, choice in choices
        for name in _path_fields(package, choice)
        if choice.params.get(name)
    }


def _path_fields(package: str, choice: Choice) -> list[str]:
    fields = plugins.plugin_class(package, choice.name).Params.model_fields
    return [name for name, field in fields.items() if Path in _types(field.annotation)]


def _paths(package: str, choice: Choice, folder: Path) -> dict[str, Any]:
    params = dict(choice.params)
    for name in _path_fields(package, choice):
        if isinstance(params.get(name), str):
            params[name] = str(folder / Path(params[name]).expanduser())
    return params


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint that names the nearest known word, or all of them."""
    known = list(known)
    near = get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known) or 'none'}"
