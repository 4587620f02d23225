"""A loop that dies before or after each kind of operation there is, in every mode, and is started again, ends the same.

The kinds are those of an undisturbed run, so none is forgotten: what is put, deleted, sent, uploaded, and said.
"""

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from infra.runtime import Runtime
from orchestrator import results
from orchestrator import run as runs
from orchestrator.commits import Commits
from orchestrator.plan import plan
from schemas.experiment import Experiment
from tests.checked import whole
from tests.runs.here import Fused, Killed, ignore, runtime
from tests.runs.test_crash import facts
from tests.runs.test_embedded import small
from tests.runs.test_sigkill import EVERY_MODE
from tests.toys import paint

PLAN, DESCRIBE, INIT = {"put experiment.json"}, {"send describe", "upload start", "say describe done"}, {"send init"}
ASK, WORK = {"decide asked", "send train", "decide sent"}, {"upload private", "upload updates", "say train done"}
FOLD = {"decide closed", "put models", "put journal", "put versions", "trim"}
EVALUATE, REPORT = {"send evaluate", "say evaluate done"}, {"put final.json", "delete the stream", "forget"}
TABLE = PLAN | DESCRIBE | INIT | ASK | WORK | FOLD | EVALUATE | REPORT
"""The steps of a run, from the experiment to its report. `delete updates` and more come with some modes."""


@dataclass
class Step:
    """Notes each operation by its kind; blows before or after the n-th of a kind."""

    kind: str = ""
    left: int = 0
    after: bool = False
    seen: list[str] = field(default_factory=list)

    def around(self, operation: Callable[..., Any], *given: Any, **named: Any) -> Any:
        kind = kind_of(operation.__name__, *given)
        self.seen.append(kind)
        self.left -= kind == self.kind
        now = kind == self.kind and self.left == 0
        if now and not self.after:
            raise Killed
        result = operation(*given, **named)
        if now:
            raise Killed
        return result


def kind_of(name: str, *given: Any) -> str:
    """What an operation is called in the table."""
    match name:
        case "put" | "delete" if given[0].startswith("runs/"):
            return f"{name} {given[0].split('/')[2]}"
        case "upload":
            return f"upload {given[0].key.split('/')[2]}"
        case "send":
            return f"send {given[0].kind}"
        case "append":
            body = json.loads(given[2])
            return f"decide {body['kind']}" if given[1] == "decision" else f"say {_kind(body['task_id'])} done"
        case "delete":
            return "delete the stream"
    return name


def _kind(task_id: str) -> str:
    return next((k for k in ("describe", "init", "evaluate", "merge") if k in task_id), "train")


def lives(experiment: Experiment, root: Path, step: Step) -> runs.Outcome:
    """One life of a run, of which every operation is noted."""
    plain = runtime(root)
    worker = plain.bus.execute.__self__  # type: ignore[attr-defined]
    upload = worker._reach.upload
    worker._reach.upload = lambda *given: step.around(upload, *given)
    worker.stream = Fused(plain.stream, step, "append")  # type: ignore[arg-type]
    noted = {
        "blobs": Fused(plain.blobs, step, "put", "delete"), "state": Fused(plain.state, step, "forget"),
        "stream": Fused(plain.stream, step, "append", "trim", "delete"), "bus": Fused(plain.bus, step, "send"),
    }  # fmt: skip
    outcome = runs.execute(plan(experiment), Runtime(**noted), "r", ignore)
    whole(Commits("r", plain.blobs))
    return outcome


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("images"))


@pytest.mark.parametrize("mode", EVERY_MODE)
def test_killed_at_each_step_a_run_ends_as_if_undisturbed(images: Path, tmp_path: Path, mode: str) -> None:
    made = small(images, codec={"name": "fp16"}, **EVERY_MODE[mode])
    alone = Step()
    undisturbed = facts(lives(made, tmp_path / "alone", alone))
    assert set(alone.seen) >= TABLE
    for kind in sorted(set(alone.seen)):
        middle = (alone.seen.count(kind) + 1) // 2
        for after in (False, True) if kind in ASK | FOLD else (False,):  # behind one is before the next
            root = tmp_path / f"{kind}-{after}"
            with contextlib.suppress(Killed):
                lives(made, root, Step(kind, middle, after))
                raise AssertionError(f"it never came to {kind}")
            assert facts(lives(made, root, Step())) == undisturbed, f"killed {'after' if after else 'before'} {kind}"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_while_its_results_are_kept_they_are_there_once_and_whole(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    made = small(images)
    outcome = lives(made, tmp_path, Step())
    step, rename = Step("rename", 1, after), Path.rename
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(Path, "rename", lambda *given: step.around(rename, *given))
        results.keep(outcome, made, tmp_path / "runs")
    assert (tmp_path / "runs" / "r").exists() == after
    kept = results.keep(lives(made, tmp_path, Step()), made, tmp_path / "runs")
    assert {p.name for p in kept.iterdir()} >= {"report.json", "adapter.safetensors", "journal.jsonl"}
