"""Commits: written once, read back whole, swept of what nothing refers to; and `apply: mix` on a stored base."""

from pathlib import Path
from typing import Any

import pytest
import torch

from infra.blobs import FileBlobs
from orchestrator import keys
from orchestrator.commits import Commits
from orchestrator.intake import Intake
from orchestrator.journal import Journal
from orchestrator.lineage import Lineage
from orchestrator.plan import plan
from orchestrator.simulate import Simulator
from schemas.errors import BlobError, BlobExists, BlobMissing
from schemas.log import Accepted, Commit, Event, Final, Held, Open, Round, Share
from schemas.messages import ALL, BlobRef, Description, Manifest, Split
from tests.toys import experiment
from workers.pipeline import Label, write_update
from workers.tensors import Tensors

RUN = "r"
REF = BlobRef(key="k", sha256="0" * 64, size=0)


@pytest.fixture
def commits(tmp_path: Path) -> Commits:
    return Commits(RUN, FileBlobs(tmp_path / "blobs"))


def _commit(commits: Commits, version: int, **changes: Any) -> Commit:
    journal = commits.put_journal(version, [_event(version)])
    return Commit(
        **{
            "run": RUN,
            "version": version,
            "at": float(version),
            "setting": REF,
            "descriptions": (),
            "models": {},
            "cursor": str(version),
            "journal": journal,
            **changes,
        }
    )


def _event(version: int, name: str = "closed") -> Event:
    return Event(event=name, at=float(version), wall=1000.0 + version, version=version, facts={"counted": version})


def test_a_run_that_has_not_begun_has_no_commit_and_no_end(commits: Commits) -> None:
    assert (commits.last(), commits.all(), commits.final(), commits.journal()) == (None, [], None, [])


def test_a_commit_is_read_back_as_it_was_written(commits: Commits) -> None:
    task = Open(task_id="v3-a-1", kind="train", base=3, clients=("a",), asked_at=1.5)
    full = _commit(
        commits,
        3,
        descriptions=(Description(clients={"a": Split(train=6)}, classes=("é", "y"), fingerprint="f"),),
        models={2: {ALL: REF}, 3: {ALL: REF}},
        server=REF,
        private={"a": REF},
        counted=(Accepted(task_id="v2-a-0", client="a", base=2, update=REF, weight=0.1, at=2.0),),
        without=("b",),
        open=(task,),
        expired=(task.model_copy(update={"task_id": "v2-a-0", "started_at": 1.0, "sent": True}),),
        held=(Held(due=4.0, manifest=Manifest(run=RUN, task_id="v3-a-1", attempt=1, worker="w", seconds=0.1)),),
        finished={"v2-a-0": 2},
        seen=(("a", 2, ALL),),
        assignment={"a": ALL},
        rounds={ALL: Round(bases=(1, 2, 3), since=3.0, opened_at=4.0, asked=2, batches=1, retries=1, tried=("a",))},
        ledger={"a": Share(asked=2, accepted=1, weight=0.1)},
        selector={"turn": 3},
        staleness={0: 4, 2: 1},
        seq=7,
    )
    assert commits.write(full) == full
    assert commits.last() == full


def test_the_last_commit_is_the_highest_version_also_beyond_nine(commits: Commits) -> None:
    for version in (0, 1, 2, 9, 10, 11, 100):
        commits.write(_commit(commits, version))
    last = commits.last()
    assert last is not None and last.version == 100
    assert [c.version for c in commits.all()] == [0, 1, 2, 9, 10, 11, 100]


def test_of_two_loops_that_commit_a_version_one_wins_and_the_other_is_told(commits: Commits) -> None:
    rival = Commits(RUN, FileBlobs(commits.blobs.root))  # type: ignore[attr-defined]
    mine, theirs = _commit(commits, 1, cursor="mine"), _commit(commits, 1, cursor="theirs")
    assert rival.write(theirs) == theirs
    with pytest.raises(BlobExists):
        commits.write(mine)
    assert commits.last() == rival.last() == theirs


def test_writing_the_same_commit_again_is_no_conflict(commits: Commits) -> None:
    commit = _commit(commits, 1)
    assert commits.write(commit) == commits.write(commit) == commit


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"{", b"\x00" * 100, b'{"version": 1}', b'{"wire": 2}'])
def test_what_is_no_commit_is_an_error_that_names_it(commits: Commits, data: bytes) -> None:
    commits.blobs.put(keys.version(RUN, 4), data)
    with pytest.raises(BlobError, match=r"versions/00000004.json is no commit"):
        commits.last()


def test_the_journal_and_the_sweep_name_what_is_no_commit(commits: Commits) -> None:
    commits.write(_commit(commits, 1))
    for name, data in (("00000010.json", b"{}"), ("ten.json", b'{"journal": {}}')):
        key = f"{keys.versions(RUN)}{name}"
        commits.blobs.put(key, data)
        for reads in (commits.journal, lambda: commits.sweep(_commit(commits, 1))):
            with pytest.raises(BlobError, match=f"{name} is no commit"):
                reads()
        commits.blobs.delete(key)


def test_runs_do_not_see_one_another(commits: Commits) -> None:
    commits.write(_commit(commits, 1))
    assert Commits("r2", commits.blobs).last() is None
    assert Commits("rr", commits.blobs).all() == []


# --- the journal and the end


def test_the_journal_is_the_events_of_all_commits_and_of_the_end_in_order(commits: Commits) -> None:
    for version in range(3):
        commits.write(_commit(commits, version))
    end = commits.put_journal(2, [_event(2, "finished")])
    commits.finish(Final(run=RUN, status="finished", version=2, journal=end))
    assert [(e.event, e.version) for e in commits.journal()] == [
        ("closed", 0),
        ("closed", 1),
        ("closed", 2),
        ("finished", 2),
    ]


def test_a_version_without_events_has_an_empty_journal(commits: Commits) -> None:
    commits.write(_commit(commits, 0, journal=commits.put_journal(0, [])))
    assert commits.journal() == []


def test_a_run_ends_once(commits: Commits) -> None:
    first = Final(run=RUN, status="failed", reason="too few", version=2, journal=REF)
    commits.finish(first)
    commits.finish(first.model_copy(update={"status": "finished", "reason": ""}))
    assert commits.final() == first


# --- models


def test_a_model_lies_under_its_version_and_content_and_is_stored_once(commits: Commits) -> None:
    tensors = {"w": torch.arange(6.0).reshape(2, 3)}
    ref = commits.put_model(3, tensors)
    assert commits.put_model(3, {"w": tensors["w"].clone()}) == ref
    assert ref.key == keys.model(RUN, 3, ref.sha256)
    assert torch.equal(commits.get_model(ref)["w"], tensors["w"])
    assert list(commits.blobs.keys(keys.models(RUN))) == [ref.key]


def _model(commits: Commits, value: float) -> BlobRef:
    return commits.put_model(round(value), {"w": torch.tensor([value])})


def test_sweeping_keeps_the_last_models_every_tenth_and_current_private_state(commits: Commits) -> None:
    refs = {n: _model(commits, float(n)) for n in range(13)}
    server, old_server = _model(commits, 100.0), _model(commits, 99.0)
    update = commits.blobs.put(keys.upload(RUN, "updates", "v3-a-0", 1, "a"), b"update")
    states = [commits.blobs.put(keys.upload(RUN, "private", f"v{n}-a-0", 1, "a"), b"state") for n in range(2)]
    start = commits.blobs.put(keys.start(RUN, "v0-init-pool", 1), b"state")
    for n in range(13):
        models = {m: {ALL: refs[m]} for m in range(max(0, n - 2), n + 1)}
        last = _commit(commits, n, models=models, private={"a": states[1]}, server=server if n == 12 else old_server)
        commits.write(last)
    commits.sweep(last)
    kept = [n for n, ref in refs.items() if _there(commits, ref)]
    assert kept == [0, 10, 11, 12]  # 0 and 10 for good; 10 to 12 because the last commit refers to them
    assert _there(commits, server) and not _there(commits, old_server)
    assert not _there(commits, update) and not _there(commits, states[0]) and not _there(commits, start)
    assert _there(commits, states[1])
    assert len(commits.all()) == 13 and len(commits.journal()) == 13


def test_sweeping_leaves_other_runs_alone(commits: Commits) -> None:
    other = commits.blobs.put(keys.upload("r2", "updates", "t", 1, "a"), b"update")
    commits.sweep(commits.write(_commit(commits, 0)))
    assert _there(commits, other)


def _there(commits: Commits, ref: BlobRef) -> bool:
    try:
        commits.blobs.get(ref)
    except BlobMissing:
        return False
    return True


# --- the step of a stale update (FedAsync: w + a s (delta + base - w))


def _lineage(tmp_path: Path, **rounds: Any) -> tuple[Lineage, Commits]:
    made = plan(experiment(rounds=rounds))
    commits, journal = Commits(RUN, FileBlobs(tmp_path / "blobs")), Journal(lambda event: None)
    intake = Intake(made, commits, Simulator.of(made, virtual=True), journal)
    return Lineage(made, commits.blobs, commits, intake, journal), commits


def _accepted(commits: Commits, delta: Tensors, base: int) -> Accepted:
    data = write_update(delta, Label("a", 2.0, {}, None, 0))
    update = commits.blobs.put(keys.upload(RUN, "updates", f"v{base}-a-0", 1, "a"), data)
    return Accepted(task_id=f"v{base}-a-0", client="a", base=base, update=update, weight=2.0, at=1.0)


MIX = {"in_flight": 2, "quorum": 1, "floor": 1, "refill": "at_arrival", "max_staleness": 9}


HALVED = {"staleness": "sqrt", "server_lr": 0.6}
WHOLE = {"staleness": "constant", "server_lr": 1.0}


@pytest.mark.parametrize(
    ("numbers", "lag", "expected"),
    [
        # base 4, current 10, the client moved its base by +8: it ended at 12. s = 1/sqrt(1 + 3) = 0.5.
        ({"apply": "mix", **HALVED}, 3, 10 + 0.6 * 0.5 * (12 - 10)),
        ({"apply": "mix", **WHOLE}, 3, 12.0),  # a s = 1 replaces the model by the client's
        ({"apply": "delta", **WHOLE}, 3, 10 + 8.0),
        ({"apply": "delta", **HALVED}, 3, 10 + 0.6 * 0.5 * 8),
        ({"apply": "mix", **HALVED}, 0, 10 + 0.6 * 8),  # fresh: base is the current model, so both forms agree
        ({"apply": "delta", **HALVED}, 0, 10 + 0.6 * 8),
    ],
)
def test_mixing_and_adding_agree_only_for_a_fresh_update(
    tmp_path: Path, numbers: dict[str, Any], lag: int, expected: float
) -> None:
    lineage, commits = _lineage(tmp_path, **MIX, **numbers)
    models = {5 - lag: {ALL: _model(commits, 4.0)}, 5: {ALL: _model(commits, 10.0)}}
    lineage.load(_commit(commits, 5, models=models))
    accepted = _accepted(commits, {"w": torch.tensor([8.0])}, 5 - lag)
    assert lineage.merge([(accepted, lag)], 5).tensors[ALL]["w"].tolist() == pytest.approx([expected])
