"""Oort (Lai et al., OSDI 2021) against its formula and its bounds, numbers derived here."""

import contextlib
import json
from collections import Counter
from math import log, sqrt
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.blobs import FileBlobs
from orchestrator.book import Book
from orchestrator.commits import Commits
from orchestrator.plan import plan
from orchestrator.selectors.oort import HIGHEST, Oort
from orchestrator.simulate import Simulator
from schemas.base import Choice
from schemas.log import Accepted, Open
from schemas.messages import BlobRef, ClientResult
from tests.runs.here import Fuse, Killed, run
from tests.runs.test_crash import FEDBUFF, facts, operations, places
from tests.runs.test_embedded import QUORUM, SLOW, SYNC, events, small
from tests.toys import paint
from workers.plugins import load

REF = BlobRef(key="x", sha256="0" * 64, size=1)
GREEDY = {"explore": 0, "least": 0, "most": None}


def oort(sizes: dict[str, int], **params: Any) -> Oort:
    made: Oort = load("orchestrator.selectors", Choice(name="oort", params=params))
    made.meet(sizes)
    return made


def answer(client: str, loss: float | None = 1.0, seconds: float = 1.0) -> Accepted:
    return Accepted(task_id="t", client=client, base=0, update=REF, weight=1.0, at=0.0, loss=loss, seconds=seconds)


def told(made: Oort, *answers: Accepted, silent: dict[str, float] | None = None) -> Oort:
    """Every client of a version, asked once more than before."""
    names = {a.client for a in answers} | set(silent or {})
    made.learn(answers, silent or {}, {c: made.known[c].asked + (c in names) for c in made.known})
    return made


def test_a_score_by_hand() -> None:
    # U: a 10 * 2 = 20, b 30 * 3 = 90, c 20 * 2 = 40. cap: of three, the highest is cut to the next: 40.
    # All last counted in version 1, and the next one is version 2: bonus sqrt(0.1 ln 2 / 1). Nobody is slow.
    made = told(oort({"a": 10, "b": 30, "c": 20}), answer("a", 2.0), answer("b", 3.0), answer("c", 2.0))
    bonus = sqrt(0.1 * log(2))
    assert made.scores("abc") == pytest.approx({"a": 20 / 40 + bonus, "b": 1 + bonus, "c": 1 + bonus})


def test_the_bonus_is_for_those_who_counted_long_ago() -> None:
    # a in version 1 alone, b and c in 1 to 3, all with the same utility. Version 4 is next: ln 4 over 1 and over 3.
    made = told(oort(dict.fromkeys("abc", 10)), *map(answer, "abc"))
    told(told(made, answer("b"), answer("c")), answer("b"), answer("c"))
    expected = {"a": 1 + sqrt(0.1 * log(4)), "b": 1 + sqrt(0.1 * log(4) / 3), "c": 1 + sqrt(0.1 * log(4) / 3)}
    assert made.scores("abc") == pytest.approx(expected)


@pytest.mark.parametrize("penalty", [0, 1, 2])
def test_who_is_slower_than_preferred_scores_less_by_a_power(penalty: int) -> None:
    # Seconds 1, 2, 4 and T their median, 2: 4 s are twice too slow, 1 and 2 are not.
    made = oort(dict.fromkeys("abc", 10), prefer=0.5, penalty=penalty)
    scores = told(made, answer("a", 1, 1), answer("b", 1, 2), answer("c", 1, 4)).scores("abc")
    assert scores["a"] == scores["b"]
    assert scores["c"] == pytest.approx(scores["a"] * (2 / 4) ** penalty)


@pytest.mark.parametrize(("clients", "cut"), [(2, 1), (20, 1), (60, 2), (100, 4)])
def test_the_highest_utilities_are_cut(clients: int, cut: int) -> None:
    # U = 1 to n. The 0.95 quantile has rank int(0.95 n): of 60 that is 57, the value 58, above which two lie; of 100 it
    # is 95, the value 96, above which four. Of 2 and of 20 it would be the highest itself, so the next one.
    names = [f"c{i:03}" for i in range(clients)]
    made = oort(dict.fromkeys(names, 1))
    scores = told(made, *(answer(c, i + 1.0) for i, c in enumerate(names))).scores(names)
    assert Counter(scores.values())[max(scores.values())] == cut + 1


@pytest.mark.parametrize("loss", [1e300, 1.7e308])
def test_a_lie_of_any_size_scores_as_the_next_and_can_be_kept(loss: float) -> None:
    made = told(oort(dict.fromkeys("abc", 10**9)), answer("a", loss), answer("b", 1e-12), answer("c", 2e-12))
    assert made.known["a"].utility == HIGHEST
    scores = made.scores("abc")
    assert scores["a"] == scores["c"] > scores["b"] > 0
    json.dumps(made.dump(), allow_nan=False)


def test_who_says_no_loss_goes_by_images() -> None:
    made = told(oort({"a": 10, "b": 30}), answer("a", None), answer("b", None))
    assert {c: k.utility for c, k in made.known.items()} == {"a": 10, "b": 30}


@pytest.mark.parametrize(
    ("said", "kept"), [({}, None), ({"loss": -1.0}, None), ({"loss": 0.0}, 0.0), ({"loss": 2.5}, 2.5)]
)
def test_the_book_keeps_a_loss_that_can_be_and_how_long_the_answer_took(
    said: dict[str, float], kept: float | None, small_book: Book
) -> None:
    task = Open(task_id="t", kind="train", base=0, clients=("a",), asked_at=3.0)
    found = small_book.accepts(task, ClientResult(client="a", update=REF, weight=1, metrics=said), 7.5)
    assert (found.loss, found.seconds) == (kept, 4.5)


@pytest.fixture
def small_book(images: Path) -> Book:
    return Book(small(images).rounds)


# --- who is picked


def test_at_first_everybody_is_new_and_drawn_by_images() -> None:
    made = oort({"a": 10, "b": 20, "c": 30, "d": 40})
    counts = Counter(made.pick("abcd", 1, Random(s))[0] for s in range(4000))
    for client, share in (("a", 0.1), ("b", 0.2), ("c", 0.3), ("d", 0.4)):
        assert counts[client] / 4000 == pytest.approx(share, abs=4 * (share * (1 - share) / 4000) ** 0.5)


@pytest.mark.parametrize("versions", [1, 20, 200])
def test_the_share_of_new_ones_decays_and_holds_for_one_place_too(versions: int) -> None:
    # 0.9 * 0.98^n, no less than 0.2, of one place (buffered) as of ten.
    sizes = dict.fromkeys([f"new{i:02}" for i in range(20)] + [f"old{i:02}" for i in range(20)], 1)
    made, share = oort(sizes, most=None), max(0.2, 0.9 * 0.98**versions)
    for _ in range(versions):
        told(made, *(answer(c) for c in sizes if c.startswith("old")))
    for places_, draws in ((1, 2000), (10, 300)):
        new = sum(c.startswith("new") for s in range(draws) for c in made.pick(list(sizes), places_, Random(s)))
        count = places_ * draws
        assert new / count == pytest.approx(share, abs=4 * (share * (1 - share) / count) ** 0.5)


def test_with_explore_1_only_new_ones_are_asked_while_there_are_any() -> None:
    made = told(oort(dict.fromkeys("abcd", 1), explore=1, decay=1), answer("a"), answer("b"))
    assert all(set(made.pick("abcd", 2, Random(s))) == {"c", "d"} for s in range(50))
    assert set(made.pick("abcd", 3, Random(0))) > {"c", "d"}, "and others where there are too few"


def test_who_was_asked_and_never_counted_is_as_good_as_the_mean_and_as_slow_as_it_was_waited_for() -> None:
    # U of a and b: 10 and 30, mean 20, cap the next to the highest: 10, so 1 for c. T = 1 s, and c was waited for 4 s.
    made = oort(dict.fromkeys("abcd", 10), prefer=0.5)
    told(made, answer("a", 1, 1), answer("b", 3, 1), silent={"c": 4})
    assert made.scores("c") == pytest.approx({"c": made.scores("b")["b"] * (1 / 4) ** 2})
    assert made.pick("cd", 1, Random(0)) == ["d"], "which has never been asked"
    told(made, silent={"c": 3})
    assert (made.known["c"].seconds, made.known["c"].last) == (4, 2), "the longest, and the last"


def test_silence_says_nothing_new_of_one_who_has_counted() -> None:
    made = told(told(oort({"a": 1, "b": 1}), answer("a", 2, 3), answer("b")), silent={"a": 99})
    assert (made.known["a"].seconds, made.known["a"].utility) == (3, 2)


def test_who_scores_less_than_a_share_of_the_last_place_is_not_drawn() -> None:
    # Scores 1, 1, 0.8, 0.6 and no bonus in version 1 (ln 1 = 0). Two places: the last would go to a score of 1, so from
    # 0.7 on they are drawn, which is a, b, c; d never.
    made = oort(dict.fromkeys("abcd", 10), **GREEDY)
    told(made, answer("a", 10), answer("b", 10), answer("c", 8), answer("d", 6))
    made.versions = 0
    picks = Counter(c for s in range(500) for c in made.pick("abcd", 2, Random(s)))
    assert set(picks) == {"a", "b", "c"}
    assert picks["a"] > picks["c"]


def test_the_most_often_asked_come_last_but_no_more_of_them_than_a_share() -> None:
    # Ten clients, all of them asked more than twice: of 0.3 * 10 = 3 the others come first, those asked most often.
    names = [f"c{i}" for i in range(10)]
    made = told(oort(dict.fromkeys(names, 1), most=2), *map(answer, names))
    made.learn([], {}, {c: 3 + i for i, c in enumerate(names)})
    assert made.barred() == {"c7", "c8", "c9"}
    assert all(not made.barred() & set(made.pick(names, 7, Random(s))) for s in range(50))
    assert set(made.pick(names, 9, Random(0))) >= set(names[:7]), "a round is not left short for them"
    assert made.pick(["c8"], 1, Random(0)) == ["c8"]
    made.learn([], {}, dict.fromkeys(names, 2))
    assert made.barred() == set(), "twice is not more than twice"


def play(made: Oort, says: float) -> Counter[str]:
    """How often who is asked in 300 versions; everybody answers after a second, `liar` with what it says."""
    asked: Counter[str] = Counter()
    for version in range(300):
        picked = made.pick(list(made.known), 3, Random(version))
        asked.update(picked)
        made.learn([answer(c, says if c == "liar" else 0.1 + int(c) / 30) for c in picked], {}, asked)
    return asked


def test_a_liar_is_asked_more_often_and_how_much_is_bounded() -> None:
    # 29 others and the liar, 0.3 * 30 = 9 are kept back: it is only picked while it is not among the nine that were
    # asked most often, so at least nine others were asked as often, but for this once. Without, it does as the first.
    sizes = dict.fromkeys([*(f"{i:02}" for i in range(29)), "liar"], 10)
    honest, lying = (play(oort(sizes, most=None), says) for says in (0.1, 1e300))
    assert lying["liar"] > 2 * honest["liar"]
    assert lying["liar"] <= 1.25 * max(n for c, n in lying.items() if c != "liar"), "its score is the next highest"
    bound = play(oort(sizes), 1e300)
    assert bound["liar"] <= sorted((n for c, n in bound.items() if c != "liar"), reverse=True)[8] + 1


def test_the_pace_slackens_when_the_counted_gain_no_more() -> None:
    # Windows of two versions, utilities 10 + 10, 10 + 11 (more), 10 + 11 (no more): only after the third, by 0.05.
    made, found = oort({"a": 1}, window=2), []
    for loss in (10, 10, 10, 11, 10, 11):
        found.append(told(made, answer("a", loss)).prefer)
    assert found == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.1, 0.15])
    for _ in range(200):
        told(made, answer("a", 1))
    assert made.prefer == 1


clients = st.sampled_from([f"c{i}" for i in range(12)])
seconds, losses = st.floats(0, 1e9), st.one_of(st.none(), st.floats(0, allow_infinity=False))
version = st.tuples(
    st.dictionaries(clients, st.tuples(losses, seconds), max_size=6),
    st.dictionaries(clients, seconds, max_size=3),
    st.dictionaries(clients, st.integers(0, 40)),
)


@given(seen=st.lists(version, max_size=8), free=st.sets(clients), budget=st.integers(0, 14), seed=st.integers(0, 99))
def test_whatever_it_was_told_it_fills_the_budget_with_free_clients_and_as_much_after_a_load(
    seen: list[Any], free: set[str], budget: int, seed: int
) -> None:
    made = oort({f"c{i}": 1 + i for i in range(10)}, window=2)  # c10 and c11 are strangers
    for counted, silent, asked in seen:
        made.learn([answer(c, *what) for c, what in counted.items()], silent, asked)
    picked = made.pick(sorted(free), budget, Random(seed))
    assert len(picked) == len(set(picked)) == min(budget, len(free)) and set(picked) <= free
    kept = json.loads(json.dumps(made.dump(), allow_nan=False))
    assert set(kept["clients"]) == {f"c{i}" for i in range(10)}, "one line per client, whoever else is named"
    again = oort({})
    again.load(kept)
    again.meet(made.sizes)
    assert again.pick(sorted(free), budget, Random(seed)) == picked and again.dump() == made.dump()


# --- whole runs


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("images"))


CHOICE = {"name": "oort", "params": {"window": 2, "most": 2, "prefer": 0.5}}
MODES: dict[str, Any] = {
    "synchronous": {"rounds": {**SYNC, "versions": 6, "in_flight": 2, "quorum": 2, "floor": 2}, "simulate": SLOW},
    "k of n": {"rounds": {**QUORUM, "in_flight": 3}, "simulate": {**SLOW, "dropout": 0.1}},
    "buffered": {"rounds": {**FEDBUFF, "versions": 8, "in_flight": 2}, "simulate": SLOW},
}


@pytest.mark.parametrize("mode", MODES)
def test_a_run_knows_the_seconds_and_the_loss_of_each_client(images: Path, tmp_path: Path, mode: str) -> None:
    made = small(images, selector=CHOICE, **MODES[mode])
    outcome = run(made, tmp_path)
    last = Commits("r", FileBlobs(tmp_path / "blobs")).last()
    assert last is not None and last.selector["versions"] == outcome.report.version
    lines, simulator = last.selector["clients"], Simulator.of(plan(made), virtual=True)
    assert {c: line[0] for c, line in lines.items()} == {c: last.ledger[c].asked for c in lines}
    told_ = {e.client: e for e in events(outcome.events, "accepted", "late") if e.version < last.version}
    for a in last.counted:
        assert lines[a.client][2] == a.seconds == pytest.approx(simulator._seconds(a.client, a.base))
    assert sum(line[1] is not None for line in lines.values()) == len(told_) > 1


def test_who_is_closed_without_is_as_slow_as_it_was_waited_for(images: Path, tmp_path: Path) -> None:
    rounds = {**SYNC, "versions": 4, "in_flight": 3, "quorum": 1, "floor": 1}
    outcome = run(small(images, selector=CHOICE, rounds=rounds, simulate=SLOW), tmp_path)
    asked = {(e.client, e.version): e.at for e in events(outcome.events, "asked")}
    waited: dict[str, float] = {}
    for closed in events(outcome.events, "closed"):
        for client in closed.facts["without"]:
            seconds = closed.at - asked[client, closed.version - 1]
            waited[client] = max(seconds, waited.get(client, 0.0))
    last = Commits("r", FileBlobs(tmp_path / "blobs")).last()
    assert last is not None
    never = {c: line[2] for c, line in last.selector["clients"].items() if line[0] and line[1] is None}
    assert never and never == pytest.approx({c: waited[c] for c in never})


@pytest.mark.parametrize("mode", MODES)
def test_killed_anywhere_the_same_clients_are_asked(images: Path, tmp_path: Path, mode: str) -> None:
    made = small(images, selector=CHOICE, codec={"name": "fp16"}, **MODES[mode])
    undisturbed = facts(run(made, tmp_path / "undisturbed"))
    for place, after in places(operations(made, tmp_path / "counted"), 6):
        root = tmp_path / f"killed-{place}"
        with contextlib.suppress(Killed):
            run(made, root, fuse=Fuse(place, after))
        assert facts(run(made, root)) == undisturbed, f"killed {'after' if after else 'before'} operation {place}"
