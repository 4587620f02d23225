"""Scalars for TensorBoard: what the events say, read back by TensorBoard's own reader."""

import importlib.util
import random
import signal
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from orchestrator import tensorboard
from orchestrator.archive import read_journal
from orchestrator.run import Outcome
from schemas.errors import ConfigError
from tests.runs.here import run
from tests.runs.test_embedded import QUORUM, SLOW, small
from tests.runs.test_interrupt import WITHIN_S, long, started
from tests.toys import paint
from tests.unit.test_cli import Quorate, quorate, server

__all__ = ["quorate", "server"]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    root = tmp_path_factory.mktemp("run")
    evaluate = {"every": 2, "final": True}
    return run(small(paint(root / "images"), rounds=QUORUM, simulate=SLOW, evaluate=evaluate), root)


def read(folder: Path) -> dict[str, dict[int, float]]:
    """{tag: {step: value}}, as TensorBoard reads it."""
    found = EventAccumulator(str(folder)).Reload()
    return {tag: {e.step: e.value for e in found.Scalars(tag)} for tag in found.Tags()["scalars"]}


def test_a_journals_scalars_are_what_the_report_says(outcome: Outcome, tmp_path: Path) -> None:
    tensorboard.write(outcome.events, tmp_path / "tb")
    found, report = read(tmp_path / "tb"), outcome.report
    assert list(found["accuracy/mean"]) == [0, 2, 4, 6, 8]
    assert found["accuracy/mean"][8] == pytest.approx(report.accuracy.mean)
    assert found["accuracy/worst"][8] == pytest.approx(report.accuracy.worst)
    for client, accuracy in report.accuracy.final.items():
        assert found[f"accuracy_client/{client}"][8] == pytest.approx(accuracy)
    assert found["accuracy_held_out/striped"][8] == pytest.approx(report.accuracy.held_out["striped"].final)
    assert list(found["updates/counted"]) == list(range(1, 9))
    ledger = report.ledger.values()
    counted = sum(found["updates/counted"].values())
    assert counted == sum(e.facts["counted"] for e in outcome.events if e.event == "closed")
    assert counted <= sum(s.accepted + s.late for s in ledger)
    assert found["bytes/up"][8] <= report.bytes_up
    staleness = sum(found["updates/staleness"][v] * found["updates/counted"][v] for v in range(1, 9)) / counted
    assert staleness == pytest.approx(report.mean_staleness, abs=1e-6)


def test_a_run_that_goes_on_is_drawn_as_the_journal_would_be(outcome: Outcome, tmp_path: Path) -> None:
    tensorboard.write(outcome.events, tmp_path / "after")
    with tensorboard.sink(tmp_path / "live") as made:
        for event in outcome.events:
            made.watch(event)
        assert read(tmp_path / "live") == read(tmp_path / "after")  # not only when the run has ended


def test_a_run_that_was_interrupted_is_drawn_once_and_from_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUORATE_TENSORBOARD", str(tmp_path / "live"))
    rounds = {"versions": 80, "in_flight": 3, "quorum": 3, "floor": 3, "max_staleness": 0, "grace_s": 0}
    first = started(tmp_path / "a", str(long(tmp_path, rounds=rounds, evaluate={"every": 20, "final": True})))
    assert first.stderr is not None
    lines = list(takewhile(lambda line: not line.startswith("v10 "), first.stderr))
    first.send_signal(signal.SIGINT)
    lines.append(first.communicate(timeout=WITHIN_S)[1])
    assert first.returncode == 130, "".join(lines)
    before = read(tmp_path / "live" / "long")
    resumed = started(tmp_path / "a", "--resume", "long")
    said = resumed.communicate(timeout=WITHIN_S)[1]
    assert resumed.returncode == 0, said
    tensorboard.write(read_journal(tmp_path / "a" / "runs" / "long"), tmp_path / "after")
    live, after = read(tmp_path / "live" / "long"), read(tmp_path / "after")
    assert live == after and list(live["bytes/up"]) == list(range(1, 81))
    assert 0 < before["bytes/up"][9] == live["bytes/up"][9] < live["bytes/up"][80]
    counted = EventAccumulator(str(tmp_path / "live" / "long")).Reload().Scalars("updates/counted")
    assert len(counted) == 80, "what both lives told would stand there twice"


def test_ctrl_c_in_the_middle_of_a_line_ends_the_sink_too(outcome: Outcome, tmp_path: Path) -> None:
    def interrupted(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before, draw = signal.signal(signal.SIGALRM, interrupted), random.Random(0)
    try:
        for i in range(300):
            made = tensorboard.Sink(tmp_path / f"{i}")
            with pytest.raises(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, 0.001 + 0.01 * draw.random())
                while True:
                    for event in outcome.events:
                        made.watch(event)
            made.close()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert {f.name[:19] for f in tmp_path.glob("*/*")} == {"events.out.tfevents"}


FULL = """
import resource, sys
from pathlib import Path
from orchestrator import tensorboard
from orchestrator.archive import read_journal
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
events = read_journal(Path(sys.argv[1]))
with tensorboard.sink(Path(sys.argv[2]) / "live") as made:
    for event in events:
        made.watch(event)
tensorboard.write(events, Path(sys.argv[2]) / "after")
"""


def test_a_disk_that_is_full_ends_the_scalars_and_not_the_run(outcome: Outcome, tmp_path: Path) -> None:
    lines = "".join(e.model_dump_json() + "\n" for e in outcome.events)
    (tmp_path / "journal.jsonl").write_text(lines)
    words = [sys.executable, "-c", FULL, str(tmp_path), str(tmp_path / "tb")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert said.count("no scalars for TensorBoard any more") == 2, said  # of the run, which goes on, and of the command
    assert done.returncode == 1 and "ConfigError" in said and "does not hold all of it" in said
    assert [f.stat().st_size <= 2000 for f in (tmp_path / "tb").glob("*/*")] == [True, True]


def test_a_folder_that_holds_something_is_left_alone(outcome: Outcome, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(ConfigError, match="holds something already"):
        tensorboard.write(outcome.events, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_a_file_in_the_place_of_the_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write to"):
        tensorboard.Sink(tmp_path / "file" / "inside")


def test_without_the_library_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"quorate\[tensorboard\]"):
        tensorboard.Sink(tmp_path)


def test_the_command_writes_them_and_goes_alone(quorate: Quorate, tmp_path: Path) -> None:
    images = paint(tmp_path / "images")
    asked = f"""
name: seen
data: {{name: folder, params: {{root: {images}}}, partition: {{name: by_domain}}}}
model: {{backbone: {{name: "tests.toys:ToyBackbone"}}}}
method: {{name: fedavg}}
rounds: {{versions: 2, in_flight: 3, quorum: 3, floor: 1}}
"""
    (tmp_path / "seen.yaml").write_text(asked)
    assert quorate("run", str(tmp_path / "seen.yaml"), QUORATE_TENSORBOARD=str(tmp_path / "live")).code == 0
    done = quorate("report", "seen", "--tensorboard", str(tmp_path / "after"))
    assert done.code == 0, done.err
    live, after = read(tmp_path / "live" / "seen"), read(tmp_path / "after")
    assert live == after and after["updates/counted"] == {1: 3.0, 2: 3.0}
    refused = quorate("report", "seen", "--tensorboard", str(tmp_path / "other"), "--json")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
