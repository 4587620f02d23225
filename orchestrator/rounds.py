"""The round rule (docs/architecture.md): when a round closes, waits or asks again. Pure functions of numbers.

Knows the spec and how far the round is. Must not know clients, tensors, stores or clocks.
"""

from dataclasses import dataclass

from schemas.experiment import Rounds


@dataclass(frozen=True)
class Progress:
    """How far a round is. Times in seconds of the run's clock.

    accepted: updates that count so far, late ones from earlier rounds included; accepted_at: when each was let in.
    asked: clients asked since this version opened. in_flight: clients whose answer would still be admitted.
    opened_at: when this version opened, or was last retried. next_expiry: when the next task in flight expires.
    returns: when the next client comes back that could be asked then; infinity if there is none.
    short: owners who are missing still to what the aggregator can do with, however many updates there are.
    """

    accepted_at: tuple[float, ...]
    asked: int
    in_flight: int
    opened_at: float
    next_expiry: float = float("inf")
    returns: float = float("inf")
    short: int = 0

    @property
    def accepted(self) -> int:
        """Updates that count so far."""
        return len(self.accepted_at)


@dataclass(frozen=True)
class Wait:
    """Nothing can change before `until`, except by an arrival."""

    until: float


@dataclass(frozen=True)
class Close:
    """Commit what is accepted."""


@dataclass(frozen=True)
class Abort:
    """Too few: keep what is accepted, ask replacements."""


Verdict = Wait | Close | Abort


def needed(spec: Rounds, asked: int) -> int:
    """Updates that close the round: the quorum, or fewer if fewer could be asked."""
    return spec.quorum if spec.refill == "at_arrival" else max(1, min(spec.quorum, asked))


def quorum_at(spec: Rounds, progress: Progress) -> float | None:
    """When the quorum was reached, or None."""
    enough = needed(spec, progress.asked)
    if progress.accepted < enough or progress.short:
        return None
    return max(progress.opened_at, sorted(progress.accepted_at)[enough - 1])


def decide(spec: Rounds, progress: Progress, now: float) -> Verdict:
    """The first line of the table that holds."""
    reached, alone = quorum_at(spec, progress), progress.in_flight == 0
    deadline = progress.opened_at + spec.deadline_s
    if reached is not None and (alone or spec.refill == "at_arrival" or now >= reached + spec.grace_s):
        return Close()
    if alone or now >= deadline:
        if progress.accepted >= spec.floor and not progress.short:
            return Close()
        if now >= deadline or progress.returns == float("inf"):
            return Abort()
    return Wait(
        min(
            deadline, progress.next_expiry, progress.returns, *([reached + spec.grace_s] if reached is not None else [])
        )
    )


def share(spec: Rounds, size: int, total: int) -> Rounds:
    """The numbers of a group that has `size` of `total` clients: in proportion, rounded half up, at least 1 each."""
    counts = {"in_flight": spec.in_flight, "quorum": spec.quorum, "floor": spec.floor}
    return spec.model_copy(update={k: max(1, (2 * n * size + total) // (2 * total)) for k, n in counts.items()})


def discount(spec: Rounds, lag: int) -> float:
    """Weight of an update that lags `lag` merges of its group: 1 for none, never growing, in (0, 1]."""
    return spec.staleness.of(lag)
