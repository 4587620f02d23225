"""What a machine does to a process: its clock jumps an hour, its disk is full. The run ends in the same bytes."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from orchestrator.run import Outcome
from tests.stack.field import ROOT, Field, stage, undisturbed
from tests.stack.servers import eventually, needed

__all__ = ["stage", "undisturbed"]
pytestmark = [pytest.mark.stack, pytest.mark.faults]
JUMPS = ("+3600", "-3600", "+0")
"""Seconds beside the true time, one after the other."""
SLEEP = """import select, time
time.sleep = lambda seconds: select.select([], [], [], seconds) and None
"""
"""libfaketime 0.9 refuses the sleep of Python 3.11 (until a monotonic moment), so the processes sleep another way."""


class Clock:
    """The wall clock of the processes that are started with `env`; their monotonic clock is the true one."""

    def __init__(self, folder: Path) -> None:
        folders = sorted(Path("/usr/lib").glob("*/faketime")) if shutil.which("faketime") else []
        library = needed(next((f / "libfaketimeMT.so.1" for f in folders), None), "faketime")
        self.path = folder / "clock"
        self.jump("+0")
        (folder / "sitecustomize.py").write_text(SLEEP)
        self.env = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self.path),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
            "PYTHONPATH": f"{folder}:{ROOT}",
        }

    def jump(self, by: str) -> None:
        """So many seconds beside the true time from now on."""
        part = self.path.with_suffix(".part")
        part.write_text(f"{by}\n")
        part.replace(self.path)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


def test_a_clock_is_what_it_is_told(clock: Clock) -> None:
    def seen(what: str) -> float:
        code = f"import time; print(time.{what}())"
        return float(subprocess.check_output(["python3", "-c", code], env=os.environ | clock.env, text=True))

    true, uptime = seen("time"), seen("monotonic")
    clock.jump("+3600")
    assert 3600 <= seen("time") - true < 3700
    assert 0 <= seen("monotonic") - uptime < 100


def test_the_clock_of_the_orchestrator_jumps_an_hour_forward_and_back(
    stage: Field, clock: Clock, undisturbed: Outcome
) -> None:
    """S3 refuses whoever signs by a clock so wrong: the loop waits until it is right again, and goes on."""
    stage.staff(2)
    orders = stage.orders("orchestrator")
    with orders.tell("wait", "flat-0", 0) as first, orders.tell("wait", "flat-0", 1) as second:
        orchestrator = stage.run("orchestrator", clock.env)
        for version, (waiting, by) in enumerate(((first, "+3600"), (second, "-3600"))):
            orders.trains("flat-0", version)
            refused = stage.s3.refused
            clock.jump(by)
            waiting.unlink()
            eventually(partial(refuses, stage, refused + 1), "S3 refuses who signs by this clock")
            clock.jump("+0")
    orchestrator.leaves()
    stage.equals("orchestrator", undisturbed)


def refuses(stage: Field, times: int) -> bool:
    """Whether S3 has refused so many requests."""
    return stage.s3.refused >= times


def test_the_clock_of_a_worker_jumps_an_hour_forward_and_back(stage: Field, clock: Clock, undisturbed: Outcome) -> None:
    stage.staff(0)
    stage.worker(clock.env)
    orders = stage.orders("worker")
    with contextlib.ExitStack() as waiting:
        tasks = [waiting.enter_context(orders.tell("wait", "flat-0", n)) for n in range(len(JUMPS))]
        orchestrator = stage.run("worker")
        for version, by in enumerate(JUMPS):
            orders.trains("flat-0", version)
            clock.jump(by)
            tasks[version].unlink()
    orchestrator.leaves()
    stage.staff(0)
    stage.equals("worker", undisturbed)


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A disk on which not a byte is free."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts a disk of its own")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "none", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"mounting is not allowed here: {mounted.stderr.decode().strip()}")
    try:
        with (place / "filling").open("wb", buffering=0) as f, pytest.raises(OSError, match="No space"):
            while f.write(b"x" * 512):
                pass
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_workers_cache_on_a_full_disk_costs_time_alone(stage: Field, full: Path, undisturbed: Outcome) -> None:
    stage.staff(0)
    worker = stage.worker({"QUORATE_CACHE": str(full)})
    stage.run("full").leaves()
    stage.staff(0)
    stage.equals("full", undisturbed)
    assert "Traceback" not in worker.text
