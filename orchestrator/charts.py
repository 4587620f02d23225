"""The plots of a run's page as SVG, drawn by matplotlib. Knows findings; must not know HTML or where events lie.

Names come from workers: nothing in them is markup, and matplotlib escapes them. Text stays text in the SVG, so that
the browser sets it and one can search for it. Colours are Okabe and Ito's, which the colour-blind can tell apart.
"""

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from orchestrator.findings import FATES, Client, Curve, Findings, fates
from orchestrator.wording import plain

HALF, WHOLE = 5.3, 10.9
"""Widths in inches: two plots beside one another, or one alone."""
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#767676"
FATE = dict(zip(FATES, ("#0072B2", "#56B4E9", "#CC79A7", "#D55E00", "#E69F00"), strict=True))
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "text.parse_math": False, "font.size": 10, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.linewidth": 0.4, "grid.alpha": 0.5,
    "legend.frameon": False, "figure.constrained_layout.use": True,
}  # fmt: skip
DATA, WEIGHT = "share of the training images", "share of the weight"
NAMED = 40
"""Most clients that have a line of their own in a plot."""
LABELLED = 6
"""Most domains that have a colour of their own."""


def charts(found: Findings) -> dict[str, str]:
    """Every plot that has something to show, by name, as an `<svg>` element."""
    plots: dict[str, tuple[Callable[[Axes, Findings], None], float, float]] = {
        "accuracy_versions": (_accuracy_versions, HALF, 3.4),
        "accuracy_seconds": (_accuracy_seconds, HALF, 3.4),
        "seconds": (_seconds, HALF, 2.9),
        "updates": (_updates, HALF, 2.9),
        "clients": (_fates, WHOLE, 1.0 + 0.2 * min(len(found.clients), NAMED)),
        "staleness": (_staleness, HALF, 2.7),
        "bytes": (_bytes, HALF, 2.7),
        "shares": (_shares, WHOLE, 1.0 + 0.2 * len(found.clients) if len(found.clients) <= NAMED else 3.4),
    }
    shown = {name for name, there in _there(found).items() if there}
    return {name: _svg(name, *plot, found) for name, plot in plots.items() if name in shown}


def _there(found: Findings) -> dict[str, bool]:
    rounds, time = bool(found.story.rounds), found.seconds > 0  # none passes in one process where nobody is slow
    accuracy = bool(found.curves or found.held_out)
    return {
        "accuracy_versions": accuracy, "accuracy_seconds": accuracy and time, "seconds": rounds and time,
        "updates": rounds, "clients": rounds and 0 < len(found.clients) <= NAMED, "staleness": bool(found.lags),
        "bytes": any(found.bytes_down), "shares": any(c.weight for c in found.clients),
    }  # fmt: skip


def _svg(name: str, draw: Callable[[Axes, Findings], None], width: float, height: float, found: Findings) -> str:
    out = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the browser has the fonts for names of every script
        figure = Figure(figsize=(width, height))
        draw(figure.add_subplot(), found)
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = out.getvalue()
    svg = re.sub(r'<g id="\w+">', "<g>", svg[svg.index("<svg") :])  # nothing refers to them, and a page has many plots
    return svg.replace("<svg ", f'<svg role="img" aria-label="{name.replace("_", " over ")}" ', 1)


def _accuracy_versions(axes: Axes, found: Findings) -> None:
    _accuracy(axes, found, lambda curve: curve.versions)
    axes.set(xlabel="version")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _accuracy_seconds(axes: Axes, found: Findings) -> None:
    _accuracy(axes, found, lambda curve: curve.seconds)
    axes.set(xlabel="virtual seconds" if found.started.get("virtual") else "seconds")


def _accuracy(axes: Axes, found: Findings, x: Callable[[Curve], Sequence[float]]) -> None:
    colours = dict(zip(found.domains, PALETTE, strict=False)) if len(found.domains) <= LABELLED else {}
    domain_of = {c.name: c.domain for c in found.clients}
    for name, curve in found.curves.items() if len(found.curves) <= NAMED else ():
        axes.plot(x(curve), curve.values, color=colours.get(domain_of.get(name, ""), GREY), lw=0.6, alpha=0.35)
    ends: dict[str, tuple[Curve, str]] = {}
    for domain, colour in colours.items():
        ends[domain] = (found.domains[domain], colour)
    for owner, curve in found.held_out.items() if len(found.held_out) <= LABELLED else ():
        ends[f"{owner} *"] = (curve, GREY)
    ends |= {"mean": (found.mean, "black"), "worst": (found.worst, "black")}
    ends = {name: (curve, colour) for name, (curve, colour) in ends.items() if curve.versions}
    for name, (curve, colour) in ends.items():
        style = "--" if name == "worst" or name.endswith(" *") else "-"
        axes.plot(x(curve), curve.values, style, color=colour, lw=1.8, marker="o", ms=2.5)
    _label(axes, {name: (x(curve)[-1], curve.values[-1], colour) for name, (curve, colour) in ends.items()})
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.set(ylabel="accuracy")


def _label(axes: Axes, ends: Mapping[str, tuple[float, float, str]]) -> None:
    """Names at the right of where the lines end, none over another."""
    right = max((x for x, _, _ in ends.values()), default=0.0)
    places = _apart({name: y for name, (_, y, _) in ends.items()}, *axes.get_ylim())
    for name, (x, y, colour) in ends.items():
        axes.annotate(
            _short(name), (x, y), (right + 0.03 * (right or 1), places[name]), color=colour, va="center", fontsize=9,
            annotation_clip=False, arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.6},
        )  # fmt: skip


def _apart(heights: Mapping[str, float], low: float, high: float) -> dict[str, float]:
    """Heights moved apart: upwards from the lowest, then downwards from the top, so that none is above it."""
    gap, floor, ceiling = 0.065 * (high - low), low, high
    found: dict[str, float] = {}
    for name in sorted(heights, key=lambda n: heights[n]):
        found[name] = max(heights[name], floor)
        floor = found[name] + gap
    for name in reversed(list(found)):
        found[name] = min(found[name], ceiling)
        ceiling = found[name] - gap
    return found


def _seconds(axes: Axes, found: Findings) -> None:
    rounds = found.story.rounds
    at = [r.version for r in rounds]
    quorum = [r.quorum_s or 0.0 for r in rounds]
    axes.bar(at, quorum, color=PALETTE[0], label="to the quorum")
    axes.bar(at, [r.grace_s or 0.0 for r in rounds], bottom=quorum, color=PALETTE[5], label="in grace")
    none = [r.seconds or 0.0 if r.quorum_s is None else 0.0 for r in rounds]
    if any(none):
        axes.bar(at, none, color=PALETTE[4], label="closed without quorum")
    axes.set(xlabel="version", ylabel="virtual seconds" if found.started.get("virtual") else "seconds")
    _legend(axes, at, len(axes.containers))


def _updates(axes: Axes, found: Findings) -> None:
    rounds = found.story.rounds
    at, bottom = [r.version for r in rounds], [0] * len(rounds)
    for fate, colour in FATE.items():
        counts = [len(getattr(r, fate)) for r in rounds]
        if any(counts) or fate == "counted":
            axes.bar(at, counts, bottom=bottom, color=colour, label=fate)
        bottom = [b + n for b, n in zip(bottom, counts, strict=True)]
    axes.set(xlabel="version", ylabel="clients")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _legend(axes, at, len(axes.containers))


def _legend(axes: Axes, at: Sequence[int], columns: int) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(visible=False, axis="x")
    axes.set_xlim(min(at) - 0.6, max(at) + 0.6)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, fontsize=9, handlelength=1, columnspacing=1)


def _fates(axes: Axes, found: Findings) -> None:
    """A row per client, a column per version; blank where it was not in the round."""
    versions, known = [r.version for r in found.story.rounds], fates(found.story.rounds)
    names = [c.name for c in found.clients]
    index = {fate: i + 1 for i, fate in enumerate(FATES)}
    cells = [[index[known[n, v]] if (n, v) in known else 0 for v in versions] for n in names]
    edges = (versions[0] - 0.5, versions[-1] + 0.5, len(names) - 0.5, -0.5)
    axes.imshow(
        cells, aspect="auto", interpolation="nearest", extent=edges, vmin=0, vmax=len(FATES),
        cmap=ListedColormap(["#f2f2f2", *FATE.values()]),
    )  # fmt: skip
    axes.set_yticks(range(len(names)), [_short(n) for n in names], fontsize=8)
    axes.hlines([i + 0.5 for i in range(len(names) - 1)], edges[0], edges[1], color="white", lw=1.5)
    axes.set(xlabel="version")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(visible=False)
    keys = [Patch(color=colour, label=fate) for fate, colour in FATE.items()]
    axes.legend(
        handles=[*keys, Patch(color="#f2f2f2", label="not in the round")],
        loc="lower left", bbox_to_anchor=(0, 1), ncols=6, fontsize=9, handlelength=1, columnspacing=1,
    )  # fmt: skip


def _staleness(axes: Axes, found: Findings) -> None:
    lags = range(max(found.lags) + 1)
    bars = axes.bar(list(lags), [found.lags[lag] for lag in lags], color=PALETTE[0])
    if len(lags) <= 12:
        axes.bar_label(bars, fontsize=9)
    axes.set(xlabel="versions that an update lagged", ylabel="counted updates")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(visible=False, axis="x")


def _bytes(axes: Axes, found: Findings) -> None:
    rounds = range(1, len(found.bytes_up) + 1)
    for name, counts, colour in (("down", found.bytes_down, PALETTE[1]), ("up", found.bytes_up, PALETTE[0])):
        sums = [n / 1e6 for n in accumulate(counts)]
        axes.step([0, *rounds], [0.0, *sums], color=colour, where="post", label=name)
    axes.set(xlabel="rounds", ylabel="MB since the beginning")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=9, handlelength=1, columnspacing=1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _shares(axes: Axes, found: Findings) -> None:
    """By name while they are few, else a point each, in order of the weight."""
    known = [c for c in found.clients if c.data is not None and c.weight is not None]
    (_by_name if len(known) <= NAMED else _by_rank)(axes, known)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=9, handlelength=1, columnspacing=1)


def _by_name(axes: Axes, known: Sequence[Client]) -> None:
    rows, data, weight = range(len(known)), [c.data or 0.0 for c in known], [c.weight or 0.0 for c in known]
    axes.hlines(rows, data, weight, color=GREY, lw=1.2)
    axes.plot(data, rows, "|", color="black", ms=11, mew=2, label=DATA)
    axes.plot(weight, rows, "o", color=PALETTE[0], ms=6, label=WEIGHT)
    axes.set_yticks(rows, [_short(c.name) for c in known], fontsize=8)
    axes.set(ylim=(len(known) - 0.5, -0.5), xlim=(0, 1.06 * max(*data, *weight)))
    axes.xaxis.set_major_formatter(_share)


def _by_rank(axes: Axes, known: Sequence[Client]) -> None:
    ranked = sorted(known, key=lambda c: (c.weight or 0.0, c.data or 0.0), reverse=True)
    places = range(1, len(ranked) + 1)
    axes.plot(places, [c.data or 0.0 for c in ranked], "o", color="black", ms=2.5, mew=0, alpha=0.5, label=DATA)
    axes.plot(places, [c.weight or 0.0 for c in ranked], "o", color=PALETTE[0], ms=3.5, mew=0, label=WEIGHT)
    axes.set(xlabel="clients, in the order of their weight", ylim=(0, None))
    axes.yaxis.set_major_formatter(_share)


def _share(value: float, _: float) -> str:
    return f"{100 * value:.3g} %"


def _short(name: str) -> str:
    """A name that leaves room for the plot. A line break in it would be one in the plot."""
    text = plain(name)
    return text if len(text) <= 24 else f"{text[:21]}..."
