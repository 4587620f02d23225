"""A real worker process on a real broker: what it does, what it says, and what nobody may see."""

import base64
import json
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import urllib3

from infra.bus import LARGEST, POOL
from infra.celery_app import TASK, make_app
from infra.celery_bus import CeleryBus
from infra.clock import WallClock
from infra.runtime import Runtime, connect
from infra.servers import S3, Child, Redis, answers, free_port, start, start_redis, wait_for
from infra.stream import START, Entry
from schemas.base import canonical
from schemas.errors import BusError, ConfigError, StoreError
from schemas.experiment import Data, Experiment, Setting
from schemas.messages import ClientSlot, Description, Manifest, Task, TaskFailure
from tests.stack.servers import allowed, asked_to_tell, environment, eventually, settings, shown_on
from tests.toys import Office, experiment, paint
from workers import celery_worker

pytestmark = pytest.mark.stack
WITHIN_S = 120.0
GONE_S = 15.0
"""The goals: a worker that is told to stop is gone within this, and a broker that does not answer is given up."""


class Stack:
    """One worker of the pool on the servers of the session, and somebody who plays the loop."""

    def __init__(self, redis_server: Redis, s3_server: S3, folder: Path) -> None:
        self.env = environment(redis_server, s3_server, folder / "cache")
        self.runtime: Runtime = connect(settings(redis_server, s3_server, folder / "cache"))
        self.folder, self.redis, self.children = folder, redis_server, list[Child]()
        self.cursor = START

    def pool_worker(self) -> Child:
        """The worker of the pool, started if there is none."""
        alive = [child for child in self.children if not child.ended()]
        return alive[0] if alive else self.worker("--pool")

    def worker(self, *arguments: str) -> Child:
        """Start one, and wait until it serves its queue."""
        command = [sys.executable, "-m", "workers.celery_worker", *arguments]
        env = {k: v for k, v in self.env.items() if "S3" not in k and "BLOBS" not in k}
        child = start(f"worker-{len(self.children)}", command, self.folder, env=env)
        self.children.append(child)
        wait_for(lambda: '"event": "ready"' in child.log.read_text(), child, WITHIN_S)
        return child

    def office(self, asked: Experiment) -> Office:
        office = Office(self.folder, asked)
        office.blobs = self.runtime.blobs  # type: ignore[assignment]
        office.setting = office.put(f"setting-{time.time_ns()}.json", canonical(Setting(experiment=asked)))
        return office

    def describe(self, asked: Experiment) -> Task:
        """A task to describe the data, with an id and keys of its own."""
        return self.office(asked).task("describe", f"v0.describe.{time.time_ns()}")

    def send(self, task: Task, site: str | None = None) -> Task:
        self.runtime.bus.send(task, site)
        return task

    def answer(self, task: Task) -> Entry:
        """The manifest or failure of a task."""
        until = time.monotonic() + WITHIN_S
        while time.monotonic() < until:
            for entry in self.runtime.stream.read("toy", self.cursor, self.runtime.bus.clock.now() + 1):
                self.cursor = entry.id
                if json.loads(entry.body)["task_id"] == task.task_id:
                    return entry
            assert [child for child in self.children if not child.ended()], self.children[-1].ended()
        raise AssertionError(f"no answer to {task.task_id}: {self.log()[-3000:]}")

    def idle(self) -> bool:
        """Whether Celery's parents say that they hold no task: what they tell of one they have told by then."""
        held = make_app(self.redis.url).control.inspect(timeout=5.0).active()
        return bool(held) and not any(held.values())

    def log(self) -> str:
        return "".join(child.log.read_text() for child in self.children)

    def stop(self) -> None:
        for child in self.children:
            child.stop()


@pytest.fixture(scope="module")
def servers(redis_server: Redis, s3_server: S3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A worker takes seconds to import torch: tests share one, and those that end it leave a gap to the next."""
    made = Stack(redis_server, s3_server, tmp_path_factory.mktemp("stack"))
    yield made
    made.stop()


@pytest.fixture
def stack(servers: Stack) -> Stack:
    return servers


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return paint(tmp_path / "images")


def asked_of(dataset: str, **params: object) -> Experiment:
    data = Data(name=f"tests.stack.plugins:{dataset}", params=params)
    return experiment().model_copy(update={"sites": None, "data": data})


def signatures(*tasks: Task) -> list[str]:
    return re.findall(r"X-Amz-Signature=([0-9a-f]{64})", "".join(t.model_dump_json() for t in tasks))


def test_a_task_is_done_and_every_line_says_which(stack: Stack, images: Path) -> None:
    worker = stack.pool_worker()
    task = stack.send(stack.describe(experiment(images)))
    entry = stack.answer(task)
    assert entry.author == "manifest", entry.body
    manifest = Manifest.model_validate_json(entry.body)
    found = Description.model_validate_json(stack.runtime.blobs.get(manifest.outputs["description"]))
    assert [c.partition("-")[0] for c in found.clients] == ["flat", "noisy"]  # `striped` is held out
    eventually(lambda: f"{task.task_id}:1] succeeded" in stack.log(), "Celery says that it succeeded")
    lines = [json.loads(line) for line in worker.log.read_text().splitlines()]  # every line is JSON
    of_task = [line for line in lines if task.task_id in json.dumps(line)]
    celerys = [line for line in of_task if line["logger"].startswith("celery.")]
    assert len(celerys) >= 2 and len(of_task) > len(celerys)
    for line in of_task:
        assert {"run": "toy", "version": 0, "client": "all", "task_id": task.task_id}.items() <= line.items(), line
    assert_unseen(stack, task)


def test_a_task_over_its_deadline_is_a_failure_for_good(stack: Stack, images: Path) -> None:
    stack.pool_worker()
    task = stack.describe(asked_of("Blocking", root=str(images))).model_copy(update={"deadline_s": 1.0})
    began = time.monotonic()
    failure = TaskFailure.model_validate_json(stack.answer(stack.send(task)).body)
    assert failure.code == "client" and "TimeLimit" in failure.message
    assert time.monotonic() - began < allowed(20)


def test_a_message_that_is_no_task_ends_no_worker(stack: Stack, images: Path) -> None:
    worker = stack.pool_worker()
    app = make_app(stack.redis.url)
    for text in ("", "no json", '{"run": "toy"', "{}", "x" * 1_000_000):
        app.send_task(TASK, args=[text], queue=POOL, argsrepr="rubbish")
    app.send_task("another.task", args=["X-Amz-Signature=0badcafe"], queue=POOL)
    app.send_task(TASK, queue=POOL)
    assert stack.answer(stack.send(stack.describe(experiment(images)))).author == "manifest"
    assert not worker.ended()
    assert "0badcafe" not in worker.log.read_text()


def test_a_worker_tells_of_its_tasks_once_somebody_has_asked(stack: Stack, images: Path) -> None:
    stack.pool_worker()
    with redis.Redis.from_url(stack.redis.url).pubsub() as monitor:
        monitor.psubscribe("*celeryev*task*")
        monitor.get_message(timeout=WITHIN_S)  # subscribed
        unseen, seen = stack.describe(experiment(images)), stack.describe(experiment(images))
        stack.answer(stack.send(unseen))
        eventually(stack.idle, "the worker has told nobody of its end")
        asked_to_tell(stack.redis.url)
        stack.answer(stack.send(seen))
        first = monitor.get_message(timeout=WITHIN_S)
    assert first is not None
    told = base64.b64decode(json.loads(first["data"])["body"]).decode()
    assert seen.task_id in told and unseen.task_id not in told


def test_the_monitor_shows_labels_and_no_grant_and_a_lost_process_is_reported(stack: Stack, images: Path) -> None:
    worker = stack.pool_worker()
    port = free_port()
    url, headers = f"http://127.0.0.1:{port}", urllib3.make_headers(basic_auth="ops:pw")
    command = [sys.executable, "-m", "celery", "-A", "infra.celery_app", "flower"]
    command += ["--address=127.0.0.1", f"--port={port}"]
    flower = start("flower", command, stack.folder, env=stack.env | {"FLOWER_BASIC_AUTH": "ops:pw"})

    def api(path: str) -> str:
        return urllib3.request("GET", f"{url}/api/{path}", headers=headers, timeout=10).data.decode()

    try:
        wait_for(lambda: answers(f"{url}/healthcheck"), flower, WITHIN_S)
        assert urllib3.request("GET", f"{url}/api/tasks").status == 401
        eventually(lambda: "pool@" in api("workers?refresh=1"), "the monitor sees the worker")

        def told() -> bool:
            stack.answer(stack.send(stack.describe(experiment(images))))
            return "v0 all describe" in api("tasks")

        eventually(told, "the monitor has asked the worker to tell what it does")
        dead = stack.send(stack.describe(asked_of("Deadly")))
        failure = TaskFailure.model_validate_json(stack.answer(dead).body)
        assert (failure.code, failure.attempt) == ("infra", 1) and "WorkerLost" in failure.message
        done = stack.send(stack.describe(experiment(images)))
        assert stack.answer(done).author == "manifest"  # by a new process of the same worker
        eventually(lambda: '"SUCCESS"' in api("tasks") and '"FAILURE"' in api("tasks"), "it sees how both ended")
        text = api("tasks")
    finally:
        flower.stop()
    assert "v0 all describe" in text and done.task_id in text and dead.task_id in text
    assert "X-Amz" not in text + flower.log.read_text() and not worker.ended()
    assert_unseen(stack, dead, done)


def test_a_worker_that_is_told_to_stop_gives_its_task_back(stack: Stack, images: Path) -> None:
    worker = stack.pool_worker()
    task = stack.send(stack.describe(asked_of("Blocking", root=str(images))))
    eventually(lambda: images.with_suffix(".pid").exists(), "the task is at work")
    eventually(lambda: stack.runtime.state.beating("toy", [task.work]) == {task.work}, "its lease is there")
    began = time.monotonic()
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(WITHIN_S) == 0
    assert time.monotonic() - began < allowed(GONE_S)
    eventually(lambda: stack.runtime.state.beating("toy", [task.work]) == set(), "its lease has ended")
    images.with_suffix(".go").touch()
    stack.pool_worker()
    assert stack.answer(task).author == "manifest"
    for line in worker.log.read_text().splitlines():
        json.loads(line)  # Celery's words about its own shutdown too


def test_a_killed_worker_leaves_no_grant_to_be_seen(stack: Stack, images: Path) -> None:
    worker = stack.pool_worker()
    task = stack.send(stack.describe(asked_of("Blocking", root=str(images))))
    eventually(lambda: images.with_suffix(".pid").exists(), "the task is at work")
    child = int(images.with_suffix(".pid").read_text())
    worker.process.kill()
    worker.process.wait()
    assert_unseen(stack, task)
    eventually(lambda: not alive(child), "its child has gone with it")
    eventually(lambda: stack.runtime.state.beating("toy", [task.work]) == set(), "its lease has ended")


def test_a_task_whose_grants_expired_in_the_queue_is_not_begun(stack: Stack, images: Path) -> None:
    assert all(child.ended() for child in stack.children)  # the test before has killed the last worker
    task = stack.describe(asked_of("Blocking", root=str(images)))
    grant = stack.runtime.blobs.grant(task.setting.blob.key, "GET", 0.1)
    stale = task.model_copy(update={"setting": task.setting.model_copy(update={"grant": grant})})
    stack.send(stale)
    stack.pool_worker()
    failure = TaskFailure.model_validate_json(stack.answer(stale).body)
    assert failure.code == "grant" and "403" in failure.message
    assert not images.with_suffix(".pid").exists()


def test_a_site_serves_its_own_queue_with_its_own_data(stack: Stack, tmp_path: Path) -> None:
    paint(tmp_path / "own", domains=("ward",))
    (tmp_path / "site.yaml").write_text(
        "data: {name: folder, params: {root: own}}\nplugins: ['tests.toys:ToyBackbone']\n"
    )
    worker = stack.worker("--site", "clinic", "--data", str(tmp_path / "site.yaml"))
    entry = stack.answer(stack.send(stack.describe(experiment()), site="clinic"))
    assert entry.author == "manifest", entry.body
    outputs = Manifest.model_validate_json(entry.body).outputs
    text = stack.runtime.blobs.get(outputs["description"]).decode()
    assert list(Description.model_validate_json(text).clients) == ["clinic"]
    assert str(tmp_path) not in text + entry.body
    eventually(lambda: stack.runtime.bus.waiting("clinic") == "0 waiting, 1 worker", "it answers within a second")
    worker.stop()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data: {nam: folder}", "did you mean 'name'?"),
        ("data: {name: foldr}", "did you mean 'folder'?"),
        ("data: {name: folder, params: {root: [}", "is not YAML"),
        ("private: here", "says nothing of the data"),
        ("#" * 1_000_001, "larger than"),
        (None, "cannot read"),
    ],
)
def test_a_mistake_in_site_yaml_is_one_line_and_exit_2(
    text: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], redis_server: Redis
) -> None:
    if text is not None:
        (tmp_path / "site.yaml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUORATE_STATE", redis_server.url)
        patch.setenv("QUORATE_BUS", redis_server.url)
        patch.delenv("REMAP_SIGTERM", raising=False)
        assert celery_worker.run(["--site", "s", "--data", str(tmp_path / "site.yaml")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


class TestBus:
    def test_it_counts_what_waits_and_who_serves(self, stack: Stack) -> None:
        site = f"nobody-{time.time_ns()}"
        assert stack.runtime.bus.waiting(site) == "0 waiting, 0 workers"
        stack.send(stack.describe(experiment()), site)
        assert stack.runtime.bus.waiting(site) == "1 waiting, 0 workers"

    def test_a_huge_task_and_an_endless_one_are_refused(self, stack: Stack) -> None:
        task = stack.describe(experiment())
        many = task.model_copy(update={"clients": tuple(ClientSlot(client=f"c{n}") for n in range(LARGEST // 40))})
        with pytest.raises(ConfigError, match="can be sent"):
            stack.runtime.bus.send(many, None)
        with pytest.raises(ConfigError, match="longer than the broker waits"):
            stack.runtime.bus.send(task.model_copy(update={"deadline_s": 1e6}), None)

    def test_a_broker_that_is_not_there_is_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(BusError, match="QUORATE_BUS"):
            CeleryBus(f"unix://{tmp_path}/none.sock", WallClock())

    def test_an_emptied_broker_takes_tasks_again(self, tmp_path: Path, stack: Stack) -> None:
        server = start_redis(tmp_path / "emptied")
        try:
            bus = CeleryBus(server.url, WallClock())
            bus.send(stack.describe(experiment()), None)
            redis.Redis.from_url(server.url).flushall()
            bus.send(stack.describe(experiment()), None)
            assert bus.waiting(None) == "1 waiting, 0 workers"
        finally:
            server.child.stop()

    def test_a_broker_that_refuses_for_good_is_not_waited_for(self, tmp_path: Path, stack: Stack) -> None:
        server = start_redis(tmp_path / "refusing")
        try:
            rights = "on >secret ~quorate:run:* &* +@all"  # not to the queues
            redis.Redis.from_url(server.url).execute_command("ACL", "SETUSER", "half", "reset", *rights.split())
            bus = CeleryBus(server.url.replace("://", "://half:secret@"), WallClock())
            with pytest.raises(StoreError, match="the broker refuses") as refused:
                bus.send(stack.describe(experiment()), None)
            assert "QUORATE_BUS" in str(refused.value) and "\n" not in str(refused.value)
        finally:
            server.child.stop()

    def test_a_frozen_broker_is_unknown_within_seconds(self, tmp_path: Path, stack: Stack) -> None:
        server = start_redis(tmp_path / "frozen")
        try:
            bus = CeleryBus(server.url, WallClock())
            task = stack.describe(experiment())
            bus.send(task, None)
            server.child.process.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            with pytest.raises(BusError, match="unknown"):
                bus.send(task, None)
            assert time.monotonic() - began < allowed(GONE_S)
            server.child.process.send_signal(signal.SIGCONT)
            bus.send(task, None)
        finally:
            server.child.process.send_signal(signal.SIGCONT)
            server.child.stop()

    def test_a_worker_is_free_again_although_the_broker_did_not_hear_that_a_task_is_done(
        self, tmp_path: Path, stack: Stack
    ) -> None:
        server = start_redis(tmp_path / "unheard")
        try:
            CeleryBus(server.url, WallClock()).send(stack.describe(experiment()), None)
            with make_app(server.url, socket_timeout_s=0.5).connection_for_read() as connection:
                channel = connection.channel()
                channel.basic_qos(0, 1, False)
                message = channel.basic_get(POOL)
                assert not channel.qos.can_consume()
                server.child.process.send_signal(signal.SIGSTOP)
                with pytest.raises(redis.TimeoutError):
                    message.ack()
                server.child.process.send_signal(signal.SIGCONT)
                assert channel.qos.can_consume()
        finally:
            server.child.process.send_signal(signal.SIGCONT)
            server.child.stop()


def alive(pid: int) -> bool:
    """Whether the process is there and not merely waiting to be buried."""
    status = Path(f"/proc/{pid}/status")
    try:
        return "State:\tZ" not in status.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def assert_unseen(stack: Stack, *tasks: Task) -> None:
    """No grant in any log line, nor in anything on the broker that is not the message's own encoded body."""
    secrets = signatures(*tasks)
    assert len(secrets) >= 3
    text = stack.log()
    assert not [s for s in secrets if s in text] and not re.search(r"X-Amz-Signature=(?!\*\*\*)", text)
    for shown in shown_on(stack.redis):
        assert not [s for s in secrets if s in shown]
