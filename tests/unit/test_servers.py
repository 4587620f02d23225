import signal
import subprocess
import sys
from pathlib import Path

import pytest

from infra import servers
from infra.servers import free_port, free_ports, is_free, start, wait_for
from schemas.errors import StoreError
from tests.stack.servers import needed


def test_a_missing_server_skips_on_a_laptop_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception):
        needed(None, "a server")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception):
        needed(None, "a server")
    assert needed("here", "a server") == "here"


def test_a_child_that_ends_before_it_is_ready_is_named_with_its_last_words(tmp_path: Path) -> None:
    child = start("server", [sys.executable, "-c", "print('first'); print('no room'); raise SystemExit(3)"], tmp_path)
    with pytest.raises(StoreError, match="server ended with status 3: no room"):
        wait_for(lambda: False, child)


def test_a_child_that_is_never_ready_is_stopped(tmp_path: Path) -> None:
    child = start("server", [sys.executable, "-c", "import time; time.sleep(60)"], tmp_path)
    with pytest.raises(StoreError, match=r"did not get ready in 0\.1 s"):
        wait_for(lambda: False, child, 0.1)
    assert child.ended().startswith("server ended with SIGTERM")


def test_a_child_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    child = start("server", [sys.executable, "-c", deaf], tmp_path)
    wait_for(lambda: "deaf" in child.log.read_text(), child)
    child.stop(0.1)
    assert child.process.returncode == -signal.SIGKILL


def test_a_program_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        start("server", [tmp_path / "none"], tmp_path)


def test_a_free_port_leaves_room_for_its_twin() -> None:
    port = free_port()
    assert is_free(port) and is_free(port + 10_000) and port + 10_000 < 32_768


def test_ports_that_are_asked_for_together_are_different_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter([1, 1, 2, 2, 1, 3])
    monkeypatch.setattr(servers.secrets, "randbelow", lambda below: next(drawn))
    monkeypatch.setattr(servers, "is_free", lambda port: True)
    assert free_ports(2, but=12_001) == [12_002, 12_003]


def test_up_and_settings_and_servers_import_no_torch() -> None:
    code = "import sys, orchestrator.local, infra.runtime, workers.celery_worker; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
