"""What the methods reach on the demo, over five seeds: means with 95 % intervals, and paired differences.

A seed changes the split into owners, train and test, the initial values, the batches and who answers in time; the
images and the pretrained backbone are the same. So the intervals say nothing about other images.
"""

from math import sqrt
from pathlib import Path
from statistics import mean, stdev

from benchmarks import kept, process
from benchmarks.kept import Kept
from benchmarks.machine import Where
from schemas.base import Frozen

SEEDS = (0, 1, 2, 3, 4)
T = 2.776
"""Student's t for 4 degrees of freedom, two-sided 95 %: what goes with five seeds."""

_PAPER = "method={name: fedclip, params: {preset: paper}}"
_EXACT = ("codec={name: raw}", "rounds.staleness=constant", "rounds.versions=4")
METHODS: dict[str, tuple[str, ...]] = {
    "zero_shot": ("method={name: zero_shot}",),
    "fedclip paper": (_PAPER,),
    "fedclip paper, 200 versions": (_PAPER, "rounds.versions=200"),
    "fedclip default": ("method={name: fedclip, params: {preset: default}}",),
    "fedavg linear": ("method={name: fedavg}",),
    "fedavg residual": ("method={name: fedavg, params: {adapter: residual}}",),
    "promptfl": ("method={name: promptfl}",),
    "fedavg lora": ("method={name: fedavg, params: {adapter: lora, lr: 0.001, weight_decay: 0}}", "rounds.versions=10"),
    "fedavg tower": (
        "method={name: fedavg, params: {adapter: tower, lr: 0.0001, weight_decay: 0}}",
        "rounds.versions=10",
    ),
    "ridge": ("method={name: ridge}", *_EXACT),
    "local_only": ("method={name: local_only}",),
    "perada": ("method={name: perada}", "public={name: shapes, params: {per_class: 10, seed: 77}}"),
    "licfl": ("method={name: licfl}", "rounds.versions=60"),
    "centralised": ("method={name: centralised}", "rounds.in_flight=1", "rounds.quorum=1", "rounds.floor=1"),
}
NUMBERS = ("mean", "worst", "held_out")
LARGER = ("data.params.per_class=120",)
"""Three times the demo's images per owner."""


class Score(Frozen):
    """One run. Accuracies 0 to 1: mean and worst over the clients' test splits, and the held-out domain. Bytes."""

    mean: float
    worst: float
    held_out: float
    bytes_up: int
    bytes_down: int
    seconds: float


class Scores(Kept):
    """{method: {seed: score}}, for one state of the code."""

    scores: dict[str, dict[int, Score]] = {}


def measure(results: Path, cache: Path, where: Where, *changes: str) -> Scores:
    """Run what the results of this commit lack, and write them after every run. cache: where features are kept.

    changes: of the demo, for all methods.
    """
    found = kept.begun(results, Scores, where)
    for method, seed in missing(found):
        score = score_of((*changes, *METHODS[method]), seed, cache)
        found.scores.setdefault(method, {})[seed] = score
        kept.keep(results, found)
    return found


def missing(found: Scores) -> list[tuple[str, int]]:
    """(method, seed) of the runs that are still to be done."""
    return [(m, s) for m in METHODS for s in SEEDS if s not in found.scores.get(m, {})]


def score_of(overrides: tuple[str, ...], seed: int, cache: Path) -> Score:
    """One run of the demo with these changes."""
    experiment = process.demo(*overrides, f"seed={seed}", "evaluate={every: 0, final: true}")
    _, outcome = process.run(experiment, cache)
    report = outcome.report
    reached = report.accuracy
    held = [h.final for h in reached.held_out.values()]
    score = {
        "mean": reached.mean,
        "worst": reached.worst,
        "held_out": mean(h for h in held if h is not None),
        "bytes_up": report.bytes_up,
        "bytes_down": report.bytes_down,
        "seconds": round(report.seconds, 2),
    }
    return Score.model_validate(score)


def interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval over five seeds."""
    assert len(values) == len(SEEDS), "t goes with the number of seeds"
    return mean(values), T * stdev(values) / sqrt(len(values))


def values(found: Scores, method: str, number: str) -> list[float]:
    """One number of a method in percent, by seed."""
    return [100 * float(getattr(found.scores[method][seed], number)) for seed in SEEDS]


def differences(found: Scores, method: str, other: str, number: str) -> list[float]:
    """By seed, how many points a method is above another."""
    pairs = zip(values(found, method, number), values(found, other, number), strict=True)
    return [a - b for a, b in pairs]
