"""Every bit as it is."""

import torch

from schemas.base import Frozen
from schemas.errors import CodecError
from workers.tensors import Tensors


class Raw:
    """float32 in, float32 out: 4 bytes per number."""

    when = "The numbers must arrive exactly, as those of `ridge`; or nobody pays for traffic."
    costs = "Nothing."
    sends = "Up: 4 bytes per number."
    lossless = True

    class Params(Frozen):
        """No parameters."""

    def __init__(self, params: Params) -> None:
        self.params = params

    def encode(self, tensors: Tensors, generator: torch.Generator) -> Tensors:
        """The tensors themselves."""
        return dict(tensors)

    def decode(self, packed: Tensors, most: int | None = None) -> Tensors:
        """The tensors themselves. Raises CodecError if one is not float32."""
        for name, t in packed.items():
            if t.dtype != torch.float32:
                raise CodecError(f"{name[:80]!r} is {t.dtype}, not float32")
        return packed
