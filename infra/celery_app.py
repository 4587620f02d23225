"""The Celery application: one task, one set of settings for publisher, worker and monitor alike.

Celery is only the transport: no result backend, no canvas, no ETA, no retry of its own. What the task does is a
`Work` that the worker's process brings along. `celery -A infra.celery_app flower` finds the application here: a
monitor with other settings would take running tasks for lost and deliver them again.
"""

import contextlib
import json
import os
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

from celery import Celery, Task, signals
from celery.apps import worker as celery_worker
from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from celery.platforms import EX_OK

from infra.bus import POOL
from infra.celery_reader import Transport
from infra.settings import read
from schemas.messages import TaskFailure

TASK = "quorate.execute"
KEYS = "quorate:bus:"
"""Every key of the broker begins so; a queue is one Redis list of that name."""

VISIBILITY_S = 6 * 3600
"""After so long without an acknowledgement the broker delivers a task again. A back-stop only: the loop re-sends by
lease within seconds. Must be the same in every process, and longer than any time limit."""

SOFT_SHUTDOWN_S = 5.0
LOOK_S = 1.0
"""How often the parent looks which tasks it holds that no child is at yet."""


class Work(Protocol):
    """What a worker does with tasks. Pickled into each child process: only plain values before `start`."""

    def start(self, child: int) -> None:
        """Once in each child process, before its first task. child: 0, 1, … within this worker."""

    def handle(self, text: str) -> None:
        """One task, as JSON."""

    def holds(self, run: str, task_id: str, attempt: int) -> None:
        """In the parent, again and again: this worker has taken a task that none of its children has begun."""

    def lost(self, failure: TaskFailure) -> None:
        """A task ended in a way that it could not report itself."""

    def log(self) -> None:
        """Set logging up, in the parent and in each child."""


class App(Celery):  # type: ignore[misc]
    """Celery that reaches a spawned child by being built again there."""

    work: Work | None = None
    url: str = ""

    def connection_for_read(self, url: str | None = None, **options: Any) -> Any:
        """As Celery's; a worker's reads tasks and nothing else."""
        connection = super().connection_for_read(url, **options)
        connection.transport_cls = Transport
        return connection

    def __reduce__(self) -> tuple[Callable[..., "App"], tuple[str, Work | None]]:
        return make_app, (self.url, self.work)


def make_app(url: str, work: Work | None = None, *, socket_timeout_s: float = 15.0) -> App:
    """The application on the broker at a Redis URL; with `work` it can run the task."""
    app = App("quorate", broker=_broker(url), set_as_current=work is not None)
    app.url, app.work = url, work
    app.conf.update(
        task_serializer="json",
        event_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        result_backend=None,
        task_acks_late=True,
        task_acks_on_failure=True,
        task_acks_on_timeout=True,
        task_reject_on_worker_lost=False,  # else a task that kills its process would run for ever
        task_retry_on_worker_lost=False,  # its retry drops argsrepr: grants would be seen in the monitor
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_pool="prefork",
        worker_pool_start_method="spawn",  # a forked child cannot use CUDA
        worker_proc_alive_timeout=60,
        worker_lost_wait=1.0,  # else a process killed before its first beat is reported 10 to 15 s later
        worker_soft_shutdown_timeout=SOFT_SHUTDOWN_S,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        task_default_queue=POOL,
        task_create_missing_queues=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_pool_acquire_timeout=10,
        broker_transport_options={
            "visibility_timeout": VISIBILITY_S,
            "global_keyprefix": KEYS,
            "priority_steps": [0],  # one Redis list per queue
            "socket_timeout": socket_timeout_s,  # without it a frozen server blocks a publisher for ever
            "socket_connect_timeout": 5,
            "socket_keepalive": urlsplit(url).scheme != "unix",
            "health_check_interval": 10,
        },
        # Without it kombu takes any certificate of a `rediss://`. What the URL says of TLS itself comes before this.
        broker_use_ssl={"ssl_cert_reqs": "required"} if urlsplit(url).scheme == "rediss" else False,
        worker_send_task_events=False,  # until a monitor asks for them, as Flower does every five seconds
        task_track_started=True,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )
    if work is not None:
        app.register_task(_Execute())
        _connect(work)
    return app


def __getattr__(name: str) -> Any:
    """`app`, for the `celery` command: made when asked for, because nothing happens at import time."""
    if name == "app":
        return make_app(read().bus_url)
    raise AttributeError(name)


def run_worker(app: App, *, name: str, queue: str, processes: int) -> int:
    """Serve one queue until a signal ends it; the exit status.

    SIGTERM gives running tasks five seconds, then puts them back (needs REMAP_SIGTERM=SIGQUIT in the environment
    before this module is imported).
    """
    celery_worker.safe_say = _say
    node = app.Worker(
        hostname=name,
        queues=[queue],
        concurrency=processes,
        pool="prefork",
        loglevel="CRITICAL",  # of billiard, which writes no JSON before our logging is set up in a child
        quiet=True,
        without_gossip=True,
        without_mingle=True,
    )
    node.start()
    # A cold shutdown is the ordinary way to leave here; Celery calls it a failure.
    return EX_OK if node.exitcode in (None, EX_OK) or _asked_to_leave() else int(node.exitcode)


def celery_id(run: str, task_id: str, attempt: int) -> str:
    """What Celery calls one sending of a task, e.g. `demo:v7.client-3:1`."""
    return f"{run}:{task_id}:{attempt}"


def split_id(id: str) -> tuple[str, str, int]:
    """run, task_id and attempt of a Celery id. Raises ValueError for an id that is not ours."""
    run, _, rest = id.partition(":")
    task_id, _, attempt = rest.rpartition(":")
    if not run or not task_id:
        raise ValueError(f"{id[:80]!r} is no task of Quorate")
    return run, task_id, int(attempt)


class _Execute(Task):  # type: ignore[misc]
    name = TASK

    def run(self, text: str) -> None:
        """Hand the message to the worker's `Work`. Returns nothing: a result would be shown in logs and monitor."""
        self.app.work.handle(text)


def _connect(work: Work) -> None:
    def failed(task_id: str, exception: BaseException, **_: Any) -> None:
        late = isinstance(exception, (SoftTimeLimitExceeded, TimeLimitExceeded))
        _report(work, task_id, "client" if late else "infra", f"{type(exception).__name__}: {exception}")

    signals.setup_logging.connect(lambda **_: work.log(), weak=False)
    signals.worker_process_init.connect(lambda **_: work.start(_child()), weak=False)
    signals.worker_ready.connect(lambda **_: _watch(work), weak=False)
    signals.task_failure.connect(failed, weak=False)


def _watch(work: Work) -> None:
    """Say of each task in hand that it is in hand: a child loads for seconds before it can speak for itself."""
    fresh: SimpleQueue[str] = SimpleQueue()
    signals.task_received.connect(lambda request, **_: fresh.put(request.id), weak=False)
    threading.Thread(target=_say_what_waits, args=(work, fresh), name="holds", daemon=True).start()


def _say_what_waits(work: Work, fresh: "SimpleQueue[str]") -> None:
    while True:
        try:
            ids = {fresh.get(timeout=LOOK_S)}
        except Empty:
            ids = set()
        for id in ids | _waiting():
            with contextlib.suppress(ValueError):  # not one of ours
                work.holds(*split_id(id))


def _waiting() -> set[str]:
    from celery.worker import state  # noqa: PLC0415

    try:
        return {request.id for request in set(state.reserved_requests) - set(state.active_requests)}
    except RuntimeError:  # changed while it was read: the next look will do
        return set()


def _report(work: Work, id: str, code: Any, message: str) -> None:
    try:
        run, task_id, attempt = split_id(id)
        failure = TaskFailure(run=run, task_id=task_id, attempt=attempt, code=code, message=message[:2000])
    except ValueError:
        return  # not one of ours: there is no stream to report it to
    work.lost(failure)


def _child() -> int:
    from billiard import current_process  # noqa: PLC0415

    return int(getattr(current_process(), "index", 0) or 0)


def _asked_to_leave() -> bool:
    from celery.worker import state  # noqa: PLC0415

    return state.should_stop is not None or state.should_terminate is not None


def _say(message: str, *_: Any) -> None:
    """Celery speaks to stdout while a signal is handled. Here it is a log line too; os.write is safe in a handler."""
    text = str(message).strip()
    if text:
        os.write(2, (json.dumps({"event": text, "level": "warning", "logger": "celery.worker"}) + "\n").encode())


def _broker(url: str) -> str:
    """The URL in kombu's words: a unix socket is `redis+socket:///PATH?virtual_host=DB` there."""
    parts = urlsplit(url)
    if parts.scheme != "unix":
        return url
    database = parse_qs(parts.query).get("db", ["0"])[0]
    return f"redis+socket://{parts.netloc}{parts.path}?virtual_host={database}"
