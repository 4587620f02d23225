"""What holds whatever a selector returns, a worker leaves out or an owner holds back."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from infra.blobs import FileBlobs
from infra.runtime import Runtime
from orchestrator import run as runs
from orchestrator.commits import Commits
from orchestrator.plan import plan
from orchestrator.run import Outcome
from schemas.base import Frozen
from schemas.experiment import Experiment
from schemas.messages import Task
from tests.checked import whole
from tests.runs.here import ignore, run, runtime
from tests.runs.stage import Stage
from tests.runs.test_embedded import QUORUM, SLOW, SYNC, events, small
from tests.toys import paint


class Rubbish:
    """A selector that returns whoever it has ever heard of, strangers and held-out owners, all of them twice."""

    class Params(Frozen):
        """No parameters."""

    def __init__(self, params: Params) -> None:
        self.heard: list[str] = []

    def pick(self, free: Sequence[str], budget: int, random: Random) -> list[str]:
        self.heard = [*dict.fromkeys([*self.heard, *free])]
        return ["nobody", "striped", *self.heard, *self.heard]

    def dump(self) -> dict[str, Any]:
        return {"heard": self.heard}

    def load(self, state: Mapping[str, Any]) -> None:
        self.heard = list(state.get("heard", []))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("images"))


def test_a_task_that_fails_for_no_fault_of_its_own_is_sent_three_times_and_then_its_client_is_lost() -> None:
    stage = Stage()
    loop = stage.loop("one")
    loop.step()
    for attempt in (1, 2, 3):
        assert stage.task("ann").attempt == attempt
        stage.works("ann", "infra")
        loop.absorb()
    assert stage.task("ann").attempt == 3
    (lost,) = [e for e in stage.told if e.event == "lost"]
    assert (lost.client, str(lost.facts["reason"]).endswith("(3 attempts)")) == ("ann", True)
    stage.ends(loop)


def test_every_grant_of_a_task_lives_as_long_as_its_result_could_be_admitted() -> None:
    stage = Stage(deadline_s=10, max_staleness=2, grace_s=3)
    stage.loop("one").step()
    task = stage.task("ann")
    refs, outlets = [task.setting, task.inputs["model"]], task.clients[0].outputs.values()
    lives = [r.grant.expires for r in refs if r.grant] + [g.expires for o in outlets for g in (o.put, o.get)]
    assert lives == [10 * (1 + 2) + 3] * 6  # setting, model; update and private state, to write and to read back


@pytest.mark.parametrize("refill", ["at_close", "at_arrival"])
def test_only_free_clients_are_asked_whatever_a_selector_returns(images: Path, tmp_path: Path, refill: str) -> None:
    rounds = {**QUORUM, "in_flight": 3, "versions": 5, "refill": refill}
    made = small(images, rounds=rounds, simulate=SLOW, selector={"name": "tests.runs.test_guarantees:Rubbish"})
    outcome = run(made, tmp_path)  # the audit sees that nobody was asked twice, and never more than in_flight
    assert outcome.report.version == 5
    asked = [e.client for e in events(outcome.events, "asked")]
    assert set(asked) <= {"flat-0", "flat-1", "noisy-0", "noisy-1"} and len(asked) > 5


def test_held_out_owners_are_evaluated_and_never_train(images: Path, tmp_path: Path) -> None:
    outcome = run(small(images, evaluate={"every": 1}), tmp_path)
    assert {e.version for e in events(outcome.events, "evaluated") if e.client == "striped"} == {0, 1, 2, 3}
    assert "striped" not in outcome.report.ledger and "striped" not in outcome.report.accuracy.final
    assert outcome.report.accuracy.held_out["striped"].final is not None


def _deaf(made: Experiment, root: Path) -> Outcome:
    """A run whose evaluations all reach nobody."""
    there: Runtime = runtime(root)
    bus: Any = there.bus
    handle = bus.execute
    bus.execute = lambda text: None if Task.model_validate_json(text).kind == "evaluate" else handle(text)
    outcome = runs.execute(plan(made), there, "r", ignore)
    whole(Commits("r", FileBlobs(root / "blobs")))
    return outcome


def test_an_evaluation_that_never_answers_delays_no_version_and_ends_as_null(images: Path, tmp_path: Path) -> None:
    made = small(images, rounds=SYNC, evaluate={"every": 1}, simulate=SLOW)
    deaf, heard = _deaf(made, tmp_path / "deaf"), run(made, tmp_path / "heard")
    closings = [[e.at for e in events(o.events, "closed")] for o in (deaf, heard)]
    assert closings[0] == closings[1] and len(closings[0]) == 3
    assert deaf.report.status == "finished" and deaf.report.adapter_sha256 == heard.report.adapter_sha256
    assert set(deaf.report.accuracy.final.values()) == {None} and deaf.report.accuracy.mean is None
    listed = {(e.facts["base"], e.client) for e in events(deaf.events, "unevaluated")}
    everybody = ("flat-0", "flat-1", "noisy-0", "noisy-1", "striped")
    assert listed == {(version, client) for version in range(4) for client in everybody}


def test_over_selection_closes_at_the_quorum_and_gives_the_rest_up(images: Path, tmp_path: Path) -> None:
    rounds = {**SYNC, "versions": 4, "quorum": 3, "floor": 3}  # four are asked, three are waited for
    outcome = run(small(images, rounds=rounds, simulate=SLOW), tmp_path)
    assert [e.facts["counted"] for e in events(outcome.events, "closed")] == [3, 3, 3, 3]
    assert all(len(e.facts["without"]) == 1 for e in events(outcome.events, "closed"))
    assert not events(outcome.events, "late")
    assert {e.facts["reason"] for e in events(outcome.events, "lost")} <= {"too stale"}
    assert outcome.report.mean_staleness == 0
