"""Ctrl-C on a real process: 130, one line that says how to go on, and the same bytes at the end."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas.report import Report
from tests.toys import paint

ROOT = Path(__file__).parents[2]
LEFT = "quorate: interrupted; go on with: quorate run --resume long"
RUN = [sys.executable, "-m", "orchestrator.cli", "run"]
WITHIN_S = 240.0
"""A process that has not ended by then hangs: on a busy machine 300 versions take a minute."""


def started(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    folder.mkdir(exist_ok=True)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "QUORATE_CACHE": str(folder / "cache"), "QUORATE_BUS": "local:",
           "QUORATE_STATE": "file:state", "QUORATE_BLOBS": "file:blobs"}  # fmt: skip
    pipe = subprocess.PIPE
    return subprocess.Popen([*RUN, *arguments], cwd=folder, env=env, stdout=pipe, stderr=pipe, text=True)


def long(folder: Path, **changes: Any) -> Path:
    """An experiment of 300 versions, written into the folder."""
    images = {"name": "folder", "params": {"root": str(paint(folder / "images"))}}
    asked = {
        "name": "long", "method": {"name": "fedclip"}, "model": {"backbone": {"name": "tests.toys:ToyBackbone"}},
        "data": {**images, "partition": {"name": "by_domain"}},
        "rounds": {"versions": 300, "in_flight": 3, "quorum": 3, "floor": 3, "max_staleness": 0, "grace_s": 0},
        "evaluate": {"every": 0}, **changes,
    }  # fmt: skip
    (folder / "long.yaml").write_text(yaml.safe_dump(asked))
    return folder / "long.yaml"


def test_an_interrupted_run_says_how_to_go_on_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    asked = str(long(tmp_path))
    first = started(tmp_path / "a", asked)
    assert first.stderr is not None
    for line in first.stderr:
        if line.startswith("v20 "):
            break
    first.send_signal(signal.SIGINT)
    said = first.communicate(timeout=WITHIN_S)[1]
    assert first.returncode == 130, said
    assert said.splitlines()[-1] == LEFT
    assert "Traceback" not in said and not (tmp_path / "a" / "runs").exists()
    resumed, whole = started(tmp_path / "a", "--resume", "long", "--json"), started(tmp_path / "b", asked, "--json")
    reports = [Report.model_validate_json(p.communicate(timeout=WITHIN_S)[0]) for p in (resumed, whole)]
    assert [r.status for r in reports] == ["finished", "finished"]
    assert reports[0].adapter_sha256 == reports[1].adapter_sha256
    assert reports[0].ledger == reports[1].ledger


@pytest.mark.parametrize("so", ["dropped", "an error"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_a_library_makes_light_of_ends_the_run_all_the_same(
    tmp_path: Path, number: int, so: str
) -> None:
    deaf = {"name": "tests.runs.plugins:Interrupted", "params": {"base": 3, "number": int(number), "so": so}}
    child = started(tmp_path / "a", str(long(tmp_path, method=deaf)))
    said = child.communicate(timeout=WITHIN_S)[1]
    assert child.returncode == 130, said
    assert said.splitlines()[-1] == LEFT
    assert "v3 " in said and "v4 " not in said and "Traceback" not in said
    resumed = started(tmp_path / "a", "--resume", "long", "--json").communicate(timeout=WITHIN_S)
    assert resumed[1].splitlines()[-1:] == [LEFT], "it is interrupted there again: nothing of the failed task was kept"


def test_interrupted_among_seeds_none_begins_after_it_and_the_same_command_goes_on(tmp_path: Path) -> None:
    asked = [str(long(tmp_path)), "--seeds", "0,1"]
    first = started(tmp_path / "a", *asked)
    assert first.stderr is not None
    for line in first.stderr:
        if line.startswith("v20 "):
            break
    first.send_signal(signal.SIGINT)
    out, said = first.communicate(timeout=WITHIN_S)
    assert (first.returncode, out) == (130, ""), said
    assert said.splitlines()[-1] == LEFT + "-s0"
    assert [p.name for p in (tmp_path / "a" / "blobs" / "runs").iterdir()] == ["long-s0"]
    second = started(tmp_path / "a", *asked)
    assert second.stderr is not None
    version = next(int(line[1:].split()[0]) for line in second.stderr if line.startswith("v"))
    second.send_signal(signal.SIGINT)
    second.communicate(timeout=WITHIN_S)
    assert version >= 19, "it went on from where it was: the line of v20 comes just before its commit"
