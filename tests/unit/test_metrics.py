"""The metrics, from events written by hand; and over HTTP, as Prometheus asks for them."""

import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from infra.servers import free_port, is_free
from orchestrator import admit, intake
from orchestrator.metrics import LOST, NAMED_CLIENTS, VALUES, Metrics, kind, served
from schemas.errors import SettingsError
from schemas.log import Event
from tests.toys import experiment

Labels = dict[str, str]


def event(name: str, version: int, client: str | None = None, /, **facts: Any) -> Event:
    return Event(event=name, at=0.0, wall=7.5, version=version, client=client, facts=facts)


def of(*events: Event) -> Metrics:
    made = Metrics("r", experiment(), 4)
    for e in events:
        made.watch(e)
    return made


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"quorate_{name}", {"run": "r", **labels})


def asked(who: str, version: int = 0) -> Event:
    return event("asked", version, who, task=f"v{version}-{who}", base=version, bytes=1000)


def came(how: str, who: str, version: int = 0, **facts: Any) -> Event:
    return event(how, version, who, **{"task": f"v{version}-{who}", "base": version, "bytes": 500, "lag": 0, **facts})


LOADED = event("loaded", 0, open={}, accepted=[])
DESCRIBED = event(
    "described", 0, clients={"a0": {}, "a1": {}, "b0": {}}, held_out=["sketch"],
    domains={"a0": ["a"], "a1": ["a"], "b0": ["b"], "sketch": ["sketch"]},
)  # fmt: skip


def test_what_is_asked_is_in_flight_until_it_is_answered_refused_or_lost() -> None:
    first = [LOADED, asked("a0"), asked("a1"), asked("b0"), asked("c")]
    assert value(of(*first), "in_flight") == 4
    rest = [came("accepted", "a0"), came("rejected", "a1", reason="not finite"), came("lost", "b0", reason="deadline")]
    after = of(*first, *rest)
    assert value(after, "in_flight") == 1
    assert value(after, "waiting_updates") == 1
    assert value(after, "updates_asked_total") == 4
    assert value(after, "updates_rejected_total", reason="not finite") == 1
    assert value(after, "updates_lost_total", reason="deadline") == 1
    assert (value(after, "up_bytes_total"), value(after, "down_bytes_total")) == (500 + 500, 4 * 1000)


def test_a_lost_update_that_comes_after_all_is_not_in_flight_twice() -> None:
    found = of(LOADED, asked("a0"), came("lost", "a0", reason="deadline"), came("late", "a0", lag=1))
    assert (value(found, "in_flight"), value(found, "waiting_updates")) == (0, 1)


CLOSED = event(
    "closed",
    1,
    counted=3,
    late=1,
    updates=[("a0", 0), ("a1", 0), ("b0", 0)],
    without=["x", "y"],
    seconds=4.0,
    quorum_s=3.0,
    grace_s=1.0,
    lags={"0": 2, "2": 1},
)
COMMITTED = event("committed", 1, fold_s=0.02, commit_s=0.2)


def test_a_version_counts_when_it_is_committed_and_not_when_it_is_closed() -> None:
    arrived = [came("accepted", "a0"), came("accepted", "a1"), came("late", "b0", lag=2)]
    before, after = of(LOADED, *arrived, CLOSED), of(LOADED, *arrived, CLOSED, COMMITTED)
    assert (value(before, "versions_total"), value(after, "versions_total")) == (0, 1)
    assert (value(before, "version"), value(after, "version")) == (0, 1)
    assert (value(after, "updates_accepted_total"), value(after, "updates_late_total")) == (3 - 1, 1)
    assert value(after, "updates_without_total") == 2
    assert (value(before, "waiting_updates"), value(after, "waiting_updates")) == (3, 0)
    sums = {
        name: value(after, f"{name}_sum") for name in ("quorum_wait_seconds", "grace_wait_seconds", "round_seconds")
    }
    assert sums == {"quorum_wait_seconds": 3.0, "grace_wait_seconds": 1.0, "round_seconds": 4.0}
    assert value(after, "staleness_versions_sum") == 0 * 2 + 2 * 1
    assert value(after, "staleness_versions_bucket", le="1.0") == 2
    assert (value(after, "fold_seconds_sum"), value(after, "commit_seconds_sum")) == (0.02, 0.2)
    assert value(after, "last_commit_timestamp_seconds") == 7.5


def test_a_round_that_its_deadline_closed_has_no_quorum_wait() -> None:
    facts = {k: v for k, v in CLOSED.facts.items() if k not in ("quorum_s", "grace_s")}
    found = of(LOADED, event("closed", 1, **facts), COMMITTED)
    assert (value(found, "quorum_wait_seconds_count"), value(found, "round_seconds_count")) == (0, 1)


def test_an_update_that_a_close_left_behind_is_not_admitted_twice() -> None:
    left = event("late", 1, "b0", task="v0-b0", base=0, bytes=0, lag=1)  # as the journal says it at the close
    closed = event("closed", 1, counted=1, late=0, updates=[("a0", 0)], without=[], seconds=1.0, lags={"0": 1})
    found = of(LOADED, came("accepted", "a0"), came("accepted", "b0"), left, closed, COMMITTED)
    assert value(found, "waiting_updates") == 1
    assert value(found, "up_bytes_total") == 1000


def test_an_admitted_update_of_a_client_that_is_moved_waits_no_longer_and_a_second_one_takes_nothing_away() -> None:
    moved = event("rejected", 1, "a0", task="v0-a0", base=0, bytes=0, reason="moved")
    again = event("rejected", 1, "b0", task="v0-b0-again", base=0, bytes=0, reason="counted")
    assert value(of(LOADED, came("accepted", "a0"), came("accepted", "b0"), moved, again), "waiting_updates") == 1


def test_a_loop_that_takes_over_begins_with_what_is_open_there() -> None:
    found = of(
        event(
            "loaded",
            7,
            open={"a0": "v6-a0", "b0": "v7-b0"},
            accepted=[("x", "v6-x", 6), ("y", "v6-y", 6), ("z", "v7-z", 7)],
        ),
        came("late", "a0", 6, lag=1),
    )
    assert (value(found, "version"), value(found, "in_flight"), value(found, "waiting_updates")) == (7, 1, 4)


def test_a_loop_that_comes_back_in_the_same_process_changes_nothing_but_the_number_of_loads() -> None:
    before = [LOADED, asked("a0"), asked("a1"), came("accepted", "a0")]
    once, twice = of(*before), of(*before, LOADED)
    for name in ("in_flight", "waiting_updates", "updates_asked_total", "version"):
        assert value(once, name) == value(twice, name)
    assert (value(once, "loads_total"), value(twice, "loads_total")) == (1, 2)


def test_an_outage_counts_once_however_often_the_loop_tries() -> None:
    away = event("away", 0, reason="S3 does not answer")
    assert value(of(LOADED, away, away, LOADED, away), "store_outages_total") == 2


def test_what_goes_wrong_on_the_way_is_counted_too() -> None:
    found = of(
        LOADED,
        event("retried", 0, accepted=1, group="all"),
        event("resent", 0, task="v0-a0", attempt=2, reason="worker gone"),
        event("ignored", 0, task="v0-a0", reason="unknown or too old"),
        event("unevaluated", 0, "a0", task="v0-evaluate-pool", base=0, reason="deadline"),
        event("answered", 0, task="v0-a0", encodes=24, seconds=2.0),
    )
    assert [value(found, f"{name}_total") for name in ("rounds_retried", "evaluations_missing", "images_encoded")] == [
        1,
        1,
        24,
    ]
    assert value(found, "tasks_resent_total", reason="worker gone") == 1
    assert value(found, "messages_ignored_total", reason="unknown or too old") == 1
    assert value(found, "task_seconds_sum") == 2.0


def scored(version: int, **accuracies: float) -> list[Event]:
    return [event("evaluated", version, who, accuracy=a) for who, a in accuracies.items()]


def test_accuracy_is_told_per_domain_client_and_held_out_domain_once_all_have_answered() -> None:
    some = of(DESCRIBED, *scored(0, a0=0.5, a1=0.75, b0=0.25))
    assert (
        value(some, "accuracy_mean_ratio") is None
        and value(some, "domain_accuracy_ratio", domain="a", held_out="no") is None
    )
    found = of(DESCRIBED, *scored(0, a0=0.5, a1=0.75, b0=0.25, sketch=0.125))
    assert value(found, "accuracy_mean_ratio") == 0.5
    assert value(found, "accuracy_worst_ratio") == 0.25
    assert value(found, "domain_accuracy_ratio", domain="a", held_out="no") == (0.5 + 0.75) / 2
    assert value(found, "domain_accuracy_ratio", domain="sketch", held_out="yes") == 0.125
    assert value(found, "client_accuracy_ratio", client="b0") == 0.25
    assert value(found, "clients") == 3


def test_a_site_that_joins_late_counts_from_then_on() -> None:
    joined = event("joined", 3, site="s", clients={"c0": {}}, held_out=[], domains={"c0": ["c"]})
    found = of(DESCRIBED, joined, *scored(5, a0=0.5, a1=0.75, b0=0.25, c0=1.0, sketch=0.125))
    assert (value(found, "clients"), value(found, "accuracy_mean_ratio")) == (4, (0.5 + 0.75 + 0.25 + 1.0) / 4)


def test_who_never_answers_an_evaluation_does_not_hold_it_up_and_an_older_one_changes_nothing() -> None:
    newer = [
        *scored(5, a0=0.5, a1=0.75, b0=0.25),
        event("unevaluated", 6, "sketch", base=5, task="t", reason="deadline"),
    ]
    found = of(DESCRIBED, *newer, *scored(0, a0=0.0, a1=0.0, b0=0.0, sketch=0.0))
    assert (value(found, "evaluated_version"), value(found, "accuracy_mean_ratio")) == (5, 0.5)
    assert value(found, "evaluations_missing_total") == 1


def test_many_clients_are_not_named() -> None:
    many = [f"c{i}" for i in range(NAMED_CLIENTS + 1)]
    described = event("described", 0, clients={c: {} for c in many}, held_out=[], domains={c: ["a"] for c in many})
    found = of(described, *scored(0, **dict.fromkeys(many, 0.5)))
    assert value(found, "accuracy_mean_ratio") == 0.5
    assert value(found, "client_accuracy_ratio", client="c0") is None


@pytest.mark.parametrize(
    ("counter", "reason", "label"),
    [
        ("updates_lost", "deadline", "deadline"),
        ("updates_lost", "too stale", "too stale"),
        ("updates_lost", "worker gone (3 attempts)", "attempts"),
        ("updates_lost", "infra: S3 said no (3 attempts)", "attempts"),
        ("updates_lost", "ValueError in /home/ann/photo.png", "failed"),
        ("tasks_resent", "infra: S3 said no", "infra"),
        ("tasks_resent", "worker gone", "worker gone"),
        ("messages_ignored", "unreadable manifest: Field required", "unreadable manifest"),
        ("updates_rejected", "not finite", "not finite"),
    ],
)
def test_a_reason_is_cut_to_its_kind(counter: str, reason: str, label: str) -> None:
    assert kind(counter, reason) == label


def test_a_reason_of_the_loop_begins_at_0_so_that_its_first_time_is_an_increase() -> None:
    code = "".join(f.read_text() for f in (Path(admit.__file__), Path(intake.__file__)))
    known = set(re.findall(r'Rejected\(reason="([^"]+)"', code)) | set(admit._REASONS.values())
    assert len(known) > 10
    assert {r: value(of(LOADED), "updates_rejected_total", reason=r) for r in known} == dict.fromkeys(known, 0.0)
    for reason in (*LOST, "failed", "attempts"):
        assert value(of(LOADED), "updates_lost_total", reason=reason) == 0.0


def test_a_label_has_few_values_whatever_comes() -> None:
    found = of(LOADED, *(came("rejected", f"c{i}", reason=f"reason {i}") for i in range(VALUES + 5)))
    assert value(found, "updates_rejected_total", reason="other") == 5


def test_every_name_and_every_help_text_follows_the_conventions() -> None:
    for family in of(LOADED).registry.collect():
        if family.name.startswith("quorate_"):
            assert family.documentation.endswith(".")
            assert family.type != "counter" or all(s.name.endswith(("_total", "_created")) for s in family.samples)
            assert not family.name.endswith(("_s", "_ms", "_mb", "_count"))


def test_prometheus_can_ask_for_them_while_the_run_goes_on_and_nobody_listens_afterwards() -> None:
    port = free_port()
    with served(of(LOADED, asked("a0")), ("127.0.0.1", port)):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        assert 'quorate_in_flight{run="r"} 1.0' in text.splitlines()
        assert "process_resident_memory_bytes" in text and "_created" not in text
        with (
            pytest.raises(SettingsError, match=r"QUORATE_METRICS: cannot listen on 127.0.0.1") as refused,
            served(of(LOADED), ("127.0.0.1", port)),
        ):
            pass
        assert refused.value.exit_code == 2
    assert is_free(port)


def test_an_address_of_another_machine_is_one_line() -> None:
    with pytest.raises(SettingsError, match="cannot listen on"), served(of(LOADED), ("192.0.2.1", 9464)):
        pass
