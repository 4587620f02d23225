"""The race's section of docs/benchmarks.md. Measures nothing."""

import json

from benchmarks.accuracy import SEEDS, interval
from benchmarks.markdown import place, table, verdict
from benchmarks.race import (
    EVERY,
    HORIZON_S,
    LAST_S,
    MODES,
    MOST_S,
    STEADY_S,
    TARGET,
    Race,
    littles,
    times_faster,
    values,
)

BASELINE = "synchronous"
GOAL = 3.3
"""Times that FedBuff is faster than synchronous training (arXiv 2106.06639, abstract)."""
NEAR = 0.1
"""How far the mean staleness may be from Little's law, as a share of it."""


def section(found: Race) -> str:
    """The table and what to make of it."""
    return f"""## Time to target under stragglers, in virtual time

![Accuracy over virtual time, a line per mode](images/race.png)

Mean over the seeds; the bands are one standard deviation on either side, the dashed lines a mode with other numbers.

60 owners of 2 of 40 classes each train a linear head (64 x 40) on 60 noisy points each, 3 epochs of plain SGD. An
owner takes exp(z) seconds for an update, z ~ N(0, 1) drawn once per owner: the slowest of 60 takes about ten times
as long as the median. Every mode is an experiment by numbers only, run by the engine itself in one process on the
virtual clock (`benchmarks/race.py`; data and backbone: `benchmarks/points.py`); evaluations cost no virtual time. A
run lasts {HORIZON_S} virtual seconds, or until it has reached the target ({MOST_S:g} at most). Seeds {SEEDS[0]} to
{SEEDS[-1]} draw the data, the owners, their speeds, the batches and who is asked; mean ± half of the 95 % interval
(Student t, {len(SEEDS) - 1} degrees of freedom).

- *to {100 * TARGET:.0f} %*: virtual seconds until the first version whose accuracy (mean over the owners' test splits)
  is that high. A mode whose accuracy jumps from version to version gains a little by this rule (FedAsync).
- *faster*: than `{BASELINE}`; geometric mean of the ratios within a seed, and its 95 % interval.
- *uploads*: updates that had arrived by then, counted or not. *at {HORIZON_S} s*: accuracy, mean of the last
  {LAST_S} seconds.
- *wasted*: share of the updates asked that were lost, refused or given up. An owner who is given up is free at once.
- *staleness*: mean versions that a counted update lagged, after {STEADY_S:g} s; *Little*: (in_flight - 1) / quorum.

{table(_HEADS, [_row(found, mode) for mode in MODES])}
{_verdicts(found)}

Expected: {GOAL:g} times (published for FedBuff against synchronous training), 5.6 times (a separate simulator, written
before this engine, with a task of this kind: 56 s for the synchronous mode of 10, 10 s for FedBuff).
How hard the task is was chosen with the synchronous mode and FedBuff in view: noise 3 so that the first needs about a
minute; of the learning rates 0.2, 0.5, 1 and 2 the one with which *the synchronous mode* was fastest on seed 0. The
optimiser matters: with AdamW in the clients the order at the end is another one ([log.md](log.md)).

The modes, as `rounds:` of an experiment; the rest of it is `benchmarks.race.experiment`.
{_evaluations()}

{_modes()}

`python -m benchmarks race` measures this again.

{place(found.where)}
"""


_HEADS = [
    "mode",
    f"s to {100 * TARGET:.0f} %",
    "faster",
    "uploads",
    f"at {HORIZON_S} s, %",
    "wasted, %",
    "staleness",
    "Little",
]


def _row(found: Race, mode: str) -> list[str]:
    final = [100 * v for v in values(found, mode, "final")]
    wasted = [100 * v for v in values(found, mode, "wasted")]
    lag = _pm(values(found, mode, "staleness"), 2)
    arrival = MODES[mode].get("refill") == "at_arrival"
    little = f"{littles(mode):.1f}" if arrival else ""
    return [mode, *_until(found, mode), _pm(final, 1), _pm(wasted, 1), lag, little]


def _until(found: Race, mode: str) -> list[str]:
    missed = sum(course.to_target_s is None for course in found.courses[mode].values())
    if missed:
        return [f"missed by {missed} of {len(SEEDS)}", "", ""]
    faster = "" if mode == BASELINE else _times(found, mode, BASELINE)
    return [_pm(values(found, mode, "to_target_s"), 1), faster, _pm(values(found, mode, "uploads"), 0)]


def _times(found: Race, mode: str, than: str) -> str:
    middle, low, high = times_faster(found, mode, than)
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


def _pm(numbers: list[float], digits: int) -> str:
    middle, half = interval(numbers)
    return f"{middle:.{digits}f} ± {half:.{digits}f}"


def _verdicts(found: Race) -> str:
    middle, low, _ = times_faster(found, "FedBuff", BASELINE)
    word = verdict(-middle, -GOAL)  # more is better
    sure = "the interval lies above it" if low > GOAL else "the interval reaches below it"
    arrival = [mode for mode in MODES if MODES[mode].get("refill") == "at_arrival"]
    off = {mode: interval(values(found, mode, "staleness"))[0] / littles(mode) - 1 for mode in arrival}
    each = ", ".join(f"{mode} {100 * o:+.1f} %" for mode, o in off.items())
    first, harder = (_times(found, "FedBuff", than) for than in (BASELINE, "synchronous, 20"))
    near = verdict(max(abs(o) for o in off.values()), NEAR)
    return f"""FedBuff is {first} times faster than `{BASELINE}`. Goal {GOAL:g}: **{word}**; {sure}.
No goal, but the harder comparison, with as many in flight: {harder} times faster than `synchronous, 20`.
Mean staleness against Little's law: {each}. Goal, within {100 * NEAR:.0f} %: **{near}**."""


def _evaluations() -> str:
    some = ", ".join(f"every {every} versions in {mode}" for mode, every in EVERY.items())
    return f"Each version is evaluated; to save time, {some}."


def _modes() -> str:
    return "\n".join(f"- {mode}: `{json.dumps(rounds).replace(chr(34), '')}`" for mode, rounds in MODES.items())
