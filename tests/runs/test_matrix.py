"""Any method with any codec, selector, aggregator and mode: it runs, or is refused in one sentence.

Plugins are found on disk. Here every pair of parts that may go together runs in some run; `make test-matrix`
(QUORATE_MATRIX=1) runs every cell that is allowed.
"""

import os
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest

from orchestrator.families import FAMILIES
from orchestrator.plan import plan
from schemas.errors import ConfigError
from schemas.experiment import Experiment
from tests.runs.here import run
from tests.runs.test_embedded import SLOW, SYNC, small
from tests.toys import paint
from workers.plugins import names

Cell = tuple[str, str, str, str, str]
"""Method, codec, selector, aggregator, mode."""

WHOLE = bool(os.environ.get("QUORATE_MATRIX"))
INSIDE = ("lora", "tower")
"""Adapters of fedavg that stand for methods here: clients train on images, inside the image tower."""

TWO = {**SYNC, "versions": 2, "floor": 4}
LATE = {"max_staleness": 3, "staleness": "constant"}
MODES: dict[str, dict[str, Any]] = {
    "synchronous": {"rounds": TWO},
    "k of n": {"rounds": {**TWO, **LATE, "in_flight": 5, "floor": 1, "quorum": 4, "grace_s": 0.1}, "simulate": SLOW},
    "buffered": {"rounds": {**TWO, **LATE, "floor": 4, "refill": "at_arrival"}, "simulate": SLOW},
}
PARAMS: dict[str, dict[str, Any]] = {
    "perada": {"steps": 3, "distilled": 1}, "krum": {"hostile": 0}, "median": {"hostile": 0},
    "trimmed_mean": {"hostile": 0}, "adafl": {"start": 1.0, "end": 1.0}, "oort": {"window": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("images"), per_class=6)


def cells() -> list[Cell]:
    methods, *families = [names(FAMILIES[family]) for family in ("method", "codec", "selector", "aggregator")]
    return list(product((*methods, *INSIDE) if WHOLE else methods, *families, MODES))


def experiment(images: Path, cell: Cell) -> Experiment:
    method, codec, selector, aggregator, mode = cell
    chosen = {"method": method, "codec": codec, "selector": selector, "aggregator": aggregator}
    parts = {family: {"name": name, "params": PARAMS.get(name, {})} for family, name in chosen.items()}
    if method in INSIDE:
        parts["method"] = {"name": "fedavg", "params": {"adapter": method}}
    rounds = dict(MODES[mode]["rounds"])
    if mode == "k of n" and aggregator in ("krum", "geometric_median"):
        rounds["floor"] = 3
    alone = {"in_flight": 1, "quorum": 1, "floor": 1} if method == "centralised" else {}
    public = {"name": "folder", "params": {"root": str(images)}} if method == "perada" else None
    quiet = {"every": 0, "final": False}
    backbone = "tiny" if method == "promptfl" else "tests.toys:ToyBackbone"  # which has no text tower
    return small(images, **{**MODES[mode], **parts, "rounds": {**rounds, **alone}, "public": public, "evaluate": quiet,
                             "model": {"backbone": {"name": backbone}}})  # fmt: skip


@cache
def refusal(images: Path, cell: Cell) -> str:
    """Why a cell is refused, or nothing."""
    try:
        plan(experiment(images, cell))
    except ConfigError as e:
        return str(e)
    return ""


def pairs(cell: Cell) -> set[tuple[tuple[int, str], tuple[int, str]]]:
    return set(combinations(enumerate(cell), 2))


def selection(allowed: list[Cell]) -> Iterator[Cell]:
    """Few cells in which every pair of any allowed one occurs: greedily the one with most new pairs."""
    missing = set().union(*map(pairs, allowed))
    left = list(allowed)
    while missing:
        best = max(left, key=lambda cell: len(pairs(cell) & missing))
        missing -= pairs(best)
        left.remove(best)
        yield best


def test_every_cell_is_allowed_or_refused_in_one_sentence_and_most_are_allowed(images: Path) -> None:
    found = {cell: refusal(images, cell) for cell in cells()}
    assert all("\n" not in why and len(why) < 300 for why in found.values())
    refused = [why for why in found.values() if why]
    reasons = Counter(why.split()[0] + " " + " ".join(w for w in why.split() if w.isalpha())[:60] for why in refused)
    assert len(refused) / len(found) <= 0.4, reasons.most_common()


def test_every_pair_that_is_allowed_runs(images: Path, tmp_path: Path) -> None:
    allowed = [cell for cell in cells() if not refusal(images, cell)]
    chosen = allowed if WHOLE else list(selection(allowed))
    for n, cell in enumerate(chosen):
        report = run(experiment(images, cell), tmp_path / str(n)).report
        assert (report.status, report.version) == ("finished", 0 if cell[0] == "zero_shot" else 2), cell
    print(f"{len(chosen)} of {len(allowed)} allowed cells ran, of {len(cells())}")


@pytest.mark.parametrize(
    "cell", [("lora", "int8", "adafl", "mean", "k of n"), ("tower", "cvlc", "uniform", "median", "buffered")], ids=str
)
def test_two_cells_inside_the_image_tower_run(images: Path, tmp_path: Path, cell: Cell) -> None:
    report = run(experiment(images, cell), tmp_path).report
    assert (report.status, report.version) == ("finished", 2)
