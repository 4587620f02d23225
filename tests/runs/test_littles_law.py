"""How stale updates are when whoever answers is replaced at once: Little's law, through the engine in virtual time.

While an update is at work, the other in_flight - 1 clients arrive once each on average, and a quorum of arrivals makes
a version. So the mean lag is (in_flight - 1) / quorum, whatever the latencies are.
"""

from collections import Counter
from pathlib import Path

import pytest
import torch

from orchestrator.run import Outcome
from schemas.base import Choice
from schemas.experiment import Experiment
from tests.runs.here import run
from tests.toys import experiment, paint
from workers.method import Client, Update
from workers.methods.fedclip import FedClip

IN_FLIGHT, CLIENTS, UPDATES, UNSETTLED = 10, 30, 240, 0.2
"""The first fifth of the versions does not count: at first nobody is stale."""


class Idle(FedClip):
    """A client that sends zeros at once: what is left is the engine."""

    class Params(FedClip.Params):
        """No parameters of its own."""

    def train(self, client: Client) -> Update:
        return Update(tensors={k: torch.zeros_like(t) for k, t in client.incoming.items()}, weight=1.0)


def buffered(images: Path, quorum: int) -> Experiment:
    rounds = {
        "versions": UPDATES // quorum, "in_flight": IN_FLIGHT, "quorum": quorum, "floor": quorum,
        "refill": "at_arrival", "max_staleness": 100, "deadline_s": 10_000,
    }  # fmt: skip
    made = experiment(
        images,
        method={"name": f"{__name__}:Idle"},
        rounds=rounds,
        simulate={"latency": {"name": "lognormal", "params": {"median_s": 1, "sigma": 1, "jitter": 0.3}}},
        evaluate={"every": 0, "final": False},
    )
    assert made.data is not None
    partition = Choice(name="dirichlet", params={"clients": CLIENTS, "alpha": 100})
    return made.model_copy(update={"data": made.data.model_copy(update={"partition": partition})})


def mean_lag(outcome: Outcome) -> float:
    closed = [e for e in outcome.events if e.event == "closed"]
    lags: Counter[int] = Counter()
    for e in closed[int(UNSETTLED * len(closed)) :]:
        lags.update({int(lag): count for lag, count in e.facts["lags"].items()})
    return sum(lag * count for lag, count in lags.items()) / lags.total()


@pytest.mark.parametrize("quorum", [2, 5])
def test_the_mean_staleness_is_in_flight_less_one_by_quorum(tmp_path: Path, quorum: int) -> None:
    outcome = run(buffered(paint(tmp_path / "images"), quorum), tmp_path)
    assert outcome.report.status == "finished"
    assert sum(s.rejected + s.lost for s in outcome.report.ledger.values()) == 0
    assert mean_lag(outcome) == pytest.approx((IN_FLIGHT - 1) / quorum, rel=0.1)
