"""Who is asked: to train, as many free clients as the round rule allows; to evaluate, everybody when it is due.

Knows the selector and the book. Takes nothing in, and decides nothing about when a round ends.
"""

from math import inf
from random import Random

from infra.clock import Clock
from orchestrator import orders
from orchestrator.book import Book
from orchestrator.desk import Desk
from orchestrator.lineage import Lineage
from orchestrator.plan import Plan
from orchestrator.rounds import Progress
from orchestrator.simulate import Simulator
from schemas.base import derive
from schemas.errors import QuorumError
from schemas.log import Share
from schemas.messages import ALL

NAMED = 8
"""Clients that a reason names one by one."""


class Asking:
    """The asking of one run."""

    def __init__(self, plan: Plan, lineage: Lineage, desk: Desk, clock: Clock, simulator: Simulator) -> None:
        self.plan, self.lineage, self.desk, self.clock, self.simulator = plan, lineage, desk, clock, simulator
        self.spec = plan.experiment.rounds

    @property
    def book(self) -> Book:
        """The book as it stands."""
        return self.desk.book

    def train(self, group: str) -> bool:
        """Ask free clients of a group, if the round rule allows; whether that was a decision."""
        budget, back = self.book.budget(group), self._back(group)
        free = [client for client, at in back.items() if at <= self.clock.now()]
        if not budget or (not free and (self.spec.refill == "at_arrival" or min(back.values(), default=inf) < inf)):
            return False
        picked = self._pick(free, budget, group)
        if not picked and self.spec.refill == "at_arrival":
            return False
        self.desk.ask(orders.training(self.book, self.lineage.commit, picked, self.clock.now(), group), group)
        return True

    def returns(self, group: str) -> float:
        """When the next client of a group comes back that could be asked then; infinity if there is none."""
        now = self.clock.now()
        return min((at for at in self._back(group).values() if at > now), default=inf)

    def evaluate(self) -> None:
        """Ask for an evaluation of the current version if it is due and not asked. It never blocks the next one."""
        version, spec = self.book.version, self.plan.experiment.evaluate
        last = version == self.plan.versions
        if not (version == 0 or (last and spec.final) or (spec.every and version % spec.every == 0)):
            return
        tasks = orders.evaluation(self.book, self.lineage.commit, self.clock.now())
        if new := tuple(t for t in tasks if not self.book.knows(t.task_id)):
            self.desk.ask(new)

    def failed(self, group: str) -> QuorumError:
        """Why the round of a group is given up: what was needed, who had been asked, and what became of it."""
        spec, version, run = self.book.numbers(group), self.book.version + 1, self.lineage.commit.run
        ledger = {c: share for c, share in sorted(self.book.ledger.items()) if self.book.group_of(c) == group}
        told = [f"{client} ({_fates(share)})" for client, share in ledger.items()]
        more = f" and {len(told) - NAMED} more" if len(told) > NAMED else ""
        return QuorumError(
            f"version {version} of run {run} got {_got(self.book.progress(group), spec.floor)}, at least {spec.floor} "
            f"are needed, and asking {spec.retries} times more did not help; "
            f"asked so far: {', '.join(told[:NAMED]) or 'nobody, since nobody was there'}{more}",
            hint="lower rounds.floor, raise rounds.deadline_s, or see in the ledger which clients are lost",
        )

    def _back(self, group: str) -> dict[str, float]:
        """Who could be asked, and the first moment from now on at which each is there. Nobody without a budget."""
        free = self.book.free(orders.sites(self.lineage.commit), group) if self.book.budget(group) else []
        return {client: self.simulator.back(client, self.clock.now()) for client in free}

    def _pick(self, free: list[str], budget: int, group: str) -> list[str]:
        # Whatever a selector returns: free clients only, each once, within the budget.
        now = self.book.rounds[group]
        more = () if group == ALL else (group,)
        random = Random(derive(self.plan.experiment.seed, now.base, "select", now.batches, *more))
        there = set(free)
        return [c for c in dict.fromkeys(self.plan.selector.pick(free, budget, random)) if c in there][:budget]


def _got(progress: Progress, floor: int) -> str:
    few = " of too few owners" if progress.short and progress.accepted >= floor else ""
    return f"{progress.accepted} updates{few}"


def _fates(share: Share) -> str:
    numbers = {"accepted": share.accepted, "late": share.late, "rejected": share.rejected, "lost": share.lost}
    return f"{share.asked} times: " + (", ".join(f"{n} {fate}" for fate, n in numbers.items() if n) or "no answer yet")
