"""Owners whose images are few or broken: the run goes on with what there is, and says what it did without."""

import io
from pathlib import Path

from rich.console import Console

from orchestrator.view import View
from schemas.base import canonical
from schemas.experiment import Experiment
from schemas.log import Event
from tests.runs.here import run
from tests.toys import experiment, paint

ALL_OF = {"versions": 2, "in_flight": 2, "quorum": 2, "floor": 2, "max_staleness": 0, "retries": 0}


def _experiment(root: Path, *, rounds: dict[str, object], **data: object) -> Experiment:
    whole = {"params": {"root": str(root)}, "partition": {"name": "by_domain"}, **data}
    return Experiment.model_validate({**experiment(root).model_dump(), "data": whole, "rounds": rounds})


def _told(asked: Experiment, events: list[Event]) -> str:
    out = io.StringIO()
    with View(asked, "r", Console(file=out, width=200), 2) as view:
        for event in events:
            view.watch(event)
    return out.getvalue()


def test_a_client_without_test_images_trains_and_its_accuracy_is_null(tmp_path: Path) -> None:
    paint(tmp_path / "i", domains=("many",))
    paint(tmp_path / "i", domains=("one",), per_class=1)  # the one image of a class is trained on
    asked = _experiment(tmp_path / "i", rounds=ALL_OF)
    outcome = run(asked, tmp_path)
    assert outcome.report.status == "finished"
    assert {c: s.accepted for c, s in outcome.report.ledger.items()} == {"many-0": 2, "one-0": 2}
    final = outcome.report.accuracy.final
    assert final["one-0"] is None and final["many-0"] is not None
    assert outcome.report.accuracy.mean == outcome.report.accuracy.worst == final["many-0"]
    told = _told(asked, outcome.events)
    assert "without testing images, so of no known accuracy: one-0\n" in told
    assert "v2   accuracy mean" in told and "nan" not in told


def test_a_client_without_training_images_is_not_asked(tmp_path: Path) -> None:
    paint(tmp_path / "i")
    rounds = {**ALL_OF, "floor": 1}
    asked = _experiment(tmp_path / "i", rounds=rounds, partition={"name": "tests.runs.plugins:Lopsided"})
    outcome = run(asked, tmp_path)
    assert outcome.report.status == "finished"
    assert {c: (s.asked, s.accepted) for c, s in outcome.report.ledger.items()} == {"rich": (2, 2)}
    assert outcome.report.accuracy.final["poor"] is None
    assert "without training images, so not asked: poor\n" in _told(asked, outcome.events)


def test_unreadable_files_are_left_out_counted_and_not_named(tmp_path: Path) -> None:
    root = paint(tmp_path / "i", domains=("a", "b"))
    for name in ("000", "001"):
        bad = root / "a" / "blue" / f"{name}.png"
        bad.write_bytes(bad.read_bytes()[:60])
    asked = _experiment(root, rounds=ALL_OF, params={"root": str(root), "on_unreadable": "skip"})
    outcome = run(asked, tmp_path)
    assert (outcome.report.status, outcome.report.skipped) == ("finished", {"pool": 2})
    assert outcome.report.encodes == 2 * 3 * 10 - 2
    assert outcome.commit is not None
    (described,) = outcome.commit.descriptions
    assert described.skipped == 2
    assert {c: s.train + s.val + s.test for c, s in described.clients.items()} == {"a-0": 28, "b-0": 30}
    assert "pool left out 2 files that cannot be read as images\n" in _told(asked, outcome.events)
    assert b"000.png" not in b"".join(canonical(e) for e in outcome.events)


def test_one_class_alone_ends_the_run_with_the_reason(tmp_path: Path) -> None:
    root = paint(tmp_path / "i", domains=("a", "b"))
    for domain in ("a", "b"):
        for name in ("blue", "green"):
            (root / domain / name).rename(tmp_path / f"{domain}-{name}")
    report = run(_experiment(root, rounds=ALL_OF), tmp_path).report
    assert report.status == "failed" and "1 class is not enough to tell apart" in report.reason


def test_a_file_name_that_is_no_text_ends_nothing(tmp_path: Path) -> None:
    root = paint(tmp_path / "i", domains=("a", "b"))
    bad = Path(str(root / "a/blue") + "/caf\udce9.png")
    bad.write_bytes((root / "a/blue/000.png").read_bytes()[:60])  # begins like an image
    outcome = run(_experiment(root, rounds={**ALL_OF, "floor": 1, "quorum": 1}), tmp_path)
    assert outcome.report.status == "finished"
    (reason,) = {str(e.facts["reason"]) for e in outcome.events if e.event == "lost"}
    assert "caf\\udce9.png" in reason
