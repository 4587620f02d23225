"""Who has how much of what, as a picture: a row for each client, a column for each class.

Knows owners and matplotlib (the extra `report`). Must not know experiments or files.
"""

import io
import re
import warnings
from collections.abc import Sequence
from math import ceil

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from workers.data.owners import Owner, Owners

CELL_IN = 0.42
"""Inches of a cell, at most."""
LARGEST_IN = (11.0, 13.0)
"""Width and height of all cells together, at most: with more of them, each is smaller."""
NUMBERED_IN = 0.3
"""Cells at least so high and wide say their number; others have a scale of colours."""
LINED_IN = 0.08
"""Cells at least so high and wide have lines between them."""
LINE_IN = 0.13
"""What one line of small print needs. Where cells are smaller, not every row or column has its name."""
PARTS = {"train": "#0072B2", "val": "#56B4E9", "test": "#E69F00"}
"""Okabe and Ito's palette, which the colour-blind can tell apart."""


def counts(owners: Owners) -> tuple[list[str], NDArray[np.int64]]:
    """Names, the held-out ones last and with a star, and their images by class: int64 (owners, classes)."""
    names = [f"{o.name} *" if o.name in owners.held_out else o.name for o in _ordered(owners)]
    rows = [np.bincount(o.images.labels, minlength=len(owners.classes)) for o in _ordered(owners)]
    return names, np.array(rows, dtype=np.int64)


def picture(owners: Owners, title: str, kind: str = "png") -> bytes:
    """The file: cells coloured by their number of images, beside them what each owner has in train, val and test."""
    names, table = counts(owners)
    width, height = (min(CELL_IN, most / n) for most, n in zip(LARGEST_IN, table.T.shape, strict=True))
    wide, high = width * table.shape[1], height * table.shape[0]
    figure = Figure(figsize=(wide + 4.2, high + 2.2), layout="constrained")
    cells, bars = figure.subplots(1, 2, sharey=True, width_ratios=(max(wide, 1.5), 1.6))
    _cells(cells, table, min(width, height))
    _name(cells.yaxis, names, height)
    _name(cells.xaxis, owners.classes, width)
    _bars(bars, _ordered(owners))
    figure.suptitle(_said(title, owners), fontsize=10)
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # of a script that the font lacks: it draws a box
        figure.savefig(out, format=kind, dpi=150)
    return out.getvalue()


def _ordered(owners: Owners) -> list[Owner]:
    """As people count, client-2 before client-10; the held-out ones last."""
    return [part[name] for part in (owners.clients, owners.held_out) for name in sorted(part, key=_numbered)]


def _numbered(name: str) -> list[str | int]:
    return [int(text) if text.isdigit() else text for text in re.split(r"(\d+)", name)]


def _cells(axes: Axes, table: NDArray[np.int64], cell: float) -> None:
    """None at all is white, so that a class which a client lacks is seen at once."""
    norm = PowerNorm(0.5, 0, table.max())  # by roots, as the area of a bubble: small numbers stay visible
    shown = np.ma.masked_equal(table, 0)
    drawn = axes.imshow(shown, cmap="Blues", norm=norm, aspect="auto", interpolation="nearest")
    axes.tick_params(axis="x", labelrotation=90)
    axes.xaxis.tick_top()
    if cell >= LINED_IN:
        axes.set_xticks(np.arange(-0.5, table.shape[1]), minor=True)
        axes.set_yticks(np.arange(-0.5, table.shape[0]), minor=True)
        axes.grid(which="minor", color="#dddddd", lw=0.4)
    axes.tick_params(which="both", length=0)
    if cell >= NUMBERED_IN:
        for (row, column), number in np.ndenumerate(table):
            axes.text(column, row, str(number) if number else "", ha="center", va="center", fontsize=7,
                      color="white" if number > 0.36 * table.max() else "black")  # fmt: skip
    else:
        bar = axes.figure.colorbar(drawn, ax=axes, location="bottom", shrink=0.4, aspect=40, pad=0.005)
        bar.ax.tick_params(labelsize=7)
        bar.set_label("images of a class", fontsize=8)


def _name(axis: Axis, names: Sequence[str], cell: float) -> None:
    step = max(1, ceil(LINE_IN / cell))
    axis.set_ticks(range(0, len(names), step), names[::step], fontsize=7, parse_math=False)  # a $ in a name is a $


def _bars(axes: Axes, owners: Sequence[Owner]) -> None:
    left = np.zeros(len(owners))
    for part, colour in PARTS.items():
        width = np.array([len(getattr(owner.parts, part)) for owner in owners])
        axes.barh(range(len(owners)), width, left=left, color=colour, label=part, height=0.8)
        left += width
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", which="both", length=0, labelleft=False)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_xlabel("images", fontsize=8)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=7, frameon=False,
                handlelength=1, columnspacing=0.8)  # fmt: skip


def _said(title: str, owners: Owners) -> str:
    held = "; * held out" if owners.held_out else ""
    return f"{title}: images by client and class ({len(owners.clients)} x {len(owners.classes)}{held})"
