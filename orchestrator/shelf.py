"""Runs that were, and runs that are: `quorate runs`, `report` and `cancel`. Never imports torch."""

import re
import sys
from collections import defaultdict
from pathlib import Path

import click
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table

from infra import settings
from infra.runtime import connect, connect_blobs
from orchestrator import view
from schemas.base import Name
from schemas.errors import ConfigError
from schemas.report import Report

FOLDER = Path("runs")
_NAME: TypeAdapter[str] = TypeAdapter(Name)


def show(name: str, *, as_json: bool) -> None:
    """Print the report of a run. Raises ConfigError if there is none."""
    report = _report(FOLDER / named(name) / "report.json")
    if as_json:
        sys.stdout.write(report.model_dump_json(indent=2) + "\n")
    else:
        view.show(report, Console())


def cancel(name: str) -> None:
    """Ask the loop of a run to stop. Raises ConfigError if the store knows no such run."""
    runtime = connect(settings.read())
    stored = set(runtime.blobs.keys(f"runs/{named(name)}/"))
    if not stored:
        raise ConfigError(f"there is no run {name!r} in the store", hint="quorate runs lists them")
    if f"runs/{name}/final.json" in stored:
        raise ConfigError(f"run {name} has ended already", hint=f"quorate report {name}")
    runtime.state.flag(name, "cancel")
    click.echo(f"run {name} will stop at its last version", err=True)


def named(name: str) -> str:
    """The name of a run, if it can be one. Raises ConfigError."""
    try:
        return _NAME.validate_python(name)
    except ValidationError:
        raise ConfigError(f"{name!r} cannot name a run", hint="letters, digits, _ . - only, at most 64") from None


def list_runs() -> None:
    """Print a line per run: those with a result here, and those that the store knows."""
    table = Table("run", "status", "version", "mean", "worst", show_edge=False, pad_edge=False)
    done = {p.parent.name: _report(p) for p in sorted(FOLDER.glob("[!.]*/report.json"))}
    for name, r in done.items():
        table.add_row(name, r.status, str(r.version), view.percent(r.accuracy.mean), view.percent(r.accuracy.worst))
    for name, (version, ended) in sorted(_stored().items()):
        if name not in done:
            table.add_row(name, "ended elsewhere" if ended else "unfinished", str(version), "–", "–")
    if table.row_count:
        Console().print(table)
    else:
        click.echo("no runs here yet: quorate run experiments/demo.yaml")


def _stored() -> dict[str, tuple[int, bool]]:
    """{run: (last committed version, whether it has ended)} in the object store."""
    found: dict[str, tuple[int, bool]] = defaultdict(lambda: (0, False))
    for key in connect_blobs(settings.read()).keys("runs/"):
        match = re.fullmatch(r"runs/([^/]+)/(?:(final|experiment)\.json|versions/(\d+)\.json)", key)
        if match:
            version, ended = found[match[1]]
            found[match[1]] = (max(version, int(match[3] or 0)), ended or match[2] == "final")
    return found


def _report(path: Path) -> Report:
    try:
        return Report.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"there is no {path}", hint="quorate runs lists what there is") from None
    except (OSError, ValidationError) as e:
        raise ConfigError(f"{path} is no report: {str(e).splitlines()[0]}") from None
