"""LICFL: groups of clients alike, found in what they send anyway; and in each its own model and server optimiser."""

from collections.abc import Mapping
from typing import Literal

import structlog
import torch
from pydantic import Field, PositiveFloat, PositiveInt

from schemas.messages import ALL, VISITORS
from workers.clustering import Basis, alike, principal
from workers.method import Aggregator, Fold, State, Traits
from workers.methods._local import LocalTraining, Training
from workers.tensors import Tensors

log = structlog.get_logger()

COHORT, MEMBER = "cohort-{}", "member/"
BASIS, CENTRES = "cohorting/basis", "cohorting/centres"
RULES = ("fedavg", "fedadagrad", "fedyogi", "fedadam")
"""In the order of the scores that are kept; the first of equal ones wins."""
Rule = Literal["fedavg", "fedadagrad", "fedyogi", "fedadam", "adaptive"]


class Licfl(LocalTraining):
    """Clients whose updates are alike share a model: cohorts are found once, in the updates of version 1.

    Principal components of the updates, spectral clustering (Ng, Jordan, Weiss), then federated averaging within each
    cohort. A client computes and sends nothing more than in `fedavg`. Who is not in version 1 begins anew later, and is
    placed by its first update, which moves no model. Held-out owners are judged by the mean of the cohorts' models.
    `rule: adaptive` is ALICFL: every round tries four server rules and takes the one that lengthens the model least.
    """

    paper = "Amarlingam et al., Lightweight Industrial Cohorted Federated Learning, arXiv 2407.17999"
    deviations = (
        "no second training within round 1: a cohort's first model is the aggregate of its members' first updates",
        "components, sigma and the number of cohorts are not given in what could be read of the paper: 5, the standard "
        "deviation of the projected updates, and the largest gap between eigenvalues",
        "members are weighted as `aggregator` and `weight` say, where the paper weighs evenly",
        "beta2, tau and eta are those of Reddi et al., arXiv 2003.00295, from memory",
        "newcomers, which the paper does not treat, are placed by the mean projection that is nearest to theirs",
        "the rule is chosen by the signed change of the model's norm alone; it prefers small steps (docs/log.md)",
    )
    traits = Traits(sees_each=True, groups=True)

    class Params(Training):
        """How a client trains what, and how the server groups and moves.

        components: of the projection. cohorts: how many, null by the gap between eigenvalues, at most `most`. rule: of
        the server; step size eta, decays beta1 and beta2, tau in the denominator. `fedavg` has rounds.server_lr.
        """

        components: PositiveInt = 5
        cohorts: PositiveInt | None = None
        most: PositiveInt = 8
        rule: Rule = "fedavg"
        eta: PositiveFloat = 0.03
        beta1: float = Field(default=0.9, ge=0, lt=1)
        beta2: float = Field(default=0.99, ge=0, lt=1)
        tau: PositiveFloat = 1e-3

    def __init__(self, params: Params) -> None:
        super().__init__(params)
        self.params: Licfl.Params = params

    def fold(self, aggregator: Aggregator, state: State, group: str) -> Fold:
        """Of a cohort, the aggregator's; of `all`, one that finds cohorts, or places newcomers in those there are."""
        if group != ALL:
            return super().fold(aggregator, state, group)
        return Newcomers(state.server) if BASIS in state.server else Cohorting(aggregator, self.params)

    def merge(self, state: State, folded: Mapping[str, Tensors], server_lr: float) -> State:
        """Each cohort that has a step moves by its rule, and visitors get the unweighted mean of the cohorts' models.

        `all`, where newcomers begin, stays as it is: their updates compare only with those that began there too.
        """
        tensors, server, assignment = dict(state.tensors), dict(state.server), dict(state.assignment)
        for group, found in folded.items():
            assignment |= _members(found)
            server |= {name: t for name, t in found.items() if name in (BASIS, CENTRES)}
            for cohort, step in _steps(group, found).items():
                kept = _own(server, cohort)
                tensors[cohort], kept = self.moved(tensors.get(cohort, tensors[ALL]), step, kept, server_lr)
                log.info("cohort moved", cohort=cohort, chosen=_counts(kept))
                server |= {f"{cohort}/{name}": t for name, t in kept.items()}
        cohorts = [tensors[group] for group in sorted(tensors) if group not in (ALL, VISITORS)]
        tensors[VISITORS] = {k: torch.stack([m[k] for m in cohorts]).double().mean(0).float() for k in cohorts[0]}
        return State(tensors=tensors, server=server, assignment=assignment)

    def moved(self, model: Tensors, step: Tensors, kept: Tensors, server_lr: float) -> tuple[Tensors, Tensors]:
        """The next model of a cohort, and what its optimiser keeps (algorithm 3): m, v of every rule, scores, counts.

        All moments move in every round, also those of rules that are not chosen.
        """
        plain = {k: t + server_lr * step[k] for k, t in model.items()}
        if self.params.rule == "fedavg":
            return plain, {}
        kept = self._moments(step, kept)
        candidates = [plain, *(self._adaptive(model, kept, rule) for rule in RULES[1:])]
        scores = torch.tensor([_length(c) - _length(model) for c in candidates], dtype=torch.float64)
        adaptive = self.params.rule == "adaptive"
        best = int(scores.argmin()) if adaptive else RULES.index(self.params.rule)
        counts = kept.get("chosen", torch.zeros(len(RULES))) + torch.eye(len(RULES))[best]
        return candidates[best], kept | {"scores": scores.float(), "chosen": counts}

    def _moments(self, step: Tensors, kept: Tensors) -> Tensors:
        # v starts at tau^2, as in Reddi et al.; Yogi's v moves by at most (1 - beta2) step^2.
        p, made = self.params, dict(kept)
        for k, d in step.items():
            square, start = d.square(), torch.full_like(d, p.tau**2)
            adagrad, yogi, adam = (kept.get(f"{rule}/{k}", start) for rule in RULES[1:])
            made[f"m/{k}"] = p.beta1 * kept.get(f"m/{k}", torch.zeros_like(d)) + (1 - p.beta1) * d
            made[f"fedadagrad/{k}"] = adagrad + square
            made[f"fedyogi/{k}"] = yogi - (1 - p.beta2) * square * torch.sign(yogi - square)
            made[f"fedadam/{k}"] = p.beta2 * adam + (1 - p.beta2) * square
        return made

    def _adaptive(self, model: Tensors, kept: Tensors, rule: str) -> Tensors:
        p = self.params
        return {k: t + p.eta * kept[f"m/{k}"] / (kept[f"{rule}/{k}"].sqrt() + p.tau) for k, t in model.items()}


class Cohorting:
    """A fold that keeps everybody's update, and folds them by cohort at the end."""

    def __init__(self, aggregator: Aggregator, params: "Licfl.Params") -> None:
        self.aggregator, self.params = aggregator, params
        self.seen: dict[str, tuple[Tensors, float, float]] = {}

    def add(self, client: str, update: Tensors, weight: float, discount: float) -> None:
        """Keep one update."""
        self.seen[client] = (update, weight, discount)

    def result(self) -> Tensors:
        """`member/<client>`: the number of its cohort. `<cohort>/<name>`: its step. The basis, and mean projections.

        Cohorts are numbered by the first of their members, in client order.
        """
        basis, places = principal(
            torch.stack([_flat(update) for update, *_ in self.seen.values()]), self.params.components
        )
        labels = alike(places, self.params.cohorts, self.params.most)
        found = {MEMBER + client: torch.tensor(float(n)) for client, n in zip(self.seen, labels, strict=True)}
        found |= {BASIS: basis.packed(), CENTRES: _centres(places, labels).float()}
        for n in range(max(labels) + 1):
            fold = self.aggregator.fold()
            for (client, said), label in zip(self.seen.items(), labels, strict=True):
                if label == n:
                    fold.add(client, *said)
            found |= {f"{COHORT.format(n)}/{name}": t for name, t in fold.result().items()}
        return found


class Newcomers:
    """A fold that places clients in cohorts that there are: where the mean projection is nearest to their own."""

    def __init__(self, server: Tensors) -> None:
        self.basis, self.centres = Basis.unpacked(server[BASIS]), server[CENTRES]
        self.found: Tensors = {}

    def add(self, client: str, update: Tensors, weight: float, discount: float) -> None:
        """Place one client by its update, which is used for nothing else: it started from another model."""
        away = (self.centres - self.basis.place(_flat(update))).norm(dim=1)
        self.found[MEMBER + client] = away.argmin().float()

    def result(self) -> Tensors:
        """`member/<client>`: the number of its cohort."""
        return self.found


def _flat(update: Tensors) -> torch.Tensor:
    return torch.cat([update[name].reshape(-1).double() for name in sorted(update)])


def _centres(places: torch.Tensor, labels: list[int]) -> torch.Tensor:
    chosen = torch.tensor(labels)
    return torch.stack([places[chosen == n].mean(dim=0) for n in range(max(labels) + 1)])


def _members(found: Tensors) -> dict[str, str]:
    return {k.removeprefix(MEMBER): COHORT.format(int(t)) for k, t in found.items() if k.startswith(MEMBER)}


def _steps(group: str, found: Tensors) -> dict[str, Tensors]:
    """The step of each cohort in what a group's updates have folded to."""
    if group != ALL:
        return {group: found}
    there = sorted(set(_members(found).values()))
    return {c: step for c in there if (step := _own(found, c))}


def _own(tensors: Tensors, cohort: str) -> Tensors:
    return {k.removeprefix(f"{cohort}/"): t for k, t in tensors.items() if k.startswith(f"{cohort}/")}


def _length(model: Tensors) -> float:
    return float(_flat(model).norm())


def _counts(kept: Tensors) -> dict[str, int]:
    return {rule: int(n) for rule, n in zip(RULES, kept["chosen"], strict=True)} if "chosen" in kept else {}
