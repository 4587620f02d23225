"""The page of a run: numbers from events written by hand, and nothing in a name or a reason that a browser obeys."""

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import page, retold
from orchestrator.charts import NAMED, _apart, charts
from orchestrator.extras import needed
from orchestrator.findings import Findings, fates, find
from orchestrator.story import Story as Telling
from schemas.errors import ConfigError
from schemas.log import Event
from schemas.story import Round, Story

HOSTILE = "<script>alert(1)</script>$\\frac{$ _' onload=\"x"
SECTIONS = {"accuracy", "rounds", "staleness", "ledger", "causes", "versions", "experiment"}


def event(name: str, at: float, version: int, client: str | None = None, /, **facts: Any) -> Event:
    return Event(event=name, at=at, wall=1000.0 + at, version=version, client=client, facts=facts)


def split(train: int) -> dict[str, int]:
    return {"train": train, "val": 1, "test": 2}


EVENTS = [
    event("started", 10.0, 0, experiment={"seed": 3, "method": {"name": "fedclip"}}, virtual=True, code_version="0"),
    event(
        "described", 10.0, 0, clients={"ann": split(30), "bob": split(10)}, held_out=["sketch"], fingerprint="f00",
        domains={"ann": ["photo"], "bob": ["photo"]},
    ),
    event("asked", 11.0, 0, "ann", task="v0-ann", bytes=100),
    event("asked", 11.0, 0, "bob", task="v0-bob", bytes=100),
    event("evaluated", 11.0, 0, "ann", accuracy=0.5, zero_shot=0.5),
    event("evaluated", 11.0, 0, "bob", accuracy=0.3, zero_shot=0.3),
    event("evaluated", 11.0, 0, "sketch", accuracy=0.2, zero_shot=0.2),
    event("accepted", 12.0, 0, "ann", task="v0-ann", bytes=40),
    event("closed", 14.0, 1, updates=[("ann", 0)], without=["bob"], seconds=3.0, quorum_s=1.0, grace_s=2.0,
          counted=1, late=0, weights={"ann": 30.0}, lags={"0": 1}),
    event("asked", 15.0, 1, "ann", task="v1-ann", bytes=110),
    event("late", 16.0, 1, "bob", task="v0-bob", base=0, lag=1, bytes=50),
    event("rejected", 17.0, 1, "ann", task="v1-ann", reason=HOSTILE, bytes=5),
    event("closed", 24.0, 2, updates=[("bob", 0)], without=[], seconds=10.0, quorum_s=1.0, grace_s=9.0,
          counted=1, late=1, weights={"bob": 10.0}, lags={"1": 1}),
    event("evaluated", 25.0, 2, "ann", accuracy=0.9),
    event("evaluated", 25.0, 2, "bob", accuracy=0.7),
    event("evaluated", 25.0, 2, "sketch", accuracy=0.1),
    event("finished", 30.0, 2, status="finished", reason=""),
]  # fmt: skip


def told(events: list[Event], **more: Any) -> Findings:
    rounds = Telling.of(events).told()
    known = {"run": "r", "status": "finished", "version": len(rounds), "versions": 2, "clients": 2, "rounds": rounds}
    return find(Story.model_validate(known | more), events)


def renamed(events: list[Event], names: dict[str, str]) -> list[Event]:
    """The same events of clients and domains with other names."""

    def other(value: Any) -> Any:
        if isinstance(value, dict):
            return {other(k): other(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [other(v) for v in value]
        return names.get(value, value) if isinstance(value, str) else value

    return [Event.model_validate(other(e.model_dump())) for e in events]


class Read(HTMLParser):
    """What a browser would make of the page: its elements with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


# --- numbers


def test_accuracy_is_told_over_versions_and_over_seconds_per_client_and_per_domain() -> None:
    found = told(EVENTS)
    photo = found.domains["photo"]
    assert photo.versions == (0, 2) and photo.values == pytest.approx(((0.5 + 0.3) / 2, (0.9 + 0.7) / 2))
    assert photo.seconds == (11.0 - 10.0, 24.0 - 10.0), "when the first was asked, and when the version was closed"
    assert found.curves["bob"].values == (0.3, 0.7) and found.worst.values == (0.3, 0.7)
    assert found.mean == photo and found.held_out["sketch"].values == (0.2, 0.1)
    assert (found.evaluated, found.accuracy.mean, found.accuracy.worst) == (2, pytest.approx(0.8), 0.7)


def test_the_ledger_sets_the_share_of_the_data_against_the_share_of_the_weight() -> None:
    ann, bob = told(EVENTS).clients
    assert (ann.data, ann.weight) == (30 / 40, 30 / 40) and (bob.data, bob.weight) == (10 / 40, 10 / 40)
    assert (ann.share.accepted, ann.share.rejected, bob.share.late) == (1, 1, 1)
    assert (ann.without, bob.without) == (0, 1)
    # Of the same images, but bob's update counts nine times as much: 30 and 90 of 120.
    other = [e.model_copy(update={"facts": {**e.facts, "weights": {"bob": 90.0}}})
             if (e.event, e.version) == ("closed", 2) else e for e in EVENTS]  # fmt: skip
    ann, bob = told(other).clients
    assert (ann.data, ann.weight) == (30 / 40, 30 / 120) and (bob.data, bob.weight) == (10 / 40, 90 / 120)


def test_a_client_is_in_the_group_that_it_was_asked_for_last_and_one_group_is_none() -> None:
    groups = iter(["all", "cohort-0", "cohort-1"])
    asked = [
        e.model_copy(update={"facts": {**e.facts, "group": next(groups)}}) if e.event == "asked" else e for e in EVENTS
    ]
    assert [c.group for c in told(asked).clients] == ["cohort-1", "cohort-0"]
    page_of = page.render(told(asked))
    assert "group" in Read(page_of).text and "cohort-1" in Read(page_of).text
    alone = told(EVENTS)
    assert [c.group for c in alone.clients] == ["", ""] and "group" not in Read(page.render(alone)).text


def test_bytes_staleness_and_what_did_not_count_are_sums_of_events() -> None:
    found = told(EVENTS)
    assert (found.bytes_down, found.bytes_up) == ((200, 110), (40, 50 + 5))
    assert found.lags == Counter({0: 1, 1: 1}) and found.wasted_share == pytest.approx(1 / 3)
    (cause,) = found.causes
    assert (cause.kind, cause.reason, cause.count, cause.clients) == ("rejected", HOSTILE, 1, ("ann",))


def test_what_was_lost_before_any_version_is_told_and_what_came_after_all_is_not() -> None:
    gone = event("lost", 12.0, 0, "ann", task="v0-ann", reason="deadline")
    (cause,) = told([*EVENTS[:7], gone, event("finished", 13.0, 0, status="failed", reason="too few")]).causes
    assert (cause.kind, cause.reason, cause.clients) == ("lost", "deadline", ("ann",))
    expired = event("lost", 13.0, 0, "bob", task="v0-bob", reason="deadline")  # bob is late in version 2
    assert told([*EVENTS[:8], expired, *EVENTS[8:]]).causes == told(EVENTS).causes


def test_a_client_has_one_fate_in_a_round_and_none_if_it_was_not_in_it() -> None:
    known = fates(told(EVENTS).story.rounds)
    assert known == {("ann", 1): "counted", ("bob", 1): "without", ("bob", 2): "late", ("ann", 2): "rejected"}


# --- the page


def test_where_no_time_passes_nothing_is_drawn_over_time() -> None:
    # As in one process without `simulate`. A line over no seconds stands upright, on an axis with seconds below 0.
    at_once = [e.model_copy(update={"at": 10.0}) for e in EVENTS]
    assert set(charts(told(EVENTS))) - set(charts(told(at_once))) == {"accuracy_seconds", "seconds"}
    text = page.render(told(at_once))
    assert "No time passes in this run" in text and "No time passes" not in page.render(told(EVENTS))
    assert {a["id"] for tag, a in Read(text).tags if tag == "h2"} == SECTIONS


def test_every_section_is_there_and_the_numbers_that_matter() -> None:
    text = page.render(told(EVENTS))
    read = Read(text)
    assert {a["id"] for tag, a in read.tags if tag == "h2"} == SECTIONS
    assert sum(tag == "svg" for tag, _ in read.tags) == len(charts(told(EVENTS))) == 8
    shown = " ".join(" ".join(read.text).split())
    assert "80.0 % zero-shot 40.0 %" in shown and "95 B" in shown and "310 B" in shown and "seed: 3" in shown
    assert page.render(told(EVENTS)) == text, "the same findings, the same page"


def test_a_hostile_name_or_reason_is_text_and_nothing_else() -> None:
    found = told(renamed(EVENTS, {"photo": HOSTILE}))
    clients = tuple(replace(c, name=HOSTILE + c.name) for c in found.clients)  # no such name gets through a message
    text = page.render(replace(found, clients=clients, held_out={HOSTILE: found.held_out["sketch"]}))
    read = Read(text)
    assert not [tag for tag, _ in read.tags if tag in ("script", "iframe", "object", "link", "img")]
    assert not [a for _, a in read.tags if any(name.startswith("on") for name in a)]
    shown = "".join(read.text)
    assert shown.count(HOSTILE) >= 1 + 2 * 2, "the reason; two clients and the domain of each"
    assert shown.count(HOSTILE[:21] + "...") >= 2 * 2 + 2 * 2, "in the plots: the domain, what is held out, the clients"


def test_nothing_in_the_page_comes_from_elsewhere() -> None:
    text = page.render(told(EVENTS))
    for _, attributes in Read(text).tags:
        for name in ("src", "href", "xlink:href", "data", "action", "poster", "srcset"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:image/png")), value
    assert all(inside.startswith("#") for inside in re.findall(r"url\(['\"]?([^)]*)", text))
    assert "@import" not in text and "default-src 'none'" in text


@pytest.mark.parametrize("count", [0, 1, 2, len(EVENTS) - 7], ids=["nothing", "begun", "described", "on its way"])
def test_a_run_that_has_only_begun_has_a_page_too(count: int) -> None:
    found = told(EVENTS[:count], status="unfinished")
    assert {a["id"] for tag, a in Read(page.render(found)).tags if tag == "h2"} == SECTIONS


def test_of_hundreds_of_clients_and_versions_the_page_stays_small() -> None:
    names = [f"client-{i:04}" for i in range(1000)]
    events = [
        event("started", 0.0, 0, experiment={}, virtual=False),
        event("described", 0.0, 0, clients={n: split(i + 1) for i, n in enumerate(names)}, held_out=[]),
        *(event("evaluated", 0.0, 0, n, accuracy=0.5, zero_shot=0.5) for n in names),
    ]
    for v in range(1, 301):
        updates = [(n, v - 1) for n in names[v : v + 100]]
        events += [event("asked", float(v), v - 1, n, task=f"v{v}-{n}", bytes=9) for n, _ in updates]
        events.append(
            event("closed", v + 0.5, v, updates=updates, without=[], seconds=0.5, counted=100, late=0,
                  weights={n: 1.0 for n, _ in updates}, lags={"0": 100})
        )  # fmt: skip
    found = told(events, clients=1000)
    text = page.render(found)
    assert len(names) > NAMED and "clients" not in charts(found)
    assert text.count("<tr>") == 2 + 2 * page.ROWS and "200 of 1000 clients" in text and "200 of 300 versions" in text
    assert len(text) < 1_500_000


def test_the_row_of_a_version_says_who_was_late_and_why_others_are_missing() -> None:
    text = page.render(told(EVENTS))
    assert "without bob" in text and "late bob (1)" in text
    made: Round = told(EVENTS).story.rounds[0]
    assert retold.notes(made, 80) == ["in ann", "without bob"], "who was in stands in the plot, not in the row"
    assert ">in ann" not in text


@given(st.lists(st.floats(0, 1), max_size=8))
def test_labels_stand_apart_in_their_order_and_inside_the_plot(heights: list[float]) -> None:
    named = {str(i): y for i, y in enumerate(heights)}
    found = _apart(named, 0.0, 1.0)
    places = sorted(found.values())
    assert all(b - a >= 0.065 - 1e-9 for a, b in pairwise(places)) and all(-1e-9 <= y <= 1 for y in places)
    assert sorted(named, key=lambda n: named[n]) == sorted(found, key=lambda n: found[n])
    assert _apart({"a": 0.2, "b": 0.8}, 0.0, 1.0) == {"a": 0.2, "b": 0.8}, "who has room stays"


def test_a_library_that_is_missing_is_one_line_that_says_what_to_install() -> None:
    needed("a page", "jinja2", "matplotlib")
    with pytest.raises(ConfigError, match=r"a page needs no_such_library.*quorate\[report\]"):
        needed("a page", "jinja2", "no_such_library")
