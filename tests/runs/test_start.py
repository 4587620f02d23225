"""What the first descriptions of the sites must be: a site that does not fit is refused, and the others begin."""

from pathlib import Path

import pytest

from orchestrator import start
from schemas.messages import Split
from tests.runs.here import run
from tests.runs.test_embedded import events, small
from tests.runs.test_late_site import LIES, Broker, Lie, described, go, unable
from tests.toys import paint

FIRST: dict[str, tuple[Lie, str]] = {
    **{name: LIES[name] for name in ("name", "held out", "site", "nothing", "unreadable", "failure")},
    "foreign": (lambda t, s: described(t, s, clients={"other.x": Split(train=1)}), "does not bear its name"),
    "alike": (lambda t, s: described(t, s, classes=("amber", " Amber")), "' Amber' and 'amber' apart"),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("images"))


@pytest.mark.parametrize("lie", FIRST)
def test_a_site_that_does_not_fit_is_refused_and_the_others_begin(images: Path, tmp_path: Path, lie: str) -> None:
    tell, says = FIRST[lie]
    outcome = go(tmp_path, images, broker=Broker(opens=0), lie=tell)
    (refused,) = events(outcome.events, "refused")
    assert (refused.version, refused.facts["site"]) == (0, "late") and says in refused.facts["reason"]
    assert (outcome.report.status, outcome.report.version) == ("finished", 6)
    assert set(outcome.report.ledger) == {"early.flat-0"}


def test_a_site_that_fails_again_and_again_is_left_for_later_and_the_others_begin(images: Path, tmp_path: Path) -> None:
    outcome = go(tmp_path, images, broker=Broker(opens=0), lie=unable)
    assert (outcome.report.status, outcome.report.version) == ("finished", 6)
    assert set(outcome.report.ledger) == {"early.flat-0"}
    alone = go(tmp_path / "alone", images, broker=Broker(opens=0), lie=unable, floor=2)
    assert alone.report.status == "failed"
    assert "describe failed at late (3 attempts)" in alone.report.reason and "out of memory" in alone.report.reason


@pytest.mark.parametrize("lie", ["name", "failure"])
def test_a_run_of_too_few_clients_fails_with_the_reason_of_a_refusal(images: Path, tmp_path: Path, lie: str) -> None:
    tell, says = FIRST[lie]
    outcome = go(tmp_path, images, broker=Broker(opens=0), lie=tell, floor=2)  # early.flat-0 alone remains
    assert outcome.report.status == "failed" and outcome.commit is None
    assert "late cannot take part: " in outcome.report.reason and says in outcome.report.reason


def test_of_two_backbones_neither_is_the_odd_one(images: Path, tmp_path: Path) -> None:
    outcome = go(tmp_path, images, broker=Broker(opens=0), lie=LIES["backbone"][0])
    assert outcome.report.status == "failed" and "hold 2 different backbones" in outcome.report.reason


def test_two_sites_must_spell_a_class_alike(images: Path, tmp_path: Path) -> None:
    outcome = go(tmp_path, images, broker=Broker(opens=0), lie=lambda t, s: described(t, s, classes=("AMBER",)))
    assert outcome.report.status == "failed" and "'AMBER' and 'amber' apart" in outcome.report.reason


def test_a_version_0_that_is_too_large_is_not_read(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "LARGEST_STATE", 100)
    report = run(small(images), tmp_path).report
    assert report.status == "failed" and "version 0 is unreadable: " in report.reason and "too many" in report.reason
