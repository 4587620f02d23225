"""Simulated clients: when one is there, when an answer is let in, and whether it ever is.

Pure functions of seed, client, base and time. In process the clock is virtual and every second of latency costs
nothing; with real workers a loop on the wall's clock holds an answer until `latency * time_scale` seconds after the
asking, and clients come and go at that scale.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from math import inf, isinf
from random import Random

from orchestrator.plan import Plan
from schemas.base import derive
from schemas.log import Open


@dataclass
class Simulator:
    """The latencies, dropouts and absences of one run.

    scale: seconds of the run's clock per simulated second. began: the run's clock at version 0.
    """

    plan: Plan
    scale: float
    began: float = 0.0
    _changes: dict[str, "_Changes"] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: Plan, *, virtual: bool) -> "Simulator":
        """For a run on a virtual clock, or on the wall's."""
        simulate = plan.experiment.simulate
        return cls(plan, 1.0 if virtual or simulate is None else simulate.time_scale)

    def begins(self, at: float) -> None:
        """The run's clock at version 0: what presence counts from."""
        self.began = at
        self._changes.clear()

    def unknown(self, clients: Collection[str]) -> dict[str, list[str]]:
        """Names that the parameters of presence and latency hold and no client bears, by what holds them."""
        parts = {"presence": self.plan.presence, "latency": self.plan.latency}
        found = {what: sorted(getattr(part, "named", frozenset()) - set(clients)) for what, part in parts.items()}
        return {what: names for what, names in found.items() if names}

    def due(self, task: Open, arrived: float) -> float:
        """When a manifest that arrived may be let in. Only training is slowed down.

        Who has left when the work is done answers on coming back; infinity if that is never.
        """
        if task.kind != "train":
            return arrived
        slowest = max(self._seconds(client, task.base) for client in task.clients)
        done = max(arrived, task.asked_at + slowest * self.scale)
        if done > task.asked_at + self.plan.experiment.rounds.task_ttl_s:
            return done  # nobody waits for it any more, so it does not matter who is there then
        return max(self.back(client, done) for client in task.clients)

    def drops(self, task: Open) -> bool:
        """Whether the answer never comes."""
        simulate, seed = self.plan.experiment.simulate, self.plan.experiment.seed
        if simulate is None or task.kind != "train":
            return False
        lost = Random(derive(seed, "dropout", task.task_id)).random() < simulate.dropout
        return lost or isinf(self.due(task, task.asked_at))

    def back(self, client: str, at: float) -> float:
        """The first moment from `at` on at which the client is there; infinity if it does not come back."""
        return self._of(client).back(at)

    def _of(self, client: str) -> "_Changes":
        if client not in self._changes:
            random = Random(derive(self.plan.experiment.seed, "presence", client))
            moments = self.plan.presence.changes(client, random)
            self._changes[client] = _Changes(self.began + moment * self.scale for moment in moments)
        return self._changes[client]

    def _seconds(self, client: str, base: int) -> float:
        seed = self.plan.experiment.seed
        owner, task = Random(derive(seed, "speed", client)), Random(derive(seed, "latency", client, base))
        return float(self.plan.latency.seconds(client, base, owner, task))


class _Changes:
    """The moments at which one client comes, goes, comes, ...: as many as have been asked for."""

    def __init__(self, moments: Iterator[float]) -> None:
        self.known: list[float] = []
        self.more = moments

    def back(self, at: float) -> float:
        while not self.known or self.known[-1] <= at:
            following = next(self.more, None)
            if following is None:
                break
            self.known.append(following)
        passed = bisect_right(self.known, at)
        if passed % 2:
            return at
        return self.known[passed] if passed < len(self.known) else inf
