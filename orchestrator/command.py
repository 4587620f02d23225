"""What `quorate run`, `check` and `data` do, from paths and names to printed results."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
import yaml
from rich.console import Console

from infra import logs, settings
from infra.bus import LONGEST_S
from infra.files import write_whole
from infra.runtime import Runtime, Work, connect
from infra.settings import Settings
from orchestrator import patience, preflight, results, tables, view
from orchestrator import run as runs
from orchestrator.commits import Commits
from orchestrator.interrupts import HeedingStream, Interrupts
from orchestrator.plan import Plan, in_time, plan, read_experiment
from orchestrator.shelf import named
from schemas.errors import BlobError, ConfigError, StoreError
from schemas.experiment import Experiment
from schemas.log import Event
from schemas.report import Report
from workers.data import progress

PICTURES = (".png", ".svg", ".pdf")
"""What a picture is written as."""

RESUME_WAIT_S = 60.0
"""How long `--resume` waits for another loop's lease."""


def run(
    path: Path | None,
    *,
    name: str | None,
    resume: str | None,
    as_json: bool,
    overrides: tuple[str, ...],
    standby: bool = False,
) -> int:
    """Run, show, keep; the exit code. standby: wait for the lease of the run to resume as long as it takes."""
    done = carry_out(path, name=name, resume=resume, quiet=as_json, overrides=overrides, standby=standby)
    if done is None:
        return 130
    report, folder = done
    if as_json:
        sys.stdout.write(report.model_dump_json(indent=2) + "\n")
    else:
        tables.show(report, tables.stdout())
        click.echo(f"{folder}/ holds {', '.join(sorted(p.name for p in folder.iterdir()))}")
    return 0 if report.status == "finished" else 1


def carry_out(
    path: Path | None,
    *,
    name: str | None,
    resume: str | None,
    quiet: bool,
    overrides: tuple[str, ...],
    standby: bool = False,
) -> tuple[Report, Path] | None:
    """Run and keep; the report and where it lies, or None if it was interrupted, which is said then."""
    environment, interrupts = settings.read(), Interrupts()
    logs.setup("error")  # what a worker in this process warns of is in the journal
    connected = partial(connect, environment, _here(environment, interrupts))
    runtime = patience.awaited(connected, environment.patience_s) if path is None else connected()
    runtime = replace(runtime, stream=HeedingStream(runtime.stream, interrupts))
    experiment, name = _meant(runtime, path, resume or name, overrides)
    made = _planned(experiment, environment)
    if environment.bus.startswith("local:"):
        preflight.see(made, environment)
    console = Console(stderr=True, quiet=quiet)
    try:
        with (
            interrupts,
            view.View(experiment, name, console, made.versions) as shown,
            _served(made, name, environment) as counts,
            _drawn(name, environment, Commits(name, runtime.blobs)) as lines,
            progress.heard(shown.encoded),
        ):
            watch = _each(interrupts.watch, shown.watch, *counts, *lines)
            wait_s = float("inf") if standby else RESUME_WAIT_S if resume else 0.0
            with _resumable(name):
                outcome = runs.execute(made, runtime, name, watch, wait_s=wait_s, patience_s=environment.patience_s)
    except KeyboardInterrupt:
        click.echo(f"quorate: interrupted; go on with: quorate run --resume {name}", err=True)
        return None
    return outcome.report, results.keep(outcome, experiment)


def _meant(runtime: Runtime, path: Path | None, name: str | None, overrides: tuple[str, ...]) -> tuple[Experiment, str]:
    """What to run under which name: the file's, or if there is none what the run of that name was started with."""
    if path is None:
        name = named(name or "")
        return runs.recall(runtime, name), name
    experiment = read_experiment(path, overrides)
    return experiment, named(name) if name is not None else _free_name(runtime, experiment.name)


def _each(*watchers: Callable[[Event], None]) -> Callable[[Event], None]:
    def watch(event: Event) -> None:
        for watcher in watchers:
            watcher(event)

    return watch


@contextmanager
def _served(made: Plan, name: str, environment: Settings) -> Iterator[list[Callable[[Event], None]]]:
    """Who counts for Prometheus while the block runs: nobody, if no address is set. Raises SettingsError."""
    address = environment.metrics_address
    if address is None:
        yield []
        return
    from orchestrator.metrics import Metrics, served  # noqa: PLC0415

    counts = Metrics(name, made.experiment, made.versions)
    with served(counts, address):
        yield [counts.watch]


@contextmanager
def _drawn(name: str, environment: Settings, commits: Commits) -> Iterator[list[Callable[[Event], None]]]:
    """Who writes for TensorBoard while the block runs: nobody, if no folder is set. Raises ConfigError."""
    if not environment.tensorboard:
        yield []
        return
    from orchestrator.tensorboard import sink  # noqa: PLC0415

    with sink(Path(environment.tensorboard) / name, commits.journal) as made:
        yield [made.watch]


def check(path: Path, overrides: tuple[str, ...]) -> None:
    """Print the resolved experiment and what its data hold. Raises ConfigError, PluginError, DataError."""
    logs.setup("error")
    experiment, environment = read_experiment(path, overrides), settings.read()
    made = _planned(experiment, environment)
    click.echo(yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True), nl=False)
    if experiment.data is None:
        click.echo(f"# the data lie with {', '.join(experiment.sites or ())}: each site's worker checks its own")
        return
    preflight.look(made, environment)


def draw(out: Path, per_class: int, seed: int) -> None:
    """Write the shapes data set as image files."""
    from workers.data import drawn  # noqa: PLC0415

    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"{out} is no empty folder", hint="name a new folder")
    count = drawn.write(out, per_class, seed)
    click.echo(f"wrote {count} images to {out}", err=True)


def plot(path: Path, out: Path | None, overrides: tuple[str, ...]) -> None:
    """Draw who has how much of what. Raises ConfigError, DataError."""
    experiment = read_experiment(path, overrides)
    out = out or Path(f"{experiment.name}-data.png")
    if out.suffix.lower() not in PICTURES or not out.absolute().parent.is_dir():
        raise ConfigError(f"cannot write a picture to {out}", hint=f"a file of a folder, {', '.join(PICTURES)}")
    try:
        from orchestrator import skew  # noqa: PLC0415
    except ImportError as e:
        raise ConfigError(f"a picture needs matplotlib: {e}", hint="pip install 'quorate[report]'") from None
    plan(experiment)
    owners = preflight.read(experiment, settings.read())
    write_whole(out, skew.picture(owners, experiment.name, out.suffix.lower().removeprefix(".")))
    click.echo(f"wrote {out}: {len(owners.clients)} clients, {len(owners.classes)} classes", err=True)


def _planned(experiment: Experiment, environment: Settings) -> Plan:
    made = plan(experiment)
    if not environment.bus.startswith("local:"):
        in_time(experiment, LONGEST_S)
    return made


@contextlib.contextmanager
def _resumable(name: str) -> Iterator[None]:
    """What a store says ends the loop, not the run: say how to go on."""
    try:
        yield
    except (BlobError, StoreError) as e:
        raise type(e)(e.message, hint=e.hint or f"the run can go on: quorate run --resume {name}") from None


def _free_name(runtime: Runtime, name: str) -> str:
    """The experiment's name, or with a number if a run bears it already."""
    for number in range(1, 10_000):
        candidate = name if number == 1 else f"{name[:58]}-{number}"  # 64 characters at most
        if not (results.FOLDER / candidate).exists() and not runs.known(runtime, candidate):
            return candidate
    raise ConfigError(f"there are too many runs called {name}", hint="choose a --name")


def _here(environment: Settings, interrupts: Interrupts) -> Work | None:
    """Where the bus is `local:`, this process does the work."""
    if not environment.bus.startswith("local:"):
        return None
    from workers.execute import Worker  # noqa: PLC0415

    return lambda stream, state: (
        Worker(name="here", stream=HeedingStream(stream, interrupts), state=state, cache=environment.cache).handle
    )
