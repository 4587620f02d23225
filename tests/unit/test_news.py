"""Who watches a run is told of everything once, however often a loop replays."""

from typing import Any

from orchestrator.news import News
from schemas.log import Event


def event(name: str, version: int, client: str | None = None, /, **facts: Any) -> Event:
    return Event(event=name, at=0.0, wall=0.0, version=version, client=client, facts=facts)


class Told(list[str]):
    """What was passed on, by name, version and client."""

    def __init__(self, *lives: list[Event]) -> None:
        news = News(self.note)
        for e in (e for life in lives for e in life):
            news.watch(e)

    def note(self, e: Event) -> None:
        self.append(" ".join(map(str, filter(None, (e.event, f"v{e.version}", e.client)))))


LOADED = event("loaded", 3)
ANN, BOB = (event("accepted", 3, who, task=f"v3-{who}") for who in ("ann", "bob"))


def test_what_a_replay_makes_again_is_told_once() -> None:
    assert Told([LOADED, ANN], [LOADED, ANN, BOB]) == ["loaded v3", "accepted v3 ann", "loaded v3", "accepted v3 bob"]


def test_what_happens_twice_in_one_life_is_told_twice_and_not_four_times() -> None:
    twice = event("ignored", 3, task="v3-ann", reason="duplicate")
    told = Told([LOADED, twice, twice], [LOADED, twice, twice, twice])
    assert told.count("ignored v3") == 3


def test_attempts_and_reasons_tell_events_of_one_task_apart() -> None:
    resent = [event("resent", 3, task="t", attempt=n, reason=r) for n, r in ((2, "worker gone"), (3, "infra: x"))]
    assert Told([LOADED, *resent], [LOADED, *resent]).count("resent v3") == 2


def test_behind_a_commit_nothing_is_made_again_so_the_same_words_are_news() -> None:
    lost = event("lost", 4, "ann", task="v3-ann", reason="too stale")
    life = [LOADED, ANN, event("closed", 4), lost, event("committed", 4), lost]
    assert Told(life).count("lost v4 ann") == 2


def test_a_close_that_was_not_committed_is_made_again_and_told_once() -> None:
    closed = event("closed", 4)
    assert Told([LOADED, ANN, closed], [LOADED, ANN, closed, event("committed", 4)]).count("closed v4") == 1


def test_another_loops_version_is_a_new_beginning() -> None:
    again = event("accepted", 5, "ann", task="v3-ann")
    told = Told([LOADED, ANN, again], [event("loaded", 5), again])
    assert told.count("accepted v5 ann") == 2


def test_a_beginning_that_is_made_again_is_told_once() -> None:
    assert Told([event("started", 0)], [event("started", 0), event("described", 0)]) == ["started v0", "described v0"]


def test_every_outage_is_news() -> None:
    away = event("away", 3, reason="S3")
    assert Told([LOADED, away], [LOADED, away]).count("away v3") == 2


def test_who_comes_later_is_told_how_the_run_began_and_nothing_else_of_it() -> None:
    told = Told()
    News(told.note).recall([event("started", 0), event("answered", 0, task="t"), event("described", 0)])
    assert told == ["started v0", "described v0"]


def test_of_each_site_that_joins_is_told_once_also_to_who_takes_the_run_up() -> None:
    early, late = event("joined", 2, site="early"), event("joined", 2, site="late")
    recalled = [event("joined", 5, site=site) for site in ("early", "late")]
    assert Told([LOADED, early, late], recalled).count("joined v2") == 2
    assert Told(recalled, [LOADED, early, late]) == ["joined v5", "joined v5", "loaded v3"]
