"""What travels between the orchestrator and the workers: JSON documents that carry references, never tensors.

A message names the wire version it is written in. Unknown fields are refused on both sides.
"""

from typing import Annotated, Literal

from pydantic import Field, SecretStr, StringConstraints, ValidationError, field_serializer

from schemas.base import WIRE, Frozen, Name, Sha256, Shown, Wire

Kind = Literal["describe", "init", "train", "evaluate", "merge"]
ALL = "all"
"""The group of every client while a method does not form groups."""
VISITORS = "visitors"
"""The group of owners that only evaluate, where a method keeps a model for them."""

TaskId = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,199}$")]
"""Of one task, whatever its attempt: safe in a Celery id, a key and a file name."""

Key = Annotated[str, StringConstraints(max_length=1024, pattern=r"^[^\p{Cc}]*$")]
"""A name in the object store, as long as S3 allows."""

Count = Annotated[int, Field(ge=0, le=2**53)]
"""A number of things or bytes that every reader of JSON understands."""

Attempt = Annotated[int, Field(ge=1, le=2**31)]
Seconds = Annotated[float, Field(ge=0, le=1e9)]
Metrics = Annotated[dict[Shown, float], Field(max_length=64)]


class BlobRef(Frozen):
    """Immutable bytes in the object store. size in bytes."""

    key: Key
    sha256: Sha256
    size: Count


class Grant(Frozen):
    """Leave to do one thing with one key until one moment. A secret: its URL is never printed.

    expires: Unix seconds.
    """

    url: SecretStr
    method: Literal["GET", "PUT"]
    headers: dict[str, str] = {}
    expires: float

    @field_serializer("url", when_used="json")
    def _reveal(self, url: SecretStr) -> str:
        return url.get_secret_value()


class Ref(Frozen):
    """A blob and, where the reader holds no credentials, the grant to read it."""

    blob: BlobRef
    grant: Grant | None = None


class Outlet(Frozen):
    """Where one output goes: a write-once key, and leave to read it back if an earlier attempt wrote it."""

    key: Key
    put: Grant
    get: Grant


class ClientSlot(Frozen):
    """One client's part of a task. `private` names its private state as the loop last accepted it."""

    client: Name
    private: Ref | None = None
    outputs: dict[str, Outlet] = {}


def work(task_id: str, attempt: int) -> str:
    """One sending of a task, as the beats of a worker name it."""
    return f"{task_id}.{attempt}"


class Header(Frozen):
    """What every message to a worker says of its task. `attempt` counts sendings of the same task_id from 1.

    deadline_s: seconds from the start of the work after which the loop no longer waits for it.
    """

    wire: Wire = WIRE
    run: Name
    task_id: TaskId
    attempt: Attempt = 1
    kind: Kind
    base: Count
    deadline_s: Seconds

    @property
    def work(self) -> str:
        """This sending of the task."""
        return work(self.task_id, self.attempt)


class Task(Header):
    """A task, whole.

    setting: the resolved experiment. inputs: for `train` and `evaluate` the `model` of `group` at version `base`; for
    `merge` the merged `model`, each counted `update/<base>/<client>`, and the models `base/<base>` they began from.
    """

    group: str = ALL
    clients: tuple[ClientSlot, ...] = ()
    setting: Ref
    inputs: dict[str, Ref] = {}
    outputs: dict[str, Outlet] = {}
    seed: Count

    @property
    def label(self) -> str:
        """What an operator reads in the Celery monitor, e.g. `v7 client-3 train`."""
        who = self.clients[0].client if self.clients else "all"
        more = f"+{len(self.clients) - 1}" if len(self.clients) > 1 else ""
        return f"v{self.base} {who}{more} {self.kind}"


class Letter(Header):
    """Sent in the place of a task that is too large for the bus: where its document (the task as JSON) lies.

    label: the task's.
    """

    label: Shown
    document: Ref


def read_message(text: str | bytes) -> Task | Letter:
    """What a worker is sent. Raises ValidationError, of what is nearer to it."""
    try:
        return Task.model_validate_json(text)
    except ValidationError as e:
        if not any(error["loc"] == ("document",) for error in e.errors()):
            raise
        return Letter.model_validate_json(text)


class ClientResult(Frozen):
    """What one client did. payload_bytes: size of its update blob. encodes: images passed through the backbone.

    private: in a simulation a blob of the run; at a site only an opaque id (its key starts with `private:`).
    failed: why there is no update, where the other clients of the task have theirs.
    """

    client: Name
    update: BlobRef | None = None
    private: BlobRef | None = None
    weight: float = Field(default=0.0, ge=0)
    metrics: Metrics = {}
    payload_bytes: Count = 0
    encodes: Count = 0
    failed: str = Field(default="", max_length=2000)


class Manifest(Frozen):
    """Finished work. seconds: wall time on the worker."""

    wire: Wire = WIRE
    run: Name
    task_id: TaskId
    attempt: Attempt
    worker: Shown
    results: tuple[ClientResult, ...] = ()
    outputs: dict[str, BlobRef] = {}
    encodes: Count = 0
    seconds: Seconds


class TaskFailure(Frozen):
    """Work that did not finish.

    code: `client` is final for this task; `infra` (a store, a lost process) and `grant` (expired) are sent again.
    """

    wire: Wire = WIRE
    run: Name
    task_id: TaskId
    attempt: Attempt
    code: Literal["client", "infra", "grant"]
    message: str = Field(max_length=2000)


class Split(Frozen):
    """Numbers of images of one client or held-out domain."""

    train: Count = 0
    val: Count = 0
    test: Count = 0


class Description(Frozen):
    """What one site, or the pool, holds. Counts only: no path, no image and no label leaves it.

    clients: those that train. held_out: owners that only evaluate. domains: the domain(s) of each client.
    skipped: files left out because they cannot be read. fingerprint: of the frozen backbone there.
    """

    site: Name | None = None
    clients: dict[Name, Split]
    held_out: dict[Name, Split] = {}
    classes: tuple[Shown, ...]
    skipped: Count = 0
    domains: dict[Name, tuple[Shown, ...]] = {}
    fingerprint: Shown


class Rejected(Frozen):
    """A worker's input that is not counted, and why. Recorded in the journal, never raised."""

    reason: str
    detail: str = ""
