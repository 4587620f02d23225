"""Logs: structlog on stderr, one JSON line per event, or coloured text on a terminal.

Lines of the standard library's loggers (Celery, urllib3, warnings) come out the same way, with the run, version,
client and task that the process is at. A presigned URL never comes out: its signature is cut, whoever logs it.
"""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog
from structlog.typing import Processor

from schemas.messages import Letter, Task

Event = MutableMapping[str, Any]

_SIGNATURE = re.compile(r"(X-Amz-Signature=)[0-9a-zA-Z%]+", re.IGNORECASE)
_SHOWN = re.compile(r"v(?P<version>\d+) (?P<client>\S+) [a-z]+")


def setup(level: str = "info", *, json: bool = False, stream: TextIO | None = None) -> None:
    """Log from now on; JSON when asked or when the stream (stderr) is no terminal. May be called again.

    Debug means our own loggers: Celery's debug lines hold whole messages, grants included.
    """
    out = stream or sys.stderr
    as_json = json or not out.isatty()
    shared = _shared()
    handler = logging.StreamHandler(out)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=_last(as_json)))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("celery", "kombu", "amqp", "urllib3", "PIL"):
        logging.getLogger(name).setLevel(max(logging.INFO, root.level))
    pool = logging.getLogger("multiprocessing")  # billiard's: it does not propagate
    pool.handlers[:], pool.propagate = [handler], False
    pool.setLevel(logging.WARNING)
    logging.captureWarnings(True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def at(task: Task | Letter) -> None:
    """From now on every line of this thread names the run, version, clients and task; forgets those of the last."""
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**facts(task))


def facts(task: Task | Letter) -> dict[str, Any]:
    """What a line says about a task: `client` is its label's, e.g. `client-3+7` for eight of them."""
    said = {"run": task.run, "version": task.base, "task_id": task.task_id, "attempt": task.attempt}
    return said | _from_label(task.label)


def _shared() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _celery_facts,
    ]


def _last(as_json: bool) -> list[Processor]:
    """Exceptions become text before signatures are cut: a traceback drawn later shows them, wrapped over lines."""
    console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    return [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
        _redact,
        structlog.processors.JSONRenderer(default=str) if as_json else console,
    ]


def _celery_facts(_: Any, __: str, event: Event) -> Event:
    """Celery's parent process knows a task by id and representation alone: say them as our own lines do."""
    record = event.get("_record")
    data = getattr(record, "data", None)
    if isinstance(data, dict) and str(data.get("id", "")).count(":") >= 2:
        run, _, rest = str(data["id"]).partition(":")
        task, _, attempt = rest.rpartition(":")
        found = {"run": run, "task_id": task, "attempt": int(attempt) if attempt.isdigit() else attempt}
        for name, value in (found | _from_label(str(data.get("args", "")))).items():
            event.setdefault(name, value)
    return event


def _from_label(label: str) -> dict[str, Any]:
    found = _SHOWN.fullmatch(label)
    return {"version": int(found["version"]), "client": found["client"]} if found else {}


def _redact(_: Any, __: str, event: Event) -> Event:
    for name, value in event.items():
        if not isinstance(value, (int, float, bool, type(None))):
            text = value if isinstance(value, str) else str(value)
            if _SIGNATURE.search(text):
                event[name] = _SIGNATURE.sub(r"\1***", text)
    return event
