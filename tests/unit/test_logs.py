import io
import json
import logging
import warnings
from collections.abc import Iterator

import pytest
import structlog
from pydantic import SecretStr

from infra import logs
from schemas.messages import BlobRef, ClientSlot, Grant, Ref, Task

SECRET = "https://s3/b/k?X-Amz-Credential=me&X-Amz-Signature=0badcafe"
GRANT = Grant(url=SecretStr(SECRET), method="GET", expires=1.0)
TASK = Task(
    run="demo",
    task_id="v7.client-3",
    kind="train",
    base=7,
    clients=(ClientSlot(client="client-3"),),
    setting=Ref(blob=BlobRef(key="k", sha256="0" * 64, size=1), grant=GRANT),
    seed=0,
    deadline_s=1.0,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    yield from logging_to(io.StringIO())


@pytest.fixture
def terminal() -> Iterator[io.StringIO]:
    yield from logging_to(Terminal())


def logging_to(stream: io.StringIO) -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    logs.setup("debug", stream=stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_every_line_within_a_task_names_run_version_client_and_task(out: io.StringIO) -> None:
    logs.at(TASK)
    structlog.get_logger("workers").info("trained", loss=0.5)
    logging.getLogger("celery.app.trace").info("Task %s succeeded", "x")
    logs.at(TASK.model_copy(update={"base": 8, "clients": ()}))
    structlog.get_logger("workers").info("next")
    ours, celerys, following = lines(out)
    expected = {"run": "demo", "version": 7, "client": "client-3", "task_id": "v7.client-3", "attempt": 1}
    assert expected.items() <= ours.items() and expected.items() <= celerys.items()
    assert (ours["event"], ours["loss"], celerys["event"]) == ("trained", 0.5, "Task x succeeded")
    assert (following["version"], following["client"]) == (8, "all")


def test_a_line_of_celerys_parent_gets_the_facts_from_id_and_representation(out: io.StringIO) -> None:
    data = {"id": "demo:v7.client-3:2", "name": "quorate.execute", "args": "v7 client-3 train", "kwargs": "{}"}
    logging.getLogger("celery.worker.strategy").info("Task %(name)s received", data, extra={"data": data})
    logging.getLogger("celery.worker.strategy").info("Task received", extra={"data": {"id": "of-another-app"}})
    line, other = lines(out)
    assert {
        "run": "demo",
        "version": 7,
        "client": "client-3",
        "task_id": "v7.client-3",
        "attempt": 2,
    }.items() <= line.items()
    assert "run" not in other


def test_a_grant_never_comes_out(out: io.StringIO) -> None:
    log = structlog.get_logger("workers")
    log.info("a task", task=TASK, grant=GRANT, url=SECRET, nested={"urls": [SECRET]})
    logging.getLogger("urllib3").warning("retrying %s", SECRET)
    try:
        raise ValueError(SECRET)
    except ValueError:
        log.exception("failed")
    logging.getLogger("celery.pool").debug("TaskPool: Apply (args:%r)", SECRET)
    assert len(lines(out)) == 3
    assert "0badcafe" not in out.getvalue()


def test_a_grant_never_comes_out_on_a_terminal(terminal: io.StringIO) -> None:
    log, signature = structlog.get_logger("workers"), "0badcafe" * 8
    url = SECRET.replace("0badcafe", signature)
    log.info("a task", url=url, nested={"urls": [url]})
    for logger in (log, logging.getLogger("celery")):
        try:
            raise ValueError(f"{'long ' * 13}{url}")
        except ValueError:
            logger.exception("failed")
    shown = terminal.getvalue()
    assert shown.count("ValueError: long long") == 2 and shown.count("X-Amz-Signature=***") == 4
    assert "0bad" not in shown and "cafe" not in shown


def test_a_warning_is_a_log_line(out: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("you are root", stacklevel=1)
    assert "you are root" in str(lines(out)[0]["event"])


def test_an_exception_is_one_line_of_json(out: io.StringIO) -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger("workers").exception("failed")
        logging.getLogger("celery").exception("failed too")
    ours, theirs = lines(out)
    assert "ValueError: broken" in str(ours["exception"]) and "ValueError: broken" in str(theirs["exception"])
