"""A clock that jumps between two lives of a loop by an hour, forward or back: the run goes on and ends the same."""

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest

from infra.clock import VirtualClock, WallClock
from infra.stream import FileStream
from orchestrator import run as runs
from orchestrator.plan import plan
from schemas.experiment import Experiment
from tests.runs.here import Fuse, Killed, ignore, runtime
from tests.runs.test_crash import operations
from tests.runs.test_embedded import SYNC, small
from tests.toys import paint


class Off(WallClock):
    """The clock of a machine whose time is so many hours off."""

    def __init__(self, hours: float) -> None:
        super().__init__()
        self._offset += 3600 * hours


def life(experiment: Experiment, root: Path, hours: float, fuse: Fuse | None = None) -> runs.Outcome:
    """A life of a loop on the wall's time of that machine. The work is done in this process, at once."""
    clock, made = Off(hours), runtime(root, fuse)
    made.bus.clock = clock
    inner = getattr(made.stream, "inner", made.stream)
    assert isinstance(inner, FileStream)
    inner.clock = clock
    return runs.execute(plan(experiment), replace(made), "r", ignore)


@pytest.mark.parametrize("hours", [1.0, -1.0])
def test_a_run_survives_an_hour_forward_and_back(tmp_path: Path, hours: float) -> None:
    made = small(paint(tmp_path / "images"), rounds={**SYNC, "versions": 3, "deadline_s": 60})
    undisturbed = life(made, tmp_path / "undisturbed", 0.0)
    whole = operations(made, tmp_path / "counted")
    for place in range(3, whole, max(1, whole // 6)):
        root = tmp_path / f"killed-{place}"
        with contextlib.suppress(Killed):
            life(made, root, 0.0, Fuse(place))
        with contextlib.suppress(Killed):
            life(made, root, hours, Fuse(9))  # and again: back to where it was
        outcome = life(made, root, 0.0)
        assert outcome.report.adapter_sha256 == undisturbed.report.adapter_sha256, place
        assert outcome.report.version == 3 and outcome.report.status == "finished"
        at = [e.at for e in outcome.events if e.event == "closed"]
        assert at == sorted(at), "the run's clock never goes back"


def test_a_clock_that_catches_up_goes_on_from_there_and_never_back() -> None:
    clock = WallClock()
    later = clock.now() + 3600
    clock.catch_up(later)
    assert later <= clock.now() < later + 60
    clock.catch_up(later - 1800)
    assert clock.now() >= later


def test_virtual_time_begins_again_with_the_loop() -> None:
    clock = VirtualClock()
    clock.catch_up(7.0)
    assert clock.now() == 7.0
    clock.restart()
    assert clock.now() == 0.0
