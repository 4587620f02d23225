"""The command line. Parses, calls, prints; decides nothing.

Commands import what they need when they run, so that `quorate version` does not wait for torch.
What comes of an error: `program`.
"""

import sys
from pathlib import Path

import click

from orchestrator import cli_use
from orchestrator.program import program
from schemas.errors import ConfigError

FILE = click.Path(path_type=Path)
SET = click.option(
    "--set", "overrides", multiple=True, metavar="PATH=YAML", help="Replace a value, e.g. rounds.versions=5."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def quorate() -> None:
    """Federated fine-tuning of CLIP over Celery queues and S3."""


@quorate.command()
@click.argument("experiment", type=FILE, required=False)
@click.option("--name", help="Start or continue the run of this name.")
@click.option("--resume", metavar="RUN", help="Take a run over from its last commit, as soon as its lease is free.")
@click.option("--standby", is_flag=True, help="With --resume: wait for that as long as it takes.")
@click.option("--json", "as_json", is_flag=True, help="Print report.json on stdout and nothing else.")
@click.option("--seeds", metavar="SEEDS", help="A run for each, NAME-s0 ...: 0..4, or 0,3,7; said again it goes on.")
@SET
def run(  # noqa: PLR0917 (click names each)
    experiment: Path | None,
    name: str | None,
    resume: str | None,
    standby: bool,
    as_json: bool,
    seeds: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Run an EXPERIMENT to its end; the result is in runs/NAME."""
    from orchestrator import command  # noqa: PLC0415
    from orchestrator import seeds as many  # noqa: PLC0415

    if (experiment is None) == (resume is None):
        raise ConfigError("give an experiment file, or --resume RUN")
    if standby and resume is None:
        raise ConfigError("--standby goes with --resume RUN")
    if seeds is not None:
        if experiment is None:
            raise ConfigError("--seeds goes with an experiment file")
        sys.exit(many.run(experiment, seeds, name=name, as_json=as_json, overrides=overrides))
    sys.exit(command.run(experiment, name=name, resume=resume, as_json=as_json, overrides=overrides, standby=standby))


@quorate.command()
@click.argument("experiment", type=FILE)
@SET
def check(experiment: Path, overrides: tuple[str, ...]) -> None:
    """Print the resolved EXPERIMENT, load its plugins, look at its data, and say what is wrong."""
    from orchestrator import command  # noqa: PLC0415

    command.check(experiment, overrides)


@quorate.command("list")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--markdown", is_flag=True, help="As the page docs/methods.md.")
def list_(as_json: bool, markdown: bool) -> None:
    """Show every plugin: methods, codecs, selectors and the rest."""
    from orchestrator import catalogue  # noqa: PLC0415

    click.echo(catalogue.as_json() if as_json else catalogue.as_markdown() if markdown else catalogue.as_text())


@quorate.command()
@click.argument("name")
@click.option("--version", type=click.IntRange(1), help="All that is known of one version.")
@click.option("--json", "as_json", is_flag=True, help="As JSON; the report of a run that has ended is in it.")
@click.option("--html", metavar="[FILE]", is_flag=False, flag_value="", help="As a page of plots (NAME.html).")
@click.option("--tensorboard", type=FILE, metavar="DIR", help="As scalars for TensorBoard, into a new folder.")
def report(name: str, version: int | None, as_json: bool, html: str | None, tensorboard: Path | None) -> None:
    """Tell the story of the run NAME: finished, going on or broken off."""
    from orchestrator import shelf  # noqa: PLC0415

    if sum((html is not None, tensorboard is not None, as_json or version is not None)) > 1:
        raise ConfigError("--html and --tensorboard go alone")
    if tensorboard is not None:
        shelf.write_scalars(name, tensorboard)
    elif html is None:
        shelf.show(name, version=version, as_json=as_json)
    else:
        shelf.write_page(name, Path(html or f"{name}.html"))


@quorate.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def runs(as_json: bool) -> None:
    """List the runs in runs/ and in the store, with their state."""
    from orchestrator import shelf  # noqa: PLC0415

    shelf.list_runs(as_json=as_json)


@quorate.command()
@click.argument("names", metavar="RUN...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def compare(names: tuple[str, ...], as_json: bool) -> None:
    """Put runs side by side; those that differ in their seed alone together, with 95 % intervals."""
    from orchestrator import shelf  # noqa: PLC0415

    shelf.compare(names, as_json=as_json)


@quorate.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def audit(name: str, as_json: bool) -> None:
    """Check the whole history of the run NAME: every update counted once, nothing lost. 1 if a rule is broken."""
    from orchestrator import audit as audits  # noqa: PLC0415

    sys.exit(audits.show(name, as_json=as_json))


@quorate.command()
@click.argument("name")
def cancel(name: str) -> None:
    """Ask the loop of the run NAME to stop after what it is doing; its last version stays."""
    from orchestrator import shelf  # noqa: PLC0415

    shelf.cancel(name)


@quorate.command()
@click.option("--prune", is_flag=True, help="Throw features away by age, size or both.")
@click.option("--unused-days", type=click.FloatRange(0), help="With --prune: those that no run has used for so long.")
@click.option("--keep-gb", type=click.FloatRange(0), help="With --prune: the longest unused, until so much is left.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def cache(prune: bool, unused_days: float | None, keep_gb: float | None, as_json: bool) -> None:
    """Show what is kept under QUORATE_CACHE: features of images and texts, and drawn images."""
    from orchestrator import cache as caches  # noqa: PLC0415

    caches.main(prune=prune, unused_days=unused_days, keep_gb=keep_gb, as_json=as_json)


@quorate.group()
def data() -> None:
    """Look at data, or make some to try things with."""


@data.command("plot")
@click.argument("experiment", type=FILE)
@click.option("--out", type=FILE, metavar="FILE.png", help="The picture (png, svg, pdf); else NAME-data.png here.")
@SET
def plot(experiment: Path, out: Path | None, overrides: tuple[str, ...]) -> None:
    """Draw how many images of which class each client of EXPERIMENT has."""
    from orchestrator import command  # noqa: PLC0415

    command.plot(experiment, out, overrides)


@data.command()
@click.argument("out", type=FILE)
@click.option("--per-class", default=40, show_default=True, type=click.IntRange(1, 9999), help="Images per class")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
def shapes(out: Path, per_class: int, seed: int) -> None:
    """Draw the shapes data set into OUT/<style>/<class>/*.png (12 classes, 4 styles)."""
    from orchestrator import command  # noqa: PLC0415

    command.draw(out, per_class, seed)


@quorate.command()
@click.option("--pool", is_flag=True, help="Play any client of a simulation.")
@click.option("--site", metavar="NAME", help="Serve one owner's own data.")
@click.option("--data", "site_file", type=FILE, metavar="SITE.YAML", help="What that owner holds.")
def worker(pool: bool, site: str | None, site_file: Path | None) -> None:
    """Start a worker: for the pool, or for one site with its own data."""
    from workers import celery_worker  # noqa: PLC0415

    if pool == (site is not None) or (site is not None) != (site_file is not None):
        raise ConfigError("say --pool, or --site NAME --data SITE.YAML")
    sys.exit(celery_worker.main(pool=pool, site=site, data=site_file))


@quorate.command()
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1, 64))
def up(workers: int) -> None:
    """Start Valkey, S3, workers and Celery Flower on this machine, until Ctrl-C."""
    from orchestrator import local  # noqa: PLC0415

    sys.exit(local.up(workers))


@quorate.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as of  # noqa: PLC0415

    click.echo(of("quorate"))


quorate.add_command(cli_use.predict)
quorate.add_command(cli_use.export)


def main() -> None:
    """The entry point."""
    program(quorate)


if __name__ == "__main__":
    main()
