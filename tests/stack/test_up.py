"""`quorate up` as a user starts it: what it prints works, and nothing of it is left behind."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import urllib3

from infra.servers import valkey, weed
from tests.stack.servers import needed

pytestmark = pytest.mark.stack
WITHIN_S = 120.0
UP = [sys.executable, "-m", "orchestrator.cli", "up", "--workers", "1"]


@contextmanager
def up(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A running `quorate up` in a folder, once it says what to type."""
    needed(valkey(), "Valkey"), needed(weed(), "SeaweedFS")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("QUORATE_")}
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(UP, cwd=folder, stdout=out, stderr=out, env=clean, start_new_session=True)
    try:
        eventually(lambda: "Ctrl-C stops" in said(folder) or process.poll() is not None, "it is up")
        assert process.poll() is None, said(folder)
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def test_what_it_prints_works_and_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    with up(tmp_path) as process:
        env = dict(re.findall(r"export (\w+)=(.*)", (tmp_path / ".quorate/up/env").read_text()))
        assert (tmp_path / ".quorate/up/env").stat().st_mode & 0o077 == 0
        assert env["QUORATE_S3_SECRET_KEY"] not in said(tmp_path)
        url, password = re.search(r"(http://127\.0\.0\.1:\d+)\s+user ops, password (\S+)", said(tmp_path)).groups()  # type: ignore[union-attr]
        auth = urllib3.make_headers(basic_auth=f"ops:{password}")
        assert urllib3.request("GET", f"{url}/", timeout=10).status == 401
        assert urllib3.request("GET", f"{url}/", headers=auth, timeout=10).status == 200
        assert urllib3.request("POST", f"{url}/api/worker/shutdown/x", headers=auth, timeout=10).status == 403
        eventually(lambda: waiting(tmp_path) == "0 waiting, 1 worker", "the worker answers within a second")
        pids = read_pids(tmp_path)
        assert sorted(pids.values()) == ["flower", "s3", "valkey", "worker-1"]
        for pid in pids:
            assert not set(secrets_of(env)) & set(Path(f"/proc/{pid}/cmdline").read_text().split("\0"))
        second = subprocess.run(UP, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert second.returncode == 2 and "in use already" in second.stderr
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, said(tmp_path)
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
    assert not (tmp_path / ".quorate/up/env").exists()
    assert not socket_of(env).exists()


def test_when_a_part_dies_it_is_named_and_the_rest_stops(tmp_path: Path) -> None:
    with up(tmp_path) as process:
        pids = read_pids(tmp_path)
        (victim,) = [pid for pid, name in pids.items() if name == "worker-1"]
        os.kill(victim, signal.SIGKILL)
        assert process.wait(60) == 1
    assert "worker-1 ended with SIGKILL" in said(tmp_path)
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []


def waiting(folder: Path) -> str:
    """What the bus says, from a shell that has sourced the env file as the text says."""
    ask = "from infra.runtime import connect; from infra.settings import read; print(connect(read()).bus.waiting(None))"
    command = f". .quorate/up/env && {sys.executable} -c {shlex.quote(ask)}"
    done = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def said(folder: Path) -> str:
    return (folder / "out").read_text()


def read_pids(folder: Path) -> dict[int, str]:
    lines = (folder / ".quorate/up/pids").read_text().splitlines()
    return {int(pid): name for pid, name in (line.split() for line in lines)}


def secrets_of(env: dict[str, str]) -> list[str]:
    return [env["QUORATE_S3_SECRET_KEY"]]


def socket_of(env: dict[str, str]) -> Path:
    return Path(shlex.split(env["QUORATE_BUS"])[0].removeprefix("unix://").partition("?")[0])


def eventually(fact: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + WITHIN_S
    while not fact():
        assert time.monotonic() < until, f"not within {WITHIN_S} s: {what}"
        time.sleep(0.05)
