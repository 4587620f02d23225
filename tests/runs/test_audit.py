"""A whole history passes the audit; each way to damage it is named by the rule that it breaks."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from infra.blobs import FileBlobs
from orchestrator import audit as audits
from orchestrator import keys, results
from orchestrator.audit import audit, audit_folder
from orchestrator.cli import quorate
from orchestrator.commits import Commits
from schemas.base import canonical
from schemas.log import Commit, Event, Share
from schemas.report import Report
from tests.runs.here import run
from tests.runs.test_embedded import SLOW, small
from tests.toys import paint

ROUNDS = {"versions": 11, "in_flight": 4, "quorum": 2, "floor": 1, "grace_s": 0.2, "deadline_s": 3, "max_staleness": 2}


@dataclass
class Stored:
    """A copy of a run's store that may be damaged."""

    commits: Commits

    def commit(self, number: int) -> Commit:
        return self.commits.all()[number]

    def change(self, number: int, **changes: Any) -> None:
        changed = self.commit(number).model_copy(update=changes)
        self.commits.blobs.put(keys.version("r", number), canonical(changed))

    def events(self, number: int) -> list[Event]:
        return self.commits.events(self.commit(number).journal)

    def retell(self, number: int, events: list[Event]) -> None:
        self.change(number, journal=self.commits.put_journal(number, events))

    def find(self, name: str, **facts: object) -> tuple[int, int, Event]:
        """Version, place and text of the last event of that name and with those facts."""
        return [
            (c.version, i, e) for c in self.commits.all() for i, e in enumerate(self.commits.events(c.journal))
            if e.event == name and facts.items() <= e.facts.items()
        ][-1]  # fmt: skip

    def edit(self, name: str, change: Callable[[Event], list[Event]], **facts: object) -> None:
        version, place, event = self.find(name, **facts)
        events = self.events(version)
        self.retell(version, [*events[:place], *change(event), *events[place + 1 :]])


def told(event: Event, **facts: object) -> Event:
    """The event with other facts; None takes one away."""
    both = event.facts | facts
    return event.model_copy(update={"facts": {k: v for k, v in both.items() if v is not None}})


@pytest.fixture(scope="module")
def undamaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("audited")
    asked = small(paint(root / "images"), codec={"name": "fp16"}, rounds=ROUNDS, simulate={**SLOW, "dropout": 0.1})
    results.keep(run(asked, root), asked, root / "runs")
    return root


@pytest.fixture
def stored(undamaged: Path, tmp_path: Path) -> Stored:
    shutil.copytree(undamaged / "blobs", tmp_path / "blobs")
    return Stored(Commits("r", FileBlobs(tmp_path / "blobs")))


def test_a_whole_history_passes_and_holds_what_can_be_damaged(stored: Stored, undamaged: Path) -> None:
    verdict = audit(stored.commits)
    assert (verdict.violations, verdict.versions, verdict.ended) == ((), 11, "finished")
    assert verdict.counted == sum(len(c.counted) for c in stored.commits.all())
    assert {"asked", "accepted", "late", "lost", "closed"} <= {e.event for e in stored.commits.journal()}
    assert audit_folder(undamaged / "runs" / "r") == verdict


# --- events


def spec(**rounds: object) -> Callable[[Stored], None]:
    """As if the experiment had been stricter than the run was."""

    def change(event: Event) -> list[Event]:
        experiment = event.facts["experiment"]
        return [told(event, experiment=experiment | {"rounds": experiment["rounds"] | rounds})]

    return lambda stored: stored.edit("started", change)


def edit(name: str, change: Callable[[Event], list[Event]], **facts: object) -> Callable[[Stored], None]:
    return lambda stored: stored.edit(name, change, **facts)


def swap(stored: Stored) -> None:
    """Two asked events of one round for one client."""
    version, place, event = stored.find("asked")
    events = stored.events(version)
    stored.retell(version, [*events[: place + 1], told(event, task="v0-again"), *events[place + 1 :]])


EVENTS: dict[str, tuple[Callable[[Stored], None], str]] = {
    "an asking is gone": (edit("asked", lambda e: []), r"flat-0 was accepted in .* never asked before"),
    "asked twice": (edit("asked", lambda e: [e, e]), r"was asked twice for"),
    "asked while busy": (swap, r"was asked for v0-again, and was not free"),
    "an owner held out is asked": (
        edit("asked", lambda e: [e.model_copy(update={"client": "striped"})]), r"striped was asked .* and is held out"
    ),
    "nobody knows who is asked": (
        edit("asked", lambda e: [e.model_copy(update={"client": "nobody"})]), r"nobody was asked .* and is unknown"
    ),
    "asked from another version": (edit("asked", lambda e: [told(e, base=3)]), r"was asked for .* from version 3"),
    "more in flight than may be": (spec(in_flight=3, quorum=2), r"4 clients were in flight .* at most 3 may be"),
    "an answer is gone": (edit("answered", lambda e: [], kind="train"), r"was accepted in .* which nobody answered"),
    "an answer twice": (edit("answered", lambda e: [e, e], kind="train"), r"an answer to .* was answered already"),
    "an acceptance is gone": (edit("accepted", lambda e: []), r"is counted with .* and was accepted with None"),
    "an acceptance twice": (edit("accepted", lambda e: [e, e]), r"accepted .* in which it was accepted before"),
    "accepted for a base that it had counted for": (
        edit("accepted", lambda e: [e, told(e, task="v0-other")]), r"was accepted a second time for base"
    ),
    "an acceptance of another weight": (
        edit("accepted", lambda e: [told(e, weight=e.facts["weight"] + 1)]), r"weights in version \d+ are not those"
    ),
    "accepted that was late": (
        edit("late", lambda e: [e.model_copy(update={"event": "accepted"})]), r"was accepted with base"
    ),
    "a lag that was another": (edit("late", lambda e: [told(e, lag=7)]), r"with lag 7: it lags [12]"),
    "a staleness that is not admitted": (spec(max_staleness=0), r"it lags 1, at most 0 is admitted"),
    "another discount": (spec(staleness="constant"), r"the weights in version \d+ are not those"),
    "put off without an acceptance": (
        edit("lost", lambda e: [e, told(e, reason=None).model_copy(update={"event": "late"})]), r"was put off without"
    ),
    "refused without having been asked": (
        edit("lost", lambda e: [e, told(e, task="v0-x", reason="names").model_copy(update={"event": "rejected"})]),
        r"was rejected in v0-x, in which it was never asked before",
    ),
    "lost after it was accepted": (
        edit("accepted", lambda e: [e, told(e, reason="x").model_copy(update={"event": "lost"})]),
        r"was lost in .* in which it was accepted before",
    ),
    "a loss is gone": (edit("lost", lambda e: []), r"the ledger of .* has lost 3 in the commit, and 2 in the journal"),
    "retried too often": (
        edit("closed", lambda e: [*[e.model_copy(update={"event": "retried"})] * 4, e]), r"asked 4 times, at most 3"
    ),
    "a version is skipped": (
        edit("closed", lambda e: [e.model_copy(update={"version": 13})]), r"version 13 was committed next"
    ),
    "other weights at the close": (
        edit("closed", lambda e: [told(e, weights={"flat-0": 1.0})]), r"the weights in version 11 are not those"
    ),
    "replaced by nothing": (
        edit("closed", lambda e: [told(e, replaced=e.facts["updates"][:1])]),
        r"is replaced in version 11, and by no newer one",
    ),
    "other lags at the close": (edit("closed", lambda e: [told(e, lags={"0": 9})]), r"the lags in version 11 are not"),
    "another number at the close": (edit("closed", lambda e: [told(e, counted=9)]), r"version 11 counts 9 updates"),
    "other updates at the close": (edit("closed", lambda e: [told(e, updates=[])]), r"counts 3 updates, not"),
    "fewer than the floor": (spec(floor=4, quorum=4), r"version \d+ counts \d updates, and the floor is 4"),
    "a start without facts": (edit("started", lambda e: [told(e, experiment=None)]), r"`started` cannot"),
    "no start": (edit("started", lambda e: []), r"`answered` stands at the wrong end"),
}  # fmt: skip


@pytest.mark.parametrize("damage", EVENTS)
def test_a_damaged_event_is_named(stored: Stored, damage: str) -> None:
    break_it, sentence = EVENTS[damage]
    break_it(stored)
    found = audit(stored.commits).violations
    assert [v for v in found if re.search(sentence, v)], found


# --- commits


def ledger(**changes: Any) -> Callable[[Stored], None]:
    def change(stored: Stored) -> None:
        shares = dict(stored.commit(5).ledger)
        client = sorted(shares)[0]
        shares[client] = shares[client].model_copy(
            update={k: getattr(shares[client], k) + v for k, v in changes.items()}
        )
        stored.change(5, ledger=shares)

    return change


def dropped(stored: Stored) -> None:
    stored.commits.blobs.delete(keys.version("r", 6))


def counted(change: Callable[[Stored], tuple[object, ...]]) -> Callable[[Stored], None]:
    return lambda stored: stored.change(5, counted=change(stored))


def heavier(stored: Stored) -> tuple[object, ...]:
    first, *rest = stored.commit(5).counted
    return first.model_copy(update={"weight": first.weight + 1}), *rest


def private(stored: Stored) -> None:
    """The private state of a client that had nothing accepted moves."""
    before, commit = stored.commit(4), stored.commit(5)
    still = next(c for c in sorted(before.private) if before.private[c] == commit.private[c])
    other = next(ref for c, ref in commit.private.items() if c != still)
    stored.change(5, private=commit.private | {still: other})


def stuck(stored: Stored) -> None:
    """The private state of a client whose update was accepted stays where it was."""
    before, commit = stored.commit(4), stored.commit(5)
    moved = next(c for c in sorted(before.private) if before.private[c] != commit.private[c])
    stored.change(5, private=commit.private | {moved: before.private[moved]})


def model(stored: Stored, number: int) -> str:
    return stored.commit(number).models[number]["all"].key


def delete(key: Callable[[Stored], str]) -> Callable[[Stored], None]:
    return lambda stored: stored.commits.blobs.delete(key(stored))


def overwrite(key: Callable[[Stored], str]) -> Callable[[Stored], None]:
    return lambda stored: stored.commits.blobs.put(key(stored), b"something else") and None


def final(**changes: Any) -> Callable[[Stored], None]:
    def change(stored: Stored) -> None:
        ended = stored.commits.final()
        assert ended is not None
        stored.commits.blobs.put(keys.final("r"), canonical(ended.model_copy(update=changes)))

    return change


def ending(change: Callable[[list[Event]], list[Event]]) -> Callable[[Stored], None]:
    def damage(stored: Stored) -> None:
        ended = stored.commits.final()
        assert ended is not None
        events = change(stored.commits.events(ended.journal))
        final(journal=stored.commits.put_journal(ended.version, events))(stored)

    return damage


def without_reason(events: list[Event]) -> list[Event]:
    return [*events[:-1], told(events[-1], status="failed")]


COMMITS: dict[str, tuple[Callable[[Stored], None], str]] = {
    "a version is gone": (dropped, r"version 6: the commit here is of version 7"),
    "a version bears another number": (lambda s: s.change(6, version=7), r"version 6: the commit here is of version 7"),
    "a count of the ledger": (ledger(accepted=1), r"version 5: the ledger of flat-0 has accepted 3 in"),
    "a weight of the ledger": (ledger(weight=1.0), r"version 5: flat-0 entered with weight .* moved by"),
    "the cursor": (lambda s: s.change(5, cursor="1"), r"version 5: the cursor went from"),
    "private state moves": (private, r"version 5: the private state of .* moved without an accepted update"),
    "private state stays": (stuck, r"version 5: the private state of .* did not move with its accepted update"),
    "a counted weight": (counted(heavier), r"version 5: .* is counted with .* and was accepted with"),
    "an update is lost": (counted(lambda s: s.commit(5).counted[1:]), r"version 5: .* was accepted, and is lost"),
    "an update counts again": (
        counted(lambda s: (*s.commit(5).counted, s.commit(4).counted[0])), r"version 5: .* was accepted with None"
    ),
    "an update stands as accepted": (
        lambda s: s.change(5, accepted=s.commit(5).counted[:1]), r"version 5: .* stands as accepted here"
    ),
    "an open task": (lambda s: s.change(11, open=()), r"version 11: .* is in flight in the commit or in the journal"),
    "the number of tasks": (lambda s: s.change(5, seq=1), r"version 5: the commit says 1 tasks, and"),
    "the staleness": (lambda s: s.change(5, staleness={0: 1}), r"version 5: the staleness of the commit is not"),
    "a model is not named": (lambda s: s.change(5, models={}), r"version 5: the commit holds no model of version"),
    "a model is gone": (delete(lambda s: model(s, 11)), r"version 11: .* is needed: .* not in the store"),
    "a tenth model is gone": (delete(lambda s: model(s, 10)), r"is needed: .* not in the store"),
    "a model holds other bytes": (overwrite(lambda s: model(s, 11)), r"is needed: .* do not match"),
    "a private state is gone": (
        delete(lambda s: sorted(s.commit(11).private.items())[0][1].key), r"/private/.* is needed: .* not in the store"
    ),
    "a journal is gone": (delete(lambda s: s.commit(5).journal.key), r"version 5: .* cannot be read"),
    "a commit is no commit": (overwrite(lambda s: keys.version("r", 5)), r"version 5: .*00005.json cannot be read"),
    "the end names another version": (final(version=4), r"final.json names version 4, which is not the last"),
    "the end has another reason": (final(reason="?"), r"final.json and the journal tell different ends"),
    "the end is not in the journal": (ending(lambda events: events[:-1]), r"and the journal has no end"),
    "two ends": (ending(lambda events: [*events, events[-1]]), r"`finished` stands at the wrong end"),
    "failed for no reason": (ending(without_reason), r"ended as 'failed' with the reason ''"),
    "an end at another version": (
        ending(lambda events: [events[-1].model_copy(update={"version": 2})]), r"the run ended at version 2"
    ),
    "finished too early": (spec(versions=12), r"the run finished at version 11 of 12"),
}  # fmt: skip


@pytest.mark.parametrize("damage", COMMITS)
def test_a_damaged_commit_is_named(stored: Stored, damage: str) -> None:
    break_it, sentence = COMMITS[damage]
    break_it(stored)
    found = audit(stored.commits).violations
    assert [v for v in found if re.search(sentence, v)], found


# --- what a run leaves in runs/


@pytest.fixture
def folder(undamaged: Path, tmp_path: Path) -> Path:
    return shutil.copytree(undamaged / "runs" / "r", tmp_path / "runs" / "r")


def test_a_report_with_another_ledger_is_named(folder: Path) -> None:
    report = Report.model_validate_json((folder / "report.json").read_text())
    more = report.model_copy(update={"ledger": report.ledger | {"flat-0": Share(asked=99)}})
    (folder / "report.json").write_text(more.model_dump_json())
    asked = report.ledger["flat-0"].asked
    found = audit_folder(folder).violations
    assert found[0] == f"the ledger of flat-0 has asked 99 in report.json, and {asked} in the journal"
    assert all("the ledger of flat-0" in v for v in found)


def test_another_adapter_than_the_report_says_is_named(folder: Path, undamaged: Path) -> None:
    other = run(small(undamaged / "images"), undamaged / "other")
    shutil.copy(
        next((undamaged / "other" / "blobs" / "runs" / "r" / "models").glob("*")), folder / "adapter.safetensors"
    )
    assert other.report.version > 0
    assert audit_folder(folder).violations == ("adapter.safetensors is not the adapter of report.json",)


def test_a_torn_journal_is_named(folder: Path) -> None:
    whole = (folder / "journal.jsonl").read_bytes()
    (folder / "journal.jsonl").write_bytes(whole[:-30])
    found = audit_folder(folder).violations
    assert any(re.search(r"journal.jsonl: line \d+ cannot be read", v) for v in found)
    assert "journal.jsonl: the run has no end" in found


def test_a_run_that_goes_on_is_not_blamed_for_having_no_end(stored: Stored) -> None:
    stored.commits.blobs.delete(keys.final("r"))
    verdict = audit(stored.commits)
    assert verdict.ended is None
    assert all("/updates/" in v or "/private/" in v for v in verdict.violations), "swept at the end of the run"


# --- the command


@pytest.fixture
def here(undamaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(undamaged / "blobs", tmp_path / "blobs")
    shutil.copytree(undamaged / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QUORATE_BLOBS", "file:blobs")
    return tmp_path


def test_the_command_says_one_line_and_leaves_with_0(here: Path) -> None:
    said = CliRunner().invoke(quorate, ["audit", "r"])
    assert said.exit_code == 0, said.output
    assert re.fullmatch(r"r: 11 versions, \d+ updates counted once, nothing lost \(finished\)\n", said.output)


def test_the_command_lists_what_is_wrong_and_leaves_with_1(here: Path) -> None:
    Stored(Commits("r", FileBlobs(here / "blobs"))).change(5, seq=1)
    said = CliRunner().invoke(quorate, ["audit", "r"])
    assert said.exit_code == 1
    assert said.output.startswith("version 5: the commit says 1 tasks, and")
    as_json = CliRunner().invoke(quorate, ["audit", "r", "--json"])
    assert as_json.exit_code == 1
    assert audits.Verdict.model_validate_json(as_json.output).violations == (said.output.strip(),)


def test_a_result_without_a_store_is_audited_from_its_journal_alone(here: Path) -> None:
    shutil.rmtree(here / "blobs")
    assert CliRunner().invoke(quorate, ["audit", "r"]).exit_code == 0
    line = (here / "runs/r/journal.jsonl").read_text()
    (here / "runs/r/journal.jsonl").write_text(line.replace('"lag":1', '"lag":0'))
    assert CliRunner().invoke(quorate, ["audit", "r"]).exit_code == 1


def test_a_run_that_is_nowhere_is_a_mistake_of_the_user(here: Path) -> None:
    said = CliRunner().invoke(quorate, ["audit", "nowhere"])
    assert "there is no run 'nowhere'" in str(said.exception)
