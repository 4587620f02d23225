"""Rubbish in a real Redis stream and in a real Celery queue, and wrong credentials: runs go on, users get one line."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from infra.bus import POOL
from infra.celery_app import KEYS, TASK, make_app
from infra.redis_state import key
from infra.runtime import connect, connect_blobs
from infra.servers import S3, Child, Redis, start, start_redis, wait_for
from orchestrator import run as runs
from orchestrator.commits import Commits
from orchestrator.plan import plan
from schemas.errors import SettingsError
from schemas.report import Report
from tests.checked import whole
from tests.mutations import mutants, noise
from tests.runs.here import ignore, run
from tests.stack.servers import GUEST, environment, settings
from tests.toys import experiment, paint
from tests.unit.test_messages import FAILURE, MANIFEST
from tests.unit.test_messages import TASK as A_TASK

pytestmark = pytest.mark.stack
CLI = [sys.executable, "-m", "orchestrator.cli"]
ROOT = Path(__file__).parents[2]
ROUNDS = {"versions": 2, "in_flight": 2, "quorum": 2, "floor": 2, "max_staleness": 0}


@contextmanager
def _worker(redis_server: Redis, s3_server: S3, folder: Path) -> Iterator[Child]:
    """One of the pool, that serves its queue."""
    env = environment(redis_server, s3_server, folder / "cache")
    env = {k: v for k, v in env.items() if "S3" not in k and "BLOBS" not in k} | {"PYTHONPATH": str(ROOT)}
    child = start("worker", [sys.executable, "-m", "workers.celery_worker", "--pool"], folder, env=env)
    try:
        wait_for(lambda: '"event": "ready"' in child.log.read_text(), child, 120)
        yield child
    finally:
        child.stop()


def _rubbish_in_the_stream(client: redis.Redis, name: str) -> None:
    stream = key(name, "stream")
    bodies = [*noise(100, seed=1), *mutants(MANIFEST.model_dump(mode="json"), 100, seed=2)]
    bodies += mutants(FAILURE.model_dump(mode="json"), 100, seed=3)
    for i, body in enumerate(bodies):
        client.xadd(stream, {"author": (b"manifest", b"failure", b"\xff", b"")[i % 4], "body": body})
    client.xadd(stream, {"body": b"no author"})
    client.xadd(stream, {"author": b"manifest"})
    client.xadd(stream, {b"\xff\xfe": b"\xff"})


def _rubbish_in_the_queue(server: Redis, client: redis.Redis) -> None:
    app = make_app(server.url)
    for body in [*noise(100, seed=4), *mutants(A_TASK.model_dump(mode="json"), 100, seed=5)]:
        text = body.decode(errors="replace").replace("http://store", "file:///nowhere")  # which is known at once
        app.send_task(TASK, args=[text], queue=POOL, argsrepr="rubbish")
    for arguments in ([], [1], [None], [{}], ["a", "b"]):
        app.send_task(TASK, args=arguments, queue=POOL, argsrepr="rubbish")
    assert client.llen(KEYS + POOL) > 0


def _raw_rubbish_in_the_queue(server: Redis, client: redis.Redis) -> None:
    """What no publisher writes: pushed onto the list of the queue, where kombu expects its own envelope."""
    make_app(server.url).send_task(TASK, args=["x"], queue=POOL, argsrepr="rubbish", task_id="a:b:1")
    envelope = json.loads(client.lpop(KEYS + POOL))  # type: ignore[arg-type]
    properties = envelope["properties"]
    pushed = [b"null", b"[]", b"1", b"{}", b"[" * 100_000, b'{"__type__": "uuid", "__value__": 1}', b'{"body": "x"}']
    pushed += [b"x" * 10_000_000, json.dumps(envelope | {"body": "x" * 10_000_000}).encode()]
    for odd in (
        {"content-type": "application/x-python-serialize"}, {"content-type": None}, {"content-encoding": "rot13"},
        {"body": "not base64"}, {"body": 7}, {"body": ""}, {"body": "e30="}, {"headers": None}, {"headers": []},
        {"headers": {}}, {"headers": {"task": "os:system"}}, {"headers": {"task": TASK}}, {"properties": {}},
        {"properties": properties | {"body_encoding": "rot13"}}, {"properties": properties | {"delivery_tag": []}},
        {"properties": properties | {"delivery_info": 1}}, {"properties": properties | {"delivery_info": {}}},
    ):  # fmt: skip
        pushed.append(json.dumps(envelope | odd).encode())
    for body in [*pushed, *noise(100, seed=6), *mutants(envelope, 300, seed=7)]:
        client.lpush(KEYS + POOL, body)


def test_a_run_with_rubbish_around_it_ends_in_the_bytes_of_an_undisturbed_one(
    redis_server: Redis, s3_server: S3, tmp_path: Path
) -> None:
    asked = experiment(paint(tmp_path / "images", per_class=5), rounds=ROUNDS)
    expected = run(asked, tmp_path / "embedded").report
    name = f"rubbish-{time.time_ns()}"
    client = redis.Redis.from_url(redis_server.url)
    _rubbish_in_the_stream(client, name)
    _rubbish_in_the_queue(redis_server, client)  # nobody serves it yet: what is looked for in it is there
    _raw_rubbish_in_the_queue(redis_server, client)
    runtime = connect(settings(redis_server, s3_server, tmp_path / "cache"))
    with _worker(redis_server, s3_server, tmp_path) as worker:
        outcome = runs.execute(plan(asked), runtime, name, ignore)
        assert outcome.report.status == "finished", outcome.report.reason
        assert outcome.report.adapter_sha256 == expected.adapter_sha256
        assert outcome.report.ledger == expected.ledger
        whole(Commits(name, runtime.blobs))
        assert not worker.ended()
        assert worker.log.read_text().count("thrown away") > 200  # of 426 raw ones, nearly half are still some message
        assert "X-Amz-Signature=" not in re.sub(r"X-Amz-Signature=\*\*\*", "", worker.log.read_text())


def _quorate(*arguments: str, env: dict[str, str], cwd: Path, status: int | None = None) -> str:
    """The one line that a command says as it fails."""
    done = subprocess.run(
        [*CLI, *arguments], env={**os.environ, "PYTHONPATH": str(ROOT), **env}, cwd=cwd, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode in ((1, 2) if status is None else (status,)) and done.stdout == "", done
    (line,) = done.stderr.splitlines()
    assert line.startswith("quorate: ") and "hunter2" not in line
    return line


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "x.yaml").write_text("name: x\ndata: {name: shapes}\nmethod: {name: fedclip}\n")
    return tmp_path / "x.yaml"


def test_a_run_for_which_nobody_works_ends_as_failed_and_says_how_many_wait(
    redis_server: Redis, s3_server: S3, tmp_path: Path
) -> None:
    (tmp_path / "x.yaml").write_text("name: x\nsites: [nobody, no-one]\nmethod: {name: fedclip}\nstart_s: 1\n")
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment(redis_server, s3_server, tmp_path / "cache")}
    command = [*CLI, "run", "x.yaml", "--name", f"idle-{time.time_ns()}", "--json"]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    told = Report.model_validate_json(done.stdout)
    assert (done.returncode, told.status, told.version) == (1, "failed", 0)
    assert "no answer from nobody, no-one: 1 waiting, 0 workers; 1 waiting, 0 workers" in told.reason
    whole(Commits(told.run, connect_blobs(settings(redis_server, s3_server, tmp_path / "cache"))))


def test_a_wrong_key_of_the_s3_is_one_line(redis_server: Redis, s3_server: S3, file: Path) -> None:
    env = environment(redis_server, s3_server, file.parent / "cache")
    for wrong in ({"QUORATE_S3_SECRET_KEY": "hunter2"}, {"QUORATE_S3_ACCESS_KEY": "nobody"}):
        assert "check QUORATE_S3_ACCESS_KEY" in _quorate("run", str(file), env=env | wrong, cwd=file.parent)


def test_no_bucket_and_no_right_to_make_one_is_one_line(redis_server: Redis, s3_server: S3, file: Path) -> None:
    its = settings(redis_server, s3_server, file.parent / "cache")
    connect_blobs(its)  # so that the bucket of its owner is there
    address = s3_server.url.rpartition("/")[0]
    for bucket in ("elsewhere", "nowhere", "quorate"):  # not there though it may be read, not there, not the guest's
        with pytest.raises(SettingsError, match=f"bucket '{bucket}': AccessDenied"):
            connect_blobs(its.model_copy(update={"s3_access_key": GUEST, "blobs": f"{address}/{bucket}"}))
    env = environment(redis_server, s3_server, file.parent / "cache")
    env |= {"QUORATE_S3_ACCESS_KEY": GUEST, "QUORATE_BLOBS": f"{address}/elsewhere"}
    line = _quorate("run", str(file), env=env, cwd=file.parent, status=2)
    assert "check QUORATE_S3_ACCESS_KEY and its rights" in line and s3_server.secret_key not in line


def test_a_wrong_password_of_redis_is_one_line(s3_server: S3, file: Path, tmp_path: Path) -> None:
    server = start_redis(tmp_path / "locked")
    try:
        redis.Redis.from_url(server.url).config_set("requirepass", "right")
        env = environment(server, s3_server, tmp_path / "cache")
        for password in ({}, {"QUORATE_REDIS_PASSWORD": "hunter2"}):
            for command in (["run", str(file)], ["worker", "--pool"]):
                line = _quorate(*command, env=env | password, cwd=tmp_path)
                assert "assword" in line or "uthenticat" in line, line
    finally:
        server.child.stop()
