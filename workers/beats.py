"""How a worker is heard: beats in the state store while it is at a task, and at the end its report in the stream."""

import contextlib
import threading
import time
from collections.abc import Iterator

import structlog

from infra.state import StateStore
from infra.stream import Author, Stream
from schemas.errors import StoreError, StoreUnavailable
from schemas.messages import Letter, Task

BEAT_S, LEASE_S = 1.0, 3.0
"""How often a worker says that it is at work, and how long that is believed. Seconds."""

RETRY_S = 0.5
"""Between two attempts to report. Seconds."""

log = structlog.get_logger()


@contextlib.contextmanager
def beating(state: StateStore, task: Task | Letter) -> Iterator[None]:
    """Be heard at a task for as long as the block runs."""
    over = threading.Event()

    def beat() -> None:
        while True:
            with contextlib.suppress(StoreError):  # the loop then believes that nobody works, and sends again
                state.beat(task.run, task.work, LEASE_S)
            if over.wait(BEAT_S):
                return

    thread = threading.Thread(target=beat, name="beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def report(stream: Stream, task: Task | Letter, author: Author, body: str, *, until: float) -> None:
    """Append to the stream; while it does not answer, again and again until that moment of `time.monotonic`.

    Raises StoreError for what the stream says for good.
    """
    while True:
        try:
            stream.append(task.run, author, body)
            return
        except StoreUnavailable as e:
            if time.monotonic() > until:
                log.error("report given up", error=str(e))  # the loop finds the lease gone and sends again
                return
            time.sleep(RETRY_S)
