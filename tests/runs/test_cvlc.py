"""The codec cvlc in whole runs: in every mode, and killed anywhere."""

import contextlib
from pathlib import Path
from typing import Any

import pytest

from schemas.experiment import Experiment
from tests.runs.here import Fuse, Killed, run
from tests.runs.test_crash import facts, operations, places
from tests.runs.test_embedded import QUORUM, SLOW, SYNC, events, small
from tests.toys import paint

BUFFERED = {**QUORUM, "refill": "at_arrival", "max_staleness": 6}
MODES: dict[str, dict[str, Any]] = {
    "synchronous": {"rounds": SYNC},
    "k of n": {"rounds": QUORUM, "simulate": {**SLOW, "dropout": 0.1}},
    "buffered": {"rounds": BUFFERED, "simulate": SLOW},
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("images"))


def within(images: Path, mode: str, codec: dict[str, Any] | None = None) -> Experiment:
    return small(images, codec=codec or {"name": "cvlc", "params": {"bits": 4.0, "groups": 3}}, **MODES[mode])


@pytest.mark.parametrize("mode", MODES)
def test_a_run_ends_in_every_mode_and_every_upload_keeps_to_the_budget(images: Path, tmp_path: Path, mode: str) -> None:
    outcome = run(within(images, mode), tmp_path / "cvlc")
    whole = run(within(images, mode, {"name": "raw"}), tmp_path / "raw")
    assert outcome.report.status == "finished" and not events(outcome.events, "rejected")
    sent, raw = ([e.facts["bytes"] for e in events(o.events, "accepted")] for o in (outcome, whole))
    numbers = sum(t.numel() for group in outcome.tensors.values() for t in group.values())
    # 4 of 32 bits per number are 28 fewer; and less than 1,500 bytes more for names, plan and ranges in the file.
    assert max(sent) <= min(raw) - 28 * numbers / 8 + 1500


def test_killed_anywhere_it_ends_as_if_undisturbed(images: Path, tmp_path: Path) -> None:
    made = within(images, "k of n")
    undisturbed = facts(run(made, tmp_path / "undisturbed"))
    for place, after in places(operations(made, tmp_path / "counted"), 8):
        root = tmp_path / f"killed-{place}"
        with contextlib.suppress(Killed):
            run(made, root, fuse=Fuse(place, after))
        assert facts(run(made, root)) == undisturbed, f"killed {'after' if after else 'before'} operation {place}"
