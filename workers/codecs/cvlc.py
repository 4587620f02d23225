"""Few numbers in few bits: the largest, each in as many bits as its rank deserves, under a budget."""

import math
from itertools import accumulate
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from schemas.base import Frozen
from schemas.errors import CodecError
from workers.bits import bits, numbers
from workers.tensors import Tensors

SHAPE, LENGTHS, COUNTS, RANGES, BITS = "shape/", "lengths", "counts", "ranges", "bits"
SHORTEST, LONGEST, FLOAT = 3, 16, 32  # bits of a code; one of 32 is the float itself
LEAST, UNFILLED = 0.25, 4096
"""The smallest budget in bits per number, and bytes that may be missing of it: 32 numbers per byte, and no more."""
GROUPS, HEAD = 64, 104  # how many at most; bits that one costs besides: its length, its count, its range

Plan = tuple[tuple[int, int], ...]  # (count, code length) of each group, the largest numbers first


class Cvlc:
    """The largest numbers of an update at `bits` bits per number of the model; error feedback sends the rest later.

    The numbers are ranked by magnitude and filled into `groups` packets of equally many bits. A number costs its code
    and its position. How many bits the codes of a packet have, and so how many numbers are sent at all, is searched
    for in each upload, such that the error expected by the paper's bound is least. In a packet codes lie equally
    spaced between its least and its greatest number, and which of two neighbours a number becomes is drawn, so that
    it is right on average. `length` fixes it for all packets; 32 is top-k with float32.
    """

    when = (
        "Uploads are dear, and a few numbers of an update are much larger than the rest. The gain over the best code "
        "of one length is small, and none where the numbers are alike (docs/studies.md): try `int8` first, which is "
        "simpler. Try `quorate run experiments/cvlc.yaml`."
    )
    costs = (
        "The client searches a plan for each upload, which can take as long as training a small head, and keeps what "
        "was left out as private state, as large as the model. Accuracy, if `bits` is too low."
    )
    sends = "Up: `bits` bits per number of the model, and some hundred bytes. Down: the model, in float32."
    lossless = False
    paper = "Su et al., Fed-CVLC: Compressing FL Communications with Variable-Length Codes, INFOCOM 2024"
    deviations = (
        "after the first author's published code: the paper's own notation and its closed form were not read",
        "each client plans for each upload, on its own numbers; there one client plans for all, every 50 rounds",
        "neighbouring packets of equal length keep ranges of their own, 13 bytes each",
        "so few numbers that the plan would cost more than they do are sent as they are",
    )

    class Params(Frozen):
        """bits: the budget per number of the model, all packets together. length: none for the search."""

        bits: float = Field(2.0, ge=LEAST, le=32)
        groups: int = Field(10, ge=1, le=GROUPS)
        length: Literal[4, 6, 8, 10, 12, 16, 32] | None = None

    def __init__(self, params: Params) -> None:
        self.params = params

    def encode(self, tensors: Tensors, generator: torch.Generator) -> Tensors:
        """`shape/<name>` of each tensor, int64, and of all together `lengths` uint8 [P], `counts` int32 [P], `ranges`
        float32 [P, 2], `bits` uint8: positions of all numbers sent, then their codes. Or the tensors, if they are few.

        Raises CodecError for a number that is not finite.
        """
        flat = np.concatenate([np.zeros(0, np.float32), *(tensors[k].numpy().ravel() for k in sorted(tensors))])
        if not np.isfinite(flat).all():
            raise CodecError("the update holds a number that is not finite")
        budget, groups = int(self.params.bits * len(flat)), self.params.groups
        rank = np.argsort(-np.abs(flat), kind="stable")
        pays = budget + HEAD * groups < FLOAT * len(flat)
        if not (found := plan(flat[rank], budget, groups, self.params.length) if pays else ()):
            return dict(tensors)
        shapes = {SHAPE + k: torch.tensor(t.shape, dtype=torch.int64) for k, t in tensors.items()}
        return shapes | _written(flat, rank, found, generator)

    def decode(self, packed: Tensors, most: int | None = None) -> Tensors:
        """Each tensor in float32, zero where nothing was sent. Raises CodecError for what no encoder wrote."""
        if BITS not in packed or not any(k.startswith(SHAPE) for k in packed):
            _typed(packed, dict.fromkeys(packed, torch.float32))
            return packed
        shapes, groups = _shapes(packed, most), _groups(packed)
        flat, parts = torch.from_numpy(_read(packed, groups, sum(map(math.prod, shapes.values())))), {}
        for name, shape in shapes.items():
            parts[name], flat = flat[: math.prod(shape)].reshape(shape), flat[math.prod(shape) :]
        return parts


def plan(ranked: NDArray[np.float32], budget: int, groups: int, length: int | None = None) -> Plan:
    """The plan with the least `objective` that was found among those of at most `budget` bits; counts ascend.

    ranked: the numbers by descending magnitude. length: the one length of all codes, if it is not searched for.
    """
    position = position_bits(len(ranked))
    groups = max(1, min(groups, budget // (LONGEST + position)))
    packet = budget // groups
    if length is not None:
        return filled((length,) * groups, packet, len(ranked))
    energy = [0.0, *accumulate((ranked.astype(np.float64) ** 2).tolist())]
    most = min(packet // (position + 2), len(ranked) // groups)
    sizes = np.unique(np.linspace(min(packet // (position + LONGEST), most), most, 40).astype(int)).tolist()
    starts = [[k] * groups for k in sizes if k > 0 and packet // k - position >= SHORTEST]
    tried = [(b,) * groups for b in range(SHORTEST, LONGEST + 1)]
    tried += [_exchanged(energy, s, packet, position) for s in starts]
    plans = [filled(lengths, packet, len(ranked)) for lengths in dict.fromkeys(tried)]
    return min(plans, key=lambda p: objective(energy, p))


def position_bits(numbers: int) -> int:
    """Bits of one position among so many numbers."""
    return max(numbers - 1, 1).bit_length()


def filled(lengths: tuple[int, ...], packet: int, numbers: int) -> Plan:
    """As many numbers into each packet of so many bits as fit, in order, until there are none left."""
    counts, left = [], numbers
    for b in sorted(lengths, reverse=True):
        counts.append((min(packet // (b + position_bits(numbers)), left), b))
        left -= counts[-1][0]
    return tuple((k, b) for k, b in counts if k)


def objective(energy: list[float], plan: Plan) -> float:
    """The bound on the squared error that the plan is chosen by, relative to the squared norm; 0 for all zeros.

    energy: sums of the first 0, 1, ... squares by rank. A group errs by k / (2 (2^b - 1)^2) of its squares.
    """
    error, start = 0.0, 0
    for k, b in plan:
        error, start = error + _error(energy, start, k, b), start + k
    return (error + energy[-1] - energy[start]) / energy[-1] if energy[-1] else 0.0


def _error(energy: list[float], start: int, count: int, length: int) -> float:
    return count / (2 * int(2**length - 1) ** 2) * (energy[start + count] - energy[start])


def _exchanged(energy: list[float], counts: list[int], packet: int, position: int) -> tuple[int, ...]:
    """Code lengths after sweeps over neighbouring pairs, whose sum stays, until nothing gets better."""
    for _ in range(20):
        before, start = list(counts), 0
        for p in range(len(counts) - 1):
            together = counts[p] + counts[p + 1]
            counts[p] = _shared(energy, start, (counts[p], together), packet, position)
            counts[p + 1], start = together - counts[p], start + counts[p]
        if counts == before:
            break
    return tuple(_length(k, packet, position) for k in counts)


def _shared(energy: list[float], start: int, now: tuple[int, int], packet: int, position: int) -> int:
    """How many of the numbers that two neighbours have the first one takes. now: (of the first, of both)."""
    first, both = now
    sizes = {first} | {packet // (position + b) for b in range(_length(first, packet, position), LONGEST + 1)}

    def error(x: int) -> float:
        lengths = _length(x, packet, position), _length(both - x, packet, position)
        return _error(energy, start, x, lengths[0]) + _error(energy, start + x, both - x, lengths[1])

    fit = (x for x in sorted(sizes) if 0 < x < both and _length(both - x, packet, position) >= SHORTEST)
    return min(fit, key=error)


def _length(count: int, packet: int, position: int) -> int:
    return min(packet // count - position, LONGEST)


def _written(flat: NDArray[np.float32], rank: NDArray[Any], plan: Plan, generator: torch.Generator) -> Tensors:
    """The groups of a plan as tensors. In a group the numbers stand by position."""
    positions, codes, ranges, start = [], [], [], 0
    for count, length in plan:
        where, start = np.sort(rank[start : start + count]), start + count
        low, high, drawn = _quantised(flat[where], length, generator)
        positions.append(bits(where, position_bits(len(flat))))
        codes.append(bits(drawn, length))
        ranges.append((low, high))
    return {
        LENGTHS: torch.tensor([b for _, b in plan], dtype=torch.uint8),
        COUNTS: torch.tensor([k for k, _ in plan], dtype=torch.int32),
        RANGES: torch.tensor(ranges, dtype=torch.float32),
        BITS: torch.from_numpy(np.packbits(np.concatenate([*positions, *codes]))),
    }


def _quantised(x: NDArray[np.float32], length: int, generator: torch.Generator) -> tuple[float, float, NDArray[Any]]:
    """(least, greatest, codes): up or down by lot, with the mean x."""
    low, high = float(x.min()), float(x.max())
    if length == FLOAT:
        return low, high, x.view(np.uint32).astype(np.int64)
    drawn, levels = torch.rand(len(x), generator=generator, dtype=torch.float64).numpy(), 2**length - 1
    place = (x.astype(np.float64) - low) * (levels / (high - low)) if high > low else np.zeros(len(x))
    return low, high, np.minimum(np.floor(place + drawn), levels).astype(np.int64)


def _typed(packed: Tensors, dtypes: dict[str, torch.dtype]) -> None:
    for name, dtype in dtypes.items():
        if packed[name].dtype != dtype:
            raise CodecError(f"{name[:80]!r} is {packed[name].dtype}, not {str(dtype).removeprefix('torch.')}")


def _shapes(packed: Tensors, most: int | None) -> dict[str, list[int]]:
    """Shapes by name, in the order of the names. Raises CodecError if they stand for more than was sent, or `most`."""
    shapes = {k.removeprefix(SHAPE): packed[k] for k in sorted(packed) if k.startswith(SHAPE)}
    if set(packed) != {SHAPE + k for k in shapes} | {LENGTHS, COUNTS, RANGES, BITS}:
        raise CodecError("there are shapes, lengths, counts, ranges and bits, and nothing else")
    room = 8 * (packed[BITS].numel() + UNFILLED) / LEAST
    _typed(packed, {SHAPE + k: torch.int64 for k in shapes})
    if any(t.dim() != 1 or len(t) > 8 or bool((t < 0).any()) for t in shapes.values()):
        raise CodecError("a shape is none")
    listed: dict[str, list[int]] = {name: t.tolist() for name, t in shapes.items()}
    if sum(math.prod(max(n, 1) for n in shape) for shape in listed.values()) > room:
        raise CodecError("the shapes are impossible for so few bits")
    if most is not None and sum(map(math.prod, listed.values())) > most:
        raise CodecError(f"the shapes are of more than {most} numbers")
    return listed


def _groups(packed: Tensors) -> Plan:
    """(count, code length) of each group. Raises CodecError."""
    _typed(packed, {LENGTHS: torch.uint8, COUNTS: torch.int32, RANGES: torch.float32, BITS: torch.uint8})
    lengths, counts, ranges = (packed[k] for k in (LENGTHS, COUNTS, RANGES))
    if lengths.dim() != 1 or counts.shape != lengths.shape or ranges.shape != (min(len(lengths), GROUPS), 2):
        raise CodecError(f"lengths, counts and ranges are not those of the same groups, {GROUPS} at most")
    known = (lengths >= SHORTEST) & (lengths <= LONGEST) | (lengths == FLOAT)
    if not bool((known & (counts >= 0) & ranges.isfinite().all(1) & (ranges[:, 0] <= ranges[:, 1])).all()):
        raise CodecError("a group has an impossible count, code length or range")
    return tuple(zip(counts.tolist(), lengths.tolist(), strict=True))


def _read(packed: Tensors, groups: Plan, size: int) -> NDArray[np.float32]:
    """The flat vector. Raises CodecError if bits are missing or left over, or a position is none or comes twice."""
    sent, width = sum(k for k, _ in groups), position_bits(size)
    if sent > size or packed[BITS].shape != (-(-sum(k * (b + width) for k, b in groups) // 8),):
        raise CodecError("there are more values than numbers, or not as many bits as the groups have")
    given, at = np.unpackbits(packed[BITS].numpy()), sent * width
    where, values, flat = numbers(given[:at], width), [np.zeros(0, np.float32)], np.zeros(size, np.float32)
    for (count, length), (low, high) in zip(groups, packed[RANGES].tolist(), strict=True):
        codes, at = numbers(given[at : at + count * length], length), at + count * length
        scaled = (low + codes * ((high - low) / (2**length - 1))).astype(np.float32)
        values.append(codes.astype(np.uint32).view(np.float32) if length == FLOAT else scaled)
    if bool((where >= size).any()) or np.bincount(where, minlength=1).max() > 1:
        raise CodecError("a position is outside, or comes twice")
    flat[where] = np.concatenate(values)
    return flat
