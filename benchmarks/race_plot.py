"""docs/images/race.png: accuracy over virtual time, a line per mode. Draws what was measured, measures nothing."""

from pathlib import Path
from statistics import mean, stdev

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.race import HORIZON_S, MODES, TARGET, Race

COLOURS = {
    "synchronous": "#555555",
    "synchronous, 20": "#555555",
    "over-selection": "#D55E00",
    "k of n": "#CC79A7",
    "FedAsync": "#E69F00",
    "FedBuff": "#0072B2",
    "FedBuff, 5": "#56B4E9",
}
"""Okabe and Ito's palette, which the colour-blind can tell apart. A mode of the same rule is dashed, too."""
DASHED = ("synchronous, 20", "FedBuff, 5")
GAP = 0.034
"""Least distance of two labels, as accuracy."""


def draw(found: Race, path: Path) -> None:
    """Write the picture. Bands are one standard deviation over the seeds on either side."""
    figure = Figure(figsize=(8.4, 4.6), layout="constrained")
    axes = figure.add_subplot()
    ends = {mode: _line(axes, found, mode) for mode in MODES}
    for mode, (end, label) in _apart(ends).items():
        axes.annotate(
            mode, (HORIZON_S, end), (HORIZON_S + 2.6, label), color=COLOURS[mode], va="center", fontsize=10,
            annotation_clip=False, arrowprops={"arrowstyle": "-", "color": COLOURS[mode], "lw": 0.8},
        )  # fmt: skip
    _dress(axes)
    figure.savefig(path, dpi=160, metadata={"Software": None})


def _line(axes: Axes, found: Race, mode: str) -> float:
    """The mean over the seeds; where it ends."""
    by_second = list(zip(*(course.curve for course in found.courses[mode].values()), strict=True))
    middle = [float(mean(values)) for values in by_second]
    seconds = range(len(middle))
    style = "--" if mode in DASHED else "-"
    axes.plot(seconds, middle, style, color=COLOURS[mode], lw=1.8)
    if mode not in DASHED:
        spread = [stdev(values) if len(values) > 1 else 0.0 for values in by_second]
        low, high = ([m + sign * s for m, s in zip(middle, spread, strict=True)] for sign in (-1, 1))
        axes.fill_between(seconds, low, high, color=COLOURS[mode], alpha=0.14, lw=0)
    return float(middle[-1])


def _apart(ends: dict[str, float]) -> dict[str, tuple[float, float]]:
    """(where the line ends, where its label stands), from the lowest up."""
    found: dict[str, tuple[float, float]] = {}
    lowest = 0.0
    for mode, end in sorted(ends.items(), key=lambda item: item[1]):
        lowest = max(end, lowest + GAP)
        found[mode] = (end, lowest)
    return found


def _dress(axes: Axes) -> None:
    axes.axhline(TARGET, color="black", lw=0.9, ls=":")
    axes.text(0.6, TARGET + 0.006, f"target {100 * TARGET:.0f} %", va="bottom", fontsize=9)
    axes.set(xlim=(0, HORIZON_S), ylim=(0, None), xlabel="virtual seconds", ylabel="accuracy")
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", lw=0.4, alpha=0.5)
