"""The benchmarks' own arithmetic, and that the page says what the results say. Nothing is measured here."""

import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import accuracy, embedded, job, overhead, page, process
from benchmarks.__main__ import main
from benchmarks.accuracy import Score, Scores
from benchmarks.machine import here
from schemas.log import Event
from schemas.messages import ALL


def asked(version: int, wall: float) -> Event:
    return Event(event="asked", at=0.0, wall=wall, version=version, client="a")


def test_t_leaves_two_and_a_half_percent_on_each_side_with_four_degrees_of_freedom() -> None:
    t = accuracy.T  # the distribution function for 4 degrees of freedom, in closed form
    ratio = t * t / (1 + t * t / 4)
    below = 0.5 + 3 / 8 * t / math.sqrt(1 + t * t / 4) * (1 - ratio / 12)
    assert below == pytest.approx(0.975, abs=1e-4)


def test_an_interval_is_the_mean_and_t_standard_errors() -> None:
    middle, half = accuracy.interval([1.0, 2.0, 3.0, 4.0, 5.0])  # variance (4 + 1 + 0 + 1 + 4) / 4 = 2.5
    assert middle == 3.0
    assert half == pytest.approx(2.776 * math.sqrt(2.5 / 5))


def test_differences_are_taken_seed_by_seed() -> None:
    def score(value: float) -> Score:
        return Score(mean=value, worst=0.0, held_out=0.0, bytes_up=0, bytes_down=0, seconds=0.0)

    better = {seed: score(0.5 + seed / 10 + 0.01) for seed in accuracy.SEEDS}
    plain = {seed: score(0.5 + seed / 10) for seed in accuracy.SEEDS}
    found = Scores(where=here(), scores={"better": better, "plain": plain})
    assert accuracy.differences(found, "better", "plain", "mean") == pytest.approx([1.0] * 5)


def test_a_version_lasts_from_its_first_asking_to_the_next_ones() -> None:
    events = [asked(0, 10.0), asked(0, 10.1), asked(1, 10.5), asked(1, 10.6), asked(2, 12.5)]
    assert overhead.seconds_per_version(events) == pytest.approx([0.5, 2.0])
    times = [(e.version, e.wall) for e in events]
    assert embedded.ms_per_update(times) == pytest.approx(1000 * (0.5 / 2 + 2.0 / 2) / 2)


def test_the_job_adds_one_in_every_version(tmp_path: Path) -> None:
    _, outcome = process.run(job.experiment(2), tmp_path)
    assert outcome.report.version == 2
    assert job.holds(outcome.tensors[ALL], 2)
    assert not job.holds(outcome.tensors[ALL], 3)
    assert sum(t.numel() for t in outcome.tensors[ALL].values()) == job.NUMBERS


def test_the_page_is_what_the_results_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = page.PAGE.read_text(encoding="utf-8")
    monkeypatch.setattr(page, "PAGE", tmp_path / "benchmarks.md")
    page.write()
    assert page.PAGE.read_text(encoding="utf-8") == published


def test_an_unknown_benchmark_is_named_and_nothing_is_measured() -> None:
    done = CliRunner().invoke(main, ["overhed"])
    assert done.exit_code == 2
    assert "overhed" in done.output
