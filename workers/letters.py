"""From what came over the bus to the task: a letter says where the document of a large one lies.

Trusts only the hash that the letter names, and opens no document that is another task's.
"""

import time

from pydantic import ValidationError

from schemas.complaints import complaint
from schemas.errors import ConfigError
from schemas.messages import Letter, Task
from workers.reach import Reach

LARGEST = 256 * 1024 * 1024
"""Bytes of the largest document that is read: some 100,000 clients."""


def opened(message: Task | Letter, reach: Reach) -> Task:
    """The task. Raises ConfigError, GrantRefused, BlobMissing, BlobCorrupt, BlobError."""
    if isinstance(message, Task):
        return _granted(message, reach)
    if message.document.blob.size > LARGEST:
        raise ConfigError(f"a task of {message.document.blob.size} bytes, at most {LARGEST} are read")
    try:
        task = Task.model_validate_json(reach.get(message.document))
    except ValidationError as e:
        raise ConfigError(f"the document of the task is not understood: {complaint(e, Task)}") from None
    if (task.run, task.work) != (message.run, message.work):
        raise ConfigError("the document is another task's")
    return task


def _granted(task: Task, reach: Reach) -> Task:
    """The task, whose grants have not run out in the queue. This clock may be wrong: what the store says counts."""
    if task.setting.grant is not None and task.setting.grant.expires < time.time():
        reach.get(task.setting)
    return task
