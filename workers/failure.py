"""What is told of an error that ended a task: its code, and a message that gives nothing away.

Grants are secrets, and so are a site's files: no URL, and of a site no path and no word about its data.
"""

import re
from typing import Literal

from schemas.errors import BlobError, DataError, GrantRefused, QuorateError, StoreError
from schemas.messages import Task, TaskFailure
from workers.place import Site


def failure(task: Task, error: Exception, site: Site | None = None) -> TaskFailure:
    """What is told of an error: never a URL, and of a site never a path or a word about its data."""
    if site and (isinstance(error, DataError) or not isinstance(error, QuorateError)):
        message = f"{type(error).__name__} at site {site.name}: the worker's log there says more"
    else:
        message = str(error) if isinstance(error, QuorateError) else f"{type(error).__name__}: {error}"
    message = without_urls(message)
    if site:
        message = re.sub(r"([A-Za-z]:)?[/\\]\S*", "<path>", message)
    return TaskFailure(
        run=task.run, task_id=task.task_id, attempt=task.attempt, code=code_of(error), message=message[:2000]
    )


def code_of(error: Exception) -> Literal["client", "infra", "grant"]:
    """Whether sending the task again can help: with new grants (`grant`), later (`infra`), or not (`client`)."""
    if isinstance(error, GrantRefused):
        return "grant"
    return "infra" if isinstance(error, BlobError | StoreError) else "client"


def without_urls(text: str) -> str:
    """The text with a mark where a URL stood."""
    return re.sub(r"[A-Za-z][\w+.-]*://\S+", "<url>", text)
