"""Who is asked: to train, as many free clients as the round rule allows; to evaluate, everybody when it is due.

Knows the selector and the book. Takes nothing in, and decides nothing about when a round ends.
"""

from random import Random

from infra.clock import Clock
from orchestrator import orders
from orchestrator.book import Book
from orchestrator.desk import Desk
from orchestrator.lineage import Lineage
from orchestrator.plan import Plan
from schemas.base import derive
from schemas.messages import ALL


class Asking:
    """The asking of one run."""

    def __init__(self, plan: Plan, lineage: Lineage, desk: Desk, clock: Clock) -> None:
        self.plan, self.lineage, self.desk, self.clock = plan, lineage, desk, clock
        self.spec = plan.experiment.rounds

    @property
    def book(self) -> Book:
        """The book as it stands."""
        return self.desk.book

    def train(self, group: str) -> bool:
        """Ask free clients of a group, if the round rule allows; whether that was a decision."""
        budget = self.book.budget(group)
        free = self.book.free(orders.sites(self.lineage.commit), group) if budget else []
        if not budget or (not free and self.spec.refill == "at_arrival"):
            return False
        picked = self._pick(free, budget, group)
        if not picked and self.spec.refill == "at_arrival":
            return False
        self.desk.ask(orders.training(self.book, self.lineage.commit, picked, self.clock.now(), group), group)
        return True

    def evaluate(self) -> None:
        """Ask for an evaluation of the current version if it is due and not asked. It never blocks the next one."""
        version, spec = self.book.version, self.plan.experiment.evaluate
        last = version == self.plan.versions
        if not (version == 0 or (last and spec.final) or (spec.every and version % spec.every == 0)):
            return
        tasks = orders.evaluation(self.book, self.lineage.commit, self.clock.now())
        if new := tuple(t for t in tasks if not self.book.knows(t)):
            self.desk.ask(new)

    def _pick(self, free: list[str], budget: int, group: str) -> list[str]:
        # Whatever a selector returns: free clients only, each once, within the budget.
        now = self.book.rounds[group]
        more = () if group == ALL else (group,)
        random = Random(derive(self.plan.experiment.seed, now.base, "select", now.batches, *more))
        return [c for c in dict.fromkeys(self.plan.selector.pick(free, budget, random)) if c in free][:budget]
