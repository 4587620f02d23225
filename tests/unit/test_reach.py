"""A worker's way to blobs over a bad line: cut connections and a store that is away, until the task's deadline."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from pydantic import SecretStr

from schemas.base import digest
from schemas.errors import BlobCorrupt, BlobMissing, BlobUnavailable, GrantRefused
from schemas.messages import BlobRef, Grant, Outlet, Ref
from workers import reach
from workers.reach import Reach

DATA = bytes(range(256)) * 1000
REF = BlobRef(key="k", sha256=digest(DATA), size=len(DATA))


class Shop(ThreadingHTTPServer):
    """An object store of one key. `ills`: what it does with the next requests instead of answering them."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Counter)
        self.held: bytes | None = None
        self.ills: list[str] = []
        self.asked = 0

    def ref(self) -> Ref:
        return Ref(blob=REF, grant=self.grant("GET"))

    def outlet(self) -> Outlet:
        return Outlet(key="k", put=self.grant("PUT"), get=self.grant("GET"))

    def grant(self, method: str) -> Grant:
        url = SecretStr(f"http://127.0.0.1:{self.server_port}/k")
        return Grant.model_validate({"url": url, "method": method, "expires": time.time() + 60})


class Counter(BaseHTTPRequestHandler):
    """Serves one request."""

    server: Shop

    def do_GET(self) -> None:
        self.server.asked += 1
        ill = self.server.ills.pop(0) if self.server.ills else ""
        if ill.isdigit() or self.server.held is None:
            return self.say(int(ill or 404))
        self.say(200, self.server.held, cut=ill == "cut")

    def do_PUT(self) -> None:
        self.server.asked += 1
        ill = self.server.ills.pop(0) if self.server.ills else ""
        length = int(self.headers["content-length"])
        if ill == "cut":
            self.rfile.read(length // 2)
            self.close_connection = True
            return
        data = self.rfile.read(length)
        if ill.isdigit() or self.server.held is not None:
            return self.say(int(ill or 412))
        self.server.held = data
        if ill == "unsaid":
            self.close_connection = True
            return
        self.say(200)

    def say(self, status: int, body: bytes = b"", *, cut: bool = False) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def shop() -> Iterator[Shop]:
    with Shop() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def way(monkeypatch: pytest.MonkeyPatch) -> Reach:
    monkeypatch.setattr(reach, "FIRST_S", 0.01)
    made = Reach()
    made.begin(60.0)
    return made


def test_a_download_that_is_cut_is_done_again_and_never_taken_for_the_whole(shop: Shop, way: Reach) -> None:
    shop.held, shop.ills = DATA, ["cut", "cut"]
    assert way.get(shop.ref()) == DATA
    assert shop.asked == 3


def test_an_upload_that_is_cut_is_done_again(shop: Shop, way: Reach) -> None:
    shop.ills = ["cut"]
    assert way.upload(shop.outlet(), DATA) == (REF, DATA)
    assert shop.held == DATA


def test_an_upload_whose_answer_is_lost_finds_its_own_bytes(shop: Shop, way: Reach) -> None:
    shop.ills = ["unsaid"]
    assert way.upload(shop.outlet(), DATA) == (REF, DATA)
    assert shop.held == DATA


def test_a_store_that_says_later_is_asked_later(shop: Shop, way: Reach) -> None:
    shop.held, shop.ills = DATA, ["503"] * 4  # the connection pool gives up after four
    assert way.get(shop.ref()) == DATA
    assert shop.asked == 5


@pytest.mark.parametrize(("answer", "error"), [("404", BlobMissing), ("403", GrantRefused)])
def test_what_a_store_says_for_good_is_not_asked_again(
    shop: Shop, way: Reach, answer: str, error: type[Exception]
) -> None:
    shop.ills = [answer]
    with pytest.raises(error):
        way.get(shop.ref())
    assert shop.asked == 1


def test_wrong_bytes_are_not_asked_for_again(shop: Shop, way: Reach) -> None:
    shop.held = DATA[::-1]
    with pytest.raises(BlobCorrupt):
        way.get(shop.ref())
    assert shop.asked == 1


def test_at_the_deadline_of_the_task_it_gives_up(shop: Shop, way: Reach, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []  # time passes while it waits, and at no other time
    monkeypatch.setattr(reach, "time", SimpleNamespace(monotonic=lambda: sum(waits), sleep=waits.append))
    shop.held, shop.ills = DATA, ["cut"] * 1000
    way.begin(0.65)
    with pytest.raises(BlobUnavailable):
        way.get(shop.ref())
    assert waits == [0.01, 0.02, 0.04, 0.08, 0.16]  # 0.31 s; 0.32 more are within 0.65, not within 0.9 of it
    assert shop.asked == 6
