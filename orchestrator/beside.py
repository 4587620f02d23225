"""A comparison as text, 80 columns wide. Knows comparisons; must not know stores or events."""

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.wording import percent, plain, size
from schemas.comparison import Comparison, Estimate

TITLES = {"mean": "mean", "worst": "worst", "held_out": "held out"}


def show(found: Comparison, console: Console) -> None:
    """Print the runs, what the groups are, and how they compare."""
    _say(console, "accuracy of the last version in %")
    console.print(_runs(found, console.width))
    if any(line.virtual for line in found.runs):
        _say(console, "s: seconds of virtual time" + ("" if all(r.virtual for r in found.runs) else " where marked v"))
    _say(console, "")
    for group in found.groups:
        own = "".join(f", {path}={value}" for path, value in group.differs.items() if path not in _SHOWN)
        _say(console, f"{group.group}: {group.method}, {group.codec}, {group.mode}{own}")
    if any(e.seeds > 1 for group in found.groups for e in group.estimates.values()):
        _say(console, "\nover seeds: mean ± half of the 95 % interval, in %")
        console.print(_estimates(found, console.width))
    if found.differences:
        _say(console, "differences are paired by seed; one whose interval leaves out 0 is one at 95 %")
        _say(console, "(not corrected for how many are looked at)")


_SHOWN = ("method.name", "codec.name", "rounds.quorum", "rounds.in_flight")
"""Settings that every line of a group tells anyway."""


def _say(console: Console, text: str) -> None:
    for line in text.split("\n"):
        console.print(plain(line), markup=False, highlight=False)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Table:
    """A table whose first column is cut, if it must be, so that no number is."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    others = sum(max(len(row[i]) for row in (head, *rows)) + 1 for i in range(1, len(head)))
    table.add_column(head[0], overflow="ellipsis", no_wrap=True, max_width=max(8, width - others))
    for name in head[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _runs(found: Comparison, width: int) -> Table:
    head = ("run", "group", "seed", "version", *TITLES.values(), "up", "down", "s")
    mixed = len({line.virtual for line in found.runs}) > 1
    rows = []
    for r in found.runs:
        version = str(r.version) if r.status == "finished" else f"{r.version} {r.status}"
        accuracy = [_percent(getattr(r, number)) for number in TITLES]
        seconds = f"{r.seconds:.1f}" + (" v" if mixed and r.virtual else "")
        rows.append((r.run, r.group, str(r.seed), version, *accuracy, size(r.bytes_up), size(r.bytes_down), seconds))
    return _table(head, rows, width)


def _estimates(found: Comparison, width: int) -> Table:
    rows = [_cells(group.group, group.estimates) for group in found.groups]
    rows += [_cells(f"{d.group} - {d.minus}", d.estimates, sign="+") for d in found.differences]
    return _table(("group", "seeds", *TITLES.values()), rows, width)


def _cells(name: str, estimates: Mapping[str, Estimate], sign: str = "") -> Sequence[str]:
    counts = [e.seeds for e in estimates.values()]
    shown = (_estimate(estimates.get(number), sign) for number in TITLES)
    return [name, str(max(counts, default=0)), *(f"  {text}" for text in shown)]


def _estimate(found: Estimate | None, sign: str) -> str:
    if found is None:
        return "–"
    middle = f"{100 * found.mean:{sign}.1f}"
    return middle if found.high is None else f"{middle} ± {100 * (found.high - found.mean):.1f}"


def _percent(value: float | None) -> str:
    return percent(value).removesuffix(" %")
