"""Fed-CVLC: codes of several lengths against codes of one, at equal bits."""

from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

from benchmarks import process, race
from benchmarks.study import Arm, Studied, Study
from schemas.base import Choice
from workers.codecs.cvlc import Cvlc

FIXED = (6, 8, 10, 12)
NUMBERS, BITS = 62_006, 120_000 / 62_006
"""Of the synthetic updates: as many as in the specification's own check."""
RANGES = {"a range per packet": 10, "one range": 1}
EXPONENTS = (-0.9, -0.7, -0.5, -0.3)
OWNERS, VERSIONS, EVERY, LAST = 30, 40, 2, 3
TARGET = 28.0
"""Accuracy in percent that the traffic is counted to."""
TIGHT, WIDE = 0.5, 2.0
"""Bits per number of the runs."""


def error(x: torch.Tensor, seed: int, **params: Any) -> float:
    """Relative squared error of what arrives."""
    codec, draws = Cvlc(Cvlc.Params.model_validate(params)), torch.Generator().manual_seed(seed)
    return float(((x - codec.decode(codec.encode({"w": x}, draws))["w"]) ** 2).sum() / (x**2).sum())


def power_law(alpha: float, seed: int, cache: Path) -> dict[str, float]:
    """How many percent less traffic than the best code of one length, for an equal error."""
    draw = np.random.default_rng([seed, 5])
    ranked = np.arange(1, NUMBERS + 1) ** alpha * draw.choice([-1, 1], NUMBERS)
    x = torch.from_numpy(draw.permutation(ranked).astype(np.float32))
    reached = error(x, seed, bits=BITS)
    return {
        **{f"% less, {name}": _saved(x, seed, reached, groups) for name, groups in RANGES.items()},
        "% less than top-k": 100 * (1 - BITS / _needed(x, seed, reached, 10, 32)),
    }


def _saved(x: torch.Tensor, seed: int, reached: float, groups: int) -> float:
    return 100 * (1 - BITS / min(_needed(x, seed, reached, groups, length) for length in FIXED))


def _needed(x: torch.Tensor, seed: int, reached: float, groups: int, length: int) -> float:
    """Bits per number with which a code of that length errs as little; 32 if it never does."""
    low, high = BITS / 2, 5 * BITS
    if error(x, seed, bits=high, groups=groups, length=length) > reached:
        return 32.0
    for _ in range(10):  # to 0.5 % of the budget
        middle = (low + high) / 2
        enough = error(x, seed, bits=middle, groups=groups, length=length) <= reached
        low, high = (low, middle) if enough else (middle, high)
    return high


def run(codec: dict[str, Any], seed: int, cache: Path) -> dict[str, float]:
    """Accuracy in percent, mean of the last evaluations; kilobytes of all uploads, and of those until the target."""
    asked = race.experiment(race.MODES["synchronous"], seed, every=EVERY, owners=OWNERS, per_class=30)
    rounds = asked.rounds.model_copy(update={"versions": VERSIONS})
    changes = {"codec": Choice.model_validate(codec), "rounds": rounds, "simulate": None}
    _, outcome = process.run(asked.model_copy(update=changes), cache)
    course = [100 * accuracy for _, accuracy in race.by_time(outcome.events)]
    sent = outcome.report.bytes_up / 1e3
    return {"accuracy": mean(course[-LAST:]), "kB up": sent, TO_TARGET: sent * reached(course) / VERSIONS}


def reached(course: list[float]) -> int:
    """The version whose accuracy, averaged over the last evaluations, is the target; of none, the last one.

    course: accuracy of every second version from 0 on.
    """
    over = (i for i in range(LAST - 1, len(course)) if mean(course[i - LAST + 1 : i + 1]) >= TARGET)
    return EVERY * next(over, len(course) - 1)


def coded(bits: float, length: int | None) -> dict[str, Any]:
    """The codec with so many bits for every code, or with the search."""
    return {"name": "cvlc", "params": {"bits": bits, "length": length}}


LAWS = tuple(f"power law {alpha}" for alpha in EXPONENTS)
TO_TARGET = f"kB to {TARGET:g} %"
CODES = {"cvlc": None, "6-bit codes": 6, "8-bit codes": 8, "10-bit codes": 10, "top-k": 32}
RUNS: dict[str, dict[str, Any]] = {"float32": {"name": "raw"}, "fp16": {"name": "fp16"}, "int8": {"name": "int8"}} | {
    f"{code}, {bits:g} bits": coded(bits, length) for bits in (TIGHT, WIDE) for code, length in CODES.items()
}
ARMS: dict[str, Arm] = dict(zip(LAWS, (partial(power_law, alpha) for alpha in EXPONENTS), strict=True))
ARMS |= {name: partial(run, codec) for name, codec in RUNS.items()}
WHOLE = ("float32", "fp16", "int8")
PAIRS = tuple(
    (f"cvlc, {bits:g} bits", other, number)
    for bits in (TIGHT, WIDE)
    for number, others in (("accuracy", WHOLE), ("accuracy", ()), (TO_TARGET, ()))
    for other in others or [f"{code}, {bits:g} bits" for code in CODES if code != "cvlc"]
)


def read(found: Studied) -> str:
    """By what the intervals say."""
    saved = ", ".join(
        "{:.1f} and {:.1f} % at i^{}".format(*(mean(found.values(law, f"% less, {r}")) for r in RANGES), alpha)
        for law, alpha in zip(LAWS, EXPONENTS, strict=True)
    )
    told: dict[str, list[str]] = {"above": [], "below": []}
    for first, other, number in PAIRS:
        if verdict := found.verdict(first, other, number):
            told[verdict].append(f"{first} and {other} in *{number}*")
    verdicts = "; ".join(f"{verdict}: {', '.join(pairs) or 'nothing'}" for verdict, pairs in told.items())
    return (
        "At an equal error the search takes less traffic than the best code of one length that also has a range per "
        f"packet, and than one with one range for all, by {saved} (less than 0: more). In training, to {TARGET:g} %, "
        "it sends "
        f"{' and '.join(_against_best(found, bits) for bits in (TIGHT, WIDE))} (by the means). "
        f"Told apart at 95 %, the first from the second: {verdicts}."
    )


def _against_best(found: Studied, bits: float) -> str:
    sent = {code: mean(found.values(f"{code}, {bits:g} bits", TO_TARGET)) for code in CODES}
    best = min((code for code in CODES if code.endswith("codes")), key=lambda code: sent[code])
    return f"{100 * (1 - sent['cvlc'] / sent[best]):.1f} % less than {best} at {bits:g} bits per number"


STUDY = Study(
    claim="Codes whose length follows the rank of a number reach the accuracy of the best codes of one length with "
    "16.67 to 41.61 % less traffic, or 1.50 to 5.44 % more accuracy with as much (CIFAR-10, CIFAR-100, FEMNIST).",
    setting=f"(1) Signed power laws of {NUMBERS:,} numbers at {BITS:.2f} bits per number in ten packets: how much less "
    f"traffic than the best of {', '.join(map(str, FIXED))} bits with an equal squared error, without error feedback; "
    "once with a range per packet for them too, once with one range as in plain quantisation; and than top-k. (2) "
    f"`fedavg` on the data of the race with {OWNERS} owners of two of 40 classes each, 10 of them in each of "
    f"{VERSIONS} synchronous versions, 2,600 numbers in a linear head; error feedback for all but float32, equally "
    f"many uploads, and with equally many bits equally many bytes within 5 %: the whole blob, in which names, plan and "
    f"label are some 850 bytes. *accuracy*: mean of the last {LAST} evaluations. *{TO_TARGET}*: sent until the mean of "
    f"{LAST} evaluations, one in every {EVERY} versions, is there; all that was sent, if it never is.",
    arms=ARMS,
    pairs=PAIRS,
    read=read,
)
