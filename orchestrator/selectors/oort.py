"""Utility: who has much to learn from and answers fast is asked more often, beside some whom nobody has asked yet."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from math import log, sqrt
from random import Random
from statistics import fmean
from typing import Annotated, Any

from pydantic import Field, NonNegativeFloat, PositiveInt

from orchestrator.selectors._lots import draw
from schemas.base import Frozen
from schemas.log import Accepted

Share = Annotated[float, Field(ge=0, le=1)]
HIGHEST = 1e12
"""No utility is above: two losses of 1e308 would make a sum of them that no commit can hold."""


@dataclass
class Known:
    """Of one client. utility: images x loss; null before it first counted. seconds, last: of its last answer, and the
    version that counted it; of one that never counted, for how long it was waited at most, and when last."""

    asked: int = 0
    utility: float | None = None
    seconds: float | None = None
    last: int = 0


class Oort:
    """Asks, of the free clients, a share never asked before, and those whose loss, images and speed promise most.

    Score of client i at version R: (min(U_i, cap) / cap + sqrt(0.1 ln R / L_i)) * min(1, (T / t_i)^penalty). U_i:
    images times loss of its last update; cap: the `clip` quantile of all U; t_i: seconds from asking to answer; T: the
    `prefer` quantile of all t; L_i: the version it last counted in. With `at_close` the slowest hold a round up; with
    `at_arrival` nobody is waited for, and `penalty: 0` does the slow no wrong. Who says no loss goes by images alone.
    On real workers seconds are measured, so who is asked depends on them. Clients that were never asked are drawn by
    images. Who was asked and never counted has the mean utility, and is as slow as it was waited for. Slow
    owners, and such whose first answer was lost, are asked less often, some hardly ever: the ledger says who. A client
    that lies about its loss or images is asked more often: its utility is cut to the next highest at least, and after
    `most` askings others come first.
    """

    when = (
        "Rounds wait for slow owners, or throw their work away, and others hold the like of what they hold: in our "
        "study what it gained was speed, docs/studies.md. Not where some class is with slow owners alone. Let "
        "updates weigh alike (`weight: uniform`), for it asks owners of many images more often already. Try "
        "`quorate run experiments/oort.yaml`."
    )
    costs = (
        "Four numbers per client in every commit. The slow and those with little loss are asked less often, some "
        "hardly ever, and the model is less theirs."
    )
    sends = "Nothing more: the loss is among the metrics that clients send anyway, and the orchestrator reads it."

    paper = "Lai et al., Oort: Efficient Federated Learning via Guided Participant Selection, OSDI 2021"
    deviations = (
        "the values are those of the authors' code, T's from memory",
        "`most` is 10; in the authors' code nobody has to wait",
        "the loss is the mean of the last epoch, not the root mean square of the first, and U is divided by cap",
        "nobody knows how fast a client is that was never asked, so such are drawn by images and not by speed",
        "the highest utility is always cut to the next, so that one liar alone is not believed",
    )

    class Params(Frozen):
        """explore, decay, least: the share never asked before, explore * decay^version, and no less than least.

        penalty: 0 lets the slow be slow. prefer, pace, window: T's quantile, and what is added to it after so many
        versions in which the counted clients' utility was no more than in as many before. clip: see above; the highest
        utility is always cut to the next. cut: who scores less than this share of the last that would be asked is not
        drawn. most, barred: clients asked more often, up to that share of all, are asked only when no others are free.
        """

        explore: Share = 0.9
        decay: Share = 0.98
        least: Share = 0.2
        penalty: NonNegativeFloat = 2.0
        prefer: Share = 0.1
        pace: Share = 0.05
        window: PositiveInt = 20
        clip: Share = 0.95
        cut: Share = 0.7
        most: PositiveInt | None = 10
        barred: Share = 0.3

    def __init__(self, params: Params) -> None:
        self.params = params
        self.sizes: Mapping[str, int] = {}
        self.known: dict[str, Known] = {}
        self.versions, self.prefer, self.gained = 0, params.prefer, (0.0, 0.0)

    def meet(self, sizes: Mapping[str, int]) -> None:
        """Who trains, with how many images."""
        self.sizes = sizes
        self.known = {c: self.known.get(c, Known()) for c in sizes}

    def pick(self, free: Sequence[str], budget: int, random: Random) -> list[str]:
        """As many of the free clients as the budget allows."""
        barred = self.barred()
        names, count = [c for c in sorted(free) if c not in barred], min(budget, len(free))
        tried, new = [c for c in names if self._of(c).asked], [c for c in names if not self._of(c).asked]
        share = max(self.params.least, self.params.explore * self.params.decay**self.versions)
        exploring = min(len(new), int(share * count + random.random()))
        exploiting = min(len(tried), count - exploring)
        exploring = min(len(new), count - exploiting)
        picked = self._exploit(tried, exploiting, random)
        picked += draw(new, [self.sizes.get(c, 1) for c in new], exploring, random)
        return picked + random.sample(sorted(set(free) & barred), count - len(picked))

    def barred(self) -> set[str]:
        """Who has been asked so often that others come first."""
        most, share = self.params.most, self.params.barred
        over = [c for c, k in self.known.items() if most is not None and k.asked > most]
        return set(sorted(over, key=lambda c: (-self.known[c].asked, c))[: int(share * len(self.known))])

    def scores(self, clients: Sequence[str]) -> dict[str, float]:
        """Of clients that have been asked."""
        utilities = sorted(k.utility for k in self.known.values() if k.utility is not None)
        rank = min(int(self.params.clip * len(utilities)), max(0, len(utilities) - 2))
        cap, preferred = utilities[rank] if utilities else 0.0, self._preferred()
        typical, found = fmean(utilities or [0.0]), {}
        for client in clients:
            known = self._of(client)
            utility = min(typical if known.utility is None else known.utility, cap) / cap if cap else 1.0
            bonus = sqrt(0.1 * log(self.versions + 1) / max(1, known.last))
            found[client] = (utility + bonus) * self._slow(known, preferred)
        return found

    def _exploit(self, tried: list[str], count: int, random: Random) -> list[str]:
        scores = self.scores(tried)
        floor = self.params.cut * sorted(scores.values(), reverse=True)[count - 1] if count else 0.0
        names = [c for c in tried if scores[c] >= floor]
        return draw(names, [scores[c] for c in names], count, random)

    def _preferred(self) -> float:
        """T: infinity while nobody's seconds are known."""
        seconds = sorted(k.seconds for k in self.known.values() if k.seconds is not None)
        return seconds[min(int(self.prefer * len(seconds)), len(seconds) - 1)] if seconds else float("inf")

    def _slow(self, known: Known, preferred: float) -> float:
        if known.seconds is None or known.seconds <= preferred:
            return 1.0
        return float((preferred / known.seconds) ** self.params.penalty)

    def _of(self, client: str) -> Known:
        return self.known.get(client, Known())

    def learn(self, counted: Sequence[Accepted], silent: Mapping[str, float], asked: Mapping[str, int]) -> None:
        """A version has been made of these; those are waited for no more, after so many seconds; how often who was
        asked."""
        self.versions += 1
        for client in sorted(set(asked) & set(self.known)):
            self.known[client].asked = asked[client]
        for a in counted:
            if known := self.known.get(a.client):
                known.utility = min(HIGHEST, self.sizes[a.client] * (1.0 if a.loss is None else a.loss))
                known.seconds, known.last = a.seconds, self.versions
        for client, seconds in silent.items():
            if (known := self.known.get(client)) and known.utility is None:
                known.seconds, known.last = max(seconds, known.seconds or 0.0), self.versions
        self._keep_pace(sum(self._of(a.client).utility or 0.0 for a in counted))

    def _keep_pace(self, gained: float) -> None:
        before, now = self.gained[0], self.gained[1] + gained
        if self.versions % self.params.window:
            self.gained = (before, now)
            return
        if self.versions > self.params.window and now <= before:
            self.prefer = min(1.0, self.prefer + self.params.pace)
        self.gained = (now, 0.0)

    def dump(self) -> dict[str, Any]:
        """A line per client, how many versions it has seen, and how far the pace is."""
        clients = {c: list(astuple(k)) for c, k in sorted(self.known.items())}
        return {"clients": clients, "versions": self.versions, "prefer": self.prefer, "gained": list(self.gained)}

    def load(self, state: Mapping[str, Any]) -> None:
        """As dumped; nothing at the beginning."""
        self.known = {str(c): Known(*line) for c, line in state.get("clients", {}).items()}
        self.versions = int(state.get("versions", 0))
        self.prefer = float(state.get("prefer", self.params.prefer))
        before, now = state.get("gained", (0.0, 0.0))
        self.gained = (float(before), float(now))
