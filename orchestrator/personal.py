"""The models that are one client's own, as far as they lie here. Knows the store of a run and adapter files.

In a simulation private state stays in the run's store. Of a site only an opaque id was ever seen.
"""

from infra.blobs import BlobStore
from orchestrator.commits import Commits
from schemas.adapter import PRIVATE
from schemas.errors import BlobError, CodecError, StoreError
from schemas.log import Event
from workers.adapter import Adapter
from workers.method import Method
from workers.pipeline import of_method
from workers.plugins import plugin_class
from workers.private import OWN
from workers.tensors import Tensors, fingerprint, unpack


def is_personal(method: str) -> bool:
    """Whether a client of this method may be judged by a model that is not everybody's. Raises PluginError."""
    found: type[Method] = plugin_class("workers.methods", method)
    return found.personal is not Method.personal


def own(adapter: Adapter, events: list[Event], blobs: BlobStore) -> dict[str, Adapter]:
    """The adapter of each client that has one of its own and whose private state the store holds, by name.

    events: of the run whose adapter it is; another one of the same name may lie in the store.
    """
    try:
        commits = Commits(adapter.facts.run, blobs)
        commit = commits.last()
        if commit is None or commits.journal() != events:
            return {}
        kept = {client: ref for client, ref in commit.private.items() if not ref.key.startswith(OWN)}
        states = {client: of_method(unpack(blobs.get(ref))) for client, ref in sorted(kept.items())}
    except (BlobError, StoreError, CodecError):
        return {}  # a result may have come from elsewhere, or its store been cleared
    return {client: _of(adapter, client, private) for client, private in states.items() if private}


def _of(adapter: Adapter, client: str, private: Tensors) -> Adapter:
    tensors = adapter.tensors | {f"{PRIVATE}{name}": t for name, t in private.items()}
    changes = {"client": client, "sha256": fingerprint(tensors)}
    return Adapter(adapter.facts.model_copy(update=changes), tensors)
