"""Eight bits per number."""

import torch

from schemas.base import Frozen
from schemas.errors import CodecError
from workers.tensors import Tensors

LEVELS = 127
"""Codes lie in -127..127, so that a number and its negative lose the same."""

CODES, SCALE = "codes/", "scale/"


class Int8:
    """int8 with one scale per tensor, max|x| / 127, rounded to nearest: an error of half a scale at most.

    1 byte per number. What rounding swallows is not drawn by lot but kept back and sent later (error feedback), so
    nothing is lost over several updates of one client. Smallest numbers beside a large one in the same tensor wait
    longest.
    """

    when = (
        "Uploads are dear: a quarter of `raw`. In the study of `cvlc` it ended within 0.1 points of float32 "
        "(docs/studies.md)."
    )
    costs = "Hardly any time; private state as large as the update, for what rounding kept back."
    sends = "Up: 1 byte per number, and a scale per tensor. Down: float32."
    lossless = False
    paper = "Seide et al., 1-Bit Stochastic Gradient Descent, Interspeech 2014 (error feedback; one bit there)"
    deviations = ("eight bits, with a scale per tensor in the place of a mean per column",)

    class Params(Frozen):
        """No parameters."""

    def __init__(self, params: Params) -> None:
        self.params = params

    def encode(self, tensors: Tensors, generator: torch.Generator) -> Tensors:
        """Per tensor `codes/<name>`, int8, and `scale/<name>`, float32. One that is not finite has the scale nan."""
        packed: Tensors = {}
        for name, t in tensors.items():
            scale = _scale(t)
            sound = bool(scale > 0)  # else all is zero, or not finite, and the scale alone tells which
            codes = (t / scale).round().clamp(-LEVELS, LEVELS) if sound else torch.zeros_like(t)
            packed |= {CODES + name: codes.to(torch.int8), SCALE + name: scale}
        return packed

    def decode(self, packed: Tensors, most: int | None = None) -> Tensors:
        """Each tensor in float32. Raises CodecError for a dtype or shape that is none of these."""
        names = [k.removeprefix(CODES) for k in packed if k.startswith(CODES)]
        if set(packed) != {prefix + name for name in names for prefix in (CODES, SCALE)}:
            raise CodecError("each tensor needs its codes and its scale, and there is nothing else")
        for name in names:
            codes, scale = packed[CODES + name], packed[SCALE + name]
            if codes.dtype != torch.int8:
                raise CodecError(f"{name[:80]!r} is {codes.dtype}, not int8")
            if scale.dtype != torch.float32 or scale.shape != ():
                raise CodecError(f"the scale of {name[:80]!r} is not one float32")
        return {name: packed[CODES + name].float() * packed[SCALE + name] for name in names}


def _scale(t: torch.Tensor) -> torch.Tensor:
    """max|x| / 127 as a float32 scalar; 0 for an empty tensor, nan for one that is not finite."""
    if not t.numel():
        return torch.zeros(())
    largest = t.abs().max()  # nan if there is one
    return largest / LEVELS if bool(largest.isfinite()) else torch.full((), torch.nan)
