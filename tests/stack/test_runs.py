"""Whole runs through `quorate up`, and with a site that has its own data. Real processes, as a user starts them."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load

from infra.runtime import connect
from infra.servers import S3, Redis, start, valkey, wait_for, weed
from orchestrator.commits import Commits
from schemas.report import Report
from tests.stack.servers import environment, needed, settings
from tests.toys import paint

pytestmark = pytest.mark.stack
CLI = [sys.executable, "-m", "orchestrator.cli"]
ROOT = Path(__file__).parents[2]
WITHIN_S = 180.0


def quorate(*arguments: str, env: dict[str, str], cwd: Path) -> Report:
    """A run as a user starts it, and that its history holds; its report from stdout."""
    report = Report.model_validate_json(_said("run", *arguments, "--json", env=env, cwd=cwd))
    assert "nothing lost (finished)" in _said("audit", report.run, env=env, cwd=cwd)
    return report


def _said(*arguments: str, env: dict[str, str], cwd: Path) -> str:
    done = subprocess.run(
        [*CLI, *arguments], env={**os.environ, "PYTHONPATH": str(ROOT), **env}, cwd=cwd,
        capture_output=True, text=True, timeout=WITHIN_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@contextmanager
def up(folder: Path, workers: int) -> Iterator[dict[str, str]]:
    """`quorate up` in a folder of its own; the environment that it tells a user to source."""
    folder.mkdir()
    env = {"PYTHONPATH": str(ROOT), "QUORATE_CACHE": str(folder.parent / "cache")}
    child = start("up", [*CLI, "up", "--workers", str(workers)], folder, env=env, cwd=folder)
    try:
        wait_for(lambda: "In another shell" in child.log.read_text(), child, WITHIN_S)
        lines = (folder / ".quorate/up/env").read_text().splitlines()
        yield dict(line.removeprefix("export ").replace("'", "").split("=", 1) for line in lines)
        pids = [int(line.split()[0]) for line in (folder / ".quorate/up/pids").read_text().splitlines()]
        child.process.send_signal(signal.SIGINT)
        assert child.process.wait(60) == 0, child.log.read_text()
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()], "all that was started is stopped"
    finally:
        child.stop(60)


@pytest.fixture
def synchronous(tmp_path: Path) -> Path:
    """All clients, every version, on drawn images and the bundled CLIP; drawn anew, so workers share no past."""
    asked = yaml.safe_load((ROOT / "experiments/synchronous.yaml").read_text())
    asked["data"]["params"]["per_class"] = 10
    path = tmp_path / "synchronous.yaml"
    path.write_text(yaml.safe_dump(asked))
    return path


def test_one_process_one_worker_and_three_workers_end_in_the_same_bytes(synchronous: Path, tmp_path: Path) -> None:
    needed(valkey(), "Valkey")
    needed(weed(), "SeaweedFS")
    alone = {"env": {"QUORATE_CACHE": str(tmp_path / "other cache")}, "cwd": tmp_path}
    several = ("--name", "several", "--set", "rounds.clients_per_task=5")
    embedded, shared = quorate(str(synchronous), **alone), quorate(str(synchronous), *several, **alone)  # type: ignore[arg-type]
    found = {}
    for workers in (1, 3):
        with up(tmp_path / f"up-{workers}", workers) as env:
            found[workers] = quorate(str(synchronous), env=env, cwd=tmp_path / f"up-{workers}")
            if workers == 3:  # tasks of several clients, too, give the bytes that they give in one process
                of_several = quorate(str(synchronous), *several, env=env, cwd=tmp_path / f"up-{workers}")
    assert (of_several.adapter_sha256, of_several.ledger) == (shared.adapter_sha256, shared.ledger)
    assert embedded.version == 6
    for report in found.values():
        assert report.adapter_sha256 == embedded.adapter_sha256
        assert report.ledger == embedded.ledger
        assert report.accuracy == embedded.accuracy
        assert (report.bytes_up, report.bytes_down) == (embedded.bytes_up, embedded.bytes_down)


@pytest.fixture
def sites(redis_server: Redis, s3_server: S3, tmp_path: Path) -> Iterator[dict[str, Path]]:
    """Two owners, each with a worker, images and a private folder that nobody else can see."""
    env = environment(redis_server, s3_server, tmp_path / "cache")
    env = {k: v for k, v in env.items() if "S3" not in k and "BLOBS" not in k} | {"PYTHONPATH": str(ROOT)}
    folders, children = {}, []
    for name, domains in (("clinic", ("flat", "noisy")), ("plant", ("striped",))):
        folder = folders[name] = tmp_path / f"secret-place-of-{name}"
        paint(folder / "images", domains=domains)
        described = {"data": {"name": "folder", "params": {"root": "images"}}, "private": "kept",
                     "plugins": ["tests.toys:ToyBackbone"]}  # fmt: skip
        (folder / "site.yaml").write_text(yaml.safe_dump(described))
        command = [*CLI, "worker", "--site", name, "--data", str(folder / "site.yaml")]
        children.append(start(f"site-{name}", command, tmp_path, env={**env, "QUORATE_CACHE": str(folder / "cache")}))
    for child in children:
        wait_for(lambda child=child: '"event": "ready"' in child.log.read_text(), child, WITHIN_S)  # type: ignore[misc]
    yield folders
    for child in children:
        child.stop()


def test_sites_take_part_and_neither_paths_nor_private_tensors_leave_them(
    sites: dict[str, Path], redis_server: Redis, s3_server: S3, tmp_path: Path
) -> None:
    rounds = {"versions": 3, "in_flight": 2, "quorum": 2, "floor": 2, "max_staleness": 0}
    asked = {"name": "owners", "sites": list(sites), "codec": {"name": "fp16"},
             "method": {"name": "perada", "params": {"distilled": 0}}, "rounds": rounds,
             "model": {"backbone": {"name": "tests.toys:ToyBackbone"}}}  # fmt: skip
    (tmp_path / "owners.yaml").write_text(yaml.safe_dump(asked))
    env = environment(redis_server, s3_server, tmp_path / "cache")
    with spying(redis_server) as seen:
        report = quorate("owners.yaml", env=env, cwd=tmp_path)
    assert {c: (s.asked, s.accepted) for c, s in report.ledger.items()} == {"clinic": (3, 3), "plant": (3, 3)}
    assert set(report.accuracy.final) == {"clinic", "plant"}

    runtime = connect(settings(redis_server, s3_server, tmp_path / "cache"))
    objects = {key: runtime.blobs.read(key, limit=10**9) for key in runtime.blobs.keys("runs/owners/")}
    commit = Commits("owners", runtime.blobs).last()
    assert commit is not None and {b.key.partition(":")[0] for b in commit.private.values()} == {"private"}
    traffic = b"".join([*objects.values(), *seen()])
    assert b"owners" in traffic and b"train" in traffic, "the spy sees what travels"
    for name, folder in sites.items():
        assert str(folder).encode() not in traffic and b"secret-place" not in traffic
        kept = sorted((folder / "kept" / "owners" / name).glob("*.safetensors"))
        assert kept, "the codec's residual and the personal adapter are the site's private state"
        for path in kept:
            for tensor in load(path.read_bytes()).values():
                assert np.abs(tensor).sum() > 0
                assert tensor.tobytes() not in traffic
    assert not [key for key in objects if "/private/" in key]


@contextmanager
def spying(server: Redis) -> Iterator[Callable[[], list[bytes]]]:
    """Everything that any client says to the server while the block runs (MONITOR)."""
    path = re.sub(r"\?.*", "", server.url.removeprefix("unix://"))
    out = Path(path).with_suffix(".monitor")
    code = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.sendall(b'MONITOR\\r\\n')\n"
    )
    code += "f = open(sys.argv[2], 'wb', 0)\nwhile data := s.recv(1 << 20): f.write(data)"
    spy = subprocess.Popen([sys.executable, "-c", code, path, str(out)])
    try:
        while not out.exists() or not out.read_bytes().startswith(b"+OK"):
            assert spy.poll() is None
        yield lambda: [out.read_bytes()]
    finally:
        spy.kill()
        spy.wait()
