"""The report of a run as tables on stdout, and the stdout that tables are printed on. Reads a report only."""

import re
import sys
from typing import IO, Any, cast

from rich import box
from rich.console import Console
from rich.table import Table

from orchestrator.wording import percent, plain, size
from schemas.log import Share
from schemas.report import Report


def show(report: Report, console: Console) -> None:
    """The report as tables."""
    if report.accuracy.final:
        console.print(_table(report, console.width))
    if report.accuracy.held_out:
        console.print("* held out: nobody trains on it", highlight=False)
    lagged = f", mean staleness {report.mean_staleness:.2f} versions"
    console.print(
        f"{report.status}: version {report.version} in {report.seconds:.1f} s"
        + (f" ({report.virtual_seconds:.1f} s of virtual time)" if report.virtual_seconds is not None else "")
        + (f"\nreason: {plain(report.reason)}" if report.reason else ""),
        highlight=False,
        markup=False,
    )
    console.print(
        f"up {size(report.bytes_up)}, down {size(report.bytes_down)}, wasted {percent(report.wasted_share)} of the "
        f"asked updates{lagged}, {report.encodes} images encoded",
        highlight=False,
    )
    if report.adapter_sha256:
        console.print(f"adapter sha256 {report.adapter_sha256}", highlight=False, soft_wrap=True)


def _table(report: Report, width: int) -> Table:
    numbers = ("zero-shot", "final", "asked", "accepted", "late", "rejected", "lost", "weight")
    title = f"run {report.run}: accuracy in %, updates, share of the weight in %"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    # A long name is cut, so that no number is.
    table.add_column("client", no_wrap=True, max_width=max(8, width - sum(len(name) + 1 for name in numbers)))
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    accuracy, total = report.accuracy, sum(s.weight for s in report.ledger.values())
    for client, final in accuracy.final.items():
        share = report.ledger.get(client, Share())
        counts = (share.asked, share.accepted, share.late, share.rejected, share.lost)
        weight = _percent(share.weight / total if total else None)
        table.add_row(client, _percent(accuracy.zero_shot[client]), _percent(final), *map(str, counts), weight)
    known = [a for a in accuracy.zero_shot.values() if a is not None]
    table.add_section()
    table.add_row("mean", _percent(sum(known) / len(known) if known else None), _percent(accuracy.mean))
    table.add_row("worst", _percent(min(known, default=None)), _percent(accuracy.worst))
    table.add_section()
    for domain, held in accuracy.held_out.items():
        table.add_row(f"{domain} *", _percent(held.zero_shot), _percent(held.final))
    return table


def _percent(value: float | None) -> str:
    return percent(value).removesuffix(" %")


class _Trimmed:
    """A stream without blanks at the ends of lines, which rich fills columns and wrapped lines up with."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(re.sub(" +\n", "\n", text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def stdout() -> Console:
    """Where tables are printed."""
    return Console(file=cast(IO[str], _Trimmed(sys.stdout)))
