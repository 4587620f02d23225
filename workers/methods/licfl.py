"""LICFL: groups of clients alike, found in what they send anyway; and in each its own model and server optimiser."""

from collections.abc import Mapping
from typing import Literal

import structlog
import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from schemas.messages import ALL, VISITORS
from workers import fedopt
from workers.clustering import Basis, alike, centres, principal, within_reach
from workers.method import KEPT, Aggregator, Fold, State, Traits
from workers.methods._local import LocalTraining, Training
from workers.tensors import Tensors

log = structlog.get_logger()

COHORT, MEMBER, LOSS = "cohort-{}", "member/", "loss/"
BASIS, CENTRES = "cohorting/basis", "cohorting/centres"
Rule = Literal["fedavg", "fedadagrad", "fedyogi", "fedadam", "adaptive"]
LEAST, MOST = 1e-12, 1e12
"""A loss beyond them counts as they do: its logarithm must be a number."""


class Licfl(LocalTraining):
    """Clients whose updates are alike share a model: cohorts are found once, in the updates of version 1.

    Principal components of the updates, spectral clustering (Ng, Jordan, Weiss), then federated averaging within each
    cohort. A client computes and sends nothing more than in `fedavg`. Who is not in version 1 begins anew later, and is
    placed by its first update, which moves no model. Held-out owners are judged by the mean of the cohorts' models.
    A few enormous updates do not hide who is alike; what they do to their own cohort is up to the aggregator.
    `rule: adaptive` is ALICFL: every round of a cohort four server rules are at hand, and one is taken. `selection:
    norm_drift` takes the one that lengthens the model least. `selection: loss` tries each once and then takes the one
    that has lately lowered the members' losses most; they are those that clients report of their training anyway.
    """

    when = (
        "Owners are of a few kinds whose images contradict each other (other machines, other words for the same "
        "things), and nobody knows who is of which kind. If they differ only in how much they have of each class, "
        "that is what is grouped. In doubt name the number of `cohorts`, and give version 1 more images or `epochs`: "
        "with few steps the groups are found in part. `rule: fedadam` did best where clients take small steps, "
        "`fedavg` where they take large ones; `adaptive` with `selection: loss` ended level with the better one, or "
        "3.3 points below it (docs/studies.md). Try `quorate run experiments/licfl.yaml`."
    )
    costs = (
        "Clients: nothing beyond `fedavg`. A version moves one cohort, so a round of everybody takes as many "
        "versions as there are cohorts. The orchestrator holds all updates of version 1 at once, twice in float64, "
        "and keeps a model per cohort; with another rule than `fedavg` four tensors of its size besides. A client "
        "that comes late trains once to be placed."
    )
    sends = (
        "Up: as many bytes as `fedavg`. Down: the model of the client's cohort alone. Losses are in the message anyway."
    )
    paper = "Amarlingam et al., Lightweight Industrial Cohorted Federated Learning, arXiv 2407.17999"
    deviations = (
        "no second training within round 1: a cohort's first model is the aggregate of its members' first updates",
        "components, sigma and the number of cohorts are not given in what could be read of the paper: 5, the standard "
        "deviation of the projected updates, and the largest gap between eigenvalues",
        "an update that is more than twice as far from the middle of all as half of them are is moved towards it, for "
        "the grouping alone: in our studies none was",
        "members are weighted as `aggregator` and `weight` say, where the paper weighs evenly",
        "beta2, tau and eta are those of Reddi et al., arXiv 2003.00295, from memory",
        "newcomers, which the paper does not treat, are placed by the mean projection that is nearest to theirs",
        "the score of the paper could not be read: `norm_drift` is a third party's reading, which in our runs kept to "
        "one rule in every round; `loss` is ours, and judges a rule by the next round's losses in training, "
        "relative to those of the round before (docs/log.md)",
    )
    traits = Traits(sees_each=True, groups=True)

    class Params(Training):
        """How a client trains what, and how the server groups and moves.

        components: of the projection. cohorts: how many, null by the gap between eigenvalues, at most `most`. rule: of
        the server; step size eta, decays beta1 and beta2, tau in the denominator. `fedavg` has rounds.server_lr.
        selection: what `rule: adaptive` chooses by.
        """

        components: PositiveInt = 5
        cohorts: PositiveInt | None = None
        most: PositiveInt = 8
        rule: Rule = "fedavg"
        selection: Literal["norm_drift", "loss"] = "norm_drift"
        eta: PositiveFloat = 0.03
        beta1: float = Field(default=0.9, ge=0, lt=1)
        beta2: float = Field(default=0.99, ge=0, lt=1)
        tau: PositiveFloat = 1e-3

        @model_validator(mode="after")
        def _chooses(self) -> "Licfl.Params":
            if self.selection != "norm_drift" and self.rule != "adaptive":
                raise ValueError(f"selection: {self.selection} is for rule: adaptive, and the rule is {self.rule}")
            return self

    def __init__(self, params: Params) -> None:
        super().__init__(params)
        self.params: Licfl.Params = params
        self.fedopt = fedopt.FedOpt(params.eta, params.beta1, params.beta2, params.tau)

    def fold(self, aggregator: Aggregator, state: State, group: str) -> Fold:
        """Of a cohort, the aggregator's; of `all`, one that finds cohorts, or places newcomers in those there are."""
        if group == ALL:
            return Newcomers(state.server) if BASIS in state.server else Cohorting(aggregator, self.params)
        return Heard(super().fold(aggregator, state, group))

    def merge(self, state: State, folded: Mapping[str, Tensors], server_lr: float) -> State:
        """Each cohort that has a step moves by its rule, and visitors get the unweighted mean of the cohorts' models.

        `all`, where newcomers begin, stays as it is: their updates compare only with those that began there too.
        """
        tensors, server, assignment = dict(state.tensors), dict(state.server), dict(state.assignment)
        for group, found in folded.items():
            assignment |= _members(found)
            server |= {name: t for name, t in found.items() if name in (BASIS, CENTRES) or name.startswith(KEPT)}
            for cohort, step in _steps(group, found).items():
                kept = {name: server.pop(f"{cohort}/{name}") for name in _own(server, cohort)}
                tensors[cohort], kept = self.moved(tensors.get(cohort, tensors[ALL]), step, kept, server_lr)
                log.info("cohort moved", cohort=cohort, chosen=_counts(kept))
                server |= {f"{cohort}/{name}": t for name, t in kept.items()}
        cohorts = [tensors[group] for group in sorted(tensors) if group not in (ALL, VISITORS)]
        tensors[VISITORS] = {k: torch.stack([m[k] for m in cohorts]).double().mean(0).float() for k in cohorts[0]}
        return State(tensors=tensors, server=server, assignment=assignment)

    def moved(self, model: Tensors, step: Tensors, kept: Tensors, server_lr: float) -> tuple[Tensors, Tensors]:
        """The next model of a cohort, and what its optimiser keeps (algorithm 3): m, v of every rule, scores, counts.

        All moments move in every round, also those of rules that are not chosen. step: of `Heard`, losses included.
        """
        plain = {k: t + server_lr * step[k] for k, t in model.items()}
        if self.params.rule == "fedavg":
            return plain, {}
        made = self.fedopt.moments({k: step[k] for k in model}, kept)
        candidates = [plain, *(self.fedopt.moved(model, made, rule) for rule in fedopt.RULES[1:])]
        heard = {k: t for k, t in step.items() if k.startswith(LOSS)}
        scores = fedopt.decreases(heard, kept) if self.params.selection == "loss" else fedopt.drifts(model, candidates)
        best = int(scores.argmin()) if self.params.rule == "adaptive" else fedopt.RULES.index(self.params.rule)
        last = torch.eye(len(fedopt.RULES))[best]
        counts = kept.get("chosen", torch.zeros(len(fedopt.RULES))) + last
        return candidates[best], made | heard | {"scores": scores.float(), "chosen": counts, "last": last}


class Heard:
    """A cohort's fold that also keeps what its members say of their loss."""

    def __init__(self, fold: Fold) -> None:
        self.inner, self.losses = fold, Tensors()

    @property
    def kept(self) -> Tensors:
        """What the aggregator keeps."""
        found: Tensors = getattr(self.inner, "kept", {})
        return found

    def add(self, client: str, update: Tensors, weight: float, discount: float) -> None:
        """To the aggregator's fold."""
        self.inner.add(client, update, weight, discount)

    def hear(self, client: str, loss: float) -> None:
        """Keep a member's loss."""
        self.losses[LOSS + client] = torch.tensor(min(max(loss, LEAST), MOST))

    def result(self) -> Tensors:
        """The aggregator's, and `loss/<client>` of those who said it."""
        return self.inner.result() | self.losses


class Cohorting:
    """A fold that keeps everybody's update, and folds them by cohort at the end."""

    def __init__(self, aggregator: Aggregator, params: "Licfl.Params") -> None:
        self.aggregator, self.params = aggregator, params
        self.seen: dict[str, tuple[Tensors, float, float]] = {}
        self.losses: dict[str, float] = {}

    def add(self, client: str, update: Tensors, weight: float, discount: float) -> None:
        """Keep one update."""
        self.seen[client] = (update, weight, discount)

    def hear(self, client: str, loss: float) -> None:
        """Keep a client's loss."""
        self.losses[client] = loss

    def result(self) -> Tensors:
        """`member/<client>`: the number of its cohort. `<cohort>/<name>`: what `Heard` gives. Basis, mean projections.

        And `aggregator/<cohort>/<name>`, what the aggregator keeps, with which the cohort's next fold begins. Cohorts
        are numbered by the first of their members, in client order.
        """
        rows = within_reach(torch.stack([_flat(update) for update, *_ in self.seen.values()]))
        basis, places = principal(rows, self.params.components)
        labels = alike(places, self.params.cohorts, self.params.most)
        found = {MEMBER + client: torch.tensor(float(n)) for client, n in zip(self.seen, labels, strict=True)}
        found |= {BASIS: basis.packed(), CENTRES: centres(places, labels).float()}
        for n in range(max(labels) + 1):
            members = [client for client, label in zip(self.seen, labels, strict=True) if label == n]
            found |= self._folded(COHORT.format(n), members)
        return found

    def _folded(self, cohort: str, members: list[str]) -> Tensors:
        fold = Heard(self.aggregator.fold())
        for client in members:
            fold.add(client, *self.seen[client])
            if client in self.losses:
                fold.hear(client, self.losses[client])
        step = {f"{cohort}/{name}": t for name, t in fold.result().items()}
        return step | {f"{KEPT}{cohort}/{name}": t for name, t in fold.kept.items()}


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


def _counts(kept: Tensors) -> dict[str, int]:
    return {rule: int(n) for rule, n in zip(fedopt.RULES, kept["chosen"], strict=True)} if "chosen" in kept else {}
