"""Runs that were, and runs that are: `quorate runs`, `report` and `cancel`. Never imports torch."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from pydantic import TypeAdapter, ValidationError
from rich import box
from rich.table import Table
from rich.text import Text

from infra import settings
from infra.files import write_whole
from infra.runtime import connect
from orchestrator import retold, tables, wording
from orchestrator.archive import Archive
from orchestrator.extras import needed
from schemas.base import Name
from schemas.errors import ConfigError, QuorateError
from schemas.story import Round, Story

_NAME: TypeAdapter[str] = TypeAdapter(Name)


def show(name: str, *, version: int | None = None, as_json: bool) -> None:
    """Print the story of a run, or one version of it. Raises ConfigError if there is none."""
    archive = Archive(settings.read())
    told = archive.story(named(name))
    shown = told if version is None else _version(told, version)
    if as_json:
        sys.stdout.write(shown.model_dump_json(indent=2) + "\n")
    elif isinstance(shown, Story):
        retold.tell(shown, tables.stdout())
    else:
        retold.one(shown, tables.stdout(), opened=shown == told.open)
    _warn(archive)


def write_page(name: str, path: Path) -> None:
    """Write the story of a run as one HTML page. Raises ConfigError if there is none, or if a library is missing."""
    needed("a page", "jinja2", "matplotlib")
    from orchestrator import findings, page  # noqa: PLC0415

    archive = Archive(settings.read())
    events = archive.events(named(name))
    text = page.render(findings.find(archive.story(name), events))
    write_whole(path, text.encode(errors="replace"))
    path.chmod(0o644)  # made to be shown
    click.echo(f"wrote {path} ({wording.size(path.stat().st_size)})", err=True)
    _warn(archive)


def write_scalars(name: str, folder: Path) -> None:
    """Write the journal of a run as scalars for TensorBoard. Raises ConfigError if there is none."""
    from orchestrator import tensorboard  # noqa: PLC0415

    archive = Archive(settings.read())
    tensorboard.write(archive.events(named(name)), folder)
    click.echo(f"wrote {folder}/; tensorboard --logdir {folder}", err=True)
    _warn(archive)


def compare(names: Sequence[str], *, as_json: bool) -> None:
    """Print runs side by side. Raises ConfigError for one that is not there or cannot be compared."""
    needed("a comparison", "scipy")
    from orchestrator import beside, compare  # noqa: PLC0415

    archive = Archive(settings.read())
    found = compare.compare({named(name): archive.events(name) for name in names})
    if as_json:
        sys.stdout.write(found.model_dump_json(indent=2) + "\n")
    else:
        beside.show(found, tables.stdout())


def _version(told: Story, version: int) -> Round:
    """One round. Raises ConfigError if it is not there."""
    found: dict[int, Round] = {r.version: r for r in (*told.rounds, *([told.open] if told.open else ()))}
    if version not in found:
        there = f"there are 1 to {max(found)}" if found else "there is none yet"
        raise ConfigError(f"run {told.run} has no version {version} to tell of", hint=there)
    return found[version]


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


def list_runs(*, as_json: bool) -> None:
    """Print a line per run: those with a result here, and those that the store knows."""
    archive = Archive(settings.read())
    found = [s for name in archive.names() if (s := _summary(archive, name)) is not None]
    if as_json:
        kept = {"run", "status", "reason", "owner", "version", "versions", "began", "last"}
        sys.stdout.write(json.dumps([s.model_dump(mode="json", include=kept) for s in found], indent=2) + "\n")
    elif found:
        tables.stdout().print(_table(found))
    else:
        click.echo("no runs here yet: quorate run experiments/demo.yaml")
    _warn(archive)


def _summary(archive: Archive, name: str) -> Story | None:
    try:
        return archive.summary(name)
    except QuorateError as e:  # one that cannot be read must not hide the others
        click.echo(f"quorate: {name}: {' '.join(str(e).split())}", err=True)
        return None


def _table(found: list[Story]) -> Table:
    table = Table("run", "status", show_edge=False, pad_edge=False, box=box.SIMPLE_HEAD)
    for name in ("version", "last", "mean", "worst"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", overflow="ellipsis", no_wrap=True)
    for s in found:
        accuracy = s.report.accuracy if s.report else None
        version = str(s.version) if s.status == "finished" else f"{s.version}/{s.versions}"
        scores = (accuracy.mean, accuracy.worst) if accuracy else (None, None)
        cells = (s.run, s.status, version, retold.ago(s.last), *map(wording.percent, scores), _remark(s))
        table.add_row(*(Text(wording.plain(cell)) for cell in cells))
    return table


def _remark(s: Story) -> str:
    if s.owner:
        return f"owned by {s.owner.name}" + ("" if s.owner.silent_s is None else f", silent {s.owner.silent_s:.1f} s")
    if s.status == "unfinished":
        return f"quorate run --resume {s.run}"
    return s.reason or ("" if s.report else "ended elsewhere")


def _warn(archive: Archive) -> None:
    if archive.trouble:
        click.echo(f"quorate: who owns the runs is not known: {archive.trouble}", err=True)
