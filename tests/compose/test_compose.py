"""The containers, on a real Docker engine: from no image to a report, and down to nothing.

The engine and an override file come from the environment (DOCKER_HOST, COMPOSE_FILE). Knows compose.yaml and the
pages that are published; imports nothing of ours, since what counts is what the image holds.
"""

import json
import os
import re
import secrets
import subprocess
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = f"quorate-test-{os.getpid()}"
PASSWORDS = {
    name: secrets.token_hex(16) for name in ("REDIS_PASSWORD", "S3_PASSWORD", "FLOWER_PASSWORD", "GRAFANA_PASSWORD")
}
LABEL = f"label=com.docker.compose.project={PROJECT}"
METRICS = {"prometheus", "grafana"}
LONG_RUNNING = {"redis", "minio", "worker", "flower"}
pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]


def run(*command: str, timeout_s: float = 120, check: bool = True) -> str:
    """Standard output of a command in the checkout; what it said is in the failure."""
    # Ports 0: whatever is free, so that a stack of the developer's own may run beside this one.
    own = {"COMPOSE_PROJECT_NAME": PROJECT, "QUORATE_IMAGE": "quorate:test", "FLOWER_PORT": "0", "S3_CONSOLE_PORT": "0"}
    done = subprocess.run(
        command,
        check=False,
        cwd=ROOT,
        env=os.environ | own | PASSWORDS,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    if check and done.returncode:
        pytest.fail(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}")
    return done.stdout


def compose(*arguments: str, timeout_s: float = 120) -> str:
    return run("docker", "compose", *arguments, timeout_s=timeout_s)


def containers(service: str) -> list[str]:
    return compose("ps", "--all", "--quiet", service).split()


def inspected(ids: list[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("docker", "inspect", *ids)) if ids else []
    return found


def left_over() -> list[str]:
    """Every container, volume and network of this project."""
    kinds = (("ps", "-a"), ("volume", "ls"), ("network", "ls"))
    return [line for kind in kinds for line in run("docker", *kind, "-q", "--filter", LABEL).split()]


def page(path: str, password: str | None) -> tuple[int, str]:
    """Status and text of one of Celery Flower's pages."""
    request = urllib.request.Request(f"http://{compose('port', 'flower', '5555').strip()}{path}")
    if password is not None:
        request.add_header("Authorization", "Basic " + b64encode(f"ops:{password}".encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()


def missing(what: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="module")
def finished() -> Iterator[dict[str, float]]:
    """The stack after `docker compose up`, when the orchestrator has left. Seconds it all took."""
    for probe in (("docker", "compose", "version"), ("docker", "info")):
        try:
            subprocess.run(probe, capture_output=True, timeout=60, check=True)
        except (OSError, subprocess.SubprocessError):
            missing(f"`{' '.join(probe)}` fails: no Docker engine")
    seconds = {}
    try:
        start = time.monotonic()
        compose("build", "--quiet", timeout_s=1500)
        seconds["build"] = time.monotonic() - start
        compose("up", "--detach", "--no-build", timeout_s=300)
        run("docker", "wait", *containers("orchestrator"), timeout_s=600)
        seconds["up"] = time.monotonic() - start - seconds["build"]
        print(f"\nimage built in {seconds['build']:.0f} s; from `up` to the end of the run {seconds['up']:.0f} s")
        yield seconds
    finally:
        run("docker", "compose", "down", "--volumes", "--timeout", "1", timeout_s=180, check=False)


@pytest.fixture(scope="module")
def report(finished: dict[str, float], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """report.json, read out of the volume in which the orchestrator left it."""
    folder = tmp_path_factory.mktemp("runs")
    (state,) = (c["State"] for c in inspected(containers("orchestrator")))
    assert state["ExitCode"] == 0, compose("logs", "--no-color", "--tail", "60", "orchestrator", "worker")
    compose("cp", "orchestrator:/app/runs/demo/report.json", str(folder))
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def test_the_profile_metrics_resolves_and_is_left_out_by_default() -> None:
    """The images of Prometheus and Grafana are not pulled here: this is about what Compose makes of the file."""
    with_metrics = json.loads(compose("--profile", "metrics", "config", "--format", "json"))["services"]
    assert set(with_metrics) - set(json.loads(compose("config", "--format", "json"))["services"]) == METRICS
    for service in (with_metrics[name] for name in sorted(METRICS)):
        assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["user"].split(":")[0] != "0"
        assert {port["host_ip"] for port in service["ports"]} == {"127.0.0.1"}
        assert all(v["read_only"] and Path(v["source"]).exists() for v in service["volumes"] if v["type"] == "bind")
    assert with_metrics["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD"] == PASSWORDS["GRAFANA_PASSWORD"]


def test_three_workers_bring_the_demo_to_its_end(report: dict[str, Any]) -> None:
    assert report["status"] == "finished"
    assert report["version"] == 20
    assert len(containers("worker")) == 3


def test_slow_clients_are_closed_without(report: dict[str, Any]) -> None:
    clients = set(report["ledger"])
    cut = [client for clients_of_version in report["closed_without"].values() for client in clients_of_version]
    assert cut
    assert set(cut) <= clients


def test_flower_asks_for_the_password_and_shows_the_run(report: dict[str, Any]) -> None:
    assert page("/tasks", None)[0] == 401
    assert page("/tasks", "wrong")[0] == 401
    assert page("/tasks", PASSWORDS["FLOWER_PASSWORD"])[0] == 200
    status, text = page("/api/tasks?limit=1000", PASSWORDS["FLOWER_PASSWORD"])
    assert status == 200
    labels = [str(task["args"]) for task in json.loads(text).values() if task["state"] == "SUCCESS"]
    trained = [int(found[1]) for label in labels if (found := re.fullmatch(r"v(\d+) \S+ train", label))]
    assert set(trained) >= set(range(10, 20))  # it begins beside the run, and may miss what comes first


def test_no_secret_and_no_grant_is_in_the_logs_or_in_flower(report: dict[str, Any]) -> None:
    logs = compose("logs", "--no-color")
    shown = logs + page("/api/tasks?limit=10000", PASSWORDS["FLOWER_PASSWORD"])[1]
    assert "quorate.execute" in shown  # there is something to look through
    for secret in ("X-Amz-Signature", *PASSWORDS.values()):
        assert secret not in shown


def test_the_workers_hold_no_storage_credentials(report: dict[str, Any]) -> None:
    for container in inspected(containers("worker")):
        environment = "\n".join(container["Config"]["Env"])
        assert PASSWORDS["REDIS_PASSWORD"] in environment
        assert PASSWORDS["S3_PASSWORD"] not in environment
        assert "S3_SECRET" not in environment


def test_containers_are_confined_and_published_on_loopback_alone(report: dict[str, Any]) -> None:
    everything = inspected(compose("ps", "--all", "--quiet").split())
    assert len(everything) == 8  # redis, minio, volumes, orchestrator, flower, three workers
    for container in everything:
        host = container["HostConfig"]
        assert container["Config"]["User"] not in ("", "0", "root")
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        bound = [b["HostIp"] for bindings in (host["PortBindings"] or {}).values() for b in bindings]
        assert set(bound) <= {"127.0.0.1"}


def test_every_long_running_service_becomes_healthy(report: dict[str, Any]) -> None:
    for service in LONG_RUNNING:
        deadline = time.monotonic() + 300  # a worker is pinged once a minute, and may be too busy to answer at once
        while "starting" in (found := {c["State"]["Health"]["Status"] for c in inspected(containers(service))}):
            assert time.monotonic() < deadline, service
            time.sleep(1)
        assert found == {"healthy"}, service


def test_a_command_beside_the_run_leaves_the_workers_alone(report: dict[str, Any]) -> None:
    before = containers("worker")
    assert "photo-0" in compose("run", "--rm", "orchestrator", "quorate", "report", "demo")
    assert "nothing lost (finished)" in compose("run", "--rm", "orchestrator", "quorate", "audit", "demo")
    assert containers("worker") == before
    assert all(c["RestartCount"] == 0 and c["State"]["Running"] for c in inspected(before))


def test_workers_scale_down_within_their_grace(report: dict[str, Any]) -> None:
    start = time.monotonic()
    compose("up", "--detach", "--no-deps", "--no-recreate", "--scale", "worker=2", "worker")
    assert time.monotonic() - start < 25
    assert len(containers("worker")) == 2


def test_down_leaves_nothing(report: dict[str, Any]) -> None:
    assert left_over()
    compose("down", "--volumes", timeout_s=180)
    assert left_over() == []
