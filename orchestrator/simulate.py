"""Simulated clients: when an answer is let in, and whether it ever is. Pure functions of seed, client and base.

In process the clock is virtual and every second of latency costs nothing; with real workers a loop on the wall's
clock holds an answer until `latency * time_scale` seconds after the asking.
"""

from dataclasses import dataclass
from random import Random

from orchestrator.plan import Plan
from schemas.base import derive
from schemas.log import Open


@dataclass(frozen=True)
class Simulator:
    """The latencies and dropouts of one run. scale: seconds of the run's clock per simulated second."""

    plan: Plan
    scale: float

    @classmethod
    def of(cls, plan: Plan, *, virtual: bool) -> "Simulator":
        """For a run on a virtual clock, or on the wall's."""
        simulate = plan.experiment.simulate
        return cls(plan, 1.0 if virtual or simulate is None else simulate.time_scale)

    def due(self, task: Open, arrived: float) -> float:
        """When a manifest that arrived may be let in. Only training is slowed down."""
        if task.kind != "train":
            return arrived
        slowest = max(self._seconds(client, task.base) for client in task.clients)
        return max(arrived, task.asked_at + slowest * self.scale)

    def drops(self, task: Open) -> bool:
        """Whether the answer never comes."""
        simulate, seed = self.plan.experiment.simulate, self.plan.experiment.seed
        if simulate is None or task.kind != "train":
            return False
        return Random(derive(seed, "dropout", task.task_id)).random() < simulate.dropout

    def _seconds(self, client: str, base: int) -> float:
        seed = self.plan.experiment.seed
        owner, task = Random(derive(seed, "speed", client)), Random(derive(seed, "latency", client, base))
        return float(self.plan.latency.seconds(owner, task))
