"""The round rule: each row of the table as a property, then the four named behaviours by example."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from orchestrator.aggregators.mean import Mean
from orchestrator.rounds import Abort, Close, Progress, Verdict, Wait, decide, discount, needed, quorum_at
from schemas.experiment import Rounds
from schemas.messages import ALL
from workers.method import State
from workers.methods.fedavg import FedAvg
from workers.tensors import Tensors

SLOW = (HealthCheck.too_slow, HealthCheck.filter_too_much)
"""A busy machine is no fault of the code."""

TIMES = st.floats(0, 1000, allow_nan=False)


@st.composite
def specs(draw: st.DrawFn) -> Rounds:
    in_flight = draw(st.integers(1, 12))
    quorum = draw(st.integers(1, in_flight))
    return Rounds(
        in_flight=in_flight,
        quorum=quorum,
        floor=draw(st.integers(1, quorum)),
        grace_s=draw(st.floats(0, 20)),
        deadline_s=draw(st.floats(0.5, 100)),
        refill=draw(st.sampled_from(["at_close", "at_arrival"])),
        max_staleness=draw(st.integers(0, 4)),
    )


@st.composite
def situations(draw: st.DrawFn) -> tuple[Rounds, Progress, float]:
    """A spec, how far its round is, and a moment at which nothing in flight is overdue."""
    spec, opened = draw(specs()), draw(TIMES)
    now = opened + draw(st.floats(0, 200))
    accepted = tuple(draw(st.lists(st.floats(0, now), max_size=14)))
    in_flight = draw(st.integers(0, spec.in_flight))
    expiry = now + draw(st.floats(0.001, 300)) if in_flight else math.inf
    asked = draw(st.integers(0, 14))
    short = draw(st.sampled_from([0, 0, 0, 1, 2]))
    return spec, Progress(accepted, asked, in_flight, opened, expiry, short=short), now


@settings(deadline=None, suppress_health_check=SLOW)
@given(situations())
def test_the_verdict_is_the_first_line_of_the_table_that_holds(situation: tuple[Rounds, Progress, float]) -> None:
    spec, p, now = situation
    enough = spec.quorum if spec.refill == "at_arrival" else max(1, min(spec.quorum, p.asked))
    none, deadline = p.in_flight == 0, now >= p.opened_at + spec.deadline_s
    grace_over = p.accepted >= enough and now >= max(p.opened_at, sorted(p.accepted_at)[enough - 1]) + spec.grace_s
    verdict = decide(spec, p, now)
    by_quorum = p.accepted >= enough and (none or grace_over or spec.refill == "at_arrival")
    by_floor = (deadline or none) and p.accepted >= spec.floor
    if (by_quorum or by_floor) and not p.short:
        assert verdict == Close()
    elif deadline or none:
        assert verdict == Abort()
    else:
        assert isinstance(verdict, Wait)


@settings(deadline=None, suppress_health_check=SLOW)
@given(situations())
def test_waiting_is_for_a_moment_to_come_at_which_something_changes(situation: tuple[Rounds, Progress, float]) -> None:
    spec, progress, now = situation
    verdict = decide(spec, progress, now)
    assume(isinstance(verdict, Wait))
    assert isinstance(verdict, Wait)
    assert now < verdict.until < math.inf
    then = decide(spec, progress, verdict.until)
    assert then in (Close(), Abort()) or verdict.until == progress.next_expiry
    before = (now + verdict.until) / 2
    assert not now < before < verdict.until or decide(spec, progress, before) == verdict


@settings(deadline=None, suppress_health_check=SLOW)
@given(situations(), st.floats(0, 1))
def test_one_more_update_never_turns_close_into_waiting(
    situation: tuple[Rounds, Progress, float], share: float
) -> None:
    spec, progress, now = situation
    assume(decide(spec, progress, now) == Close())
    more = replace(progress, accepted_at=(*progress.accepted_at, now * share))
    assert decide(spec, more, now) == Close()
    arrived = replace(more, in_flight=max(0, progress.in_flight - 1))
    assert decide(spec, arrived, now) == Close()


@settings(deadline=None, suppress_health_check=SLOW)
@given(situations(), st.floats(0, 500))
def test_time_alone_never_turns_close_into_waiting(situation: tuple[Rounds, Progress, float], later: float) -> None:
    spec, progress, now = situation
    assume(decide(spec, progress, now) == Close())
    assert decide(spec, progress, now + later) == Close()


@settings(deadline=None, suppress_health_check=SLOW)
@given(situations(), st.lists(st.floats(0.001, 300), min_size=12, max_size=12))
def test_a_round_without_arrivals_always_ends(situation: tuple[Rounds, Progress, float], lives: list[float]) -> None:
    spec, progress, now = situation
    expiries = sorted(now + life for life in lives[: progress.in_flight])
    verdict: Verdict = Wait(now)
    for _ in range(len(expiries) + 3):  # each task expires once, grace and deadline pass once
        pending = [e for e in expiries if e > now]
        left = replace(progress, in_flight=len(pending), next_expiry=min(pending, default=math.inf))
        verdict = decide(spec, left, now)
        if not isinstance(verdict, Wait):
            break
        now = verdict.until
    assert verdict in (Close(), Abort())


@settings(deadline=None, suppress_health_check=SLOW)
@given(situations())
def test_nothing_is_closed_without_an_update_and_nothing_aborted_with_enough(
    situation: tuple[Rounds, Progress, float],
) -> None:
    spec, progress, now = situation
    match decide(spec, progress, now):
        case Close():
            assert progress.accepted >= min(spec.floor, needed(spec, progress.asked)) >= 1
            assert not progress.short
        case Abort():
            assert progress.accepted < spec.floor or progress.short


# --- by example. Times in seconds; the round opens at 100.


def _spec(**changes: Any) -> Rounds:
    return Rounds(**{"grace_s": 2.0, "deadline_s": 60.0, **changes})


def _progress(*accepted_at: float, asked: int, in_flight: int, next_expiry: float = 160.0) -> Progress:
    return Progress(accepted_at, asked, in_flight, 100.0, next_expiry if in_flight else math.inf)


SYNCHRONOUS = _spec(in_flight=4, quorum=4, floor=4, grace_s=0, max_staleness=0)
K_OF_N = _spec(in_flight=8, quorum=6, floor=4)
FEDBUFF = _spec(in_flight=20, quorum=10, floor=1, refill="at_arrival", staleness="sqrt")
FEDASYNC = _spec(in_flight=20, quorum=1, floor=1, refill="at_arrival", apply="mix", server_lr=0.6)


def test_synchronous_waits_for_the_last_one_and_then_closes_at_once() -> None:
    assert decide(SYNCHRONOUS, _progress(101, 102, 103, asked=4, in_flight=1), 104) == Wait(160)
    assert decide(SYNCHRONOUS, _progress(101, 102, 103, 104, asked=4, in_flight=0), 104) == Close()


def test_synchronous_asks_again_when_one_never_answers() -> None:
    assert decide(SYNCHRONOUS, _progress(101, 102, 103, asked=4, in_flight=0), 110) == Abort()
    assert decide(SYNCHRONOUS, _progress(101, 102, 103, asked=4, in_flight=1), 160) == Abort()


def test_k_of_n_gives_the_rest_its_grace_after_the_quorum() -> None:
    reached = _progress(101, 101, 102, 102, 103, 104, asked=8, in_flight=2)
    assert quorum_at(K_OF_N, reached) == 104
    assert decide(K_OF_N, reached, 105) == Wait(106)
    assert decide(K_OF_N, reached, 106) == Close()


def test_k_of_n_does_not_wait_out_its_grace_when_everybody_has_answered() -> None:
    everybody = _progress(101, 101, 102, 102, 103, 104, 104.5, 105, asked=8, in_flight=0)
    assert decide(K_OF_N, everybody, 105) == Close()


def test_the_seventh_update_does_not_lengthen_the_grace() -> None:
    assert decide(K_OF_N, _progress(101, 101, 102, 102, 103, 104, 105.5, asked=8, in_flight=1), 106) == Close()


def test_the_deadline_closes_on_the_floor_and_aborts_below_it() -> None:
    assert decide(K_OF_N, _progress(101, 102, 103, 104, asked=8, in_flight=4), 159.9) == Wait(160)
    assert decide(K_OF_N, _progress(101, 102, 103, 104, asked=8, in_flight=4), 160) == Close()
    assert decide(K_OF_N, _progress(101, 102, 103, asked=8, in_flight=5), 160) == Abort()


def test_waiting_ends_when_a_task_expires() -> None:
    assert decide(K_OF_N, _progress(101, asked=8, in_flight=7, next_expiry=130), 110) == Wait(130)


def test_late_updates_of_earlier_rounds_count_from_the_opening() -> None:
    # Three late ones were in before this round opened at 100, and the fourth of two asked clients answers at 101:
    # two suffice because only two could be asked; the grace counts from the opening, not from before it.
    progress = _progress(95, 96, 97, 101, asked=2, in_flight=1)
    assert needed(K_OF_N, 2) == 2
    assert quorum_at(K_OF_N, progress) == 100
    assert decide(K_OF_N, progress, 101.5) == Wait(102)


def test_a_round_that_could_ask_nobody_still_needs_one_update() -> None:
    assert needed(K_OF_N, 0) == 1
    assert decide(K_OF_N, _progress(asked=0, in_flight=0), 100) == Abort()


def test_fedbuff_closes_at_the_kth_arrival_without_grace() -> None:
    nine = tuple(100.0 + i for i in range(9))
    assert isinstance(decide(FEDBUFF, _progress(*nine, asked=29, in_flight=20), 109), Wait)
    assert decide(FEDBUFF, _progress(*nine, 109, asked=29, in_flight=19), 109) == Close()


def test_fedbuff_waits_for_k_even_if_few_were_asked_since_the_version_opened() -> None:
    assert needed(FEDBUFF, 3) == 10


def test_fedasync_closes_at_every_arrival() -> None:
    assert isinstance(decide(FEDASYNC, _progress(asked=20, in_flight=20), 100), Wait)
    assert decide(FEDASYNC, _progress(101, asked=20, in_flight=19), 101) == Close()


# --- the discount


@pytest.mark.parametrize("staleness", ["constant", "sqrt"])
def test_the_discount_is_one_for_fresh_updates_never_grows_and_stays_above_zero(staleness: str) -> None:
    values = [discount(_spec(staleness=staleness), lag) for lag in range(100)]
    assert values[0] == 1
    assert values == sorted(values, reverse=True)
    assert all(0 < v <= 1 for v in values)


def test_the_root_discount_of_lag_3_is_a_half() -> None:
    assert discount(_spec(staleness="sqrt"), 3) == 1 / math.sqrt(1 + 3) == 0.5


def _step(updates: list[tuple[Tensors, float, int]], spec: Rounds, model: Tensors) -> Tensors:
    """The model after one version; updates are (delta, weight, lag)."""
    fold = Mean(Mean.Params()).fold()
    for i, (delta, weight, lag) in enumerate(updates):
        fold.add(f"client-{i}", delta, weight, discount(spec, lag))
    method = FedAvg(FedAvg.Params())
    return method.merge(State(tensors={ALL: model}), {ALL: fold.result()}, spec.server_lr).tensors[ALL]


@pytest.mark.parametrize("weight", [1.0, 37.0, 1e-3])
def test_the_discount_does_not_cancel_for_a_single_update(weight: float) -> None:
    # lag 3 -> s = 1/sqrt(4) = 0.5; server_lr 0.6: the model moves by 0.6 * 0.5 = 0.3 of the delta, whatever it weighs.
    spec = _spec(staleness="sqrt", server_lr=0.6)
    moved = _step([({"w": torch.tensor([10.0, -20.0])}, weight, 3)], spec, {"w": torch.tensor([1.0, 1.0])})
    assert moved["w"].tolist() == pytest.approx([1 + 3.0, 1 - 6.0])


def test_fresh_updates_of_everybody_give_the_weighted_mean() -> None:
    # w = 1; deltas +1 (weight 3) and -3 (weight 1): mean (3*1 - 1*3)/4 = 0.
    updates = [({"w": torch.tensor([1.0])}, 3.0, 0), ({"w": torch.tensor([-3.0])}, 1.0, 0)]
    assert _step(updates, _spec(), {"w": torch.tensor([1.0])})["w"].tolist() == [1.0]


def test_one_fresh_update_at_full_rate_gives_the_clients_own_model() -> None:
    model, theirs = torch.tensor([1.0, 2.0]), torch.tensor([4.0, -8.0])
    moved = _step([({"w": theirs - model}, 5.0, 0)], _spec(server_lr=1.0), {"w": model})
    assert torch.equal(moved["w"], theirs)


def test_a_stale_update_counts_less_beside_a_fresh_one() -> None:
    # Same weight 1; fresh +1, lag 3 +1 at 0.5: (1 + 0.5)/2 = 0.75.
    updates = [({"w": torch.tensor([1.0])}, 1.0, 0), ({"w": torch.tensor([1.0])}, 1.0, 3)]
    assert _step(updates, _spec(), {"w": torch.tensor([0.0])})["w"].tolist() == [0.75]


def test_tensors_that_no_update_names_stay() -> None:
    moved = _step([({"w": torch.tensor([1.0])}, 1.0, 0)], _spec(), {"w": torch.zeros(1), "b": torch.ones(1)})
    assert moved["b"].tolist() == [1.0]
