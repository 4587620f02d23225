"""FedAvg, FedAsync (arXiv 1903.03934) and FedBuff (arXiv 2106.06639) as numbers of one round rule.

Each expected number is derived here. tau is the staleness of an update, s(tau) its discount.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infra.blobs import FileBlobs
from orchestrator import keys
from orchestrator.aggregators.mean import Mean
from orchestrator.commits import Commits
from orchestrator.intake import Intake
from orchestrator.journal import Journal
from orchestrator.lineage import Lineage
from orchestrator.plan import plan
from orchestrator.rounds import discount
from orchestrator.simulate import Simulator
from schemas.experiment import Experiment, Rounds
from schemas.log import Accepted, Commit, Event
from schemas.messages import ALL, BlobRef
from tests.runs.here import run
from tests.toys import experiment, paint
from workers.method import State
from workers.methods.fedavg import FedAvg
from workers.pipeline import Label, write_update
from workers.tensors import Tensors

NONE = BlobRef(key="k", sha256="0" * 64, size=0)
NAMES: list[Any] = [
    "constant", "sqrt", "polynomial", "hinge",
    {"name": "polynomial", "params": {"a": 2}}, {"name": "hinge", "params": {"a": 0.5, "b": 1.5}},
]  # fmt: skip


def _s(staleness: Any, lag: int) -> float:
    return discount(Rounds.model_validate({"staleness": staleness}), lag)


# --- s(tau)


@pytest.mark.parametrize("staleness", NAMES, ids=str)
def test_s_is_1_for_a_fresh_update_never_grows_and_stays_above_zero(staleness: Any) -> None:
    values = [_s(staleness, lag) for lag in range(200)]
    assert values[0] == 1
    assert values == sorted(values, reverse=True)
    assert all(0 < v <= 1 for v in values)


@given(a=st.floats(1e-6, 10), b=st.floats(0, 1e6), lag=st.integers(0, 10**6))
def test_no_parameter_takes_s_out_of_its_range(a: float, b: float, lag: int) -> None:
    for staleness in ({"name": "polynomial", "params": {"a": a}}, {"name": "hinge", "params": {"a": a, "b": b}}):
        assert 0 < _s(staleness, lag) <= 1
        assert _s(staleness, lag + 1) <= _s(staleness, lag)


def test_polynomial_of_3_with_a_half_is_a_half_and_equals_the_root() -> None:
    half = {"name": "polynomial", "params": {"a": 0.5}}
    assert _s(half, 3) == (3 + 1) ** -0.5 == 0.5
    assert [_s("polynomial", lag) for lag in range(50)] == [
        _s("sqrt", lag) for lag in range(50)
    ]  # a = 0.5 is the default
    assert _s({"name": "polynomial", "params": {"a": 2}}, 3) == (3 + 1) ** -2


def test_hinge_is_flat_to_b_and_continuous_there() -> None:
    # 1/(a (tau - b) + 1): the + 1 is what makes it 1 at tau = b; without it the first step beyond b would divide by 0.
    assert [_s("hinge", lag) for lag in range(7)] == [1, 1, 1, 1, 1, 1 / (10 * 1 + 1), 1 / (10 * 2 + 1)]  # a 10, b 4
    for beyond in (1e-3, 1e-6, 1e-9):
        nearly = {"name": "hinge", "params": {"a": 10, "b": 4 - beyond}}
        assert _s(nearly, 4) == pytest.approx(1 - 10 * beyond, abs=200 * beyond**2 + 1e-15)


# --- one step of the server


def _step(updates: list[tuple[float, float, int]], model: float, **rounds: Any) -> float:
    """The model after one version of `apply: delta`; updates are (delta, weight, tau)."""
    spec = Rounds.model_validate(rounds)
    fold = Mean(Mean.Params()).fold()
    for i, (delta, weight, lag) in enumerate(updates):
        fold.add(f"c{i}", {"w": torch.tensor([delta])}, weight, discount(spec, lag))
    state = State(tensors={ALL: {"w": torch.tensor([model])}})
    return FedAvg(FedAvg.Params()).merge(state, {ALL: fold.result()}, spec.server_lr).tensors[ALL]["w"].item()


def test_everybody_fresh_at_rate_1_is_fedavg() -> None:
    # FedAvg: sum of n_i theta_i / n. Model 2, clients end at 3, 5 and -1 with 10, 20 and 10 images: (30+100-10)/40 = 3.
    ended, images = (3.0, 5.0, -1.0), (10.0, 20.0, 10.0)
    fedavg = sum(n * theta for n, theta in zip(images, ended, strict=True)) / sum(images)
    updates = [(theta - 2.0, n, 0) for theta, n in zip(ended, images, strict=True)]
    for staleness in NAMES:
        assert _step(updates, 2.0, staleness=staleness) == fedavg == 3.0


def test_fedbuff_adds_the_discounted_mean_of_its_buffer() -> None:
    # eta/K sum s(tau) delta, K = 4, eta 0.5, tau 0, 3, 3, 8: 10 + 0.5/4 (8 + 8/2 + (-4)/2 + 6/3) = 10 + 1.5.
    updates = [(8.0, 1.0, 0), (8.0, 1.0, 3), (-4.0, 1.0, 3), (6.0, 1.0, 8)]
    assert _step(updates, 10.0, staleness="sqrt", server_lr=0.5) == pytest.approx(11.5)


# --- FedAsync: w + alpha s(tau) (theta - w)


def _mixed(root: Path, *, apply: str, alpha: float, tau: int, staleness: Any = "constant") -> float:
    """From base 4 the client went to 12; the model now is 10 (4 if tau is 0): where it goes."""
    rounds = {"in_flight": 1, "quorum": 1, "floor": 1, "refill": "at_arrival", "max_staleness": 9, "apply": apply,
              "staleness": staleness}  # fmt: skip
    made = plan(experiment(rounds=rounds))
    commits = Commits("r", FileBlobs(root))
    journal = Journal(lambda event: None)
    intake = Intake(made, commits, Simulator.of(made, virtual=True), journal)
    lineage = Lineage(made, commits.blobs, commits, intake, journal)
    models = {5 - tau: {ALL: _put(commits, 4.0)}, 5: {ALL: _put(commits, 10.0 if tau else 4.0)}}
    facts: dict[str, Any] = {"run": "r", "version": 5, "at": 1.0, "setting": NONE, "descriptions": (), "cursor": "1"}
    lineage.load(Commit(**facts, models=models, journal=commits.put_journal(5, [])))
    if alpha != 1:  # 0 is refused in an experiment: such a run would stand still
        lineage.spec = lineage.spec.model_copy(update={"server_lr": alpha})
    task = f"v{5 - tau}-a-0"
    data = write_update({"w": torch.tensor([12.0 - 4.0])}, Label("a", 3.0, {}, None, 0))
    update = commits.blobs.put(keys.upload("r", "updates", task, 1, "a"), data)
    accepted = Accepted(task_id=task, client="a", base=5 - tau, update=update, weight=3.0, at=1.0)
    return lineage.merge([(accepted, tau)], 5).tensors[ALL]["w"].item()


def _put(commits: Commits, value: float) -> BlobRef:
    return commits.put_model(int(value), {"w": torch.tensor([value])})


def test_alpha_1_replaces_the_model_and_alpha_0_leaves_it(tmp_path: Path) -> None:
    assert _mixed(tmp_path / "1", apply="mix", alpha=1.0, tau=3) == 12.0
    assert _mixed(tmp_path / "0", apply="mix", alpha=0.0, tau=3) == 10.0


@pytest.mark.parametrize(
    ("staleness", "s"),
    [
        ("constant", 1.0),
        ("polynomial", 4**-0.5),
        ({"name": "hinge", "params": {"a": 2, "b": 1}}, 1 / (2 * (3 - 1) + 1)),
    ],
)
def test_mixing_weighs_by_alpha_times_s(tmp_path: Path, staleness: Any, s: float) -> None:
    found = _mixed(tmp_path, apply="mix", alpha=0.6, tau=3, staleness=staleness)
    assert found == pytest.approx((1 - 0.6 * s) * 10 + 0.6 * s * 12)


@pytest.mark.parametrize(("tau", "same"), [(0, True), (1, False), (3, False)])
def test_mixing_and_adding_are_the_same_only_for_a_fresh_update(tmp_path: Path, tau: int, same: bool) -> None:
    both = [_mixed(tmp_path / apply, apply=apply, alpha=0.6, tau=tau) for apply in ("mix", "delta")]
    assert (both[0] == both[1]) is same


# --- whole runs in virtual time


FEDBUFF = {"versions": 60, "in_flight": 8, "quorum": 4, "floor": 1, "refill": "at_arrival", "max_staleness": 50}
SLOW = {"latency": {"name": "lognormal", "params": {"sigma": 1.0}}}


def _many(root: Path, **changes: Any) -> Experiment:
    """Twelve clients."""
    made = experiment(paint(root), **changes)
    assert made.data is not None
    clients = {"name": "by_domain", "params": {"clients_per_domain": 6}}
    data = {**made.data.model_dump(), "partition": clients}
    return Experiment.model_validate({**made.model_dump(), "data": data, "evaluate": {"every": 0, "final": False}})


@pytest.fixture(scope="module")
def fedbuff(tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    root = tmp_path_factory.mktemp("fedbuff")
    return run(_many(root / "images", rounds=FEDBUFF, simulate=SLOW), root).events


def test_every_accepted_upload_is_counted_once(fedbuff: list[Event]) -> None:
    let_in = [e for e in fedbuff if e.event in ("accepted", "late")]
    counted = sum(e.facts["counted"] for e in fedbuff if e.event == "closed")
    assert counted == 60 * 4 <= len(let_in) <= counted + 4  # what came after the last version had been opened
    assert len({(e.client, e.facts["base"]) for e in let_in}) == len(let_in)


def test_never_more_are_in_flight_than_allowed(fedbuff: list[Event]) -> None:
    flying, most = 0, 0
    for e in fedbuff:
        flying += {"asked": 1, "accepted": -1, "late": -1, "rejected": -1, "lost": -1}.get(e.event, 0)
        most = max(most, flying)
    assert most == FEDBUFF["in_flight"]


def test_mean_staleness_is_in_flight_less_one_by_quorum(fedbuff: list[Event]) -> None:
    # Summed over updates, the arrivals while each was out = summed over arrivals, the others that were out = Mc - 1
    # for each. Every K arrivals are a version, so the mean is (Mc - 1)/K: Little's law. The start is left out.
    lags = [int(lag) for e in fedbuff if e.event == "closed" and e.version > 10
            for lag, n in e.facts["lags"].items() for _ in range(n)]  # fmt: skip
    expected = (8 - 1) / 4
    assert math.isclose(sum(lags) / len(lags), expected, rel_tol=0.1)


def test_the_order_of_arrival_leaves_no_trace_in_a_version(tmp_path: Path) -> None:
    # All are asked and all are waited for; who is fast and who is slow depends on the latency's parameters only.
    rounds = {"versions": 2, "in_flight": 12, "quorum": 12, "floor": 12, "max_staleness": 0, "deadline_s": 1e6}
    orders, found = [], []
    for sigma in (0.5, 1.5):
        slow = {"latency": {"name": "lognormal", "params": {"sigma": sigma, "jitter": 2.0}}}
        outcome = run(_many(tmp_path / f"images-{sigma}", rounds=rounds, simulate=slow), tmp_path / str(sigma))
        orders.append([e.client for e in outcome.events if e.event == "accepted"])
        found.append(outcome.tensors[ALL])
    assert orders[0] != orders[1]
    assert _same(*found)


def _same(a: Tensors, b: Tensors) -> bool:
    return set(a) == set(b) and all(torch.equal(t, b[name]) for name, t in a.items())
