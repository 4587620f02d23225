"""The lease of a loop: waited for, extended by what the loop writes, and lost to a rival before anything is written."""

import socketserver
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.blobs import FileBlobs
from infra.clock import VirtualClock
from infra.state import Answer, FileState
from infra.stream import FileStream
from orchestrator.tenure import OwnedBlobs, OwnedStream, Tenure
from schemas.errors import LeaseLost, SettingsError


class Taken(FileState):
    """A state store in which the lease is sometimes another's; it counts how often it was extended."""

    rival, saves = False, 0

    def save(self, run: str, owner: str, ttl_s: float, value: str | None = None) -> Answer:
        self.saves += 1
        return "taken" if self.rival else super().save(run, owner, ttl_s, value)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Taken]:
    made = Taken(tmp_path / "state")
    yield made
    made.release("r", "me")


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    moments = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: moments[0])
    return moments


def test_what_a_loop_writes_extends_its_lease_once_a_second(tmp_path: Path, state: Taken, now: list[float]) -> None:
    tenure = Tenure("r", "me", state)
    tenure.begin()
    blobs = OwnedBlobs(FileBlobs(tmp_path / "blobs"), tenure)
    for n in range(40):
        now[0] += 0.25
        blobs.put(f"k{n}", b"")
    assert 8 <= state.saves <= 10


def test_a_loop_that_hung_while_another_took_over_writes_nothing_more(
    tmp_path: Path, state: Taken, now: list[float]
) -> None:
    tenure = Tenure("r", "me", state)
    tenure.begin()
    blobs = OwnedBlobs(FileBlobs(tmp_path / "blobs"), tenure)
    stream = OwnedStream(FileStream(tmp_path / "state", VirtualClock()), tenure)
    ref = blobs.put("before", b"x")
    now[0], state.rival = now[0] + 30.0, True
    for write in (
        lambda: blobs.put("k", b""),
        lambda: blobs.delete("before"),
        lambda: stream.append("r", "decision", "{}"),
        lambda: stream.trim("r", "1"),
        lambda: blobs.get(ref),
        lambda: blobs.grant("k", "PUT", 60.0),
        lambda: list(blobs.keys("")),
    ):
        with pytest.raises(LeaseLost):
            write()
    assert list(FileBlobs(tmp_path / "blobs").keys("")) == ["before"]


def test_a_standby_waits_as_long_as_it_takes(tmp_path: Path) -> None:
    owner, standby = (Tenure("r", name, FileState(tmp_path)) for name in ("owner", "standby"))
    owner.begin()
    with pytest.raises(LeaseLost):
        standby.begin()
    waiting = threading.Thread(target=standby.begin, kwargs={"wait_s": float("inf")})
    waiting.start()
    assert waiting.is_alive()
    owner.end()
    waiting.join(10)
    assert not waiting.is_alive()
    with pytest.raises(LeaseLost):
        owner.begin()
    standby.end()


class Old(socketserver.StreamRequestHandler):
    """Speaks as much Redis as is needed to say how old it is."""

    def handle(self) -> None:
        while line := self.rfile.readline():
            words = []
            for _ in range(int(line[1:])):
                self.rfile.readline()
                words.append(self.rfile.readline().strip().upper())
            self.wfile.write(self.server.answers.get(words[0], b"+OK\r\n"))  # type: ignore[attr-defined]


class Server(socketserver.ThreadingTCPServer):
    """A Redis of some age."""

    daemon_threads = True
    answers: dict[bytes, bytes]


@pytest.mark.parametrize(
    ("answers", "version"),
    [
        ({b"HELLO": b"%1\r\n$5\r\nproto\r\n:3\r\n", b"INFO": b"$20\r\nredis_version:6.2.14\r\n"}, r"6\.2\.14"),
        ({b"HELLO": b"-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n"}, "5"),
    ],
)
def test_a_redis_that_is_too_old_is_one_line(answers: dict[bytes, bytes], version: str) -> None:
    from infra.redis_state import RedisState

    with Server(("127.0.0.1", 0), Old) as server:
        server.answers = answers
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        with pytest.raises(SettingsError, match=f"Redis {version} is too old: 7 or newer"):
            RedisState(f"redis://127.0.0.1:{server.server_address[1]}/0")
        server.shutdown()
        thread.join()
