"""What a run leaves in its store: bounded while it goes on, nothing that nobody refers to when it has ended."""

import contextlib
import shutil
from collections import Counter
from pathlib import Path

import pytest

from infra.blobs import FileBlobs
from infra.state import FileState
from orchestrator import run as runs
from orchestrator import tenure
from orchestrator.commits import KEEP_EVERY, Commits
from orchestrator.loop import Loop
from orchestrator.plan import plan
from schemas.log import Event
from tests.runs.here import Fuse, Killed, ignore, run, runtime
from tests.runs.stage import Stage
from tests.runs.test_crash import FEDBUFF, operations
from tests.runs.test_embedded import SLOW, small
from tests.toys import paint

GROWING = ("versions", "journal")
"""One small object of each for every version."""


def test_what_lies_in_the_store_does_not_grow_with_the_versions(tmp_path: Path) -> None:
    method = {"name": "tests.runs.plugins:Halves", "params": {"right": ["flat-0", "flat-1"]}}  # has server tensors
    made = small(
        paint(tmp_path / "images"),
        method=method,
        codec={"name": "fp16"},
        simulate=SLOW,
        rounds={**FEDBUFF, "versions": 45},
    )
    folder = tmp_path / "r" / "blobs" / "runs" / "r"
    most: dict[int, Counter[str]] = {0: Counter(), 1: Counter()}

    def watch(event: Event) -> None:
        if event.event == "asked" and event.version >= 8:
            now = Counter(p.relative_to(folder).parts[0] for p in folder.rglob("*") if p.is_file())
            now["models"] -= 2 * (1 + (event.version - 8) // KEEP_EVERY)  # of every tenth version they stay, per group
            half = most[int(event.version >= 26)]
            half |= now
            most[int(event.version >= 26)] = half

    runs.execute(plan(made), runtime(tmp_path / "r"), "r", watch)
    early, late = ({k: n for k, n in half.items() if k not in GROWING} for half in most.values())
    assert set(late) >= {"updates", "private", "models"}
    assert all(late[kind] <= early[kind] + 2 for kind in late), (early, late)


def test_a_commit_names_the_models_that_somebody_may_ask_for_however_much_staleness_is_allowed(tmp_path: Path) -> None:
    rounds = {**FEDBUFF, "versions": 30, "max_staleness": 25}
    run(small(paint(tmp_path / "images"), simulate=SLOW, rounds=rounds), tmp_path / "r")
    for commit in Commits("r", FileBlobs(tmp_path / "r" / "blobs")).all():
        came_from = {o.base for o in (*commit.open, *commit.expired)} | {a.base for a in commit.accepted}
        assert set(commit.models) == came_from | {commit.version}


def test_a_run_that_was_killed_again_and_again_leaves_nothing_that_nobody_refers_to(tmp_path: Path) -> None:
    made = small(paint(tmp_path / "images"), codec={"name": "fp16"}, simulate=SLOW, rounds=FEDBUFF)
    undisturbed = _left(tmp_path / "undisturbed", run(made, tmp_path / "undisturbed"))
    whole = operations(made, tmp_path / "counted")
    for place in range(5, whole, 9):
        with contextlib.suppress(Killed):
            runs.execute(plan(made), runtime(tmp_path / "r", Fuse(place)), "r", ignore)
    assert _left(tmp_path / "r", run(made, tmp_path / "r")) == undisturbed


def _left(root: Path, outcome: runs.Outcome) -> dict[str, int]:
    """How many objects of each kind stay; each is one that a commit, or the end, refers to."""
    assert outcome.commit is not None
    commits = Commits("r", FileBlobs(root / "blobs"))
    named = {blob.key for c in commits.all() for blob in (c.journal, c.setting, *c.private.values())}
    named |= {blob.key for c in commits.all() for of in c.models.values() for blob in of.values()}
    found = [k for k in commits.blobs.keys("runs/r/") if "/versions/" not in k]
    final = commits.final()
    assert final is not None
    odd = set(found) - named - {final.journal.key, "runs/r/final.json", "runs/r/experiment.json"}
    assert not odd
    return dict(Counter(k.split("/")[2] for k in found))


def _uploads(stage: Stage) -> list[str]:
    """What workers have uploaded and is still there, by task and attempt; no private state that still counts."""
    last = stage.commits.last()
    current = {blob.key for blob in last.private.values()} if last else set()
    kinds = ("runs/r/updates/", "runs/r/private/")
    return sorted(
        {"/".join(k.split("/")[3:5]) for kind in kinds for k in stage.commits.blobs.keys(kind) if k not in current}
    )


def _version(stage: Stage, loop: Loop, *clients: str) -> None:
    """These clients do what they were asked last, and the version closes with them."""
    before = loop.book.version
    for client in clients:
        stage.works(client)
    while loop.book.version == before:
        loop.step()


def test_what_an_earlier_attempt_uploaded_goes_with_the_commit() -> None:
    stage = Stage()
    loop = stage.loop("one")
    loop.step()
    first = stage.task("ann")
    stage.world.works(first, "well")  # it uploads, and dies before it can say so
    stage.world.says(stage.world.works(first, "infra"))
    loop.step()
    assert stage.task("ann").attempt == 2
    stage.works("ann")
    loop.absorb()
    assert _uploads(stage) == [f"{first.task_id}/1", f"{first.task_id}/2"]
    _version(stage, loop, "bob")
    assert not _uploads(stage)
    stage.world.says(stage.world.works(first, "well"))  # it had only been slow: it uploads again and says so
    assert _uploads(stage) == [f"{first.task_id}/1"]
    loop.step()
    _version(stage, loop, "ann", "bob")
    assert not _uploads(stage)
    assert [e.facts["reason"] for e in stage.told if e.event == "ignored"] == ["duplicate"]


def test_an_update_of_a_second_attempt_stays_until_it_has_counted_though_another_group_commits_first() -> None:
    stage = Stage(right=("cem",), versions=2, quorum=3, floor=3)
    loop = stage.loop("one")
    loop.step()
    loop.step()  # each group in its turn
    stage.world.says(stage.world.works(stage.task("ann"), "infra"))
    loop.absorb()
    assert stage.task("ann").attempt == 2
    stage.works("ann")
    _version(stage, loop, "cem")
    assert _uploads(stage) == [f"{stage.task('ann').task_id}/2"], "accepted, for the round of the others that is open"
    _version(stage, loop, "bob")
    last = stage.commits.last()
    assert last is not None and [a.client for a in last.counted] == ["ann", "bob"]
    assert not _uploads(stage)


def test_what_was_uploaded_for_a_task_that_nobody_waits_for_any_more_goes_when_it_is_too_old() -> None:
    stage = Stage(versions=5)
    loop = stage.loop("one")
    loop.step()
    lost = stage.task("cem")
    stage.world.works(lost, "well")
    _version(stage, loop, "ann", "bob")
    assert _uploads(stage) == [f"{lost.task_id}/1"]  # it may still count, late
    for _ in range(2):
        loop.step()
        _version(stage, loop, "ann", "bob")
    assert not _uploads(stage)
    loop.step()
    slow = stage.world.works(lost, "well")
    stage.world.says(slow)
    _version(stage, loop, "ann", "bob")
    assert not _uploads(stage)


def test_a_run_that_fails_before_its_first_version_leaves_its_journal_and_its_end(tmp_path: Path) -> None:
    made = small(paint(tmp_path / "images"))
    shutil.rmtree(tmp_path / "images")
    outcome = runs.execute(plan(made), runtime(tmp_path / "r"), "r", ignore)
    assert (outcome.report.status, outcome.commit) == ("failed", None)
    kinds = [key.split("/")[2] for key in FileBlobs(tmp_path / "r" / "blobs").keys("runs/r/")]
    assert kinds == ["experiment.json", "final.json", "journal"]


def test_a_loop_that_takes_long_to_end_leaves_nothing_in_the_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenure, "EVERY_S", 0.0)  # so much time passes between any two operations
    run(small(paint(tmp_path / "images")), tmp_path)
    assert FileState(tmp_path / "state").load("r") is None
    assert {p.name for p in (tmp_path / "state").iterdir()} <= {"r.lock"}
