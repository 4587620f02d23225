"""Ctrl-C on a real process: 130, one line that says how to go on, and the same bytes at the end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import yaml

from schemas.report import Report
from tests.toys import paint

ROOT = Path(__file__).parents[2]
RUN = [sys.executable, "-m", "orchestrator.cli", "run"]


def started(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    folder.mkdir(exist_ok=True)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "QUORATE_CACHE": str(folder / "cache"), "QUORATE_BUS": "local:",
           "QUORATE_STATE": "file:state", "QUORATE_BLOBS": "file:blobs"}  # fmt: skip
    pipe = subprocess.PIPE
    return subprocess.Popen([*RUN, *arguments], cwd=folder, env=env, stdout=pipe, stderr=pipe, text=True)


def test_an_interrupted_run_says_how_to_go_on_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    images = {"name": "folder", "params": {"root": str(paint(tmp_path / "images"))}}
    asked = {
        "name": "long", "method": {"name": "fedclip"}, "model": {"backbone": {"name": "tests.toys:ToyBackbone"}},
        "data": {**images, "partition": {"name": "by_domain"}},
        "rounds": {"versions": 300, "in_flight": 3, "quorum": 3, "floor": 3, "max_staleness": 0, "grace_s": 0},
        "evaluate": {"every": 0},
    }  # fmt: skip
    (tmp_path / "long.yaml").write_text(yaml.safe_dump(asked))
    first = started(tmp_path / "a", str(tmp_path / "long.yaml"))
    assert first.stderr is not None
    for line in first.stderr:
        if line.startswith("v20 "):
            break
    first.send_signal(signal.SIGINT)
    said = first.communicate(timeout=60)[1]
    assert first.returncode == 130, said
    assert said.splitlines()[-1] == "quorate: interrupted; go on with: quorate run --resume long"
    assert "Traceback" not in said and not (tmp_path / "a" / "runs").exists()
    resumed, whole = (
        started(tmp_path / "a", "--resume", "long", "--json"),
        started(tmp_path / "b", str(tmp_path / "long.yaml"), "--json"),
    )
    reports = [Report.model_validate_json(p.communicate(timeout=120)[0]) for p in (resumed, whole)]
    assert [r.status for r in reports] == ["finished", "finished"]
    assert reports[0].adapter_sha256 == reports[1].adapter_sha256
    assert reports[0].ledger == reports[1].ledger
