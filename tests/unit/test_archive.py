"""Runs are found again as they are: finished, broken off at any moment, going on, failed, ended elsewhere."""

import contextlib
from pathlib import Path

import pytest

from infra.settings import Settings
from orchestrator import results, shelf
from orchestrator import story as stories
from orchestrator.archive import Archive
from schemas.errors import BlobError
from schemas.experiment import Experiment
from schemas.story import Story
from tests.runs.here import Fuse, Killed, run, runtime
from tests.runs.test_crash import operations
from tests.runs.test_embedded import QUORUM, SLOW, small
from tests.toys import paint


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("images"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def experiment(images: Path) -> Experiment:
    return small(images, rounds={**QUORUM, "versions": 4}, simulate=SLOW, seed=3)


def archive(root: Path) -> Archive:
    """As `quorate runs` opens it."""
    given = {"blobs": f"file:{root / 'blobs'}", "state": f"file:{root / 'state'}", "bus": "local:"}
    return Archive(Settings.model_validate(given))


def without_ends(story: Story) -> dict[str, object]:
    return story.model_dump(exclude={"report", "last", "open"})


def test_a_finished_run_tells_the_same_from_its_folder_and_from_the_store(experiment: Experiment, here: Path) -> None:
    outcome = run(experiment, here)
    from_store = archive(here).story("r")
    assert archive(here).events("r") == outcome.events
    results.keep(outcome, experiment)
    from_folder = archive(here).story("r")
    assert archive(here).events("r") == outcome.events
    assert (from_store.status, from_store.version, from_store.versions, from_store.open) == ("finished", 4, 4, None)
    assert without_ends(from_store) == without_ends(from_folder)
    assert from_folder.report == outcome.report and from_store.report is None
    assert {r.version: r.without for r in from_folder.rounds if r.without} == outcome.report.closed_without
    counted = {c: s.accepted + s.late for c, s in outcome.report.ledger.items()}
    told = [c for r in from_folder.rounds for c in (*r.counted, *(u.client for u in r.late))]
    assert {c: told.count(c) for c in counted} == counted
    assert archive(here).names() == ["r"]


def test_broken_off_anywhere_it_is_unfinished_and_its_rounds_are_those_of_the_whole_run(
    experiment: Experiment, here: Path
) -> None:
    whole = run(experiment, here / "whole")
    del whole
    rounds = archive(here / "whole").story("r").rounds
    count = operations(experiment, here / "counted")
    for place in range(3, count, max(1, count // 6)):
        root = here / f"killed-{place}"
        with contextlib.suppress(Killed):
            run(experiment, root, fuse=Fuse(place))
        found = archive(root).story("r")
        assert (found.status, found.versions, found.owner) == ("unfinished", 4, None), place
        times = {"wall", "fold_s", "commit_s"}
        told = [r.model_dump(exclude=times | {"accuracy", "mean"}) for r in found.rounds]
        assert told == [r.model_dump(exclude=times | {"accuracy", "mean"}) for r in rounds][: len(told)]
        short = archive(root).summary("r")
        assert (short.version, short.status) == (found.version, "unfinished")


def test_of_a_run_that_goes_on_the_owner_is_known(experiment: Experiment, here: Path) -> None:
    with contextlib.suppress(Killed):
        run(experiment, here, fuse=Fuse(40))
    state = runtime(here).state
    assert state.acquire("r", "host-7-ab", 5.0)
    for found in (archive(here).story("r"), archive(here).summary("r")):
        assert found.status == "running" and found.owner is not None and found.owner.name == "host-7-ab"
    state.release("r", "host-7-ab")


def test_a_run_that_failed_elsewhere_says_why(images: Path, here: Path) -> None:
    run(small(images, rounds={**QUORUM, "versions": 4, "retries": 0}, simulate={"dropout": 0.999}), here)
    for found in (archive(here).story("r"), archive(here).summary("r")):
        assert (found.status, found.version) == ("failed", 0) and "floor" in found.reason


def test_looking_changes_nothing(experiment: Experiment, here: Path) -> None:
    with contextlib.suppress(Killed):
        run(experiment, here, fuse=Fuse(40))
    before = {p: p.read_bytes() for p in here.rglob("*") if p.is_file()}
    archive(here).story("r")
    archive(here).summary("r")
    assert {p: p.read_bytes() for p in here.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("damage", [b"", b"{", b"[" * 100_000, b'{"run": "r", "status": "odd"}'])
@pytest.mark.parametrize("key", ["final.json", "versions/00000004.json"])
def test_what_is_damaged_is_one_error_and_hides_no_other_run(
    experiment: Experiment, here: Path, key: str, damage: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    run(experiment, here)
    run(experiment, here, name="other")
    (here / "blobs" / "runs" / "r" / key).write_bytes(damage)
    with pytest.raises(BlobError, match=r"cannot be read|is no commit"):
        archive(here).story("r")
    assert archive(here).summary("other").status == "finished"
    assert shelf._summary(archive(here), "r") is None
    assert "r: runs/r/" in capsys.readouterr().err


def test_a_folder_of_an_impossible_name_is_nobody_s_run(experiment: Experiment, here: Path) -> None:
    kept = results.keep(run(experiment, here), experiment)
    kept.rename(kept.with_name("r (old)"))
    assert archive(here).names() == ["r"], "the one in the store"


def test_events_with_odd_facts_are_passed_over(experiment: Experiment, here: Path) -> None:
    whole = run(experiment, here).events
    for kind in {e.event for e in whole}:
        for facts in ({}, {"clients": 5}, {"experiment": []}, {"updates": [[1]], "without": None}):
            odd = [e.model_copy(update={"facts": facts}) if e.event == kind else e for e in whole]
            assert stories.Story.of(odd).last == odd[-1]
