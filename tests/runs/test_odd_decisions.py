"""Decisions in the stream that somebody has damaged: a replay passes over them, and the run ends all the same."""

import json

import pytest

from tests.mutations import mutants
from tests.runs.stage import Stage


@pytest.mark.parametrize("part", range(4))
def test_damaged_decisions_never_end_a_replay(part: int) -> None:
    for seed in range(100 * part, 100 * part + 100):
        stage = Stage(versions=3)
        loop = stage.loop("first")
        loop.replay()
        loop.step()
        stage.works("ann")
        loop.step()
        made = [e.body for e in stage.world.stream.entries if e.author == "decision"]
        for damaged in mutants(json.loads(made[seed % len(made)]), 3, seed=seed):
            stage.world.stream.arrive("decision", damaged.decode(errors="replace"))
        stage.works("bob")
        again = stage.loop("second")
        again.replay()
        steps = 0
        while again.step() and steps < 60:
            steps += 1
            while stage.world.bus.queue:
                stage.world.says(stage.world.works(stage.world.bus.queue.pop(0), "well"))
            stage.world.passes(1.0)
