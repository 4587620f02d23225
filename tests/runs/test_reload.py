"""What a loop that goes on has to read again: server tensors, the selector's own state, updates beyond the memory."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from orchestrator import intake
from schemas.base import Frozen
from tests.runs.here import Fuse, Killed, run
from tests.runs.test_crash import FEDBUFF, MODES, facts, operations, places
from tests.runs.test_embedded import SLOW, SYNC, small
from tests.toys import paint


class Turns:
    """A selector that begins with the next client each time it is asked."""

    class Params(Frozen):
        """No parameters."""

    def __init__(self, params: Params) -> None:
        self.turn = 0

    def pick(self, free: Sequence[str], budget: int, random: Random) -> list[str]:
        return [*free[self.turn % max(1, len(free)) :], *free][:budget]

    def observe(self, updates: Mapping[str, object], step: object) -> None:
        """Nothing."""

    def dump(self) -> dict[str, Any]:
        self.turn += 1
        return {"turn": self.turn}

    def load(self, state: Mapping[str, Any]) -> None:
        self.turn = int(state["turn"])


CASES: dict[str, dict[str, Any]] = {
    "server tensors": {
        "method": {
            "name": "tests.runs.plugins:Halves",
            "params": {"right": ["flat-0", "flat-1"], "moves": {2: "flat-0", 4: "noisy-0"}},
        },
        "simulate": SLOW,
        "rounds": FEDBUFF,
    },
    "selector": {
        "selector": {"name": "tests.runs.test_reload:Turns"},
        "rounds": {**SYNC, "versions": 4, "in_flight": 2, "quorum": 2, "floor": 2},
    },
}


@pytest.mark.parametrize("case", CASES)
def test_killed_and_gone_on_a_run_has_all_that_it_had(tmp_path: Path, case: str) -> None:
    made = small(paint(tmp_path / "images"), **CASES[case])
    undisturbed = facts(run(made, tmp_path / "undisturbed"))
    for place, after in places(operations(made, tmp_path / "counted"), 6):
        with contextlib.suppress(Killed):
            run(made, tmp_path / str(place), fuse=Fuse(place, after))
        assert facts(run(made, tmp_path / str(place))) == undisturbed, place


def test_updates_beyond_the_memory_are_read_again_and_make_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = small(paint(tmp_path / "images"), **MODES["fedasync"])  # type: ignore[arg-type]
    kept = facts(run(made, tmp_path / "kept"))
    monkeypatch.setattr(intake, "BUDGET", 0)
    assert facts(run(made, tmp_path / "read again")) == kept
