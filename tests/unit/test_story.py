"""The story of a run: from events written by hand, from the stream behind a commit, and as text of any width."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from infra.stream import Entry
from orchestrator import retold
from orchestrator.afoot import Afoot
from orchestrator.story import Story
from schemas.decisions import Asked, Decision, Expired, Resent, Retried
from schemas.log import Accepted, Commit, Event, Open
from schemas.messages import BlobRef, ClientResult, Manifest, TaskFailure
from schemas.story import Again, Gone, Late, Owner, Round
from schemas.story import Story as Told

REF = BlobRef(key="runs/r/x", sha256="0" * 64, size=1)


def event(name: str, at: float, version: int, client: str | None = None, /, **facts: Any) -> Event:
    return Event(event=name, at=at, wall=1000.0 + at, version=version, client=client, facts=facts)


def closed(at: float, version: int, updates: list[tuple[str, int]], without: list[str], **facts: Any) -> Event:
    return event("closed", at, version, updates=updates, without=without, **{"seconds": 4.0, **facts})


EVENTS = [
    event("started", 10.0, 0, experiment={"method": {"name": "fedclip"}, "rounds": {"versions": 2}}),
    event("described", 10.0, 0, clients={"ann": {}, "bob": {}, "cem": {}}, held_out=["sketch"]),
    event("loaded", 10.0, 0, open={}, accepted=[]),
    *(event("asked", 11.0, 0, who, task=f"v0-{who}") for who in ("ann", "bob", "cem")),
    event("accepted", 12.0, 0, "ann", task="v0-ann"),
    event("rejected", 12.0, 0, "cem", task="v0-cem", reason="not finite", detail="gate.weight"),
    event("resent", 13.0, 0, task="v0-bob", attempt=2, reason="worker gone"),
    event("ignored", 13.0, 0, task="v0-ann", reason="duplicate"),
    closed(14.0, 1, [("ann", 0)], ["bob"], quorum_s=3.0, grace_s=1.0),
    event("committed", 14.0, 1, fold_s=0.1, commit_s=0.2),
    event("loaded", 14.0, 1, open={"bob": "v0-bob"}, accepted=[]),
    event("asked", 15.0, 1, "ann", task="v1-ann"),
    event("late", 16.0, 1, "bob", task="v0-bob", base=0, lag=1),
    event("lost", 17.0, 1, "ann", task="v1-ann", reason="deadline"),
    event("retried", 17.0, 1, accepted=1),
    closed(18.0, 2, [("bob", 0)], []),
    event("evaluated", 19.0, 2, "ann", accuracy=0.5),
    event("evaluated", 19.0, 2, "bob", accuracy=0.75),
    event("evaluated", 19.0, 2, "sketch", accuracy=0.1),
    event("finished", 20.0, 2, status="finished", reason=""),
]


def test_each_version_says_who_was_in_who_was_late_and_whom_it_was_closed_without() -> None:
    one, two = Story.of(EVENTS).told()
    assert (one.version, one.asked, one.counted, one.late, one.without) == (
        1,
        ("ann", "bob", "cem"),
        ("ann",),
        (),
        ("bob",),
    )
    assert (two.version, two.asked, two.counted, two.late, two.without) == (
        2,
        ("ann",),
        (),
        (Late(client="bob", lag=1),),
        (),
    )


def test_and_what_went_wrong_in_it() -> None:
    one, two = Story.of(EVENTS).told()
    assert one.rejected == (Gone(client="cem", task="v0-cem", reason="not finite", detail="gate.weight"),)
    assert one.resent == (Again(task="v0-bob", attempt=2, reason="worker gone"),)
    assert one.ignored == {"duplicate": 1}
    assert two.lost == (Gone(client="ann", task="v1-ann", reason="deadline"),)
    assert (one.retries, two.retries) == (0, 1)
    assert (one.taken_up, two.taken_up) == (0, 1), "the loop of a new run takes nothing up"


def test_what_is_lost_after_the_last_version_stands_in_that_version() -> None:
    lost = event("lost", 19.5, 2, "cem", task="v1-cem", reason="too stale")
    two = Story.of([*EVENTS[:-1], lost, EVENTS[-1]]).told()[-1]
    assert [g.client for g in two.lost] == ["ann", "cem"]


def test_and_how_long_it_took() -> None:
    one, two = Story.of(EVENTS).told()
    assert (one.at, one.wall) == (14.0 - 10.0, 1014.0)
    assert (one.seconds, one.quorum_s, one.grace_s, one.fold_s, one.commit_s) == (4.0, 3.0, 1.0, 0.1, 0.2)
    assert (two.quorum_s, two.grace_s, two.fold_s) == (None, None, None), "a deadline closed it"


def test_accuracy_is_of_the_version_and_its_mean_of_those_who_train() -> None:
    one, two = Story.of(EVENTS).told()
    assert (one.accuracy, one.mean) == ({}, None)
    assert two.accuracy == {"ann": 0.5, "bob": 0.75, "sketch": 0.1} and two.mean == (0.5 + 0.75) / 2


# --- the open round


def task(client: str, version: int = 3, **more: Any) -> Open:
    return Open(
        **{
            "task_id": f"v{version}-{client}",
            "kind": "train",
            "base": version,
            "clients": (client,),
            "asked_at": 0.0,
            **more,
        }
    )


def commit(**more: Any) -> Commit:
    facts = {
        "run": "r",
        "version": 3,
        "at": 0.0,
        "setting": REF,
        "descriptions": (),
        "models": {},
        "cursor": "0",
        "journal": REF,
    }
    return Commit(**{**facts, **more})


def entry(said: Decision | Manifest | TaskFailure) -> Entry:
    author = "manifest" if isinstance(said, Manifest) else "failure" if isinstance(said, TaskFailure) else "decision"
    return Entry("1", 0.0, author, said.model_dump_json())


def manifest(task_id: str, *clients: str) -> Manifest:
    results = tuple(ClientResult(client=c) for c in clients)
    return Manifest(run="r", task_id=task_id, attempt=1, worker="w", results=results, seconds=0.1)


def test_of_an_open_round_the_stream_says_who_is_here_and_who_is_not() -> None:
    asked = Asked(version=3, tasks=tuple(task(who) for who in ("ann", "bob", "cem", "dan")))
    behind = [
        asked,
        manifest("v3-ann", "ann"),
        Resent(version=3, task_id="v3-bob", attempt=2, reason="worker gone"),
        Expired(version=3, task_id="v3-cem", reason="deadline"),
        TaskFailure(run="r", task_id="v3-dan", attempt=1, code="client", message="no such file"),
        Retried(version=3, number=1),
        manifest("v2-eve", "eve"),
    ]
    old = commit(open=(task("eve", 2), task("fay", 2)), accepted=(
        Accepted(task_id="v2-gus", client="gus", base=2, update=REF, weight=1.0, at=0.0),))  # fmt: skip
    found = Afoot.behind(old, map(entry, behind)).round()
    assert (found.version, found.asked, found.retries) == (4, ("ann", "bob", "cem", "dan"), 1)
    assert found.counted == ("ann",)
    assert found.late == (Late(client="eve", lag=1), Late(client="gus", lag=1))
    assert found.without == ("bob", "fay"), "still waited for"
    assert [(g.client, g.reason) for g in found.lost] == [("cem", "deadline"), ("dan", "no such file")]
    assert [(a.task, a.attempt) for a in found.resent] == [("v3-bob", 2)]


def test_what_the_commit_has_taken_in_and_what_nobody_can_read_is_passed_over() -> None:
    old, broken = Asked(version=2, tasks=(task("ann", 2),)), Entry("2", 0.0, "manifest", "{}")
    found = Afoot.behind(commit(), [entry(old), broken, entry(manifest("v9-who", "who"))]).round()
    assert found == Round(version=4)


def test_a_manifest_in_the_name_of_others_brings_nobody() -> None:
    found = Afoot.behind(
        commit(), map(entry, [Asked(version=3, tasks=(task("ann"),)), manifest("v3-ann", "bob")])
    ).round()
    assert (found.counted, found.without) == ((), ("ann",))


# --- as text


def many(count: int) -> Round:
    names = tuple(f"client-{i:03}" for i in range(count))
    third = count // 3
    return Round(
        version=123, at=12345.6, seconds=12.0, quorum_s=1234.5, grace_s=100.0, mean=0.5, asked=names,
        counted=names[:third],
        late=tuple(Late(client=c, lag=2) for c in names[third : 2 * third]), without=names[2 * third :],
        rejected=tuple(Gone(client=c, task="t", reason="not finite") for c in names[:third]),
        lost=tuple(Gone(client=c, task="t", reason="deadline") for c in names[third:]),
        resent=tuple(Again(task=f"v122-{c}-1", attempt=2, reason="worker gone") for c in names),
        retries=2, taken_up=1, ignored={"duplicate": 300},
    )  # fmt: skip


def text(told: Told, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, _environ={}, legacy_windows=False)
    retold.tell(told, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 120, 200])
@pytest.mark.parametrize("count", [3, 300])
def test_a_story_fits_the_screen_with_names_of_few_and_counts_of_many(count: int, width: int) -> None:
    rounds = tuple(many(count).model_copy(update={"version": v}) for v in (1, 123))
    shown = text(Told(run="r", status="unfinished", clients=count, rounds=rounds, open=many(count)), width)
    assert all(cell_len(line) <= width for line in shown.splitlines() if "(open)" not in line)
    if count == 3:
        for said in (
            "in client-000",
            "late client-001 (2)",
            "without client-002",
            "lost client-001, client-002 (deadline)",
        ):
            assert shown.count(said) >= 2
        assert "waiting for client-002" in shown and "here client-000" in shown
    else:
        assert "client-000" not in shown
        for said in (
            "without 100 clients",
            "rejected 100 (not finite)",
            "lost 200 (deadline)",
            "sent again 300: worker gone",
        ):
            assert said in shown
        assert "waiting for 100 clients" in shown
    assert "asked for replacements 2 times" in shown and "taken up again by a loop" in shown


def test_numbers_stand_under_their_heads() -> None:
    line = retold.numbers(many(300))
    counts = {"asked": "300", "in": "100", "late": "100", "without": "100", "rejected": "100", "lost": "200"}
    seconds = {"t s": "12345.6", "quorum s": "1234.5", "grace s": "100.0", "mean %": "50.0"}
    for head, number in {**counts, **seconds}.items():
        end = retold.HEAD.index(f" {head} " if head != "mean %" else f" {head}") + len(head) + 1
        assert line[:end].endswith(number), head


def test_of_one_version_everything_is_told() -> None:
    console = Console(file=io.StringIO(), width=80, _environ={}, legacy_windows=False)
    retold.one(many(300).model_copy(update={"accuracy": {"ann": 0.25}}), console)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert all(f"client-{i:03}" in shown for i in range(300))
    assert "accuracy (1): ann 25.0 %" in shown
    assert all(cell_len(line) <= 80 for line in shown.splitlines())


def test_what_comes_from_a_worker_does_not_drive_the_terminal() -> None:
    bad = Round(version=1, lost=(Gone(client="ann", task="t", reason="\x1b[2J[red]x[/red]\n" + "y" * 3000),))
    shown = text(Told(run="r", status="unfinished", rounds=(bad,)), 80)
    assert "\x1b" not in shown and "[red]x[/red]" in shown and len(shown) < 600


@pytest.mark.parametrize(
    ("story", "said"),
    [
        (Told(run="r", status="finished", version=20, versions=20), "finished: version 20"),
        (
            Told(run="r", status="failed", version=3, versions=20, reason="too few"),
            "failed: version 3 of 20\nreason: too few",
        ),
        (
            Told(run="r", status="running", version=3, versions=20, owner=Owner(name="host-1-ab", silent_s=0.4)),
            "running: version 3 of 20; owned by host-1-ab, silent for 0.4 s",
        ),
        (
            Told(run="r", status="running", versions=20, owner=Owner(name="host")),
            "running: version 0 of 20; owned by host",
        ),
    ],
)
def test_how_a_run_stands_is_one_line(story: Told, said: str) -> None:
    assert retold.standing(story) == said


@pytest.mark.parametrize(("status", "word"), [("finished", "ended"), ("failed", "ended"), ("running", "last heard of")])
def test_a_run_that_has_ended_is_not_waited_for(status: str, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.retold.time.time", lambda: 1_000_000.0)
    story = Told.model_validate({"run": "r", "status": status, "versions": 2, "last": 999_988.0})
    assert retold.standing(story).endswith(f", {word} 12 s ago")


def test_the_time_since_is_in_the_unit_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.retold.time.time", lambda: 1_000_000.0)
    found = [retold.ago(1_000_000.0 - s) for s in (0, 119, 120, 7_199, 7_200, 172_800, -5)]
    assert found == ["0 s ago", "119 s ago", "2 min ago", "120 min ago", "2 h ago", "2 d ago", "0 s ago"]


def test_a_story_survives_storage(tmp_path: Path) -> None:
    told = Told(run="r", status="unfinished", rounds=Story.of(EVENTS).told(), open=many(3))
    assert Told.model_validate(json.loads(told.model_dump_json())) == told
