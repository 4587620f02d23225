"""Doors in front of S3 and Redis that a test can close, slow down, hold, or break in the middle of a sentence.

Listens on a loopback port that stays the same while the door is shut. The one of Redis is here and looks only for a
pattern in what a client says; the one of S3 (`s3_door`) understands HTTP as far as it must. Knows no Quorate.
"""

import contextlib
import re
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from infra.servers import free_port

CHUNK = 65_536
PATIENCE_S = 120.0
"""No hold lasts longer: a test that forgot one fails by its own deadline, not by hanging."""


@dataclass
class Hold:
    """Somebody who stands at the door. after: what they brought is through, the answer is kept from them."""

    after: bool = False
    taken: bool = False
    arrived: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)
    dropped: bool = False

    def release(self) -> None:
        """Let it pass."""
        self.over.set()

    def drop(self) -> None:
        """Let it fall: the connection ends, and what was held is never heard of."""
        self.dropped = True
        self.over.set()

    def wait(self, within_s: float = 60.0) -> None:
        """Until somebody stands there."""
        assert self.arrived.wait(within_s), f"nobody came to the door within {within_s:g} s"

    def stand(self) -> bool:
        """Stand there until told; whether one may pass."""
        self.arrived.set()
        return self.over.wait(PATIENCE_S) and not self.dropped


class Door(ABC):
    """A listener that hands each connection to a thread of its own. taken: how many there have been."""

    def __init__(self) -> None:
        self.port, self.delay_s, self.taken = free_port(), 0.0, 0
        self._lock = threading.Lock()
        self._flows = threading.Event()
        self._flows.set()
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self.open()

    @abstractmethod
    def serve(self, client: socket.socket) -> None:
        """One connection, until it ends. OSError and ValueError end it."""

    def open(self) -> None:
        """Take connections (again)."""
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=256)
        threading.Thread(target=self._accept, args=[self._listener], daemon=True).start()

    def shut(self) -> None:
        """Refuse connections, and cut those there are: the server is gone."""
        if self._listener is not None:
            self._cut(self._listener)
            self._listener = None
        for one in list(self._open):
            self._cut(one)

    @contextlib.contextmanager
    def gone(self) -> Iterator[None]:
        """Within the block connections are refused."""
        self.shut()
        try:
            yield
        finally:
            self.open()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Within the block connections are taken, and nothing moves on them."""
        self._flows.clear()
        try:
            yield
        finally:
            self._flows.set()

    @contextlib.contextmanager
    def slow(self, seconds: float) -> Iterator[None]:
        """Within the block everything takes so much longer."""
        self.delay_s = seconds
        try:
            yield
        finally:
            self.delay_s = 0.0

    def pause(self) -> None:
        """What a frozen or slow door costs whoever passes."""
        self._flows.wait(PATIENCE_S)
        time.sleep(self.delay_s)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                self.taken += 1
                threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self._open.add(client)
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(OSError, ValueError):  # ValueError: a file of a closed socket
                self.serve(client)
        finally:
            self._cut(client)
            self._open.discard(client)

    def _cut(self, one: socket.socket) -> None:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()


class RedisDoor(Door):
    """In front of a Redis. A hold is for the first client that says something, e.g. a command or a part of a message.

    connect: opens a way to the server behind it.
    """

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        self.connect = connect
        self._holds: list[tuple[re.Pattern[bytes], Hold]] = []
        super().__init__()

    @contextlib.contextmanager
    def hold(self, text: str, *, after: bool = False) -> Iterator[Hold]:
        """Hold the next connection on which this is said, until released, dropped, or the block's end (dropped)."""
        held = (re.compile(text.encode(), re.DOTALL), Hold(after))
        self._holds.append(held)
        try:
            yield held[1]
        finally:
            held[1].drop()
            self._holds.remove(held)

    def serve(self, client: socket.socket) -> None:
        server = self.connect()
        flows = threading.Event()
        flows.set()
        back = threading.Thread(target=self._back, args=[server, client, flows], daemon=True)
        back.start()
        try:
            for said in commands(client):
                self.pause()
                hold = self._held(said)
                if hold is None or not hold.after:
                    if hold is not None and not hold.stand():
                        return
                    server.sendall(said)
                    continue
                flows.clear()
                server.sendall(said)
                if not hold.stand():
                    return
                flows.set()
        finally:
            self._cut(server)
            flows.set()
            back.join()

    def _back(self, server: socket.socket, client: socket.socket, flows: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while said := server.recv(CHUNK):
                flows.wait(PATIENCE_S)
                self._flows.wait(PATIENCE_S)
                client.sendall(said)
        self._cut(client)

    def _held(self, said: bytes) -> Hold | None:
        with self._lock:
            found = next((h for text, h in self._holds if not h.taken and text.search(said)), None)
            if found is not None:
                found.taken = True
        return found


def commands(client: socket.socket) -> Iterator[bytes]:
    """What a client says, command by command, however it arrives: an array of strings in Redis's own words (RESP)."""
    with client.makefile("rb") as heard:
        while head := heard.readline():
            said = [head]
            for _ in range(int(head[1:])):
                length = heard.readline()
                said += [length, heard.read(int(length[1:]) + 2)]
            yield b"".join(said)
