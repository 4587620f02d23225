"""LICFL in whole runs: owners who call things by each other's names get models of their own, in every mode."""

import contextlib
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from infra.blobs import FileBlobs
from orchestrator.commits import Commits
from orchestrator.groups import lag
from orchestrator.run import Outcome
from schemas.experiment import Experiment
from tests.runs.here import Fuse, Killed, run
from tests.runs.test_crash import facts, operations, places
from tests.runs.test_embedded import SLOW, events
from tests.toys import COLOURS, experiment, paint
from workers.method import KEPT
from workers.tensors import fingerprint

CLIENTS = tuple(f"owner-{i}" for i in range(8))
TURNED = {"amber": "blue", "blue": "green", "green": "amber"}
"""What the second half of the owners calls the colours."""
SYNC = {"versions": 9, "in_flight": 8, "quorum": 8, "floor": 8, "grace_s": 0, "max_staleness": 0}
MODES: dict[str, dict[str, Any]] = {
    "synchronous": {"rounds": SYNC},
    "k of n": {
        "rounds": {**SYNC, "quorum": 6, "floor": 4, "grace_s": 0.2, "deadline_s": 30, "max_staleness": 2},
        "simulate": {**SLOW, "dropout": 0.1},
    },
    "buffered": {
        "rounds": {**SYNC, "versions": 20, "quorum": 4, "floor": 2, "refill": "at_arrival", "max_staleness": 6},
        "simulate": SLOW,
    },
}


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of all images and whose they are: every owner has some of each; half of them turn the labels."""
    root = paint(tmp_path_factory.mktemp("images"), domains=("flat",), per_class=64)
    rows = ["path,label,client"]
    for colour in COLOURS:
        for i in range(64):
            label = TURNED[colour] if i % 8 >= 4 else colour
            rows.append(f"flat/{colour}/{i:03}.png,{label},owner-{i % 8}")
    (root / "owners.csv").write_text("\n".join(rows) + "\n")
    return root / "owners.csv"


def planted(listed: Path, name: str = "licfl", **changes: Any) -> Experiment:
    training = {"lr": 0.05, "batch": 8, "epochs": 3}
    method = {"name": name, "params": training | ({"cohorts": 2} if name == "licfl" else {})}
    data = {"name": "csv", "params": {"file": str(listed)}}
    whole = {"method": method, "data": data, "evaluate": {"every": 0, "final": True}, "sites": None, "seed": 3}
    return experiment(**{**whole, **changes})


def cohorts(root: Path) -> list[list[str]]:
    last = Commits("r", FileBlobs(root / "blobs")).all()[-1]
    return sorted([c for c in CLIENTS if last.assignment.get(c) == group] for group in set(last.assignment.values()))


@pytest.mark.parametrize("mode", MODES)
def test_owners_are_grouped_as_they_were_planted_in_every_mode(listed: Path, tmp_path: Path, mode: str) -> None:
    outcome = run(planted(listed, **MODES[mode]), tmp_path)
    assert outcome.report.status == "finished"
    assert cohorts(tmp_path) == [list(CLIENTS[:4]), list(CLIENTS[4:])]
    assert set(outcome.tensors) == {"all", "cohort-0", "cohort-1", "visitors"}


def mean(outcome: Outcome) -> float:
    assert outcome.report.accuracy.mean is not None
    return outcome.report.accuracy.mean


def test_models_of_their_own_serve_planted_groups_better_than_one_for_all(listed: Path, tmp_path: Path) -> None:
    # One model answers each image once, and half of the owners call it otherwise: it is right for half at most.
    one = run(planted(listed, "fedavg", rounds={**SYNC, "versions": 5}), tmp_path / "one")
    own = run(planted(listed, rounds=SYNC), tmp_path / "own")  # version 1, then four rounds of each cohort
    assert mean(one) <= 0.6
    assert mean(own) >= 0.9


@pytest.mark.parametrize("aggregator", ["mean", "centered_clipping"])
def test_with_one_cohort_it_is_federated_averaging_whatever_the_aggregator_keeps(
    listed: Path, tmp_path: Path, aggregator: str
) -> None:
    # Lengths are about 1: a centre that began anew in version 2 would be another step.
    params = {} if aggregator == "mean" else {"tau": 0.1, "steps": 1}
    parts = {"aggregator": {"name": aggregator, "params": params}, "rounds": {**SYNC, "versions": 3}}
    method = {"name": "licfl", "params": {"lr": 0.05, "batch": 8, "epochs": 3, "cohorts": 1}}
    one = run(planted(listed, "fedavg", **parts), tmp_path / "one")
    own = run(planted(listed, method=method, **parts), tmp_path / "own")
    assert fingerprint(own.tensors["cohort-0"]) == fingerprint(one.tensors["all"])


def test_what_the_aggregator_has_kept_of_version_1_is_each_cohorts_own(listed: Path, tmp_path: Path) -> None:
    rounds, aggregator = {**SYNC, "versions": 1}, {"name": "centered_clipping", "params": {"tau": 0.1}}
    outcome = run(planted(listed, rounds=rounds, aggregator=aggregator), tmp_path)
    commits = Commits("r", FileBlobs(tmp_path / "blobs"))
    last = commits.all()[-1]
    assert last.server is not None
    kept = commits.get_model(last.server)
    for cohort in ("cohort-0", "cohort-1"):  # the centre is the step, so the model has moved by it
        moved = {k: t - outcome.tensors["all"][k] for k, t in outcome.tensors[cohort].items()}
        flat = torch.cat([moved[k].reshape(-1) for k in sorted(moved)])
        assert torch.allclose(kept[f"{KEPT}{cohort}/centre"], flat, atol=1e-6)


def test_a_client_sends_as_many_bytes_as_in_federated_averaging(listed: Path, tmp_path: Path) -> None:
    one = run(planted(listed, "fedavg", rounds={**SYNC, "versions": 2}), tmp_path / "one")
    own = run(planted(listed, rounds={**SYNC, "versions": 3}), tmp_path / "own")
    sizes = [{e.facts["bytes"] for e in events(o.events, "accepted")} for o in (one, own)]
    # The label in the file differs by a few digits of weight and loss.
    assert max(sizes[0] | sizes[1]) - min(sizes[0] | sizes[1]) < 64


def test_who_is_not_in_version_1_is_placed_by_its_first_update(listed: Path, tmp_path: Path) -> None:
    outcome = run(planted(listed, **MODES["buffered"]), tmp_path)
    made = Commits("r", FileBlobs(tmp_path / "blobs")).all()
    first = set(made[1].assignment)
    assert 0 < len(first) < len(CLIENTS), "some came later"
    assert set(made[-1].assignment) == set(CLIENTS)
    for client in set(CLIENTS) - first:
        closed = [e.facts["group"] for e in events(outcome.events, "closed") if client in dict(e.facts["updates"])]
        assert closed[0] == "all" and set(closed[1:]) <= {made[-1].assignment[client]}


def test_killed_anywhere_it_ends_as_if_undisturbed(listed: Path, tmp_path: Path) -> None:
    changes = {**MODES["k of n"], "rounds": {**MODES["k of n"]["rounds"], "versions": 5}}
    method = {"name": "licfl", "params": {"rule": "adaptive", "selection": "loss", "cohorts": 2, "lr": 0.05}}
    made = planted(listed, **changes, method=method, codec={"name": "fp16"})
    undisturbed = facts(run(made, tmp_path / "undisturbed"))
    for place, after in places(operations(made, tmp_path / "counted"), 10):
        root = tmp_path / f"killed-{place}"
        with contextlib.suppress(Killed):
            run(made, root, fuse=Fuse(place, after))
        assert facts(run(made, root)) == undisturbed, f"killed {'after' if after else 'before'} operation {place}"


def test_a_rule_is_judged_by_the_losses_of_fresh_updates_alone(listed: Path, tmp_path: Path) -> None:
    method = {"name": "licfl", "params": {"rule": "adaptive", "selection": "loss", "cohorts": 2, "lr": 0.05}}
    run(planted(listed, **MODES["buffered"], method=method), tmp_path)
    commits, said, lagging = Commits("r", FileBlobs(tmp_path / "blobs")), dict[str, float](), 0
    made = commits.all()
    for before, after in itertools.pairwise(made):
        group = after.counted[0].group
        lags = {a.client: lag(before.rounds, group, a.base) for a in after.counted}
        said = {k: t for k, t in said.items() if not k.startswith(f"{group}/")}  # of a cohort's last version alone
        fresh = [a for a in after.counted if group != "all" and not lags[a.client]]
        said |= {f"{group}/loss/{a.client}": a.loss for a in fresh if a.loss is not None}
        lagging += sum(map(bool, lags.values()))
    assert said and lagging
    assert made[-1].server is not None
    kept = commits.get_model(made[-1].server)
    assert {k: float(t) for k, t in kept.items() if "/loss/" in k} == pytest.approx(said)
