"""Versions that a worker has a hand in: what it makes is committed, and whatever it does wrong costs no version."""

from pathlib import Path
from typing import Any

import pytest
import torch

from infra.blobs import FileBlobs
from orchestrator.commits import Commits
from schemas.experiment import Experiment
from tests.runs.here import run
from tests.runs.test_crash import FEDBUFF
from tests.runs.test_embedded import QUORUM, SLOW, SYNC, events, small
from tests.toys import paint

MODES: dict[str, dict[str, Any]] = {
    "synchronous": {"rounds": SYNC},
    "k of n": {"rounds": {**QUORUM, "versions": 4}, "simulate": SLOW},
    "buffered": {"rounds": FEDBUFF, "simulate": SLOW},
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("images"))


def refining(images: Path, so: str = "well", last: int = 10**9, **changes: Any) -> Experiment:
    params = {"so": so, "last": last}
    return small(images, method={"name": "tests.runs.plugins:Refining", "params": params}, **changes)


@pytest.mark.parametrize("mode", MODES)
def test_every_version_is_one_that_a_worker_went_on_with(images: Path, tmp_path: Path, mode: str) -> None:
    outcome = run(refining(images, **MODES[mode]), tmp_path)
    versions = MODES[mode]["rounds"]["versions"]
    refined = events(outcome.events, "refined")
    assert outcome.report.version == versions
    assert [e.version for e in refined] == list(range(1, versions + 1))
    assert all(e.facts["model"] for e in refined)


def test_what_the_worker_made_is_what_is_committed(images: Path, tmp_path: Path) -> None:
    # Equal updates of equal weights: merged model and mean of the members are the same, so only the noise is added,
    # 0.001 times standard normal. The model has 544 numbers, so the mean square is 1e-6 within 5 standard errors.
    one = {**SYNC, "versions": 1}
    plain = run(refining(images, so="nothing", rounds=one), tmp_path / "plain").tensors["all"]
    noisy = run(refining(images, rounds=one), tmp_path / "noisy").tensors["all"]
    moved = torch.cat([(noisy[k] - plain[k]).reshape(-1) for k in plain])
    count = len(moved)
    assert float(moved.square().mean()) == pytest.approx(1e-6, rel=5 * (2 / count) ** 0.5)


def test_a_member_is_the_model_that_its_client_began_from_and_its_update(images: Path, tmp_path: Path) -> None:
    # All members end at 1, so version n + 1 is 1 + n; from a base of another version they would not be.
    outcome = run(small(images, method={"name": "tests.runs.plugins:Aiming"}, rounds=FEDBUFF, simulate=SLOW), tmp_path)
    assert outcome.report.mean_staleness is not None and outcome.report.mean_staleness > 0, "some began earlier"
    assert all(e.facts["model"] for e in events(outcome.events, "refined"))
    assert all(torch.allclose(t, torch.tensor(5.0)) for t in outcome.tensors["all"].values())


@pytest.mark.parametrize(
    ("so", "word"), [("fails", "it cannot be done"), ("names", "names"), ("shapes", "shapes"), ("nan", "not finite")]
)
def test_whatever_goes_wrong_the_version_is_the_merged_model(images: Path, tmp_path: Path, so: str, word: str) -> None:
    plain = run(small(images), tmp_path / "plain").report
    outcome = run(refining(images, so=so), tmp_path / "refined")
    assert outcome.report.adapter_sha256 == plain.adapter_sha256
    assert outcome.report.ledger == plain.ledger
    for e in events(outcome.events, "refined"):
        assert not e.facts["model"] and word in e.facts["reason"]


def test_only_the_versions_that_the_method_names_are_refined(images: Path, tmp_path: Path) -> None:
    outcome = run(refining(images, last=2), tmp_path)
    assert [e.version for e in events(outcome.events, "refined")] == [1, 2]


def test_groups_are_refined_one_by_one(images: Path, tmp_path: Path) -> None:
    method = {"name": "tests.runs.plugins:RefiningHalves", "params": {"right": ["noisy-0", "noisy-1"]}}
    outcome = run(small(images, method=method, rounds={**FEDBUFF, "versions": 8}, simulate=SLOW), tmp_path)
    refined, closed = events(outcome.events, "refined"), events(outcome.events, "closed")
    assert [(e.version, e.facts["group"]) for e in refined] == [(e.version, e.facts["group"]) for e in closed]
    assert {e.facts["group"] for e in refined} == {"left", "right"}


def test_nothing_of_it_is_left_in_the_store(images: Path, tmp_path: Path) -> None:
    run(refining(images), tmp_path)
    assert not list(FileBlobs(tmp_path / "blobs").keys("runs/r/start/"))
    assert all(o.kind != "merge" for c in Commits("r", FileBlobs(tmp_path / "blobs")).all() for o in c.open)
