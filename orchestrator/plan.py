"""From a YAML file to a plan: one experiment, its plugins loaded and their parameters validated, or one clear error.

Knows every family of plugins. Touches neither stores nor data.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.documents import DEEPEST, read_mapping, read_value
from orchestrator import compatibility
from orchestrator.families import FAMILIES
from schemas.base import Choice
from schemas.complaints import cut, parse
from schemas.errors import ConfigError
from schemas.experiment import Data, Experiment, Simulate
from workers import plugins
from workers.method import Aggregator, Method
from workers.pipeline import Codec, Transform


@dataclass(frozen=True)
class Plan:
    """An experiment whose plugins have been loaded."""

    experiment: Experiment
    method: Method
    backbone: Any
    codec: Codec
    aggregator: Aggregator
    selector: Any
    latency: Any
    presence: Any
    transforms: tuple[Transform, ...]

    @property
    def versions(self) -> int:
        """Versions to commit: none for a method that does not train."""
        return self.experiment.rounds.versions if self.method.traits.trains else 0

    @property
    def steers(self) -> bool:
        """Whether the method learns words, for which the backbone must have a text tower."""
        return bool(getattr(getattr(self.method, "adapter", None), "steers", False))

    @property
    def least(self) -> int:
        """Fewest owners whose updates the aggregator can do with."""
        return int(getattr(self.aggregator, "least", 1))

    @property
    def per_owner(self) -> bool:
        """Whether of an owner's updates in a version only the newest has a say."""
        return bool(getattr(self.aggregator, "per_owner", False))


def read_experiment(path: Path, overrides: Iterable[str] = ()) -> Experiment:
    """The experiment of a file, with `path=YAML` overrides.

    Relative paths in the file count from its folder, those of overrides from here: as the shell completes them.
    Raises ConfigError.
    """
    document, overrides = read_mapping(path), tuple(overrides)
    for override in overrides:
        _override(document, override)
    experiment = parse(Experiment, document, str(path))
    said = tuple(override.partition("=")[0] for override in overrides)
    return _absolute(experiment, path.absolute().parent, said)


def plan(experiment: Experiment) -> Plan:
    """Load every plugin of the experiment and see that they fit. Raises PluginError, ConfigError."""
    made = Plan(
        experiment=experiment,
        method=plugins.load(FAMILIES["method"], experiment.method),
        backbone=plugins.load(FAMILIES["backbone"], experiment.model.backbone),
        codec=plugins.load(FAMILIES["codec"], experiment.codec),
        aggregator=plugins.load(FAMILIES["aggregator"], experiment.aggregator),
        selector=plugins.load(FAMILIES["selector"], experiment.selector),
        latency=plugins.load(FAMILIES["latency"], _latency(experiment)),
        presence=plugins.load(FAMILIES["presence"], (experiment.simulate or Simulate()).presence),
        transforms=tuple(plugins.load(FAMILIES["transform"], c) for c in experiment.transforms),
    )
    if experiment.public is not None:
        plugins.load(FAMILIES["dataset"], experiment.public)
    if experiment.data is not None:
        plugins.load(FAMILIES["dataset"], _dataset(experiment.data))
        if experiment.data.partition is not None:
            plugins.load(FAMILIES["partition"], experiment.data.partition)
    objection = compatibility.compatible(made)
    if objection:
        raise ConfigError(objection)
    return made


def in_time(experiment: Experiment, longest_s: float) -> None:
    """Refuse deadlines that the broker does not wait for. Raises ConfigError."""
    for name, seconds in (("start_s", experiment.start_s), ("rounds.deadline_s", experiment.rounds.deadline_s)):
        if seconds > longest_s:
            raise ConfigError(
                f"{name}: {seconds:g} s are longer than a broker waits for a task", hint=f"at most {longest_s:g}"
            )


def _latency(experiment: Experiment) -> Choice:
    return (experiment.simulate or Simulate()).latency


def _dataset(data: Data) -> Choice:
    return Choice(name=data.name, params=dict(data.params))


def _override(document: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set {override!r}", hint="write --set path=value, e.g. --set rounds.versions=5")
    if path.count(".") >= DEEPEST:
        raise ConfigError(f"--set {cut(path)}: more than {DEEPEST} levels deep")
    *parents, last = path.split(".")
    for parent in parents:
        inner = document.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {path}: {parent} holds no keys")
        document = inner
    document[last] = read_value(text, f"--set {path}: {cut(text)!r}")


def _is_within(where: str, said: Iterable[str]) -> bool:
    """Whether an override of one of these values has set the one there, itself or with what it stands in."""
    return any(f"{where}.".startswith(f"{path}.") for path in said)


def _absolute(experiment: Experiment, folder: Path, said: Iterable[str]) -> Experiment:
    """Paths among the plugins' parameters, made absolute. folder: of the file. said: what overrides have set."""

    def made(family: str, choice: Choice, where: str) -> dict[str, Any]:
        found = _class(FAMILIES[family], choice)
        own = {n: v for n, v in choice.params.items() if _is_within(f"{where}.params.{n}", said)}
        return plugins.absolute(found, {**choice.params, **plugins.absolute(found, own, Path.cwd())}, folder)

    changes: dict[str, Any] = {}
    if experiment.data is not None:
        params = made("dataset", _dataset(experiment.data), "data")
        changes["data"] = experiment.data.model_copy(update={"params": params})
    if experiment.public is not None:
        params = made("dataset", experiment.public, "public")
        changes["public"] = Choice(name=experiment.public.name, params=params)
    backbone = experiment.model.backbone
    chosen = Choice(name=backbone.name, params=made("backbone", backbone, "model.backbone"))
    changes["model"] = experiment.model.model_copy(update={"backbone": chosen})
    if experiment.simulate is not None:
        latency = experiment.simulate.latency
        chosen = Choice(name=latency.name, params=made("latency", latency, "simulate.latency"))
        changes["simulate"] = experiment.simulate.model_copy(update={"latency": chosen})
    return experiment.model_copy(update=changes)


def files_of(experiment: Experiment) -> dict[str, Path]:
    """Files and folders that the backbone names, by parameter. A data set says itself what is missing."""
    choice = experiment.model.backbone
    return {
        f"{choice.name}.{name}": Path(str(choice.params[name]))
        for name in plugins.path_fields(_class(FAMILIES["backbone"], choice))
        if choice.params.get(name)
    }


def _class(package: str, choice: Choice) -> type[Any]:
    return plugins.plugin_class(package, choice.name)
