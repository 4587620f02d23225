"""Half precision."""

import torch

from schemas.base import Frozen
from schemas.errors import CodecError
from workers.tensors import Tensors

LARGEST = torch.finfo(torch.float16).max
"""65504. What is larger is cut there; error feedback sends the rest next time."""


class Fp16:
    """float16, rounded to nearest: 2 bytes per number, relative error at most 2^-11, absolute below 2^-24 near zero."""

    when = (
        "Nearly always: half of `raw`. In the study of `cvlc` it ended within 0.1 points of float32 (docs/studies.md)."
    )
    costs = "Hardly any time; private state as large as the update, for what rounding kept back."
    sends = "Up: 2 bytes per number. Down: float32, as with every codec."
    lossless = False

    class Params(Frozen):
        """No parameters."""

    def __init__(self, params: Params) -> None:
        self.params = params

    def encode(self, tensors: Tensors, generator: torch.Generator) -> Tensors:
        """Each tensor in half precision. nan and infinity stay, so that admission sees them."""
        return {k: torch.where(t.isfinite(), t.clamp(-LARGEST, LARGEST), t).half() for k, t in tensors.items()}

    def decode(self, packed: Tensors, most: int | None = None) -> Tensors:
        """Each tensor in float32. Raises CodecError if one is not float16."""
        for name, t in packed.items():
            if t.dtype != torch.float16:
                raise CodecError(f"{name[:80]!r} is {t.dtype}, not float16")
        return {k: t.float() for k, t in packed.items()}
