"""Where everything of a run lies in the object store. All keys are write-once, no key is a secret.

runs/<run>/experiment.json            the resolved experiment
runs/<run>/setting/<sha>.json         with classes and backbone agreed on
runs/<run>/versions/<n>.json          the commits
runs/<run>/models/<n>-<sha>...        the tensors of a group at a version
runs/<run>/journal/<n>-<sha>.jsonl    the events that a commit brought
runs/<run>/updates/<task>/...         what workers upload
runs/<run>/private/<task>/...         private state of simulated clients
runs/<run>/tasks/<task>/...           documents of tasks that are too large for the bus
runs/<run>/start/<task>.<attempt>     descriptions, the tensors of version 0, and what merge tasks give
runs/<run>/final.json                 how it ended
"""

from schemas.errors import BlobError
from schemas.log import Open
from schemas.messages import BlobRef


def root(run: str) -> str:
    """Everything of a run begins with this."""
    return f"runs/{run}/"


def experiment(run: str) -> str:
    """The resolved experiment."""
    return f"{root(run)}experiment.json"


def setting(run: str, sha256: str) -> str:
    """A setting, by its content."""
    return f"{root(run)}setting/{sha256}.json"


def versions(run: str) -> str:
    """All commits."""
    return f"{root(run)}versions/"


def version(run: str, number: int) -> str:
    """One commit; the numbers sort as names."""
    return f"{versions(run)}{number:08d}.json"


def number(key: str) -> int:
    """The version of a commit, from its key. Raises BlobError."""
    name = key.rpartition("/")[2].removesuffix(".json")
    if not name.isdecimal():
        raise BlobError(f"{key} is no commit: it has no number")
    return int(name)


def put_at(key: str) -> int:
    """The version at which a model was put, from its key."""
    return int(key.rpartition("/")[2].partition("-")[0])


def models(run: str) -> str:
    """All models."""
    return f"{root(run)}models/"


def model(run: str, number: int, sha256: str) -> str:
    """The tensors of a group at a version. By their content too, so a second write of them is no conflict."""
    return f"{models(run)}{number:08d}-{sha256}.safetensors"


def journal(run: str, number: int, sha256: str) -> str:
    """The events of a version. By content too: an unfinished commit may leave other events behind."""
    return f"{root(run)}journal/{number:08d}-{sha256[:16]}.jsonl"


def merged(run: str, sha256: str) -> str:
    """A merged model that a worker is to go on with, by its content."""
    return f"{root(run)}start/merged-{sha256}.safetensors"


def final(run: str) -> str:
    """How the run ended."""
    return f"{root(run)}final.json"


def start(run: str, task_id: str, attempt: int) -> str:
    """The output of a describe, init or merge task."""
    return f"{root(run)}start/{task_id}.{attempt}"


def documents(run: str) -> str:
    """All documents of tasks."""
    return f"{root(run)}tasks/"


def document(run: str, task_id: str, attempt: int, sha256: str) -> str:
    """One sending of a task that is too large for the bus. By content: a repeated sending has new grants."""
    return f"{documents(run)}{task_id}/{attempt}-{sha256[:16]}.json"


def task_of(document: str, run: str) -> str:
    """The id of the task that a document is of."""
    return document.removeprefix(documents(run)).partition("/")[0]


def uploads(run: str, kind: str) -> str:
    """All updates, or all private state."""
    return f"{root(run)}{kind}/"


def upload(run: str, kind: str, task_id: str, attempt: int, client: str) -> str:
    """One client's `updates` or `private` blob of one attempt."""
    return f"{uploads(run, kind)}{task_id}/{attempt}/{client}.safetensors"


def uploads_of(run: str, task: Open) -> list[str]:
    """All that the clients of a training task were given leave to write, in whichever attempt."""
    attempts = range(1, task.attempt + 1) if task.kind == "train" else ()
    kinds = ("updates", "private")
    return [upload(run, kind, task.task_id, n, c) for kind in kinds for n in attempts for c in task.clients]


def is_upload(blob: BlobRef, run: str, kind: str, task: Open, client: str) -> bool:
    """Whether the blob lies where that client of that task was given leave to write, in whichever attempt."""
    return blob.key in {upload(run, kind, task.task_id, n, client) for n in range(1, task.attempt + 1)}
