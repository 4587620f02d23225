"""Runs side by side, those that differ in their seed alone taken together. Knows events alone, and no torch."""

import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

from pydantic import ValidationError

from orchestrator import account
from orchestrator.intervals import estimate
from schemas.base import canonical
from schemas.comparison import Alike, Compared, Comparison, Difference, Estimate
from schemas.errors import ConfigError
from schemas.experiment import Experiment, Rounds
from schemas.log import Event

NUMBERS = ("mean", "worst", "held_out")


@dataclass(frozen=True)
class _Run:
    """A run, what it was of, and everything but name and seed that makes it another one."""

    line: Compared
    experiment: Experiment
    settings: dict[str, Any]


def compare(journals: Mapping[str, Sequence[Event]]) -> Comparison:
    """Compare runs by their events. Raises ConfigError for one that has not begun, or is of another version."""
    runs = [_read(name, events) for name, events in journals.items()]
    groups: dict[bytes, list[_Run]] = {}
    for run in runs:
        groups.setdefault(canonical(run.settings), []).append(run)
    names = {key: _letter(number) for number, key in enumerate(groups)}
    lines = [run.line.model_copy(update={"group": names[canonical(run.settings)]}) for run in runs]
    flat = {key: _flat(of[0].settings) for key, of in groups.items()}
    alike = [_alike(names[key], of, _own(flat[key], flat.values())) for key, of in groups.items()]
    by_seed = {names[key]: _by_seed(of) for key, of in groups.items()}
    first, *others = by_seed
    differences = [d for other in others if (d := _difference(other, first, by_seed)).estimates]
    return Comparison(runs=tuple(lines), groups=tuple(alike), differences=tuple(differences))


def mode(spec: Rounds) -> str:
    """The name of a round rule, by its numbers (docs/architecture.md, the round rule)."""
    if spec.refill == "at_arrival":
        name = "FedAsync" if spec.quorum == 1 and spec.apply == "mix" else "FedBuff"
        return f"{name}, {spec.quorum} of {spec.in_flight}"
    if spec.max_staleness == 0 and spec.quorum == spec.floor == spec.in_flight:
        return f"synchronous, {spec.in_flight}"
    if spec.max_staleness == 0 and spec.grace_s == 0 and spec.quorum < spec.in_flight:
        return f"over-selection, {spec.quorum} of {spec.in_flight}"
    return f"{spec.quorum} of {spec.in_flight}"


def _read(name: str, events: Sequence[Event]) -> _Run:
    first = {e.event: e for e in reversed(events)}
    if "started" not in first:
        raise ConfigError(f"run {name} has not come to version 0", hint="quorate runs says how it stands")
    facts = first["started"].facts
    try:
        experiment = Experiment.model_validate(facts["experiment"])
    except ValidationError:
        raise ConfigError(f"run {name} is of another version of quorate, and cannot be compared") from None
    closes = [e for e in events if e.event == "closed"]
    version = max((e.version for e in closes), default=0)
    accuracy = account.accuracies(events, account.everybody(events), version)
    held_out = [h.final for h in accuracy.held_out.values() if h.final is not None]
    line = Compared(
        run=name,
        group="",
        seed=experiment.seed,
        status=first["finished"].facts["status"] if "finished" in first else "unfinished",
        version=version,
        mean=accuracy.mean,
        worst=accuracy.worst,
        held_out=fmean(held_out) if held_out else None,
        bytes_up=account.total(events, ("accepted", "late", "rejected"), "bytes"),
        bytes_down=account.total(events, ("asked",), "bytes"),
        seconds=closes[-1].at - events[0].at if closes else 0.0,
        virtual=facts["virtual"],
    )
    settings = experiment.model_dump(mode="json", exclude={"name", "seed"})
    return _Run(line, experiment, {**settings, "code_version": facts["code_version"]})


def _letter(number: int) -> str:
    return string.ascii_lowercase[number] if number < 26 else f"g{number + 1}"


def _alike(name: str, of: Sequence[_Run], differs: dict[str, Any]) -> Alike:
    experiment = of[0].experiment
    return Alike(
        group=name,
        method=experiment.method.name,
        codec=experiment.codec.name,
        mode=mode(experiment.rounds),
        differs=differs,
        runs=tuple(run.line.run for run in of),
        estimates=_estimates(_by_seed(of)),
    )


Seeds = dict[str, dict[int, float]]
"""{number: {seed: value}}."""


def _by_seed(of: Iterable[_Run]) -> Seeds:
    """Of the finished runs. One of the same seed again is no new evidence, so a seed counts once."""
    found: dict[str, dict[int, list[float]]] = {number: {} for number in NUMBERS}
    for line in (run.line for run in of if run.line.status == "finished"):
        for number in NUMBERS:
            if (value := getattr(line, number)) is not None:
                found[number].setdefault(line.seed, []).append(value)
    return {number: {seed: fmean(values) for seed, values in seeds.items()} for number, seeds in found.items()}


def _estimates(by_seed: Seeds) -> dict[str, Estimate]:
    return {number: estimate(list(seeds.values())) for number, seeds in by_seed.items() if seeds}


def _difference(name: str, minus: str, by_seed: Mapping[str, Seeds]) -> Difference:
    """Paired: what a seed does to both groups alike drops out. Of one common seed there is nothing to say."""
    mine, other = by_seed[name], by_seed[minus]
    common = {number: sorted(mine[number].keys() & other[number].keys()) for number in NUMBERS}
    paired = {n: {s: mine[n][s] - other[n][s] for s in seeds} for n, seeds in common.items() if len(seeds) > 1}
    return Difference(group=name, minus=minus, estimates=_estimates(paired))


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """{path: value} of all leaves, e.g. {"rounds.quorum": 6}."""
    if not isinstance(value, dict) or not value:
        return {path: value}
    dotted = {f"{path}.{key}" if path else str(key): inner for key, inner in value.items()}
    return {at: leaf for inner_path, inner in dotted.items() for at, leaf in _flat(inner, inner_path).items()}


def _own(flat: Mapping[str, Any], every: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What of these settings is not the same in every group."""
    groups = list(every)
    absent = object()
    return {
        path: value
        for path, value in flat.items()
        if any(one.get(path, absent) != other.get(path, absent) for one, other in pairwise(groups))
    }
