"""The report, from a journal written by hand. Two clients, one held-out domain, two versions; numbers derived here."""

from typing import Any

import pytest
import torch

from orchestrator import report
from schemas.errors import RunFailed
from schemas.log import Event, Share
from schemas.messages import ALL
from schemas.report import HeldOut, Report
from workers.tensors import Tensors, fingerprint

TENSORS: dict[str, Tensors] = {ALL: {"w": torch.ones(2, 3)}}
WALL = 1_000_000.0


def _event(event: str, at: float, version: int, client: str | None = None, /, **facts: Any) -> Event:
    return Event(event=event, at=at, wall=WALL + at / 10, version=version, client=client, facts=facts)


def _asked(at: float, version: int, client: str, task: str, size: int = 1000) -> Event:
    return _event("asked", at, version, client, task=task, base=version, bytes=size)


def _fate(event: str, at: float, version: int, client: str, task: str, **facts: int) -> Event:
    return _event(event, at, version, client, task=task, **{"bytes": 500, **facts})


def _closed(at: float, version: int, **facts: Any) -> Event:
    return _event("closed", at, version, **{"late": 0, "seconds": 1.0, **facts})


STARTED = _event("started", 0.0, 0, seed=3, code_version="0.1.0", virtual=True, experiment={})
DESCRIBED = _event(
    "described", 1.0, 0, clients={"ann": {}, "bob": {}}, held_out=["sketch"], classes=["x", "y"], fingerprint="f00"
)
FINISHED = _event("finished", 60.0, 2, status="finished", reason="")

JOURNAL = [
    STARTED,
    _event("answered", 1.0, 0, task="v0-describe-pool", encodes=0, seconds=0.1, worker="w"),
    DESCRIBED,
    _event("evaluated", 2.0, 0, "ann", accuracy=0.5, examples=10.0, zero_shot=0.5),
    _event("evaluated", 2.0, 0, "bob", accuracy=0.4, examples=10.0, zero_shot=0.4),
    _event("evaluated", 2.0, 0, "sketch", accuracy=0.3, examples=30.0, zero_shot=0.3),
    _asked(3.0, 0, "ann", "v0-ann-0"),
    _asked(3.0, 0, "bob", "v0-bob-1"),
    _event("answered", 5.0, 0, task="v0-ann-0", encodes=40, seconds=0.1, worker="w"),
    _fate("accepted", 5.0, 0, "ann", "v0-ann-0"),
    _closed(10.0, 1, counted=1, without=["bob"], weights={"ann": 40.0}, lags={0: 1}),
    _asked(11.0, 1, "ann", "v1-ann-2", size=1100),
    _fate("late", 12.0, 1, "bob", "v0-bob-1", bytes=300),
    _event("answered", 13.0, 1, task="v1-ann-2", encodes=2, seconds=0.1, worker="w"),
    _fate("rejected", 13.0, 1, "ann", "v1-ann-2", bytes=700),
    _closed(20.0, 2, counted=1, without=[], weights={"bob": 15.0}, lags={"1": 1}),  # keys of JSON are text
    _event("evaluated", 30.0, 2, "ann", accuracy=0.8, examples=10.0),
    _event("evaluated", 30.0, 2, "bob", accuracy=0.6, examples=10.0),
    _event("evaluated", 30.0, 1, "bob", accuracy=0.1, examples=10.0),  # of an earlier version, and slow
    _event("evaluated", 30.0, 2, "sketch", accuracy=0.35, examples=30.0),
    FINISHED,
]


def _report(*more: Event, without: tuple[str, ...] = ()) -> Report:
    """The report of the journal, with more events before its end, and without some kinds."""
    kept = [e for e in JOURNAL if e.event not in without]
    return report.build("r", [*kept[:-1], *more, kept[-1]], TENSORS)


def test_a_report_says_how_the_run_ended_and_how_long_it_took() -> None:
    made = _report()
    assert (made.run, made.status, made.reason, made.version) == ("r", "finished", "", 2)
    assert made.virtual_seconds == 60.0 - 0.0
    assert made.seconds == pytest.approx(60.0 / 10)
    assert (made.seed, made.code_version, made.backbone_fingerprint) == (3, "0.1.0", "f00")


def test_accuracy_is_of_the_last_version_and_its_mean_and_worst_are_of_training_clients() -> None:
    accuracy = _report().accuracy
    assert accuracy.zero_shot == {"ann": 0.5, "bob": 0.4}
    assert accuracy.final == {"ann": 0.8, "bob": 0.6}
    assert accuracy.held_out == {"sketch": HeldOut(zero_shot=0.3, final=0.35)}
    assert (accuracy.mean, accuracy.worst) == ((0.8 + 0.6) / 2, 0.6)


def test_who_did_not_answer_the_evaluation_is_listed_with_null_and_does_not_count_in_the_mean() -> None:
    kept = [e for e in JOURNAL if not (e.event == "evaluated" and e.client == "bob" and e.version == 2)]
    accuracy = report.build("r", kept, TENSORS).accuracy
    assert accuracy.final == {"ann": 0.8, "bob": None}
    assert (accuracy.mean, accuracy.worst) == (0.8, 0.8)


def test_without_any_evaluation_there_are_no_accuracies() -> None:
    accuracy = _report(without=("evaluated",)).accuracy
    assert accuracy.zero_shot == accuracy.final == {"ann": None, "bob": None}
    assert (accuracy.mean, accuracy.worst) == (None, None)


def test_bytes_are_of_updates_up_and_of_models_down() -> None:
    made = _report()
    assert made.bytes_up == 500 + 300 + 700  # accepted, late and rejected: all of them arrived
    assert made.bytes_down == 1000 + 1000 + 1100


def test_waste_is_what_was_asked_and_never_counted() -> None:
    assert _report().wasted_share == (3 - 2) / 3
    assert _report(without=("asked", "accepted", "late", "rejected", "closed")).wasted_share == 0


def test_mean_staleness_is_over_counted_updates() -> None:
    assert _report().mean_staleness == (0 * 1 + 1 * 1) / 2
    asked = [_asked(39.0, 2, who, f"v2-{who}-3") for who in ("ann", "bob", "cem")]
    more = _closed(40.0, 3, counted=3, without=[], weights={}, lags={0: 2, 3: 1})
    assert _report(*asked, more).mean_staleness == (0 * 3 + 1 * 1 + 3 * 1) / 5
    assert _report(without=("closed",)).mean_staleness == 0


def test_the_ledger_gives_every_asked_update_its_last_fate() -> None:
    assert _report().ledger == {
        "ann": Share(asked=2, accepted=1, rejected=1, weight=40.0),
        "bob": Share(asked=1, late=1, weight=15.0),
    }


def test_an_update_that_was_given_up_and_came_after_all_is_late_and_not_lost() -> None:
    lost = _fate("lost", 40.0, 2, "ann", "v2-ann-3")
    came = _fate("late", 41.0, 2, "ann", "v2-ann-3")
    asked = _asked(39.0, 2, "ann", "v2-ann-3")
    assert _report(asked, lost).ledger["ann"].lost == 1
    share = _report(asked, lost, came).ledger["ann"]
    assert (share.asked, share.lost, share.late) == (3, 0, 1)


def test_what_is_still_open_at_the_end_is_asked_and_nothing_else() -> None:
    share = _report(_asked(39.0, 2, "bob", "v2-bob-3")).ledger["bob"]
    assert (share.asked, share.accepted + share.late + share.rejected + share.lost) == (2, 1)


def test_a_client_that_was_not_asked_does_not_enter_the_ledger() -> None:
    # A worker answered ann's task in the name of bob, and of somebody whom nobody knows.
    foreign = [_fate("rejected", 13.0, 1, who, "v1-ann-2", bytes=0) for who in ("bob", "mallory")]
    assert _report(*foreign).ledger == _report().ledger


def test_each_version_lists_whom_it_closed_without() -> None:
    assert _report().closed_without == {1: ("bob",)}


def test_encodes_are_all_images_that_passed_through_the_backbone() -> None:
    assert _report().encodes == 0 + 40 + 2


def test_the_adapters_hash_is_of_its_tensors_by_plain_names_for_one_group() -> None:
    assert _report().adapter_sha256 == fingerprint(TENSORS[ALL])
    two = {"g1": {"w": torch.ones(1)}, "g2": {"w": torch.zeros(1)}}
    made = report.build("r", JOURNAL, two)
    assert made.adapter_sha256 == fingerprint({"g1/w": torch.ones(1), "g2/w": torch.zeros(1)})


def test_on_the_walls_clock_there_are_no_virtual_seconds() -> None:
    started = STARTED.model_copy(update={"facts": {**STARTED.facts, "virtual": False}})
    assert report.build("r", [started, *JOURNAL[1:]], TENSORS).virtual_seconds is None


def test_a_clock_that_was_set_back_gives_no_negative_duration() -> None:
    early = FINISHED.model_copy(update={"wall": WALL - 100})
    assert report.build("r", [*JOURNAL[:-1], early], TENSORS).seconds == 0


def test_a_run_that_failed_before_anyone_answered_has_a_report_too() -> None:
    failed = _event("finished", 600.0, 0, status="failed", reason="no answer from the pool")
    made = report.build("r", [STARTED, failed], {})
    assert (made.status, made.reason, made.version) == ("failed", "no answer from the pool", 0)
    assert (made.ledger, made.accuracy.final, made.bytes_up, made.backbone_fingerprint) == ({}, {}, 0, "")
    assert made.adapter_sha256 is None, "there is no version 0"


@pytest.mark.parametrize("events", [[], [STARTED], JOURNAL[:-1], [FINISHED]])
def test_a_run_that_has_not_ended_has_no_report(events: list[Event]) -> None:
    with pytest.raises(RunFailed, match="quorate run --resume r"):
        report.build("r", events, TENSORS)


def test_the_same_journal_gives_the_same_report_also_after_storage() -> None:
    stored = [Event.model_validate_json(e.model_dump_json()) for e in JOURNAL]
    assert report.build("r", stored, TENSORS) == _report()
    assert Report.model_validate_json(_report().model_dump_json()) == _report()


def test_every_number_of_the_report_says_its_unit() -> None:
    plain = {"run", "status", "version", "seed", "code_version", "backbone_fingerprint", "accuracy"}
    unexplained = {n for n, f in Report.model_fields.items() if not f.description}
    assert unexplained <= plain
