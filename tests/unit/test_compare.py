"""Runs side by side: which belong together, what their intervals are, and what is no evidence. Numbers derived here."""

import io
import math
from typing import Any

import pytest
from rich.console import Console

from orchestrator import beside
from orchestrator.compare import compare, mode
from orchestrator.intervals import estimate
from orchestrator.seeds import MOST, parse
from schemas.comparison import Comparison, Estimate
from schemas.errors import ConfigError
from schemas.experiment import Rounds
from schemas.log import Event
from tests.toys import experiment

T = {1: 12.706, 4: 2.776}
"""Student's t, two-sided 95 %, by degrees of freedom: from a printed table."""


def event(name: str, at: float, version: int, client: str | None = None, /, **facts: Any) -> Event:
    return Event(event=name, at=at, wall=at, version=version, client=client, facts=facts)


def journal(
    seed: int, ann: float | None, bob: float = 0.5, *, status: str = "finished", code: str = "0.1.0", **changes: Any
) -> list[Event]:
    """A run of one version, with the accuracy of two clients; `sketch` is held out and at 0.25."""
    asked = experiment(seed=seed, **changes).model_dump(mode="json")
    ends = [event("evaluated", 7.0, 1, "ann", accuracy=ann)] if ann is not None else []
    return [
        event("started", 1.0, 0, experiment=asked, seed=seed, virtual=True, code_version=code),
        event("described", 1.0, 0, clients={"ann": {}, "bob": {}}, held_out=["sketch"]),
        event("asked", 2.0, 0, "ann", task="v0-ann", bytes=1000),
        event("accepted", 3.0, 0, "ann", task="v0-ann", bytes=300),
        event("closed", 6.0, 1, lags={}, counted=1, weights={}, without=[], updates=[]),
        *ends,
        event("evaluated", 7.0, 1, "bob", accuracy=bob),
        event("evaluated", 7.0, 1, "sketch", accuracy=0.25),
        *([event("finished", 8.0, 1, status=status, reason="")] if status != "unfinished" else []),
    ]


def shown(found: Comparison, width: int = 80) -> list[str]:
    out = io.StringIO()
    beside.show(found, Console(file=out, width=width))
    return [line.rstrip() for line in out.getvalue().splitlines()]


# --- intervals


def test_an_interval_is_the_mean_and_t_standard_errors() -> None:
    found = estimate([1.0, 2.0, 3.0, 4.0, 5.0])
    half = T[4] * math.sqrt((4 + 1 + 0 + 1 + 4) / 4 / 5)
    assert (found.mean, found.seeds) == (3.0, 5)
    assert (found.low, found.high) == (pytest.approx(3 - half, abs=1e-3), pytest.approx(3 + half, abs=1e-3))


def test_one_value_has_no_interval_and_equal_ones_have_none_to_speak_of() -> None:
    assert estimate([0.5]) == Estimate(mean=0.5, seeds=1)
    assert estimate([0.5, 0.5, 0.5]) == Estimate(mean=0.5, low=0.5, high=0.5, seeds=3)


# --- which runs belong together


def test_runs_that_differ_in_their_seed_alone_are_one_group_whatever_they_are_called() -> None:
    found = compare(
        {"x": journal(0, 0.6), "y": journal(1, 0.8, name="other"), "z": journal(0, 0.9, codec={"name": "fp16"})}
    )
    assert [r.group for r in found.runs] == ["a", "a", "b"]
    one, two = found.groups
    assert (one.runs, two.runs, one.codec, two.codec) == (("x", "y"), ("z",), "raw", "fp16")
    assert one.differs == {"codec.name": "raw"} and two.differs == {"codec.name": "fp16"}
    mean = one.estimates["mean"]  # of (0.6 + 0.5) / 2 and (0.8 + 0.5) / 2: s = 0.1 / sqrt(2)
    assert mean.mean == pytest.approx(0.6) and mean.seeds == 2
    assert mean.high == pytest.approx(0.6 + T[1] * (0.1 / math.sqrt(2)) / math.sqrt(2), abs=1e-4)
    alone = two.estimates["mean"]
    assert (alone.mean, alone.seeds, alone.high) == (pytest.approx(0.7), 1, None)


def test_another_version_of_the_code_is_another_group() -> None:
    found = compare({"x": journal(0, 0.6), "y": journal(1, 0.6, code="0.2.0")})
    assert [g.differs for g in found.groups] == [{"code_version": "0.1.0"}, {"code_version": "0.2.0"}]


def test_a_line_tells_accuracy_bytes_and_seconds_of_the_last_version() -> None:
    (line,) = compare({"x": journal(3, 0.7)}).runs
    assert (line.seed, line.version, line.status, line.virtual) == (3, 1, "finished", True)
    assert (line.mean, line.worst, line.held_out) == (pytest.approx(0.6), 0.5, 0.25)
    assert (line.bytes_up, line.bytes_down, line.seconds) == (300, 1000, 6.0 - 1.0)


def test_what_has_not_finished_is_shown_and_counts_nowhere() -> None:
    found = compare(
        {"x": journal(0, 0.6), "y": journal(1, 0.1, status="failed"), "z": journal(2, 0.1, status="unfinished")}
    )
    assert [r.status for r in found.runs] == ["finished", "failed", "unfinished"]
    mean = found.groups[0].estimates["mean"]
    assert (mean.mean, mean.seeds, mean.high) == (pytest.approx(0.55), 1, None)


def test_a_seed_that_ran_twice_is_no_more_evidence_than_once() -> None:
    twice = compare({"x": journal(0, 0.6), "again": journal(0, 0.6), "y": journal(1, 0.8)})
    once = compare({"x": journal(0, 0.6), "y": journal(1, 0.8)})
    assert twice.groups[0].estimates == once.groups[0].estimates


def test_a_client_that_nobody_has_evaluated_leaves_the_others() -> None:
    (line,) = compare({"x": journal(0, None)}).runs
    assert (line.mean, line.worst) == (0.5, 0.5)


# --- differences


def test_a_difference_is_paired_over_the_seeds_that_both_groups_have() -> None:
    fp16 = {"codec": {"name": "fp16"}}
    found = compare({
        "a0": journal(0, 0.2), "a1": journal(1, 0.6), "a2": journal(2, 0.9),
        "b0": journal(0, 0.4, **fp16), "b1": journal(1, 0.9, **fp16), "b7": journal(7, 0.0, **fp16),
    })  # fmt: skip
    (difference,) = found.differences
    assert (difference.group, difference.minus) == ("b", "a")
    mean = difference.estimates["mean"]  # (0.4 - 0.2) / 2 and (0.9 - 0.6) / 2: 0.1 and 0.15
    assert (mean.mean, mean.seeds) == (pytest.approx(0.125), 2)
    assert mean.high == pytest.approx(0.125 + T[1] * (0.05 / math.sqrt(2)) / math.sqrt(2), abs=1e-4)
    assert difference.estimates["held_out"].mean == 0.0


def test_groups_with_fewer_than_two_common_seeds_have_no_difference() -> None:
    fp16 = {"codec": {"name": "fp16"}}
    found = compare(
        {"a0": journal(0, 0.2), "a1": journal(1, 0.6), "b1": journal(1, 0.4, **fp16), "b2": journal(2, 0.4, **fp16)}
    )
    assert found.differences == ()


# --- mistakes


def test_a_run_before_version_0_or_of_another_code_is_a_mistake_that_names_it() -> None:
    with pytest.raises(ConfigError, match="run early has not come to version 0"):
        compare({"early": []})
    odd = journal(0, 0.5)
    odd[0] = odd[0].model_copy(update={"facts": {**odd[0].facts, "experiment": {"name": "x"}}})
    with pytest.raises(ConfigError, match="run odd is of another version"):
        compare({"odd": odd})


# --- what is printed


def test_the_rule_of_a_round_has_a_name() -> None:
    k = {"in_flight": 4, "quorum": 3, "floor": 2}
    assert mode(Rounds(in_flight=4, quorum=4, floor=4, max_staleness=0)) == "synchronous, 4"
    assert mode(Rounds.model_validate(k)) == "3 of 4"
    assert mode(Rounds.model_validate(k | {"grace_s": 0, "max_staleness": 0})) == "over-selection, 3 of 4"
    assert mode(Rounds.model_validate(k | {"refill": "at_arrival"})) == "FedBuff, 3 of 4"
    alone = {"in_flight": 4, "quorum": 1, "floor": 1, "refill": "at_arrival"}
    assert mode(Rounds.model_validate(alone | {"apply": "mix"})) == "FedAsync, 1 of 4"
    assert mode(Rounds.model_validate(alone)) == "FedBuff, 1 of 4"


def test_eighty_columns_are_enough_for_the_longest_name() -> None:
    long, fp16 = "r" * 64, {"codec": {"name": "fp16"}}
    found = compare(
        {long: journal(0, 0.2), "b": journal(1, 0.6), "c": journal(0, 0.4, **fp16), "d": journal(1, 0.5, **fp16)}
    )
    lines = shown(found)
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("rrr") and line.endswith("300 B 1.0 kB 5.0") for line in lines)
    assert "b: fedclip, fp16, 6 of 8" in lines
    assert any(line.startswith("b - a") and "+2.5 ± 95.3" in line for line in lines)  # 0.1 and -0.05, t = 12.706


def test_without_a_second_seed_there_is_no_table_over_seeds() -> None:
    assert not any("over seeds" in line for line in shown(compare({"x": journal(0, 0.6), "again": journal(0, 0.6)})))
    assert any("over seeds" in line for line in shown(compare({"x": journal(0, 0.6), "y": journal(1, 0.6)})))


# --- seeds


def test_seeds_are_a_range_with_both_ends_or_a_list() -> None:
    assert parse("0..4") == (0, 1, 2, 3, 4)
    assert parse("0,3,7") == (0, 3, 7) and parse("9") == (9,) and parse("0..2, 9") == (0, 1, 2, 9)
    assert len(parse(f"1..{MOST}")) == MOST


@pytest.mark.parametrize(
    "text",
    ["", "a", "0..", "..4", "0...4", "4..0", "-1", "1.5", "0,,1", "0,", "0..2,1", "0..999999999999", "9" * 400, "٣"],
)
def test_what_names_no_seeds_is_a_mistake(text: str) -> None:
    with pytest.raises(ConfigError, match="--seeds"):
        parse(text)
