"""Whole numbers of a few bits each, and the bits that they are: one byte per bit, the highest first.

Knows no codec.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDEST = 32


def bits(numbers: NDArray[Any], width: int) -> NDArray[np.uint8]:
    """So many bits of each number, at most 32."""
    octets = numbers.astype(">u4").view(np.uint8).reshape(-1, 4)
    return np.unpackbits(octets, axis=1)[:, WIDEST - width :].ravel()


def numbers(bits: NDArray[np.uint8], width: int) -> NDArray[np.int64]:
    """The numbers that have these bits, so many each."""
    whole = np.zeros((len(bits) // width, WIDEST), np.uint8)
    whole[:, WIDEST - width :] = bits.reshape(-1, width)
    return np.packbits(whole, axis=1).view(">u4").ravel().astype(np.int64)
