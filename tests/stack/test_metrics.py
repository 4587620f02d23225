"""A real Prometheus scrapes a real loop and Celery Flower, and answers every query of the dashboard."""

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from infra.runtime import connect_blobs
from infra.servers import S3, Child, Redis, answers, free_ports, start, wait_for
from orchestrator.archive import Archive
from orchestrator.commits import Commits
from orchestrator.tenure import LEASE_S
from schemas.story import Story
from tests import dashboard
from tests.checked import whole
from tests.stack.servers import environment, eventually, needed, settings
from tests.toys import paint

pytestmark = pytest.mark.stack
ROOT = Path(__file__).parents[2]
CLI = [sys.executable, "-m", "orchestrator.cli"]
WITHIN_S = 120.0
MAY_BE_EMPTY = {"quorate_tasks_resent_total", "quorate_messages_ignored_total"}
"""Nobody dies here, and nothing comes twice."""


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """A run without an end to speak of: slow clients, some that never answer, one whose updates are refused."""
    rounds = {
        "versions": 10_000,
        "in_flight": 4,
        "quorum": 2,
        "floor": 1,
        "grace_s": 0.1,
        "deadline_s": 2,
        "retries": 99,
    }
    document = {
        "name": "watched",
        "data": {"params": {"root": str(paint(tmp_path / "images"))}, "hold_out": ["striped"],
                 "partition": {"name": "by_domain", "params": {"clients_per_domain": 3}}},
        "model": {"backbone": {"name": "tests.toys:ToyBackbone"}},
        "method": {"name": "tests.runs.plugins:Poisoned", "params": {"client": "flat-1"}},
        "rounds": rounds,
        "evaluate": {"every": 2},
        "simulate": {"latency": {"name": "lognormal", "params": {"median_s": 1, "sigma": 1}}, "dropout": 0.2,
                     "time_scale": 0.1},
    }  # fmt: skip
    path = tmp_path / "watched.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def prometheus(experiment: Path, redis_server: Redis, s3_server: S3, tmp_path: Path) -> Iterator[str]:
    """The URL of a Prometheus that scrapes a loop at work and Flower, each on a port of its own on loopback."""
    program = needed(shutil.which("prometheus"), "Prometheus")
    url = _restricted(redis_server)
    env = {**environment(redis_server, s3_server, tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    env |= {"QUORATE_BUS": url, "QUORATE_STATE": url}
    at_worker = {k: v for k, v in env.items() if "S3" not in k and "BLOBS" not in k}
    loop, flower, own = free_ports(3)
    celery = [sys.executable, "-m", "celery", "-A", "infra.celery_app", "flower"]
    children = [
        start("worker", [*CLI, "worker", "--pool"], tmp_path, env=at_worker),
        start("flower", [*celery, "--address=127.0.0.1", f"--port={flower}"], tmp_path, env=at_worker),
        start("prometheus", _command(program, tmp_path, own, loop, flower), tmp_path),
        start("loop", [*CLI, "run", str(experiment)], tmp_path, env=env | {"QUORATE_METRICS": str(loop)}, cwd=tmp_path),
    ]
    url = f"http://127.0.0.1:{own}"
    try:
        wait_for(partial(answers, f"{url}/-/ready"), children[2], WITHIN_S)
        _wait_for_data(url, children[3])
        yield url
    finally:
        for child in reversed(children):
            child.stop()
    whole(Commits("watched", connect_blobs(settings(redis_server, s3_server, tmp_path / "cache"))))


def _restricted(server: Redis) -> str:
    """The URL of a user who may do what docs/operations.md says, and nothing else."""
    (line,) = re.findall(r"ACL SETUSER quorate (.*)", (ROOT / "docs/operations.md").read_text())
    admin = redis.Redis.from_url(server.url)
    admin.execute_command("ACL", "SETUSER", "quorate", "reset", *line.replace("PASSWORD", "secret").split())
    admin.execute_command("ACL", "LOG", "RESET")
    return server.url.replace("unix://", "unix://quorate:secret@")


def _command(program: str, folder: Path, own: int, loop: int, flower: int) -> list[str | Path]:
    """As the profile `metrics` does it, but on loopback, with fixed targets, and once a second."""
    asked = yaml.safe_load((ROOT / "infra/deploy/prometheus.yml").read_text())
    asked["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s"}
    for job, port in zip(asked["scrape_configs"], (loop, flower), strict=True):
        job.pop("dns_sd_configs", None)
        job["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(asked))
    return [program, f"--config.file={path}", f"--storage.tsdb.path={folder / 'prometheus'}",
            f"--web.listen-address=127.0.0.1:{own}"]  # fmt: skip


def _wait_for_data(url: str, loop: Child) -> None:
    enough = "quorate_evaluated_version >= 2 and on () sum(flower_task_runtime_seconds_count) > 0"
    refused = "sum(quorate_updates_rejected_total) > 0 and on () sum(quorate_updates_lost_total) > 0"
    wait_for(lambda: bool(ask(url, enough)) and bool(ask(url, refused)), loop, WITHIN_S)


def ask(url: str, query: str) -> list[Any]:
    """What Prometheus answers to an instant query. Raises HTTPError if it does not understand it."""
    with urllib.request.urlopen(f"{url}/api/v1/query?{urllib.parse.urlencode({'query': query})}", timeout=10) as answer:
        found = json.load(answer)
    assert found["status"] == "success" and not found.get("warnings"), found
    result: list[Any] = found["data"]["result"]
    return result


def test_prometheus_answers_every_query_of_the_dashboard_with_data(
    prometheus: str, redis_server: Redis, s3_server: S3, tmp_path: Path
) -> None:
    for query in dashboard.queries():
        filled = dashboard.filled(query, "watched", "20s")
        if dashboard.metrics(query) & MAY_BE_EMPTY:
            ask(prometheus, filled)
        else:  # a rate needs two scrapes, and a target may be too busy to answer one
            eventually(partial(_is_answered, prometheus, filled), f"an answer to {filled}", within_s=30)
    with urllib.request.urlopen(f"{prometheus}/api/v1/label/run/values", timeout=10) as answer:
        assert json.load(answer)["data"] == ["watched"]
    _story_is_told(redis_server, s3_server, tmp_path)
    # Loop, worker and Flower ran as the restricted user, and Redis has refused them nothing.
    assert redis.Redis.from_url(redis_server.url).execute_command("ACL", "LOG") == []


def _is_answered(url: str, query: str) -> bool:
    return bool(ask(url, query))


def _story_is_told(redis_server: Redis, s3_server: S3, tmp_path: Path) -> None:
    """Of the same run while it goes on: whose it is, its rounds, and the one that is open, from the stream."""
    archive = Archive(settings(redis_server, s3_server, tmp_path / "cache"))
    told, until = archive.story("watched"), time.monotonic() + 30
    while not (told.open and told.open.asked and _refused(told)) and time.monotonic() < until:
        told = archive.story("watched")  # a round has just been opened, now and then
    rounds = [told.open] if told.open else []
    assert told.status == archive.summary("watched").status == "running"
    assert told.owner is not None and told.owner.silent_s is not None and told.owner.silent_s < LEASE_S
    assert [r.version for r in told.rounds] == list(range(1, told.version + 1)) and told.version >= 2
    assert "flat-1" in _refused(told)
    (opened,) = rounds
    assert opened.version == told.version + 1 and set(opened.asked) <= set(opened.counted) | set(opened.without) | {
        g.client for g in opened.lost
    }
    assert archive.trouble == ""


def _refused(told: Story) -> set[str]:
    return {g.client for r in told.rounds for g in r.rejected}


def test_the_configuration_of_the_profile_is_understood() -> None:
    program = needed(shutil.which("promtool"), "Prometheus")
    command = [program, "check", "config", str(ROOT / "infra/deploy/prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
