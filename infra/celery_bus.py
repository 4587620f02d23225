"""The bus over Celery: publishes a task as JSON to the queue of the pool or of a site, and shows no grant doing so.

Results never come back this way: they arrive in the stream.
"""

import math

from kombu.exceptions import OperationalError

from infra.bus import LARGEST, LONGEST_S, queue
from infra.celery_app import KEYS, TASK, celery_id, make_app
from infra.clock import Clock
from infra.redis_state import client, failing, refused
from infra.trust import HINT, distrust
from schemas.errors import BusError, ConfigError, SettingsError, StoreError
from schemas.messages import Letter, Task

KILL_AFTER_S = 10
"""Seconds between the soft time limit, which a task can still report, and the hard one, which kills its process."""


class CeleryBus:
    """Bus over one broker. Publishing waits five seconds at most, so that a frozen broker costs no lease."""

    def __init__(self, url: str, clock: Clock) -> None:
        """Raises BusError if the broker cannot be reached, SettingsError if it is not trusted."""
        self.clock = clock
        self._app = make_app(url, socket_timeout_s=5.0)
        self._redis = client(url)
        try:
            with self._app.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, timeout=3)
        except (OperationalError, OSError) as e:
            if why := distrust(e):
                raise SettingsError(f"QUORATE_BUS: {why}", hint=HINT) from None
            raise BusError(f"cannot reach the broker: {str(e)[:200]}", hint="is QUORATE_BUS right?") from None

    def send(self, task: Task | Letter, site: str | None) -> None:
        """As Bus. The message never expires: a worker's clock would tell. Its time limits are those of the task.

        Raises BusError for lost connections, time-outs and servers that cannot now; StoreError for what the broker
        refuses for good; ConfigError if the task cannot be sent at all.
        """
        text = task.model_dump_json()
        soft = max(1, math.ceil(task.deadline_s))
        _check(task, len(text.encode()))
        try:
            self._app.send_task(
                TASK,
                args=[text],
                task_id=celery_id(task.run, task.task_id, task.attempt),
                queue=queue(site),
                argsrepr=task.label,
                kwargsrepr="{}",
                soft_time_limit=soft,
                time_limit=soft + KILL_AFTER_S,
                retry=False,
                ignore_result=True,
            )
        except (OperationalError, ConnectionError, TimeoutError) as e:
            if refused(e.__cause__):
                what = f"{task.task_id}: the broker refuses it: {str(e)[:200]}"
                raise StoreError(what, hint="may this user of QUORATE_BUS write there?") from e
            raise BusError(f"{task.task_id}: unknown whether it was published: {type(e).__name__}") from e

    def backlog(self, site: str | None) -> int:
        """As Bus: the messages in the queue. What a worker has taken and not acknowledged is not among them."""
        with failing("queue"):
            return int(self._redis.llen(KEYS + queue(site)))

    def waiting(self, site: str | None) -> str:
        """Messages in the queue, and workers that serve it and answered within a second."""
        try:
            waiting = self.backlog(site)
            answers = self._app.control.inspect(timeout=1.0).active_queues() or {}
        except (StoreError, OperationalError, OSError):
            return "the broker does not answer"
        serving = sum(any(q["name"] == queue(site) for q in queues) for queues in answers.values())
        return f"{waiting} waiting, {serving} worker{'' if serving == 1 else 's'}"


def _check(task: Task | Letter, size: int) -> None:
    if size > LARGEST:
        raise ConfigError(f"{task.task_id}: {size} bytes of JSON, {LARGEST} can be sent")
    if task.deadline_s > LONGEST_S:
        raise ConfigError(f"{task.task_id}: a deadline of {task.deadline_s:g} s is longer than the broker waits")
