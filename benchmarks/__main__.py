"""`python -m benchmarks [WHAT ...]`: measure all, or what is named, and write docs/benchmarks.md.

WHAT: overhead, throughput, memory, recovery, embedded, many, crowd, encode, epoch, accuracy, accuracy_larger,
hostile, first_run, race. `page` only writes the page, with what `make chaos` and `make soak` have kept by --record;
`tuning` chooses a preset once more.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
from pydantic import BaseModel

from benchmarks import (
    accuracy,
    crowd,
    embedded,
    encode,
    epoch,
    first_run,
    hostile,
    kept,
    many,
    memory,
    overhead,
    page,
    race,
    recovery,
    throughput,
    tuning,
)
from benchmarks.machine import here
from infra import logs, settings


def _measured(name: str, measure: Callable[[], BaseModel]) -> None:
    began = time.perf_counter()
    click.echo(f"{name}: load {here().load:g} ...", err=True)
    found = measure()
    if not isinstance(found, kept.Kept):  # that has been kept run by run
        (page.RESULTS / f"{name}.json").write_text(found.model_dump_json(indent=1) + "\n")
    click.echo(f"{name}: {time.perf_counter() - began:.0f} s", err=True)


def _draw() -> None:
    from benchmarks import race_plot  # noqa: PLC0415 (matplotlib, which nothing else needs)

    if found := kept.newest(page.RESULTS / "race.json", race.Race, lambda r: not race.missing(r)):
        race_plot.draw(found, page.PAGE.parent / "images" / "race.png")


def _measures(cache: Path) -> dict[str, Callable[[], BaseModel]]:
    return {
        "overhead": overhead.measure,
        "throughput": throughput.measure,
        "memory": memory.measure,
        "recovery": recovery.measure,
        "embedded": lambda: embedded.measure(cache),
        "many": many.measure,
        "crowd": crowd.measure,
        "encode": encode.measure,
        "epoch": epoch.measure,
        "accuracy": lambda: accuracy.measure(page.RESULTS / "accuracy.json", cache, here()),
        "accuracy_larger": lambda: accuracy.measure(
            page.RESULTS / "accuracy_larger.json", cache, here(), *accuracy.LARGER
        ),
        "hostile": lambda: hostile.measure(page.RESULTS / "hostile.json", cache, here()),
        "first_run": first_run.measure,
        "race": lambda: race.measure(page.RESULTS / "race.json", cache, here()),
    }


@click.command(help=__doc__)
@click.argument("what", nargs=-1)
def main(what: tuple[str, ...]) -> None:
    cache = settings.read().cache
    measures = _measures(cache)
    unknown = set(what) - {*measures, "page", "tuning"}
    if unknown:
        raise click.UsageError(f"no benchmark {', '.join(sorted(unknown))}; there are: {', '.join(measures)}")
    logs.setup("warning")
    page.RESULTS.mkdir(exist_ok=True)
    for name in what or measures:
        if name in measures:
            _measured(name, measures[name])
            if name == "race":
                _draw()
        elif name == "tuning":
            tuning.tune(page.RESULTS / "tuning.json", cache)
    page.write()
    click.echo(f"wrote {page.PAGE.relative_to(Path(__file__).parent.parent)}", err=True)


if __name__ == "__main__":
    sys.exit(main())
