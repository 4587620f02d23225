"""Runs that were, and runs that are: what `quorate runs` and `quorate report` show. Never imports torch."""

import re
import sys
from collections import defaultdict
from pathlib import Path

import click
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from infra import settings
from infra.runtime import connect_blobs
from orchestrator import view
from schemas.errors import ConfigError
from schemas.report import Report

FOLDER = Path("runs")


def show(name: str, *, as_json: bool) -> None:
    """Print the report of a run. Raises ConfigError if there is none."""
    report = _report(FOLDER / name / "report.json")
    if as_json:
        sys.stdout.write(report.model_dump_json(indent=2) + "\n")
    else:
        view.show(report, Console())


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
