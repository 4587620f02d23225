"""Named tensors: on CPU, as safetensors bytes, as one hash, and the generators that drive them.

Everything that crosses a process boundary is CPU tensors by name. No pickle anywhere.
"""

import hashlib
import json
import math

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from schemas.base import derive
from schemas.errors import CodecError

Tensors = dict[str, torch.Tensor]
"""Tensors by name."""


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose, e.g. `generator(seed, base, client, "train")`: same purpose, same numbers."""
    return torch.Generator().manual_seed(derive(seed, *purpose))


def pack(tensors: Tensors, metadata: dict[str, str] | None = None) -> bytes:
    """Safetensors bytes; the same tensors and metadata give the same bytes."""
    ordered = {k: tensors[k].detach().cpu().contiguous() for k in sorted(tensors)}
    return save(ordered, dict(sorted((metadata or {}).items())) or None)


def unpack(data: bytes) -> Tensors:
    """The tensors of safetensors bytes, in the order of their names. Raises CodecError for anything else.

    safetensors itself gives them in another order each time, and who draws random numbers for one after the other, or
    adds them up, would notice.
    """
    try:
        return dict(sorted(load(data).items()))
    except (SafetensorError, ValueError, KeyError, RuntimeError, OverflowError, TypeError) as e:
        raise CodecError(f"not safetensors: {str(e)[:200]}") from None


def metadata(data: bytes) -> dict[str, str]:
    """The metadata of safetensors bytes. Raises CodecError for anything else."""
    try:
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        found = header.get("__metadata__", {})
        return {str(k): str(v) for k, v in found.items()}
    except (ValueError, AttributeError, RecursionError) as e:
        raise CodecError(f"not safetensors: {str(e)[:200]}") from None


def fingerprint(tensors: Tensors) -> str:
    """Hex sha256 over sorted (name, dtype, shape, raw bytes): of the content, not of a file."""
    seen = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name].detach().cpu().contiguous()
        seen.update(json.dumps([name, str(t.dtype), list(t.shape)]).encode())
        seen.update(t.reshape(-1).view(torch.uint8).numpy().tobytes())
    return seen.hexdigest()


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether no number in it is nan or infinite: nan would be both the least and the greatest."""
    return not tensor.numel() or all(math.isfinite(float(end)) for end in tensor.aminmax())


def norm(tensors: Tensors) -> float:
    """L2 norm of all numbers together, summed in float64."""
    return math.hypot(*(float(torch.linalg.vector_norm(t, dtype=torch.float64)) for t in tensors.values()))


def size(tensors: Tensors) -> int:
    """Raw bytes of all tensors."""
    return sum(t.numel() * t.element_size() for t in tensors.values())


def keep_freed_memory() -> None:
    """Let the process keep up to 62 MB that it frees: glibc's malloc learns that from the size of a block it frees.

    Else every array of some MB goes back to the system, and its pages are made anew the next time: dearer than what is
    computed in them. See mallopt(3), M_MMAP_THRESHOLD. The block is never touched, so it takes no memory itself.
    """
    torch.empty(31 * 1024 * 1024, dtype=torch.uint8)
