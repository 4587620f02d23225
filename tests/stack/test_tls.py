"""`rediss://` and `https://`: a run goes through them, and whoever is not trusted hears no password."""

import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from infra import http
from infra.runtime import connect, connect_blobs
from infra.servers import S3, Child, Redis, start, wait_for
from infra.settings import Settings
from orchestrator import run as runs
from orchestrator.commits import Commits
from orchestrator.patience import awaited
from orchestrator.plan import plan
from schemas.errors import BlobUnavailable, SettingsError
from tests.checked import whole
from tests.runs.here import ignore, run
from tests.stack.servers import environment, settings
from tests.stack.tls import TlsDoor, certificate
from tests.toys import experiment, paint
from workers import celery_worker

pytestmark = pytest.mark.stack
ROOT = Path(__file__).parents[2]
ROUNDS = {"versions": 2, "in_flight": 2, "quorum": 2, "floor": 2, "max_staleness": 0}
UNTRUSTED = "the server's certificate is not trusted"


@dataclass(frozen=True)
class Border:
    """The servers of the session behind TLS. certificate: theirs; other: of somebody else. plain: without TLS."""

    certificate: Path
    other: Path
    plain: Settings
    env: dict[str, str]

    @property
    def settings(self) -> Settings:
        """What the environment says."""
        return Settings.model_validate({k.removeprefix("QUORATE_").lower(): v for k, v in self.env.items()})


@pytest.fixture(scope="module")
def border(redis_server: Redis, s3_server: S3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Border]:
    folder = tmp_path_factory.mktemp("tls")
    ours, other = certificate(folder, "ours"), certificate(folder, "other")
    s3 = urlsplit(s3_server.url)

    def to_redis() -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        made.connect(urlsplit(redis_server.url).path)
        return made

    doors = TlsDoor(to_redis, ours), TlsDoor(lambda: socket.create_connection(("127.0.0.1", s3.port or 0)), ours)
    redis = f"rediss://127.0.0.1:{doors[0].port}/0"
    tls = {"QUORATE_STATE": redis, "QUORATE_BUS": redis}
    tls["QUORATE_BLOBS"] = f"https://127.0.0.1:{doors[1].port}{s3.path}"
    env = environment(redis_server, s3_server, folder / "cache") | tls
    yield Border(ours, other, settings(redis_server, s3_server, folder / "cache"), env)
    for door in doors:
        door.shut()


@pytest.fixture
def worker(border: Border, tmp_path: Path) -> Iterator[Child]:
    env = {k: v for k, v in border.env.items() if "S3" not in k and "BLOBS" not in k}
    env |= {"PYTHONPATH": str(ROOT), "SSL_CERT_FILE": str(border.certificate)}
    child = start("worker", [sys.executable, "-m", "workers.celery_worker", "--pool"], tmp_path, env=env)
    wait_for(lambda: '"event": "ready"' in child.log.read_text(), child, 120)
    yield child
    child.stop()


def test_a_run_goes_through_tls_and_ends_in_the_same_bytes(
    border: Border, worker: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, name = experiment(paint(tmp_path / "images", per_class=5), rounds=ROUNDS), f"tls-{time.time_ns()}"
    expected = run(asked, tmp_path / "embedded").report
    monkeypatch.setenv("SSL_CERT_FILE", str(border.certificate))
    runtime = connect(border.settings)
    found = runs.execute(plan(asked), runtime, name, ignore).report
    assert (found.status, found.adapter_sha256) == ("finished", expected.adapter_sha256)
    assert found.ledger == expected.ledger
    whole(Commits(name, runtime.blobs))
    assert not worker.ended()


@pytest.mark.parametrize("variable", ["state", "bus", "blobs"])
def test_a_certificate_that_nobody_vouches_for_is_one_line_and_not_waited_for(
    border: Border, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(border.other))
    mixed = border.plain.model_copy(update={variable: getattr(border.settings, variable)})
    with pytest.raises(SettingsError, match=f"^QUORATE_{variable.upper()}: {UNTRUSTED}: ") as said:
        awaited(lambda: connect(mixed), 300.0)
    assert "\n" not in str(said.value)


def test_a_worker_whose_grant_leads_to_nobody_it_trusts_says_so(
    border: Border, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_the_border = border.plain.model_copy(update={"s3_public": border.env["QUORATE_BLOBS"].rpartition("/")[0]})
    grant = connect_blobs(at_the_border).grant("runs/x/models/00000000", "GET", 60.0)
    monkeypatch.setenv("SSL_CERT_FILE", str(border.other))
    with pytest.raises(BlobUnavailable, match=UNTRUSTED):
        http.get(grant, 10)


def test_a_worker_that_does_not_trust_its_redis_leaves_with_one_line(
    border: Border, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (border.env | {"SSL_CERT_FILE": str(border.other)}).items():
        monkeypatch.setenv(name, value)
    assert celery_worker.run(["--pool"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"QUORATE_STATE: {UNTRUSTED}" in line
