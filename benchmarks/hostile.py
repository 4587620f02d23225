"""Owners who send harm: which rule of aggregation holds against which attack, and what it costs where nobody attacks.

Ten owners of drawn images, two of them hostile. Again: `python -m benchmarks hostile` (some minutes on 2 cores).
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Literal, get_args

import torch

from benchmarks import kept, process
from benchmarks.accuracy import SEEDS, interval
from benchmarks.kept import Kept
from benchmarks.machine import Where
from benchmarks.markdown import place, table
from workers.method import Client, Update
from workers.methods.fedavg import FedAvg

Attack = Literal["none", "sign flip", "noise", "label flip", "same push", "blow", "false weight"]
ATTACKS: tuple[Attack, ...] = get_args(Attack)
_CLIPPING = "aggregator={name: centered_clipping, params: {tau: 0.5}}"
RULES: dict[str, tuple[str, ...]] = {
    "mean": ("aggregator={name: mean}",),
    "norm_bound": ("aggregator={name: norm_bound, params: {bound: 1.0}}",),
    "median": ("aggregator={name: median, params: {hostile: 2}}",),
    "trimmed_mean": ("aggregator={name: trimmed_mean, params: {hostile: 2}}",),
    "krum": ("aggregator={name: krum, params: {hostile: 2}}",),
    "krum, multi 6": ("aggregator={name: krum, params: {hostile: 2, multi: 6}}",),
    "geometric_median": ("aggregator={name: geometric_median}",),
    "geometric_median, 4 steps": ("aggregator={name: geometric_median, params: {steps: 4}}",),
    "centered_clipping": (_CLIPPING,),
    "centered_clipping, momentum 0.5": (_CLIPPING, "transforms=[{name: momentum, params: {beta: 0.5}}]"),
    "centered_clipping, momentum 0.9": (_CLIPPING, "transforms=[{name: momentum, params: {beta: 0.9}}]"),
}
OWNERS, HOSTILE = 10, ("client-0", "client-1")
COMMON = (
    "data.hold_out=[]",
    "simulate=null",
    f"data.partition={{name: iid, params: {{clients: {OWNERS}}}}}",
    "rounds={versions: 10, in_flight: 10, quorum: 10, floor: 10, grace_s: 0, max_staleness: 0}",
    "codec={name: raw}",
    "evaluate={every: 0, final: true}",
)


class Hostile(FedAvg):
    """FedAvg in which some owners send harm instead of what they have learnt."""

    class Params(FedAvg.Params):
        """who: the hostile owners. attack: what they send."""

        who: tuple[str, ...] = HOSTILE
        attack: Attack = "none"

    def __init__(self, params: Params) -> None:
        super().__init__(params)
        self.told = params

    def train(self, client: Client) -> Update:
        """Honest work, or harm: the work times a factor, of other labels, or noise of so many times its length.

        With a false weight, work the other way that says it is of a million times the images.
        """
        attack = self.told.attack if client.name in self.told.who else "none"
        y, last = client.train.y, len(client.setting.classes) - 1
        if attack in ("label flip", "same push"):
            client = replace(client, train=replace(client.train, y=last - y if attack == "label flip" else 0 * y))
        update = super().train(client)
        if times := {"sign flip": -10, "same push": 3, "false weight": -10}.get(attack):
            update = replace(update, weight=update.weight * (1e6 if attack == "false weight" else 1))
            return replace(update, tensors={k: times * t for k, t in update.tensors.items()})
        if attack in ("noise", "blow"):
            draw, long = client.generator("attack"), 100.0 if attack == "noise" else 1e6
            harm = {k: torch.randn(t.shape, generator=draw) for k, t in sorted(update.tensors.items())}
            scale = {k: long * float(update.tensors[k].norm()) / float(h.norm()) for k, h in harm.items()}
            return replace(update, tensors={k: scale[k] * h for k, h in harm.items()})
        return update


class Held(Kept):
    """accuracy of the honest owners' test splits, mean, 0 to 1: {attack: {rule: {seed: accuracy}}}."""

    found: dict[str, dict[str, dict[int, float]]] = {}


def measure(results: Path, cache: Path, where: Where) -> Held:
    """Run what the results of this commit lack, and write them after every run."""
    held = kept.begun(results, Held, where)
    for attack, rule, seed in missing(held):
        value = accuracy(attack, RULES[rule], seed, cache)
        held.found.setdefault(attack, {}).setdefault(rule, {})[seed] = value
        kept.keep(results, held)
    return held


def missing(held: Held) -> list[tuple[Attack, str, int]]:
    """(attack, rule, seed) of the runs that are still to be done."""
    runs = [(a, r, s) for a in ATTACKS for r in RULES for s in SEEDS]
    return [(a, r, s) for a, r, s in runs if s not in held.found.get(a, {}).get(r, {})]


def accuracy(attack: Attack, rule: tuple[str, ...], seed: int, cache: Path) -> float:
    """One run: mean over the honest owners. One that breaks is 0."""
    method = f"method={{name: 'benchmarks.hostile:Hostile', params: {{attack: {attack}}}}}"
    made = process.demo(*COMMON, f"seed={seed}", *rule, method)
    _, outcome = process.run(made, cache)
    final = outcome.report.accuracy.final
    honest = [final[c] for c in final if c not in HOSTILE]
    return 0.0 if outcome.report.status != "finished" else mean(a for a in honest if a is not None)


def section(held: Held) -> str:
    """Its part of docs/benchmarks.md."""
    rows = [[rule, *(_cell(held.found[attack][rule]) for attack in ATTACKS)] for rule in RULES]
    return f"""## Hostile owners

{OWNERS} owners of drawn images (all four styles mixed), {len(HOSTILE)} of them hostile; `fedavg` with the linear head,
10 synchronous versions, seeds {SEEDS[0]} to {SEEDS[-1]}. Accuracy on the honest owners' test splits in percent, mean ±
half of the 95 % interval. *sign flip*: ten times the other way; *noise*: a hundred times the update's length; *label
flip*: trained on mirrored labels; *same push*: three times what is learnt if everything is of the first class, in
every version; *blow*: a million times the length; *false weight*: a sign flip, said to be of a million times the
images. Each rule is told of two hostile ones where it can be told. The transform `momentum` works on what the hostile
ones send too.

{table(["rule", *ATTACKS], rows)}
Read the first column too: what a rule costs where nobody attacks. Owners here are alike; where they differ, median and
Krum take honest ones who differ for hostile. The rules as parts of an experiment:

{_options()}

Again: `python -m benchmarks hostile`.

{place(held.where)}
"""


def _cell(found: Mapping[int, float]) -> str:
    middle, half = interval([100 * found[seed] for seed in SEEDS])
    return f"{middle:.1f} ± {half:.1f}"


def _options() -> str:
    return "\n".join(f"- {name}: `{process.sets(rule)}`" for name, rule in RULES.items())
