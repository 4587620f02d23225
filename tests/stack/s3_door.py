"""The door in front of an S3: it knows which key a request is about and how many bytes it brings. Knows no Quorate."""

import contextlib
import http.client
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Literal

from tests.stack.proxy import CHUNK, PATIENCE_S, Door, Hold

Action = Literal["hold", "answer", "cut upload", "cut download", "lose answer"]


@dataclass
class Fault:
    """What happens to the next `times` requests of a method (None: any) whose path matches. met: to how many it did.

    bytes: how many pass before a cut. status: of the answer. seconds: each stands so long before anything happens.
    """

    action: Action
    method: str | None
    path: re.Pattern[str]
    times: int = 1
    bytes: int = 1000
    status: int = 503
    held: Hold = field(default_factory=Hold)
    met: int = 0

    def takes(self, method: str, path: str) -> bool:
        """Whether this request is one of them."""
        if self.met >= self.times or self.method not in (None, method) or not self.path.search(path):
            return False
        self.met += 1
        return True


class S3Door(Door):
    """In front of an S3 at a port of this machine. The Host header passes as it is, so signatures stay valid.

    signatures: of all grants that were used here. seen: (method, path without query) of all requests that came.
    refused: how many the S3 has answered with 403.
    """

    def __init__(self, port: int) -> None:
        self.upstream = port
        self.faults: list[Fault] = []
        self.refused = 0
        self.signatures: set[str] = set()
        self.seen: list[tuple[str, str]] = []
        super().__init__()

    @contextlib.contextmanager
    def hold(self, method: str | None, path: str, *, after: bool = False) -> Iterator[Hold]:
        """Hold the next request that matches, or its answer, until released, dropped, or the block's end (dropped)."""
        with self.fault("hold", method, path) as fault:
            fault.held.after = after
            try:
                yield fault.held
            finally:
                fault.held.drop()

    @contextlib.contextmanager
    def fault(
        self, action: Action, method: str | None, path: str, *, times: int = 1, bytes: int = 1000, status: int = 503
    ) -> Iterator[Fault]:
        """The next requests that match fare so, within the block."""
        made = Fault(action, method, re.compile(path), times, bytes, status)
        self.faults.append(made)
        try:
            yield made
        finally:
            self.faults.remove(made)

    def meets(self, method: str, path: str) -> Fault | None:
        """The first fault that takes this request."""
        with self._lock:
            return next((f for f in self.faults if f.takes(method, path)), None)

    def serve(self, client: socket.socket) -> None:
        _Request(client, self)


class _Request(BaseHTTPRequestHandler):
    """The requests of one connection, passed on one by one."""

    protocol_version = "HTTP/1.1"

    def __init__(self, client: socket.socket, door: S3Door) -> None:
        self.door = door
        self.behind = http.client.HTTPConnection("127.0.0.1", door.upstream, timeout=PATIENCE_S)
        try:
            super().__init__(client, ("127.0.0.1", 0), None)  # type: ignore[arg-type]
        finally:
            self.behind.close()

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(CHUNK)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        self.door.signatures |= set(re.findall(r"X-Amz-Signature=([0-9a-f]{64})", self.path))
        path = self.path.partition("?")[0]
        self.door.seen.append((self.command, path))
        self.door.pause()
        try:
            self._meet(self.door.meets(self.command, path))
        except http.client.HTTPException:  # the server behind broke off: so do we
            self.close_connection = True

    def _meet(self, fault: Fault | None) -> None:
        length = int(self.headers.get("content-length", 0))
        if fault is None:
            return self._say(*self._ask(self.rfile.read(length)))
        self.close_connection = True
        if fault.action == "cut upload":
            return self._send(self.rfile.read(min(length, fault.bytes)))
        body = self.rfile.read(length)
        if fault.action == "answer":
            return self._say(fault.status, [("content-length", "0")], b"")
        if fault.action == "hold" and not fault.held.after and not fault.held.stand():
            return None
        status, headers, answer = self._ask(body)
        if fault.action == "lose answer" or (fault.action == "hold" and fault.held.after and not fault.held.stand()):
            return None
        return self._say(status, headers, answer[: fault.bytes] if fault.action == "cut download" else answer)

    def _send(self, body: bytes) -> None:
        self.behind.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            self.behind.putheader(name, value)
        self.behind.endheaders(body or None)

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        self._send(body)
        answer = self.behind.getresponse()
        told = answer.read()
        self.door.refused += answer.status == 403
        headers = [(k, v) for k, v in answer.getheaders() if k.lower() not in ("transfer-encoding", "connection")]
        if answer.headers.get("content-length") is None:
            headers.append(("content-length", str(len(told))))
        return answer.status, headers, told

    def _say(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        lines = [f"HTTP/1.1 {status} {http.client.responses.get(status, '')}"]
        lines += [f"{name}: {value}" for name, value in headers]
        lines += ["connection: close"] if self.close_connection else []
        self.wfile.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body)
