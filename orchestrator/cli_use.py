"""The commands that use the result of a run. They parse and call, like those of `cli`."""

import sys
from pathlib import Path

import click

FILE = click.Path(path_type=Path)
WEIGHTS = click.option(
    "--weights", type=FILE, help="Where the weights of the backbone lie, if not where the run had them."
)
GROUP = click.option("--group", metavar="NAME", help="Whose model, of a run with one for each of several groups.")
PLUGIN = click.option(
    "--plugin", "plugins", multiple=True, metavar="PACKAGE.MODULE:CLASS", help="Load this one, which is not Quorate's."
)


@click.command()
@click.argument("adapter", type=FILE)
@click.argument("images", type=FILE, nargs=-1, required=True)
@click.option("--top", default=3, show_default=True, type=click.IntRange(1), help="Classes per image.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@GROUP
@WEIGHTS
@PLUGIN
def predict(  # noqa: PLR0917 (click names each)
    adapter: Path,
    images: tuple[Path, ...],
    top: int,
    as_json: bool,
    group: str | None,
    weights: Path | None,
    plugins: tuple[str, ...],
) -> None:
    """Say which classes an ADAPTER (a file, or a run) sees in IMAGES (files, or folders of them)."""
    from orchestrator import predict as predictions  # noqa: PLC0415

    code = predictions.show(adapter, images, top=top, as_json=as_json, group=group, weights=weights, plugins=plugins)
    sys.exit(code)


@click.command()
@click.argument("run")
@click.option("--to", required=True, type=FILE, metavar="DIR", help="The new folder.")
@GROUP
@WEIGHTS
@PLUGIN
def export(run: str, to: Path, group: str | None, weights: Path | None, plugins: tuple[str, ...]) -> None:
    """Write the result of RUN into a folder that open_clip alone can use, with a model card."""
    from orchestrator import export as exports  # noqa: PLC0415

    exports.export(run, to, group=group, weights=weights, plugins=plugins)
