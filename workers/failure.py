"""What is told of an error that ended a task: its code, and a message that gives nothing away.

Grants are secrets, and so are a site's files: no URL, and of a site no part of a path and no word about its data.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from schemas.errors import BlobError, DataError, GrantRefused, QuorateError, StoreError
from schemas.messages import Letter, Task, TaskFailure
from workers.place import Site


def failure(task: Task | Letter, error: Exception, site: Site | None = None) -> TaskFailure:
    """What is told of an error that ended a task."""
    return TaskFailure(
        run=task.run, task_id=task.task_id, attempt=task.attempt, code=code_of(error), message=told(error, site)
    )


def told(error: Exception, site: Site | None = None) -> str:
    """What is told of an error: never a URL, and of a site never a path or a word about its data."""
    message = str(error) if isinstance(error, QuorateError) else f"{type(error).__name__}: {error}"
    if site and not _tellable(error, message):
        message = f"{type(error).__name__} at site {site.name}: the worker's log there says more"
    return without_urls(message).encode(errors="backslashreplace").decode()[:2000]


def _tellable(error: Exception, message: str) -> bool:
    """Whether a site may say it: an error with a name, not of its data, and nothing in the words can be of a path.

    Where a path ends cannot be told, for a folder's name may hold spaces: with one slash the whole message stays here.
    """
    if isinstance(error, DataError) or not isinstance(error, QuorateError):
        return False
    words = re.sub(r"https?://\S+", "", message, flags=re.IGNORECASE)
    return not re.search(r"[/\\]", words) and not any(name in words for name in _files_behind(error))


def _files_behind(error: BaseException | None) -> Iterator[str]:
    """The names of the files, without their folders, that the errors behind this one are about."""
    while error is not None:
        if isinstance(error, OSError):
            yield from (
                Path(os.fsdecode(f)).name for f in (error.filename, error.filename2) if isinstance(f, str | bytes)
            )
        error = error.__cause__ or error.__context__


def code_of(error: Exception) -> Literal["client", "infra", "grant"]:
    """Whether sending the task again can help: with new grants (`grant`), later (`infra`), or not (`client`)."""
    if isinstance(error, GrantRefused):
        return "grant"
    return "infra" if isinstance(error, BlobError | StoreError) else "client"


def without_urls(text: str) -> str:
    """The text with a mark where a URL stood."""
    return re.sub(r"[A-Za-z][\w+.-]*://\S+", "<url>", text)
