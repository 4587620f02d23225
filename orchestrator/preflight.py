"""What can be known before a run where this process is to do the work: the data, and the weights of the backbone.

Looks with the workers' own eyes, and builds a model only where it is to be worked inside. Decides nothing that a
worker would not refuse too.
"""

from collections import Counter
from typing import TYPE_CHECKING

import click

from infra.settings import Settings
from orchestrator.plan import Plan, files_of
from schemas.errors import ConfigError
from schemas.experiment import Experiment, Setting

if TYPE_CHECKING:
    from workers.data.owners import Owners


def look(made: Plan, environment: Settings) -> None:
    """Print what the data hold, every image opened, and the backbone if the work is to be done here.

    Raises ConfigError, DataError.
    """
    from workers.data import pixels  # noqa: PLC0415

    experiment = made.experiment
    found = owners(experiment, environment)
    click.echo(f"# {len(found.classes)} classes: {', '.join(found.classes)}")
    for path in found.skipped:
        click.echo(f"# left out, for it cannot be read: {path}")
    for name, owner in (found.clients | found.held_out).items():
        for image in owner.images.paths:
            pixels.decode(image, pixels.read(image))
        parts, classes = owner.parts, Counter(owner.images.labels.tolist())
        kind = "held out" if name in found.held_out else f"{len(parts.train)} train, {len(parts.val)} val"
        click.echo(f"# {name}: {len(owner.images)} images of {len(classes)} classes: {kind}, {len(parts.test)} test")
    if environment.bus.startswith("local:"):
        click.echo(f"# backbone {experiment.model.backbone.name}: fingerprint {fingerprint(experiment)[:12]}")
        reach_into(made, found, environment)


def see(made: Plan, environment: Settings) -> None:
    """See that the work can be done here. Raises ConfigError, DataError, PluginError."""
    found = owners(made.experiment, environment)
    fingerprint(made.experiment)
    reach_into(made, found, environment)


def owners(experiment: Experiment, environment: Settings) -> "Owners":
    """Who owns what, if the work is to be done here and can be. Raises ConfigError, DataError."""
    if experiment.data is None:
        raise ConfigError("this experiment needs the workers of its sites", hint="set QUORATE_BUS to a Redis URL")
    for name, path in files_of(experiment).items():
        if not path.exists():
            raise ConfigError(f"{name}: there is no {path}")
    found = read(experiment, environment)
    _fit(experiment, found)
    return found


def read(experiment: Experiment, environment: Settings) -> "Owners":
    """Who owns what. Raises ConfigError, DataError."""
    from workers.data.owners import read_owners  # noqa: PLC0415

    if experiment.data is None:
        raise ConfigError(f"the data lie with {', '.join(experiment.sites or ())}: only there they can be looked at")
    return read_owners(experiment.data, seed=experiment.seed, cache=environment.cache)


def fingerprint(experiment: Experiment) -> str:
    """Of the backbone, its weights present and readable; a tag's are downloaded. Raises PluginError, ConfigError."""
    from workers.plugins import load  # noqa: PLC0415

    return str(load("workers.models", experiment.model.backbone).fingerprint)


def reach_into(made: Plan, owners: "Owners", environment: Settings) -> None:
    """Make version 0 of a method that works inside a tower, for only the tower says what is in it, and drop it.

    Raises ConfigError.
    """
    if made.method.traits.cached and not made.steers:
        return
    from workers.data.features import Features  # noqa: PLC0415
    from workers.plugins import load  # noqa: PLC0415
    from workers.setting import agree  # noqa: PLC0415

    experiment = made.experiment
    features = Features(load("workers.models", experiment.model.backbone), environment.cache)
    classes = experiment.model.classes or owners.classes
    agreed = Setting(experiment=experiment, classes=classes, fingerprint=features.backbone.fingerprint)
    made.method.init(agree(agreed, features))


def _fit(experiment: Experiment, owners: "Owners") -> None:
    """Refuse what these owners can never do. Raises ConfigError."""
    spec, named = experiment.rounds, experiment.model.classes
    count = sum(len(owner.parts.train) > 0 for owner in owners.clients.values())
    other = sorted(set(owners.classes) - set(named or owners.classes))
    if other:
        raise ConfigError(f"model.classes lacks {other[0]!r}, which the data have", hint="classes: null takes them all")
    if len(named or owners.classes) < 2:
        raise ConfigError(f"the data hold one class, {owners.classes[0]!r}: there is nothing to tell apart")
    if spec.floor > count:
        raise ConfigError(f"{count} clients can never make the floor of {spec.floor}", hint="lower rounds.floor")
    if spec.refill == "at_arrival" and spec.quorum > count:
        raise ConfigError(f"{count} clients can never make the quorum of {spec.quorum}", hint="lower rounds.quorum")
