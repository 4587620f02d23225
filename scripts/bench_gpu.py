"""What a GPU makes of the work: `python -m scripts.bench_gpu [--out FILE]` prints a table and keeps it as JSON.

See benchmarks/gpu.py. `--device cpu --small` is for looking at the script, not at a processor.
"""

import json
from pathlib import Path

import click
import torch

from benchmarks.gpu import Card, line, measure, named
from benchmarks.machine import here
from workers import device as devices


@click.command(help=__doc__)
@click.option("--device", "name", default="cuda", show_default=True, help="cuda, or cpu with --small.")
@click.option("--small", is_flag=True, help="As small as it can be: shows that the script runs.")
@click.option("--out", type=click.Path(path_type=Path), help="Keep the figures in this JSON file.")
def main(name: str, small: bool, out: Path | None) -> None:
    if name == "cuda" and not torch.cuda.is_available():
        raise click.ClickException("there is no GPU that torch can use here")
    if name not in ("cuda", "cpu") or (name == "cpu" and not small):
        raise click.UsageError("--device cuda, or --device cpu --small")
    device = devices.best() if name == "cuda" else torch.device("cpu")
    where, rates = here(), []
    click.echo(f"{named(device)}, commit {where.commit}" + (", as small as can be: no figure" if small else ""))
    for rate in measure(device, small=small):
        click.echo(line(rate))
        rates.append(rate)
        if out is not None:  # after each, for a card is often lent for minutes
            found = Card(where=where, device=named(device), small=small, rates=tuple(rates))
            out.write_text(json.dumps(found.model_dump(mode="json"), indent=1) + "\n")


if __name__ == "__main__":
    main()
