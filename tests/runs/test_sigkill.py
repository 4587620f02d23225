"""SIGKILL of a real process at random moments, in every mode: started again, the run ends as if undisturbed.

The fuse of test_crash dies between two operations; here the process dies wherever it is, in the middle of a write too.
QUORATE_KILLS is how often per mode.
"""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.blobs import FileBlobs
from orchestrator.commits import Commits
from schemas.experiment import Experiment
from schemas.report import Report
from tests.checked import whole
from tests.runs.here import run
from tests.runs.test_crash import FEDASYNC, FEDBUFF, MODES, facts
from tests.runs.test_embedded import QUORUM, SLOW, SYNC, small
from tests.runs.test_interrupt import ROOT, WITHIN_S, started
from tests.toys import paint

KILLS = int(os.environ.get("QUORATE_KILLS", "2"))
HINGE = {"name": "hinge", "params": {"a": 2, "b": 1}}
POLYNOMIAL = {"name": "polynomial", "params": {"a": 0.5}}
EVERY_MODE: dict[str, dict[str, Any]] = {
    **{name: mode for name, mode in MODES.items() if name != "expiring"},
    "over-selection": {"rounds": {**QUORUM, "quorum": 3, "grace_s": 0, "max_staleness": 0}, "simulate": SLOW},
    "polynomial": {"rounds": {**FEDBUFF, "staleness": POLYNOMIAL}, "simulate": SLOW},
    "hinge": {"rounds": {**FEDASYNC, "staleness": HINGE}, "simulate": SLOW},
}


def live(asked: str, root: Path) -> None:
    """One life of a run, in a process of its own: what it ends with is written beside its store."""
    found = facts(run(Experiment.model_validate_json(asked), root))
    (root / "facts.part").write_text(json.dumps(found, default=str, sort_keys=True))
    (root / "facts.part").rename(root / "facts")


def process(asked: Experiment, root: Path) -> Any:
    """A process that lives so, forked from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.runs.test_sigkill"])
    root.mkdir(exist_ok=True)
    born = context.Process(target=live, args=(asked.model_dump_json(), root))
    born.start()
    return born


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    warm = tmp_path_factory.mktemp("warm")
    process(small(paint(warm / "images")), warm / "run").join(WITHIN_S)  # whoever is timed later need not import
    return paint(tmp_path_factory.mktemp("images"))


@pytest.mark.parametrize("mode", EVERY_MODE)
def test_killed_at_any_moment_a_run_ends_as_if_undisturbed(images: Path, tmp_path: Path, mode: str) -> None:
    asked = small(images, codec={"name": "fp16"}, **EVERY_MODE[mode])
    began = time.monotonic()
    alone = process(asked, tmp_path / "alone")
    alone.join(WITHIN_S)
    took = time.monotonic() - began
    draw = random.Random(mode)
    for number in range(KILLS):
        root = tmp_path / str(number)
        victim = process(asked, root)
        victim.join(draw.uniform(0, took))
        victim.kill()
        victim.join(WITHIN_S)
        assert victim.exitcode in (-signal.SIGKILL, 0), "killed, or it was through already"
        again = process(asked, root)
        again.join(WITHIN_S)
        assert (root / "facts").read_text() == (tmp_path / "alone" / "facts").read_text()
        whole(Commits("r", FileBlobs(root / "blobs")))


def test_a_killed_command_is_resumed_and_its_history_passes_the_audit(tmp_path: Path) -> None:
    data = {"name": "folder", "params": {"root": str(paint(tmp_path / "images"))}, "partition": {"name": "by_domain"}}
    asked = {
        "name": "long", "method": {"name": "fedclip"}, "model": {"backbone": {"name": "tests.toys:ToyBackbone"}},
        "data": data, "rounds": {**SYNC, "versions": 60, "in_flight": 3, "quorum": 3, "floor": 3},
        "evaluate": {"every": 0},
    }  # fmt: skip
    (tmp_path / "long.yaml").write_text(yaml.safe_dump(asked))
    first = started(tmp_path / "a", str(tmp_path / "long.yaml"))
    assert first.stderr is not None
    for line in first.stderr:
        if line.startswith("v9 "):
            break
    first.kill()
    first.communicate(timeout=WITHIN_S)
    assert first.returncode == -signal.SIGKILL
    resumed, whole_run = (
        started(tmp_path / "a", "--resume", "long", "--json"),
        started(tmp_path / "b", str(tmp_path / "long.yaml"), "--json"),
    )
    reports = [Report.model_validate_json(p.communicate(timeout=WITHIN_S)[0]) for p in (resumed, whole_run)]
    assert reports[0].adapter_sha256 == reports[1].adapter_sha256 and reports[0].ledger == reports[1].ledger
    env = {**os.environ, "PYTHONPATH": str(ROOT), "QUORATE_BLOBS": "file:blobs"}
    audit = [sys.executable, "-m", "orchestrator.cli", "audit", "long"]
    said = subprocess.run(
        audit, cwd=tmp_path / "a", env=env, capture_output=True, text=True, check=False, timeout=WITHIN_S
    )
    assert (said.returncode, said.stderr) == (0, "") and "nothing lost (finished)" in said.stdout
