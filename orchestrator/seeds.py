"""`quorate run --seeds`: one experiment, a run per seed, and what they say together.

The runs are called `<name>-s<seed>`. One that fails leaves the others; said again, the same command goes on.
"""

import re
from pathlib import Path

import click

from infra.documents import read_mapping
from orchestrator import command, shelf
from orchestrator.archive import FOLDER, read_report
from orchestrator.extras import needed
from orchestrator.plan import read_experiment
from orchestrator.wording import plain
from schemas.errors import ConfigError, QuorateError
from schemas.experiment import Experiment

MOST = 1000


def parse(text: str) -> tuple[int, ...]:
    """Seeds as one writes them: `0..4` (both ends are in) or `0,3,7`, or both. Raises ConfigError."""
    found: list[int] = []
    for part in text.split(","):
        ends = re.fullmatch(r"\s*(\d{1,16})(?:\.\.(\d{1,16}))?\s*", part, flags=re.ASCII)
        if ends is None:
            raise ConfigError(f"--seeds {text[:60]!r} names no seeds", hint="say 0..4, or 0,3,7")
        first, last = int(ends[1]), int(ends[2] or ends[1])
        if not first <= last < first + MOST or len(found) > MOST:
            raise ConfigError(f"--seeds {text[:60]!r}: from the lower to the higher, {MOST} at most")
        found += range(first, last + 1)
    if len(set(found)) < len(found):
        raise ConfigError(f"--seeds {text[:60]!r} names a seed twice")
    return tuple(found)


def run(path: Path, seeds: str, *, name: str | None, as_json: bool, overrides: tuple[str, ...]) -> int:
    """Run every seed, show the table; the highest exit code of all.

    What goes wrong with one seed is said and leaves the others. Raises ConfigError, DataError for a mistake.
    """
    needed("--seeds", "scipy")
    asked = {seed: (*overrides, f"seed={seed}") for seed in parse(seeds)}
    experiments = {seed: read_experiment(path, changed) for seed, changed in asked.items()}
    names = {seed: shelf.named(f"{name or e.name}-s{seed}") for seed, e in experiments.items()}
    for seed, experiment in experiments.items():
        _same(experiment, FOLDER / names[seed])
    codes: list[int] = []
    for seed, changed in asked.items():
        try:
            codes.append(_one(path, names[seed], quiet=as_json, overrides=changed))
        except (QuorateError, OSError) as e:
            codes.append(e.exit_code if isinstance(e, QuorateError) else 1)
            if codes == [2]:
                raise  # a mistake, and so it is for the others
            click.echo(f"quorate: {names[seed]}: {plain(' '.join(str(e).split()))[:2000]}", err=True)
        if codes[-1] == 130:
            return 130
    if done := [n for n in names.values() if (FOLDER / n / "report.json").exists()]:
        shelf.compare(done, as_json=as_json)
    return max(codes)


def _same(experiment: Experiment, folder: Path) -> None:
    """Refuse a result that is of another experiment."""
    path = folder / "experiment.yaml"
    if path.exists() and read_mapping(path) != experiment.model_dump(mode="json"):
        raise ConfigError(f"{folder} is of another experiment", hint="choose another --name, or move it away")


def _one(path: Path, name: str, *, quiet: bool, overrides: tuple[str, ...]) -> int:
    """Run one seed, if its result is not here already; the exit code."""
    if (FOLDER / name / "report.json").exists():
        report = read_report(FOLDER / name / "report.json")
    elif done := command.carry_out(path, name=name, resume=None, quiet=quiet, overrides=overrides):
        report, _ = done
    else:
        return 130
    if report.status != "finished":
        click.echo(f"quorate: {name} {report.status}: {plain(report.reason)[:2000]}", err=True)
    return 0 if report.status == "finished" else 1
