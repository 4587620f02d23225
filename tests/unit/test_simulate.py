"""Simulated clients: the same seed always gives the same delays and dropouts, in the shares that were asked for."""

import math
from random import Random
from statistics import fmean, median, stdev
from typing import Any

import pytest

from orchestrator.latencies.lognormal import Lognormal
from orchestrator.plan import plan
from orchestrator.simulate import Simulator
from schemas.errors import ConfigError
from schemas.log import Open
from tests.toys import experiment


def _simulator(*, virtual: bool = True, seed: int = 0, **simulate: Any) -> Simulator:
    return Simulator.of(plan(experiment(seed=seed, simulate=simulate or None)), virtual=virtual)


def _slow(**changes: Any) -> Simulator:
    return _simulator(latency={"name": "lognormal", "params": {"median_s": 4.0}}, **changes)


def _task(*clients: str, base: int = 0, kind: str = "train", asked_at: float = 100.0, number: int = 0) -> Open:
    facts = {"task_id": f"v{base}-{clients[0]}-{number}", "kind": kind, "base": base, "asked_at": asked_at}
    return Open.model_validate({**facts, "clients": clients})


def test_without_simulation_every_answer_is_let_in_when_it_arrives() -> None:
    simulator = _simulator()
    assert simulator.due(_task("a"), 123.0) == 123.0
    assert not any(simulator.drops(_task(f"c{i}")) for i in range(100))


def test_an_answer_is_let_in_after_the_clients_latency() -> None:
    due = _slow().due(_task("a", asked_at=100.0), 100.0)
    assert due > 100.0
    assert due == _slow().due(_task("a", asked_at=100.0), 100.0)
    assert _slow().due(_task("a", asked_at=300.0), 300.0) - 300.0 == pytest.approx(due - 100.0)


def test_real_work_that_took_longer_than_the_latency_is_not_held() -> None:
    assert _slow().due(_task("a", asked_at=100.0), 5000.0) == 5000.0


def test_latency_depends_on_seed_client_and_base_version_and_on_nothing_else() -> None:
    due = _slow().due(_task("a"), 0.0)
    assert _slow().due(_task("a", number=9), 0.0) == due  # another task of the same client and version
    others = [_slow(seed=1).due(_task("a"), 0.0), _slow().due(_task("b"), 0.0), _slow().due(_task("a", base=1), 0.0)]
    assert len({due, *others}) == 4


def test_a_task_of_several_clients_takes_as_long_as_the_slowest() -> None:
    names = [f"c{i}" for i in range(10)]
    alone = [_slow().due(_task(name), 0.0) for name in names]
    assert _slow().due(_task(*names), 0.0) == max(alone)


def test_on_the_wall_clock_a_simulated_second_is_scaled() -> None:
    virtual = _slow().due(_task("a", asked_at=0.0), 0.0)
    for scale in (0.2, 1.0, 0.0):
        real = _slow(virtual=False, time_scale=scale)
        assert real.due(_task("a", asked_at=0.0), 0.0) == pytest.approx(virtual * scale)
    assert _slow(virtual=True, time_scale=0.2).due(_task("a", asked_at=0.0), 0.0) == virtual


@pytest.mark.parametrize("kind", ["evaluate", "describe", "init"])
def test_only_training_is_slow_or_lost(kind: str) -> None:
    simulator = _slow(dropout=0.99)
    tasks = [_task(f"c{i}", kind=kind) for i in range(50)]
    assert all(simulator.due(t, 100.0) == 100.0 and not simulator.drops(t) for t in tasks)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5])
def test_answers_are_lost_in_the_share_that_was_asked_for(share: float) -> None:
    count = 4000
    simulator = _simulator(dropout=share)
    lost = [simulator.drops(_task(f"c{i}")) for i in range(count)]
    assert lost == [simulator.drops(_task(f"c{i}")) for i in range(count)]
    # Five standard deviations of a binomial share.
    assert fmean(lost) == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / count) + 1e-12)


def test_a_lost_answer_is_a_matter_of_the_task_so_a_replacement_may_come() -> None:
    simulator = _simulator(dropout=0.5)
    fates = [simulator.drops(_task("a", number=i)) for i in range(40)]
    assert {True, False} == set(fates)
    assert fates != [_simulator(dropout=0.5, seed=1).drops(_task("a", number=i)) for i in range(40)]


def test_the_latencies_are_lognormal_with_the_given_median_and_spread() -> None:
    # log seconds of client i: log 3 + 0.5 z_i, so their median is log 3 and their deviation 0.5.
    latency = Lognormal(Lognormal.Params(median_s=3.0, sigma=0.5, jitter=0.0))
    logs = [math.log(latency.seconds("a", 0, Random(i), Random(-i))) for i in range(4000)]
    assert median(logs) == pytest.approx(math.log(3.0), abs=5 * 1.2533 * 0.5 / math.sqrt(4000))
    assert stdev(logs) == pytest.approx(0.5, rel=0.06)


def test_jitter_varies_the_tasks_of_one_client() -> None:
    steady = Lognormal(Lognormal.Params(jitter=0.0))
    assert len({steady.seconds("a", 0, Random(1), Random(i)) for i in range(20)}) == 1
    varying = Lognormal(Lognormal.Params(jitter=0.3))
    logs = [math.log(varying.seconds("a", 0, Random(1), Random(i))) for i in range(4000)]
    assert stdev(logs) == pytest.approx(0.3, rel=0.06)


class Unlucky(Random):
    """Draws the largest number below one, which gives the largest normal number: sqrt(2 * 53 log 2) = 8.57."""

    def random(self) -> float:
        return 1 - 2.0**-53


def test_the_slowest_client_there_can_be_takes_a_finite_time() -> None:
    latency = Lognormal(Lognormal.Params(median_s=1e6, sigma=5, jitter=5))
    largest = math.log(1e6) + 10 * math.sqrt(2 * 53 * math.log(2))
    assert math.log(latency.seconds("a", 0, Unlucky(0), Unlucky(0))) == pytest.approx(largest)


@pytest.mark.parametrize("median_s", [0, -1, 1.000001e6, 1e308, math.inf, math.nan, "soon"])
def test_a_median_beyond_its_bounds_is_refused(median_s: Any) -> None:
    with pytest.raises(ConfigError, match="median_s"):
        _simulator(latency={"name": "lognormal", "params": {"median_s": median_s}})
