"""The sections on accuracy of docs/benchmarks.md. Measures nothing."""

from statistics import median

from benchmarks import accuracy, process
from benchmarks.accuracy import LARGER, METHODS, NUMBERS, SEEDS, Scores
from benchmarks.markdown import place, table

HEADS = ["method", "mean", "worst", "held out", "MB up", "MB down", "s per run"]
GATE = """What the paper's gate can do: weigh the coordinates of an image's feature, each by a positive number that
depends on the image. What it cannot: turn a feature, flip a sign or move a class text; so it sharpens what zero-shot
half knows, and a class that the texts place wrongly stays wrong. A linear head moves the classes, LoRA the features."""


def demo(found: Scores) -> str:
    """The demo."""
    return f"""## Accuracy on the demo

`experiments/demo.yaml` but for the options below, seeds {SEEDS[0]} to {SEEDS[-1]}: mean ± half of the 95 % interval
(Student t, {len(SEEDS) - 1} degrees of freedom), in percent. *mean* and *worst* are over the 12 clients' test splits,
*held out* is the domain that nobody trains on. A seed changes owners, splits, batches, initial values and who answers
in time, not the images or the backbone, so the intervals say nothing about other images, and zero-shot on the held-out
domain is one number. A client tests on 24 images: *worst* moves in steps of 4.2 points. The demo's 20 versions are not
the setting of the paper's preset (200 rounds, all clients in every round): that line is there because it is the demo;
the next one has 200 versions, still with the demo's 6 of 8 clients and its stragglers. Whoever trains inside the image
tower (`lora`, `tower`) has half as many versions; `licfl` has three times as many, for each is of one cohort of about
three; `local_only` and `perada` judge each owner by its own model. `centralised` is one client at a time on all images.

{GATE}

{table(HEADS, [_score(found, m) for m in _there(found)])}
Differences, paired by seed (points; an interval without 0 is a difference at 95 %, not corrected for the number of
comparisons):

{table(["", *NUMBERS], [_difference(found, m, o) for m, o in _pairs(found)])}
The lines, as options of `quorate run experiments/demo.yaml`:

{_options()}

{place(found.where)}
"""


def larger(found: Scores) -> str:
    """The same with more images."""
    return f"""## Accuracy with three times the images

The same with `--set {LARGER[0]}`: 72 test images per owner.

{table(HEADS, [_score(found, m) for m in _there(found)])}
{table(["", *NUMBERS], [_difference(found, m, o) for m, o in _pairs(found)])}
{place(found.where)}
"""


def _score(found: Scores, method: str) -> list[str]:
    cells = [_interval(accuracy.values(found, method, number)) for number in NUMBERS]
    runs = found.scores[method].values()
    sizes = [f"{median(getattr(r, n) for r in runs) / 1e6:.2f}" for n in ("bytes_up", "bytes_down")]
    return [method, *cells, *sizes, f"{median(r.seconds for r in runs):.1f}"]


def _there(found: Scores) -> list[str]:
    return [m for m in METHODS if len(found.scores.get(m, {})) == len(SEEDS)]


def _pairs(found: Scores) -> list[tuple[str, str]]:
    there = _there(found)
    others = [(m, "zero_shot") for m in there if m != "zero_shot"]
    more = [("fedclip default", "fedclip paper, 200 versions"), ("fedclip default", "fedavg linear")]
    more += [(inside, "fedavg linear") for inside in ("fedavg lora", "fedavg tower")]
    return [*others, *((m, o) for m, o in more if m in there and o in there)]


def _difference(found: Scores, method: str, other: str) -> list[str]:
    cells = (_interval(accuracy.differences(found, method, other, number), sign="+") for number in NUMBERS)
    return [f"{method} - {other}", *cells]


def _interval(values: list[float], sign: str = "") -> str:
    middle, half = accuracy.interval(values)
    return f"{middle:{sign}.1f} ± {half:.1f}"


def _options() -> str:
    return "\n".join(f"- {name}: `{process.sets(overrides)}`" for name, overrides in METHODS.items())
