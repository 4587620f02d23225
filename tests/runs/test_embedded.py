"""Whole runs in virtual time: what the round rule promises, seen from outside."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from orchestrator import results
from schemas.base import Choice
from schemas.experiment import Experiment
from schemas.log import Event
from tests.runs.here import run
from tests.toys import experiment, paint

SYNC = {"versions": 3, "in_flight": 4, "quorum": 4, "floor": 4, "grace_s": 0, "max_staleness": 0}
QUORUM = {"versions": 8, "in_flight": 4, "quorum": 2, "floor": 1, "grace_s": 0.2, "deadline_s": 30, "max_staleness": 2}
SLOW = {"latency": {"name": "lognormal", "params": {"median_s": 1, "sigma": 1.2}}, "dropout": 0.0}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("images"))


def small(images: Path, **changes: object) -> Experiment:
    made = experiment(images, **{"rounds": SYNC, **changes})
    assert made.data is not None
    partition = Choice(name="by_domain", params={"clients_per_domain": 2})
    return made.model_copy(update={"data": made.data.model_copy(update={"partition": partition})})


def events(of: list[Event], *names: str) -> list[Event]:
    return [e for e in of if e.event in names]


def test_a_synchronous_run_counts_every_client_in_every_version(images: Path, tmp_path: Path) -> None:
    outcome = run(small(images), tmp_path)
    report = outcome.report
    assert (report.status, report.version, report.closed_without) == ("finished", 3, {})
    assert {c: (s.asked, s.accepted) for c, s in report.ledger.items()} == {
        f"{d}-{i}": (3, 3) for d in ("flat", "noisy") for i in (0, 1)
    }
    assert report.wasted_share == 0 and report.mean_staleness == 0
    assert set(report.accuracy.held_out) == {"striped"}
    assert report.accuracy.held_out["striped"].final is not None


def test_version_one_is_the_weighted_mean_of_what_the_clients_sent(images: Path, tmp_path: Path) -> None:
    one = {**SYNC, "versions": 1}
    whole = run(small(images, rounds=one), tmp_path / "whole")
    start = run(small(images, rounds={**SYNC, "versions": 0}), tmp_path / "start")
    deltas, weights = [], []
    for client in ("flat-0", "flat-1", "noisy-0", "noisy-1"):
        alone = small(
            images,
            rounds={**one, "in_flight": 1, "quorum": 1, "floor": 1},
            selector={"name": "tests.runs.plugins:Only", "params": {"client": client}},
        )
        got = run(alone, tmp_path / client)
        weights.append(got.report.ledger[client].weight)
        deltas.append(got.tensors["all"]["gate.weight"] - start.tensors["all"]["gate.weight"])
    mean = sum(w * d for w, d in zip(weights, deltas, strict=True)) / sum(weights)
    expected = start.tensors["all"]["gate.weight"] + mean
    torch.testing.assert_close(whole.tensors["all"]["gate.weight"], expected, atol=1e-6, rtol=0)


def test_a_second_run_encodes_nothing_and_ends_in_the_same_bytes(images: Path, tmp_path: Path) -> None:
    first = run(small(images), tmp_path, name="first").report
    second = run(small(images), tmp_path, name="second").report
    assert first.encodes == 90  # 3 domains x 3 colours x 10 images
    assert second.encodes == 0
    assert second.adapter_sha256 == first.adapter_sha256


def test_stragglers_are_closed_without_and_count_late(images: Path, tmp_path: Path) -> None:
    outcome = run(small(images, rounds=QUORUM, simulate=SLOW, seed=3), tmp_path)
    report = outcome.report
    assert report.version == 8
    assert report.closed_without, "with sigma 1.2 somebody is slower than the grace of 0.2 s"
    assert sum(s.late for s in report.ledger.values()) > 0
    assert report.mean_staleness > 0
    counted = sum(e.facts["counted"] for e in events(outcome.events, "closed"))
    asked = sum(s.asked for s in report.ledger.values())
    assert report.wasted_share == pytest.approx((asked - counted) / asked)


@pytest.mark.parametrize("seed", range(4))
def test_the_ledger_adds_up(images: Path, tmp_path: Path, seed: int) -> None:
    slow = {**SLOW, "dropout": 0.2}
    outcome = run(small(images, rounds=QUORUM, simulate=slow, seed=seed), tmp_path)
    commit = outcome.commit
    assert commit is not None
    still_open = {c: sum(c in o.clients for o in commit.open if o.kind == "train") for c in outcome.report.ledger}
    for client, share in outcome.report.ledger.items():
        assert share.asked - (share.accepted + share.late + share.rejected + share.lost) in (0, still_open[client])
    for client, share in commit.ledger.items():
        assert outcome.report.ledger[client].weight == pytest.approx(share.weight)


def test_fedbuff_is_only_numbers_and_its_staleness_settles(images: Path, tmp_path: Path) -> None:
    rounds = {"versions": 60, "in_flight": 4, "quorum": 2, "floor": 1, "refill": "at_arrival", "max_staleness": 20}
    report = run(small(images, rounds=rounds, simulate=SLOW, evaluate={"every": 0, "final": False}), tmp_path).report
    assert report.version == 60
    # Little's law, (in_flight - 1) / quorum, if all updates were alike; here four clients may be out, and no more.
    assert 0.5 < report.mean_staleness < 2.5


def test_fedasync_is_only_numbers(images: Path, tmp_path: Path) -> None:
    rounds = {"versions": 12, "in_flight": 3, "quorum": 1, "floor": 1, "refill": "at_arrival", "max_staleness": 10,
              "apply": "mix", "server_lr": 0.6}  # fmt: skip
    outcome = run(small(images, rounds=rounds, simulate=SLOW), tmp_path)
    assert outcome.report.version == 12
    assert all(e.facts["counted"] == 1 for e in events(outcome.events, "closed"))


def test_a_run_of_clients_that_never_answer_fails_with_the_reason(images: Path, tmp_path: Path) -> None:
    never = {"latency": {"name": "none"}, "dropout": 0.999999}
    report = run(small(images, simulate=never), tmp_path).report
    assert report.status == "failed"
    assert "got 0 updates, at least 4 are needed, and asking 3 times more did not help" in report.reason
    assert "asked so far: flat-0 (4 times: 4 lost), flat-1 (4 times: 4 lost), noisy-0" in report.reason
    assert sum(s.lost for s in report.ledger.values()) == 16  # four clients, asked once and three times more


def test_a_client_whose_numbers_are_not_finite_is_refused_and_the_run_goes_on(images: Path, tmp_path: Path) -> None:
    rounds = {**SYNC, "quorum": 3, "floor": 3}
    method = {"name": "tests.runs.plugins:Poisoned", "params": {"client": "flat-1"}}
    outcome = run(small(images, rounds=rounds, method=method), tmp_path)
    assert outcome.report.status == "finished"
    assert outcome.report.ledger["flat-1"].rejected == 3
    assert outcome.report.ledger["flat-1"].accepted == 0
    assert {e.facts["reason"] for e in events(outcome.events, "rejected")} == {"not finite"}
    assert all(torch.isfinite(t).all() for t in outcome.tensors["all"].values())


def test_a_method_that_does_not_train_ends_at_version_zero(images: Path, tmp_path: Path) -> None:
    report = run(small(images, method={"name": "zero_shot"}), tmp_path).report
    assert (report.status, report.version, report.bytes_up) == ("finished", 0, 0)
    assert report.accuracy.final == report.accuracy.zero_shot


def test_what_a_run_leaves_says_what_it_is(images: Path, tmp_path: Path) -> None:
    made = small(images)
    folder = results.keep(run(made, tmp_path), made, tmp_path / "runs")
    assert sorted(p.name for p in folder.iterdir()) == [
        "adapter.safetensors", "experiment.yaml", "journal.jsonl", "report.json",
    ]  # fmt: skip
    with safe_open(str(folder / "adapter.safetensors"), "pt") as f:
        facts = {k: json.loads(v) for k, v in f.metadata().items()}
    assert facts["classes"] == ["amber", "blue", "green"]
    assert facts["prompts"] == ["a picture of a {}"]
    assert facts["method"]["name"] == "fedclip"
    assert len(facts["backbone_fingerprint"]) == 64
    assert not list((tmp_path / "runs").glob(".*")), "nothing half-written stays"


def test_nothing_orphaned_remains_in_the_store(images: Path, tmp_path: Path) -> None:
    run(small(images, rounds=QUORUM, simulate=SLOW, codec={"name": "fp16"}), tmp_path)
    kept = [p for p in (tmp_path / "blobs" / "runs" / "r").rglob("*") if p.is_file()]
    assert not [p for p in kept if "updates" in p.parts or "start" in p.parts]
    assert len([p for p in kept if "private" in p.parts]) <= 4, "one private state per client"


def test_a_state_that_overflows_ends_the_run_with_the_reason(images: Path, tmp_path: Path) -> None:
    report = run(small(images, rounds={**SYNC, "server_lr": 1e42}), tmp_path).report
    assert (report.status, report.version) == ("failed", 0)
    assert "not finite" in report.reason


def test_models_of_every_tenth_version_stay_and_others_go(images: Path, tmp_path: Path) -> None:
    rounds = {**SYNC, "versions": 12}
    run(small(images, rounds=rounds, evaluate={"every": 0}), tmp_path)
    kept = sorted(int(p.name[:8]) for p in (tmp_path / "blobs/runs/r/models").iterdir())
    assert kept == [0, 10, 12]


def test_the_order_of_arrival_leaves_no_trace_in_the_bytes(images: Path, tmp_path: Path) -> None:
    def arrivals(of: list[Event]) -> list[str | None]:
        return [e.client for e in events(of, "accepted")]

    at_once = run(small(images), tmp_path / "at-once")
    mixed = run(small(images, simulate=SLOW), tmp_path / "mixed")
    assert arrivals(at_once.events) != arrivals(mixed.events), "they did arrive in another order"
    assert at_once.report.adapter_sha256 == mixed.report.adapter_sha256


def test_one_owners_broken_image_hides_neither_its_name_nor_the_others(tmp_path: Path) -> None:
    root = paint(tmp_path / "images")
    victim = root / "flat" / "blue" / "003.png"
    victim.write_bytes(victim.read_bytes()[:60])  # begins like an image, and ends in the middle
    outcome = run(small(root, rounds={**SYNC, "quorum": 3, "floor": 3}), tmp_path)
    lost = {e.client: str(e.facts["reason"]) for e in events(outcome.events, "lost")}
    assert len(lost) == 1 and "003.png" in next(iter(lost.values()))
    known = [a for a in outcome.report.accuracy.final.values() if a is not None]
    assert len(known) == 3, "the other three are evaluated"


def test_a_file_that_is_no_image_is_named_before_anything_runs(tmp_path: Path) -> None:
    root = paint(tmp_path / "images")
    (root / "flat" / "blue" / "zz.png").write_text("no image at all")
    report = run(small(root), tmp_path).report
    assert report.status == "failed" and "zz.png" in report.reason


def test_how_often_is_evaluated_changes_nothing_else(images: Path, tmp_path: Path) -> None:
    slow = {**SLOW, "dropout": 0.3}
    reports = [
        run(small(images, rounds=QUORUM, simulate=slow, evaluate={"every": every}), tmp_path / str(every)).report
        for every in (0, 1)
    ]
    assert reports[0].adapter_sha256 == reports[1].adapter_sha256
    assert reports[0].ledger == reports[1].ledger
