"""Groups with rounds of their own, whole runs in virtual time: one closes, the others keep tensors and round."""

from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from infra.blobs import FileBlobs
from orchestrator.commits import Commits
from orchestrator.run import Outcome
from schemas.experiment import Experiment
from schemas.log import Commit, Event
from tests.runs.here import run
from tests.runs.test_embedded import SLOW, SYNC, events, small
from tests.toys import paint

QUIET = {"every": 0, "final": False}
LEFT, RIGHT = ("flat-0", "flat-1"), ("noisy-0", "noisy-1")
FEDBUFF = {"versions": 14, "in_flight": 4, "quorum": 2, "floor": 1, "refill": "at_arrival", "max_staleness": 4}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("images"))


def halves(images: Path, *, right: tuple[str, ...] = RIGHT, moves: dict[int, str] | None = None, joined: int = 0,
           **changes: Any) -> Experiment:  # fmt: skip
    params = {"right": right, "moves": moves or {}, "joined": joined}
    return small(
        images, method={"name": "tests.runs.plugins:Halves", "params": params}, **{"simulate": SLOW, **changes}
    )


def commits(root: Path) -> list[Commit]:
    return Commits("r", FileBlobs(root / "blobs")).all()


def merges(of: list[Event]) -> dict[str, list[int]]:
    """{group: the versions that it made}."""
    found: dict[str, list[int]] = defaultdict(list)
    for e in events(of, "closed"):
        found[e.facts["group"]].append(e.version)
    return found


@pytest.fixture(scope="module")
def two(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, list[Commit]]:
    root = tmp_path_factory.mktemp("two")
    rounds = {**SYNC, "versions": 8}
    return run(halves(images, rounds=rounds), root), commits(root)


def test_each_version_is_made_of_one_group_and_counts_nobody_else(two: tuple[Outcome, list[Commit]]) -> None:
    made = two[0].report
    assert (made.status, made.version) == ("finished", 8)
    for e in events(two[0].events, "closed"):
        assert sorted(c for c, _ in e.facts["updates"]) == sorted({"left": LEFT, "right": RIGHT}[e.facts["group"]])
    assert all(len(found) >= 2 for found in merges(two[0].events).values()), "nobody waits for the other group"


def test_the_groups_that_do_not_close_keep_their_tensors(two: tuple[Outcome, list[Commit]]) -> None:
    outcome, made = two
    closed = {e.version: e.facts["group"] for e in events(outcome.events, "closed")}
    for before, after in pairwise(made):
        now = {group: blob.sha256 for group, blob in after.models[after.version].items()}
        was = {group: blob.sha256 for group, blob in before.models[before.version].items()}
        assert [group for group in now if now[group] != was[group]] == [closed[after.version]]


def test_without_any_latency_the_groups_take_turns(images: Path, tmp_path: Path) -> None:
    # Nothing takes time, so all rounds are open equally long: each closes as often as the other.
    outcome = run(halves(images, rounds={**SYNC, "versions": 8}, simulate=None), tmp_path)
    assert {group: len(versions) for group, versions in merges(outcome.events).items()} == {"left": 4, "right": 4}


def test_the_groups_that_do_not_close_keep_their_open_round(two: tuple[Outcome, list[Commit]]) -> None:
    # Synchronous: a client is asked once per round of its own group, however often the other group closes.
    outcome, _ = two
    asked: dict[tuple[str | None, int], int] = defaultdict(int)
    for e in events(outcome.events, "asked"):
        asked[e.client, e.facts["base"]] += 1
        assert e.facts["base"] in (0, *merges(outcome.events)[e.facts["group"]])
    assert set(asked.values()) == {1}
    assert not events(outcome.events, "late", "rejected", "lost")


def test_staleness_counts_the_merges_of_the_updates_own_group(images: Path, tmp_path: Path) -> None:
    outcome = run(halves(images, rounds=FEDBUFF, simulate=SLOW), tmp_path)
    made, fates = merges(outcome.events), events(outcome.events, "accepted", "late")
    assert outcome.report.version == 14
    lags = [(e.facts["lag"], sum(e.facts["base"] < v <= e.version for v in made[e.facts["group"]])) for e in fates]
    assert all(lag == own for lag, own in lags)
    assert any(e.facts["lag"] < e.version - e.facts["base"] for e in fates), "another group merged meanwhile"
    assert all((e.event == "late") == (e.facts["lag"] > 0) for e in fates)
    assert max(e.facts["lag"] for e in fates) > 0


def test_the_numbers_are_shared_in_proportion_to_the_size(images: Path, tmp_path: Path) -> None:
    # 3 of 4 clients are left: quorum 4 * 3/4 = 3 there and 1 on the right, and so are the slots.
    outcome = run(halves(images, right=("noisy-1",), rounds={**SYNC, "versions": 8}), tmp_path)
    for e in events(outcome.events, "closed"):
        assert e.facts["counted"] == {"left": 3, "right": 1}[e.facts["group"]]


@pytest.mark.parametrize("refill", ["at_close", "at_arrival"])
def test_a_group_that_waits_for_a_slot_does_not_use_its_deadline_up(images: Path, tmp_path: Path, refill: str) -> None:
    # One slot for both groups, 3 s for each update: the second is asked after 3 s, with 2 s of its first 5 left.
    rounds = {"versions": 4, "in_flight": 1, "quorum": 1, "floor": 1, "deadline_s": 5, "retries": 0, "refill": refill}
    latency = {"name": "trace", "params": {"default_s": 3.0}}
    outcome = run(halves(images, rounds=rounds, simulate={"latency": latency}), tmp_path)
    assert (outcome.report.status, outcome.report.reason) == ("finished", "")
    assert merges(outcome.events) == {"left": [1, 3], "right": [2, 4]}


def test_an_update_under_way_when_its_client_is_moved_is_rejected(images: Path, tmp_path: Path) -> None:
    found, rounds = set(), {**FEDBUFF, "versions": 6}
    for seed in (1, 4):  # in which the second merge comes while the client is at work
        outcome = run(halves(images, moves={2: "noisy-0"}, rounds=rounds, seed=seed), tmp_path / str(seed))
        moved = [e for e in events(outcome.events, "rejected") if e.facts["reason"] == "moved"]
        found |= {(e.client, e.facts["group"]) for e in moved}
        later = [e for e in events(outcome.events, "asked") if e.client == "noisy-0" and e.version >= 2]
        assert {e.facts["group"] for e in later} == {"left"}
        assert outcome.report.ledger["noisy-0"].rejected == len(moved)
    assert found == {("noisy-0", "right")}


def test_when_a_group_ends_its_clients_go_on_in_another(images: Path, tmp_path: Path) -> None:
    outcome = run(halves(images, joined=4, rounds=FEDBUFF), tmp_path)
    assert outcome.report.version == 14
    assert set(outcome.tensors) == {"left"}
    after = [e for e in events(outcome.events, "asked") if e.version >= 4]
    assert {e.client for e in after} == {*LEFT, *RIGHT} and {e.facts["group"] for e in after} == {"left"}
    assert {e.facts["group"] for e in events(outcome.events, "closed") if e.version > 4} == {"left"}


def test_everybody_is_evaluated_with_the_model_of_the_own_group(images: Path, tmp_path: Path) -> None:
    outcome = run(halves(images, rounds={**SYNC, "versions": 2}, evaluate={"every": 1}), tmp_path)
    told = {(e.version, e.client) for e in events(outcome.events, "evaluated")}
    assert told == {(v, c) for v in range(3) for c in (*LEFT, *RIGHT, "striped")}


def test_the_models_that_are_kept_do_not_grow_with_the_versions(images: Path, tmp_path: Path) -> None:
    outcome = run(halves(images, rounds={**FEDBUFF, "versions": 24, "max_staleness": 1}), tmp_path)
    assert outcome.report.version == 24
    most = max(len({ref.key for of in c.models.values() for ref in of.values()}) for c in commits(tmp_path))
    assert most <= 2 * (1 + 1) + 1, "two groups, of each the models that may be started from, and one for an evaluation"
