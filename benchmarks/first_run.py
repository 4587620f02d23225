"""Wall seconds of the demo as a user types it, with nothing cached and again: what the feature cache saves."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.machine import Where, here
from benchmarks.process import DEMO
from schemas.base import Frozen
from schemas.errors import RunFailed


class Demo(Frozen):
    """One run. seconds: of the whole command; report_seconds: from its first to its last event."""

    seconds: float
    report_seconds: float
    encodes: int
    adapter_sha256: str


class FirstRun(Frozen):
    """The demo twice with one cache."""

    where: Where
    first: Demo
    second: Demo


def measure() -> FirstRun:
    """Run the command twice in a folder of its own. Raises RunFailed."""
    where = here()
    with tempfile.TemporaryDirectory(prefix="quorate-bench-") as folder:
        return FirstRun(where=where, first=_demo(Path(folder)), second=_demo(Path(folder)))


def _demo(folder: Path) -> Demo:
    ours = {k: v for k, v in os.environ.items() if not k.startswith("QUORATE_")}
    command = [sys.executable, "-m", "orchestrator.cli", "run", str(DEMO), "--json"]
    began = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=ours | {"QUORATE_CACHE": str(folder / "cache")}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    if done.returncode:
        raise RunFailed(f"the demo ended with status {done.returncode}: {done.stderr.strip()[-500:]}")
    report = json.loads(done.stdout)
    return Demo(
        seconds=round(seconds, 2),
        report_seconds=round(report["seconds"], 2),
        encodes=report["encodes"],
        adapter_sha256=report["adapter_sha256"],
    )
