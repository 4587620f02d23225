"""Scalars for TensorBoard: what the events say, read back by TensorBoard's own reader."""

import importlib.util
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from orchestrator import tensorboard
from orchestrator.run import Outcome
from schemas.errors import ConfigError
from tests.runs.here import run
from tests.runs.test_embedded import QUORUM, SLOW, small
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
    with tensorboard.sink(tmp_path / "live") as made:
        for event in outcome.events:
            made.watch(event)
    tensorboard.write(outcome.events, tmp_path / "after")
    assert read(tmp_path / "live") == read(tmp_path / "after")


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
