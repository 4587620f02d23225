"""Clients that come and go, and latencies from a file: numbers of the plugins and of the simulator made of them."""

from itertools import islice
from math import inf
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import pytest

from orchestrator.latencies.trace import Trace
from orchestrator.plan import plan, read_experiment
from orchestrator.presences.sessions import Sessions
from orchestrator.rounds import Abort, Close, Progress, Wait, decide
from orchestrator.simulate import Simulator
from schemas.errors import ConfigError
from schemas.experiment import Rounds
from schemas.log import Open
from tests.toys import experiment


def _changes(client: str = "a", count: int = 2000, **params: Any) -> list[float]:
    return list(islice(Sessions(Sessions.Params(**params)).changes(client, Random(1)), count))


def test_sessions_and_absences_last_as_long_as_their_means_say() -> None:
    # 1000 exponential draws each: the standard error of the mean is 1/sqrt(1000) of it.
    found = _changes(on_s=20, off_s=5)
    on = [gone - come for come, gone in zip(found[::2], found[1::2], strict=True)]
    off = [come - gone for gone, come in zip(found[1::2], found[2::2], strict=False)]
    assert fmean(on) == pytest.approx(20, rel=5 / 1000**0.5)
    assert fmean(off) == pytest.approx(5, rel=5 / 1000**0.5)


def test_a_client_may_join_late_and_leave_for_good() -> None:
    assert _changes() == [0.0]
    assert _changes(comes={"a": 30}) == [30.0]
    assert _changes(comes={"a": 30}, goes={"a": 70}) == [30.0, 70.0]
    assert _changes(goes={"b": 70}) == [0.0]
    coming_and_going = _changes(on_s=1, off_s=1, comes={"a": 30}, goes={"a": 70})
    assert coming_and_going[0] == 30 and max(coming_and_going) <= 70 and len(coming_and_going) % 2 == 0


def _simulator(presence: Any, **simulate: Any) -> Simulator:
    return Simulator.of(plan(experiment(simulate={"presence": presence, **simulate})), virtual=True)


SHIFT = {"name": "sessions", "params": {"comes": {"a": 30}, "goes": {"a": 70}}}


def test_back_is_now_if_there_and_else_the_next_coming() -> None:
    simulator = _simulator(SHIFT)
    assert [simulator.back("a", at) for at in (0, 29.9, 30, 69.9, 70, 1e6)] == [30, 30, 30, 69.9, inf, inf]
    simulator.begins(1000.0)
    assert [simulator.back("a", at) for at in (1000, 1031, 1070)] == [1030, 1031, inf]


def test_who_leaves_while_at_work_answers_on_coming_back_or_never() -> None:
    task = Open(task_id="t", kind="train", base=0, clients=("a",), asked_at=0.0)
    away = {"name": "sessions", "params": {"comes": {"a": 30}}}
    assert _simulator(away).due(task, 1.0) == 30
    gone = {"name": "sessions", "params": {"goes": {"a": 70}}}
    assert (_simulator(gone).due(task, 69.0), _simulator(gone).due(task, 71.0)) == (69.0, inf)
    slow = {"latency": {"name": "trace", "params": {"default_s": 80}}}
    assert _simulator(gone, **slow).drops(task) and not _simulator(away, **slow).drops(task)


def test_presence_depends_on_seed_and_client_alone() -> None:
    some = {"name": "sessions", "params": {"on_s": 5, "off_s": 5}}
    moments = [float(at) for at in range(200)]
    backs = [[_simulator(some).back(client, at) for at in moments] for client in ("a", "a", "b")]
    assert backs[0] == backs[1] != backs[2]
    backwards = _simulator(some)
    assert [backwards.back("a", at) for at in reversed(moments)] == backs[0][::-1], "the order of asking says nothing"


def test_without_time_nobody_can_come_and_go() -> None:
    with pytest.raises(ConfigError, match="time_scale 0"):
        plan(experiment(simulate={"presence": SHIFT, "time_scale": 0}))


# --- the round rule


SYNC = Rounds(in_flight=2, quorum=2, floor=2, deadline_s=60, max_staleness=0)


def test_a_round_in_which_nobody_is_out_waits_for_who_comes_back_until_the_deadline() -> None:
    def alone(returns: float, now: float, *accepted: float) -> Any:
        return decide(SYNC, Progress(accepted, 0, 0, 100.0, returns=returns), now)

    assert alone(130, 105) == Wait(130)
    assert alone(500, 105) == Wait(160)  # back only after the deadline: then the round is retried
    assert alone(500, 160) == Abort()
    assert alone(inf, 105) == Abort()
    assert alone(130, 105, 101.0, 102.0) == Close()


# --- traces


def _trace(path: Path) -> Trace:
    return Trace(Trace.Params(file=path, default_s=9.0))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.yaml", "a: 2\nb: [1, 2.5, 4]\n"),
        ("t.json", '{"a": 2, "b": [1, 2.5, 4]}'),
        ("t.csv", "a,2\n\nb,1,2.5,4\n"),
        ("t.csv", "\ufeffa,2\nb,1,2.5,4\n"),  # as a spreadsheet writes it
    ],
)
def test_a_trace_gives_each_client_its_seconds_version_by_version_and_then_again(
    tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)
    trace = _trace(tmp_path / name)
    seconds = {c: [trace.seconds(c, base, Random(0), Random(0)) for base in range(5)] for c in "abc"}
    assert seconds == {"a": [2.0] * 5, "b": [1.0, 2.5, 4.0, 1.0, 2.5], "c": [9.0] * 5}


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("t.yaml", b"a: soon\n", "'soon' is no number"),
        ("t.yaml", b"a: true\n", "'True' is no number"),
        ("t.yaml", b"a: -1\n", "between 0 and 1e"),
        ("t.yaml", b"a: .nan\n", "'nan' is no number"),
        ("t.yaml", b"a: []\n", "needs seconds"),
        ("t.yaml", b"a: {b: 1}\n", "is no number"),
        ("t.yaml", b"- 1\n", "holds no settings"),
        ("t.yaml", b"a: 1\na: 2\n", "twice"),
        ("t.json", b'{"a": [1, 2', "not YAML"),
        ("t.yaml", b"\xff\xfe\x00", "not UTF-8"),
        ("t.yaml", b"a: 1\n" + b"#" * 2_000_000, "larger than"),
        ("t.csv", b"a,1\nb,", "in the middle of a line"),
        ("t.csv", b"a,1\nb,\n", "'' is no number"),
        ("t.csv", b"a\n", "needs seconds"),
        ("t.csv", b"a,1\na,2\n", "line 2: a is there twice"),
        ("t.csv", b"client,seconds\n", "'seconds' is no number"),
        ("t.csv", b"a,1e300\n", "between 0 and 1e"),
        ("t.csv", b'"a,1\n', "not CSV"),
        ("t.csv", b"\xff\n", "not UTF-8"),
        ("t.csv", b"a,1\n" * 4_100_000, "larger than"),
    ],
)
def test_a_trace_that_cannot_be_one_is_refused_in_one_line(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        _trace(tmp_path / name)
    assert says in str(caught.value) and name in str(caught.value) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_trace_lies_relative_to_the_experiment_and_has_to_be_there(tmp_path: Path) -> None:
    text = "name: x\nmethod: {name: fedclip}\nsites: [a]\nsimulate: {latency: {name: trace, params: {file: t.yaml}}}\n"
    (tmp_path / "x.yaml").write_text(text)
    asked = read_experiment(tmp_path / "x.yaml")
    with pytest.raises(ConfigError, match=r"cannot read .*t\.yaml: No such file"):
        plan(asked)
    (tmp_path / "t.yaml").write_text("a: 3\n")
    assert plan(asked).latency.seconds("a", 0, Random(0), Random(0)) == 3
