"""Admission: what an update must be before it may count. Refusals are values, recorded and never raised.

The checks go from cheap to dear: size before reading, hash before parsing, names and shapes before numbers.
"""

from collections.abc import Mapping

import torch

from infra.blobs import BlobStore
from orchestrator import keys
from schemas.errors import BlobCorrupt, BlobMissing, CodecError
from schemas.log import Open
from schemas.messages import BlobRef, ClientResult, Rejected
from workers.pipeline import Codec, open_update
from workers.private import OWN
from workers.tensors import Tensors, is_finite, norm, size
from workers.training import one_thread

_REASONS = {BlobMissing: "absent", BlobCorrupt: "corrupt", CodecError: "unreadable"}

LIGHTEST, HEAVIEST = 1e-12, 1e12
"""Weights are numbers of images or the like. Two of 1e308 would already make the mean of everybody nan."""

ROUNDED = 1 + 1e-6
"""Float32 cannot say it better: who scales an update to the greatest norm must not be refused for the last digit."""


@one_thread()
def admit(
    result: ClientResult,
    task: Open,
    run: str,
    *,
    form: Tensors,
    blobs: BlobStore,
    codec: Codec,
    max_norm: float | None = None,
) -> Tensors | Rejected:
    """The update's decoded float32 tensors, or why they do not count.

    form: tensors that the update must match in names and shapes, for most methods those of the model.
    max_norm: the greatest L2 norm that counts.
    Raises BlobError if the store cannot say.
    """
    refused = unasked(result, task, run)
    if refused is not None or result.update is None:
        return refused or Rejected(reason="no update")
    if result.update.size > largest(form):
        return Rejected(reason="too large", detail=f"{result.update.size} bytes, at most {largest(form)}")
    try:
        tensors, _ = open_update(blobs.get(result.update), codec, sum(t.numel() for t in form.values()))
    except (BlobMissing, BlobCorrupt, CodecError) as e:
        return Rejected(reason=_REASONS[type(e)], detail=e.message)
    return unlike(tensors, form) or too_long(tensors, max_norm) or tensors


def unasked(result: ClientResult, task: Open, run: str) -> Rejected | None:
    """What in a result goes beyond what was asked and granted, or None."""
    blob, private = result.update, result.private
    if result.client not in task.clients:
        return Rejected(reason="other client", detail=f"{result.client} was not asked")
    if blob is None or not keys.is_upload(blob, run, "updates", task, result.client):
        return Rejected(reason="no update", detail="nothing under a key that was granted")
    if private is not None and not _granted(private, result.client, task, run):
        return Rejected(reason="private state", detail="not under a key that was granted")
    if not LIGHTEST <= result.weight <= HEAVIEST:
        return Rejected(reason="weight", detail=f"{result.weight} is not between {LIGHTEST:g} and {HEAVIEST:g}")
    return None


def implausible(result: ClientResult) -> str:
    """What in the scores of an evaluation cannot be, in words; empty if nothing."""
    odd = [name for name in ("accuracy", "zero_shot") if not 0 <= result.metrics.get(name, 0) <= 1]
    return f"{odd[0]} is not between 0 and 1" if odd else ""


def largest(form: Tensors) -> int:
    """Most bytes an update may have: twice its form, and room for names and metadata."""
    return 2 * size(form) + 65_536 + 1_024 * len(form)


def unlike(tensors: Tensors, form: Mapping[str, torch.Tensor]) -> Rejected | None:
    """What keeps these tensors from being added to others of that form, or None."""
    if set(tensors) != set(form):
        odd = sorted(set(tensors) ^ set(form))
        return Rejected(reason="names", detail=f"differ in {', '.join(odd[:3])}")
    for name, t in tensors.items():
        if t.shape != form[name].shape:
            return Rejected(reason="shapes", detail=f"{name}: {list(t.shape)} for {list(form[name].shape)}")
    for name, t in tensors.items():
        if t.dtype != torch.float32:
            return Rejected(reason="dtypes", detail=f"{name}: {t.dtype}")
        if not is_finite(t):
            return Rejected(reason="not finite", detail=name)
    return None


def too_long(tensors: Tensors, max_norm: float | None) -> Rejected | None:
    """What an update of more than that L2 norm, over all its tensors together, is refused for; or None."""
    if max_norm is None or (length := norm(tensors)) <= max_norm * ROUNDED:
        return None
    return Rejected(reason="norm", detail=f"{length:.6g}, at most {max_norm:g}")


def _granted(private: BlobRef, client: str, task: Open, run: str) -> bool:
    if task.site:
        return private.key == f"{OWN}{private.sha256}"
    return keys.is_upload(private, run, "private", task, client)
