"""Who watches a run: told of everything once, also when a loop dies and another goes on in the same process."""

import contextlib
from collections import Counter
from pathlib import Path

import pytest

from orchestrator import run as runs
from orchestrator.news import News
from orchestrator.plan import plan
from schemas.experiment import Experiment
from schemas.log import Event
from tests.runs.here import Fuse, Killed, runtime
from tests.runs.test_crash import MODES, operations, places
from tests.runs.test_embedded import SYNC, small
from tests.toys import paint


def watched(experiment: Experiment, root: Path, news: News, fuse: Fuse | None = None) -> list[Event]:
    """The stored events of a run that was watched."""
    return runs.execute(plan(experiment), runtime(root, fuse), "r", news.watch).events


def counts(events: list[Event]) -> Counter[tuple[str, int, str | None]]:
    """How often what was told, but for what a task that is done twice leaves behind."""
    told = [e for e in events if e.event not in ("loaded", "committed", "ignored", "resent", "answered")]
    return Counter((e.event, e.version, e.client) for e in told)


@pytest.mark.parametrize("mode", ["k of n", "fedbuff"])
def test_killed_anywhere_and_taken_up_again_a_run_is_told_once(tmp_path: Path, mode: str) -> None:
    made = small(paint(tmp_path / "images"), codec={"name": "fp16"}, **MODES[mode])  # type: ignore[arg-type]
    undisturbed: list[Event] = []
    stored = watched(made, tmp_path / "undisturbed", News(undisturbed.append))
    assert counts(undisturbed) == counts(stored)
    for place, after in places(operations(made, tmp_path / "counted"), 8):
        told: list[Event] = []
        news = News(told.append)
        with contextlib.suppress(Killed):
            watched(made, tmp_path / str(place), news, Fuse(place, after))
        watched(made, tmp_path / str(place), news)
        assert counts(told) == counts(undisturbed), place


def test_a_close_says_what_it_counted_and_how_long_quorum_and_grace_took(tmp_path: Path) -> None:
    made = small(paint(tmp_path / "images"), **MODES["k of n"])  # type: ignore[arg-type]
    events = watched(made, tmp_path, News())
    opened = 0.0
    for closed in (e for e in events if e.event == "closed"):
        facts = closed.facts
        arrived = sorted(
            e.at
            for e in events
            if e.event in ("accepted", "late") and e.version == closed.version - 1 and e.at <= closed.at
        )
        enough = made.rounds.quorum if len(arrived) >= made.rounds.quorum else 0
        assert facts["seconds"] == closed.at - opened
        assert len(facts["updates"]) == facts["counted"] == sum(facts["lags"].values())
        if enough:
            assert facts["quorum_s"] == pytest.approx(arrived[enough - 1] - opened)
            assert 0 <= facts["grace_s"] <= made.rounds.grace_s + 1e-9
            assert facts["quorum_s"] + facts["grace_s"] == pytest.approx(facts["seconds"])
        opened = closed.at
    assert any("quorum_s" in e.facts for e in events if e.event == "closed")
    spent = [e.facts for e in events if e.event == "committed"]
    assert len(spent) == made.rounds.versions and all(s["fold_s"] > 0 and s["commit_s"] > 0 for s in spent)


def test_a_cancelled_run_keeps_its_last_version_and_says_so(tmp_path: Path) -> None:
    made = small(paint(tmp_path / "images"), rounds={**SYNC, "versions": 9})
    stands = runtime(tmp_path)

    def cancel(event: Event) -> None:
        if event.event == "committed" and event.version == 2:
            stands.state.flag("r", "cancel")

    outcome = runs.execute(plan(made), stands, "r", cancel)
    assert (outcome.report.status, outcome.report.version) == ("cancelled", 2)
    assert "was cancelled" in outcome.report.reason
    assert outcome.commit is not None and outcome.tensors["all"]
