"""Attention: who ends far from the merged model is asked more often, and more are asked as the run goes on."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt

from orchestrator.selectors._lots import draw
from schemas.base import Frozen
from workers.tensors import Tensors, norm

Share = Annotated[float, Field(gt=0, le=1)]


class AdaFL:
    """Asks clients with the probability of their attention score, and a fraction of all that grows in stages.

    Scores p begin as the shares of images and sum to 1. After a version, for the counted clients S: p_k <- alpha p_k +
    (1 - alpha) P d_k / sum(d), P = sum of p over S and d_k = |delta_k - step|, how far the client ended from the merged
    model; nobody else's score moves. An update that lags is measured against the version's step too, so that a model
    that has moved on meanwhile is no distance. Nothing is sent for it. A client that sends a far model on
    purpose is asked more often: set `rounds.max_norm`.
    """

    when = (
        "Uploads are dear, and some owners hold what few others do: those end far from the merged model and are "
        "asked more. Only with rounds (`refill: at_close`). In our study a third of the uploads to a target "
        "were saved by the growing number alone, and attention added a point of accuracy: docs/studies.md. Try "
        "`quorate run experiments/adafl.yaml`."
    )
    costs = (
        "The orchestrator takes one norm per counted update, which it has read anyway. Early versions are made of "
        "few updates, so they jump. The owners who are asked more often work more: the ledger says who."
    )
    sends = "Nothing: scores come of the updates. Fewer updates per version while the fraction is small."
    paper = "Chen, Chong, Quek, Dynamic Attention-based Communication-Efficient Federated Learning, arXiv 2108.05765"
    deviations = (
        "the rule for the scores, alpha and the fractions are from memory: only abstract and introduction were read. "
        "Whether the scores of those who did not count shrink too was not known: `mass` offers both",
        "an update that lags is measured from its own base against the version's step; the paper has no late ones",
    )
    in_rounds = True
    """It asks a part of all clients per round, which `refill: at_arrival` does not have."""

    class Params(Frozen):
        """alpha: memory; 1 is scores that never move. start, end: fractions of the clients asked at first and at last.

        stages: from one to the other, equally long, over the first `over` versions; set it to the run's number of them.
        mass: `renormalise` has P = 1 and divides all scores by their sum, so that who rests keeps no score.
        """

        alpha: float = Field(default=0.9, ge=0, le=1)
        start: Share = 0.1
        end: Share = 0.5
        stages: PositiveInt = 5
        over: PositiveInt = 100
        mass: Literal["preserve", "renormalise"] = "preserve"

    def __init__(self, params: Params) -> None:
        self.params = params
        self.scores: dict[str, float] = {}
        self.merges = 0

    def meet(self, sizes: Mapping[str, int]) -> None:
        """Who trains, with how many images. A newcomer begins with its share, and the others make room."""
        total, new = sum(sizes.values()), sorted(set(sizes) - set(self.scores))
        room = 1 - sum(sizes[c] for c in new) / total if total else 1.0
        self.scores = {c: p * room for c, p in self.scores.items()} | {c: sizes[c] / total for c in new}

    def pick(self, free: Sequence[str], budget: int, random: Random) -> list[str]:
        """At most `budget` of the free clients and the fraction of all, each as likely as its score."""
        names = sorted(free)
        count = min(budget, len(names), self.asked())
        return draw(names, [self.scores.get(c, 0.0) for c in names], count, random)

    def asked(self) -> int:
        """K = max(1, round(C N)) with C of the stage, which never falls."""
        p, stages = self.params, self.params.stages
        stage = min(stages - 1, self.merges * stages // p.over)
        fraction = p.start if stages == 1 else p.start + (p.end - p.start) * stage / (stages - 1)
        return max(1, round(fraction * len(self.scores)))

    def observe(self, updates: Mapping[str, Tensors], step: Tensors) -> None:
        """A version has been merged of these updates, float32 deltas, and the model has moved by `step`."""
        self.merges += 1
        away = {c: norm({k: u[k] - step[k] for k in u}) for c, u in updates.items() if c in self.scores}
        total, alpha, preserves = sum(away.values()), self.params.alpha, self.params.mass == "preserve"
        mass = sum(self.scores[c] for c in away) if preserves else 1.0
        for client, distance in away.items() if total else ():
            self.scores[client] = alpha * self.scores[client] + (1 - alpha) * mass * distance / total
        if total and not preserves:
            whole = sum(self.scores.values())
            self.scores = {c: p / whole for c, p in self.scores.items()}

    def dump(self) -> dict[str, Any]:
        """Scores, and how many versions it has seen."""
        return {"scores": dict(sorted(self.scores.items())), "merges": self.merges}

    def load(self, state: Mapping[str, Any]) -> None:
        """As dumped; nothing at the beginning."""
        self.scores = {str(c): float(p) for c, p in state.get("scores", {}).items()}
        self.merges = int(state.get("merges", 0))
