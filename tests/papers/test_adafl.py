"""AdaFL (arXiv 2108.05765) against its invariants, numbers derived here."""

import contextlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infra.blobs import FileBlobs
from orchestrator.commits import Commits
from orchestrator.plan import plan
from orchestrator.selectors.adafl import AdaFL
from orchestrator.selectors.uniform import Uniform
from schemas.base import Choice
from schemas.errors import ConfigError
from schemas.messages import ALL
from tests.runs.here import Fuse, Killed, run, stopped
from tests.runs.test_crash import facts, operations, places
from tests.runs.test_embedded import SLOW, SYNC, events, small
from tests.toys import paint
from workers.pipeline import open_update
from workers.plugins import load

EQUAL = dict.fromkeys("abcd", 10)


def adafl(sizes: dict[str, int] | None = None, **params: Any) -> AdaFL:
    made: AdaFL = load("orchestrator.selectors", Choice(name="adafl", params=params))
    made.load({})
    made.meet(EQUAL if sizes is None else sizes)
    return made


def w(*numbers: float) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor(numbers, dtype=torch.float32)}


def test_scores_begin_as_shares_of_images_and_a_newcomer_gets_its_share() -> None:
    made = adafl({"a": 30, "b": 10})
    assert made.scores == {"a": 0.75, "b": 0.25}
    made.meet({"a": 30, "b": 10, "c": 40})
    assert made.scores == pytest.approx({"a": 0.375, "b": 0.125, "c": 0.5})


def test_one_update_of_the_scores_by_hand() -> None:
    # a and b counted, 0.25 each: P = 0.5. Step (1, 0); a's delta (4, 4) is 5 away, b's (1, 0) is 0 away. alpha 0.9:
    # a: 0.225 + 0.1 * 0.5 * 1 = 0.275, b: 0.225 + 0 = 0.225.
    made = adafl()
    made.observe({"a": w(4, 4), "b": w(1, 0)}, w(1, 0))
    assert made.scores == pytest.approx({"a": 0.275, "b": 0.225, "c": 0.25, "d": 0.25})


def test_renormalised_the_others_scores_shrink() -> None:
    # As above with P = 1: a: 0.225 + 0.1 = 0.325, b: 0.225, c and d 0.25; by their sum, 1.05.
    made = adafl(mass="renormalise")
    made.observe({"a": w(4, 4), "b": w(1, 0)}, w(1, 0))
    assert made.scores == pytest.approx({"a": 0.325 / 1.05, "b": 0.225 / 1.05, "c": 0.25 / 1.05, "d": 0.25 / 1.05})
    made.observe({}, {})
    assert sum(made.scores.values()) == pytest.approx(1)


@given(seed=st.integers(0, 10**6), alpha=st.floats(0.1, 0.99))
def test_scores_stay_positive_and_sum_to_one_and_nobody_elses_moves(seed: int, alpha: float) -> None:
    made, draw = adafl({c: 1 + i for i, c in enumerate("abcdefgh")}, alpha=alpha), torch.Generator().manual_seed(seed)
    for _ in range(20):
        before, chosen = dict(made.scores), made.pick(sorted(made.scores), 3, Random(seed))
        made.observe({c: {"w": torch.randn(4, generator=draw)} for c in chosen}, w(0, 0, 0, 0))
        assert sum(made.scores.values()) == pytest.approx(1, abs=1e-9)
        assert all(p > 0 for p in made.scores.values())
        assert all(made.scores[c] == before[c] for c in before if c not in chosen), "bit for bit"


def test_the_farther_the_higher_and_equal_distances_change_nothing() -> None:
    made = adafl()
    made.observe({"a": w(1, 0), "b": w(2, 0), "c": w(3, 0)}, w(0, 0))
    assert made.scores["a"] < made.scores["b"] < made.scores["c"]
    same = adafl()
    same.observe({"a": w(1, 0), "b": w(0, 1), "c": w(-1, 0)}, w(0, 0))
    assert same.scores == pytest.approx(dict.fromkeys("abcd", 0.25))
    # Unequal scores move towards an equal share of what both had, 0.4 and 0.1: by a tenth of the way to 0.25.
    uneven = adafl({"a": 40, "b": 10, "c": 50})
    uneven.observe({"a": w(1, 0), "b": w(0, 1)}, w(0, 0))
    assert uneven.scores == pytest.approx({"a": 0.385, "b": 0.115, "c": 0.5})


def test_with_alpha_1_the_scores_never_move() -> None:
    made = adafl(alpha=1)
    made.observe({"a": w(9, 9), "b": w(0, 0)}, w(0, 0))
    assert made.scores == dict.fromkeys("abcd", 0.25)


def test_the_fraction_grows_in_stages_and_stays_within_the_clients() -> None:
    # 20 clients, 0.1 to 0.5 in 5 stages over 10 versions: 2, 2, 4, 4, 6, 6, 8, 8, 10, 10 and then 10.
    made, found = adafl({f"c{i:02}": 1 for i in range(20)}, over=10), []
    for _ in range(12):
        found.append(made.asked())
        made.observe({}, {})
    assert found == [2, 2, 4, 4, 6, 6, 8, 8, 10, 10, 10, 10]
    assert adafl(start=0.01, end=0.01).asked() == 1
    assert adafl({f"c{i:02}": 1 for i in range(20)}, start=0.13, end=0.13).asked() == 3  # 2.6


def test_with_equal_scores_and_all_clients_it_picks_as_the_uniform_selector_does() -> None:
    made = adafl(start=1, end=1, alpha=1)
    uniform = Uniform(Uniform.Params())
    assert all(made.pick("abcd", 2, Random(s)) == uniform.pick("abcd", 2, Random(s)) for s in range(20))


def test_who_has_a_higher_score_is_asked_more_often() -> None:
    # One of four, scores 1/10, 2/10, 3/10, 4/10: the first draw has exactly these probabilities.
    made = adafl({"a": 10, "b": 20, "c": 30, "d": 40}, start=0.25, end=0.25)
    counts = Counter(made.pick("abcd", 4, Random(s))[0] for s in range(4000))
    for client, share in (("a", 0.1), ("b", 0.2), ("c", 0.3), ("d", 0.4)):
        assert counts[client] / 4000 == pytest.approx(share, abs=4 * (share * (1 - share) / 4000) ** 0.5)


# --- whole runs

RAW = load("workers.codecs", Choice(name="raw"))


def known(root: Path) -> Mapping[str, Any]:
    """What the selector knew at the last commit."""
    last = Commits("r", FileBlobs(root / "blobs")).last()
    assert last is not None
    return last.selector


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("images"))


CHOICE = {"name": "adafl", "params": {"start": 0.25, "end": 1.0, "stages": 4, "over": 8, "alpha": 0.1}}
ROUNDS = {**SYNC, "versions": 8, "floor": 1, "max_staleness": 0}
MODES: dict[str, Any] = {
    "synchronous": {"rounds": ROUNDS},
    "k of n": {
        "rounds": {**ROUNDS, "quorum": 2, "grace_s": 0.1, "deadline_s": 30, "max_staleness": 2},
        "simulate": {**SLOW, "dropout": 0.1},
    },
}


def test_with_one_fraction_and_scores_that_never_move_a_run_is_federated_averaging(
    images: Path, tmp_path: Path
) -> None:
    # Four owners of equally many images. Two of four in each round, drawn from the same numbers.
    still = {"name": "adafl", "params": {"start": 0.5, "end": 0.5, "alpha": 1}}
    half = {**ROUNDS, "in_flight": 2, "quorum": 2, "floor": 2}
    ours = run(small(images, selector=still, rounds=ROUNDS), tmp_path / "ours")
    theirs = run(small(images, rounds=half), tmp_path / "theirs")
    assert len(set(known(tmp_path / "ours")["scores"].values())) == 1
    assert ours.report.adapter_sha256 == theirs.report.adapter_sha256
    assert {c: s.asked for c, s in ours.report.ledger.items()} == {c: s.asked for c, s in theirs.report.ledger.items()}


@pytest.mark.parametrize("mode", MODES)
def test_a_run_asks_more_and_more_clients_and_keeps_the_scores_in_its_commits(
    images: Path, tmp_path: Path, mode: str
) -> None:
    outcome = run(small(images, selector=CHOICE, **MODES[mode]), tmp_path)
    asked = Counter(e.version for e in events(outcome.events, "asked"))
    if mode == "synchronous":
        assert [asked[v] for v in range(8)] == [1, 1, 2, 2, 3, 3, 4, 4]
    last = Commits("r", FileBlobs(tmp_path / "blobs")).last()
    assert last is not None and last.selector["merges"] == 8
    assert sum(last.selector["scores"].values()) == pytest.approx(1)
    assert len(set(last.selector["scores"].values())) > 1


@pytest.mark.parametrize("mode", MODES)
def test_the_scores_of_a_run_follow_the_distances_from_its_merged_models(
    images: Path, tmp_path: Path, mode: str
) -> None:
    made, lags = small(images, selector=CHOICE, codec={"name": "raw"}, **MODES[mode]), set()
    for version in (6, 7):
        commits, before = stopped(made, tmp_path / f"{version}-before", version)
        model = commits.get_model(before.models[version][ALL])
        commits, after = stopped(made, tmp_path / f"{version}-after", version + 1)
        step = {k: t - model[k] for k, t in commits.get_model(after.models[version + 1][ALL]).items()}
        # The step between two versions, whatever version an update began from; who counted twice counts with the last.
        sent = {a.client: open_update(commits.blobs.get(a.update), RAW)[0] for a in after.counted}
        away = {c: sum(float((u[k] - step[k]).square().sum()) for k in u) ** 0.5 for c, u in sent.items()}
        was, mass = before.selector["scores"], sum(before.selector["scores"][c] for c in sent)
        shares = {c: 0.1 * was[c] + 0.9 * mass * d / sum(away.values()) for c, d in away.items()}
        assert after.selector["scores"] == pytest.approx(was | shares, rel=1e-5)
        lags |= {version - a.base for a in after.counted}
    assert mode == "synchronous" or max(lags) > 0, "some were late"


def test_who_is_refused_for_the_length_of_an_update_gains_nothing_by_it(images: Path, tmp_path: Path) -> None:
    method = {"name": "tests.runs.plugins:Blow", "params": {"client": "flat-0", "times": 1e4}}
    all_of_them = {"name": "adafl", "params": {"start": 1.0, "end": 1.0, "alpha": 0.1}}
    rounds = {**SYNC, "floor": 3, "max_norm": 100.0}
    outcome = run(small(images, selector=all_of_them, method=method, rounds=rounds), tmp_path)
    assert outcome.report.ledger["flat-0"].rejected == 3
    scores = known(tmp_path)["scores"]
    assert scores["flat-0"] == 0.25 and len(set(scores.values())) == 4


@pytest.mark.parametrize("mode", MODES)
def test_killed_anywhere_the_same_clients_are_asked(images: Path, tmp_path: Path, mode: str) -> None:
    made = small(images, selector=CHOICE, codec={"name": "fp16"}, **MODES[mode])
    undisturbed, knew = facts(run(made, tmp_path / "undisturbed")), known(tmp_path / "undisturbed")
    for place, after in places(operations(made, tmp_path / "counted"), 8):
        root = tmp_path / f"killed-{place}"
        with contextlib.suppress(Killed):
            run(made, root, fuse=Fuse(place, after))
        assert facts(run(made, root)) == undisturbed, f"killed {'after' if after else 'before'} operation {place}"
        assert known(root) == knew, "the same scores"


def test_what_cannot_be_is_one_sentence(images: Path) -> None:
    with pytest.raises(ConfigError, match="asks a part of the clients per round"):
        plan(small(images, selector=CHOICE, rounds={**ROUNDS, "refill": "at_arrival"}))
    with pytest.raises(ConfigError, match="asks a part of all clients, and each group of method licfl has rounds"):
        plan(small(images, selector=CHOICE, method={"name": "licfl"}, rounds=ROUNDS))
    with pytest.raises(ConfigError, match="compares updates with the step of the model"):
        plan(small(images, selector=CHOICE, method={"name": "ridge"}, rounds=ROUNDS))
