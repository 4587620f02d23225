"""From a client's update to the bytes that are sent, and back.

Going out: transforms, then error feedback for a lossy codec, then the codec, then safetensors with metadata.
Coming in: bytes from anyone, so everything is checked and only CodecError is raised. Knows no method and no store.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from pydantic import TypeAdapter, ValidationError

from schemas.base import Name, canonical
from schemas.errors import CodecError
from schemas.messages import BlobRef
from workers.method import Client, State, Update
from workers.tensors import Tensors, metadata, pack, unpack

RESIDUAL = "residual."
"""Private tensors under this prefix are what a lossy codec has kept back so far. Methods may not use it."""
REMEMBERED = "transform."
"""Private tensors `transform.<place>.<name>` are what a transform has kept of the client. Methods may not use it."""

_METRICS: TypeAdapter[dict[str, float]] = TypeAdapter(dict[str, float])
_ASSIGNMENT: TypeAdapter[dict[Name, str]] = TypeAdapter(dict[Name, str])
_PRIVATE: TypeAdapter[BlobRef | None] = TypeAdapter(BlobRef | None)


class Codec(Protocol):
    """Turns tensors into what is sent. lossless: decode(encode(x)) == x."""

    lossless: bool

    def encode(self, tensors: Tensors, generator: torch.Generator) -> Tensors:
        """float32 tensors -> packed tensors of any dtype. Raises CodecError."""

    def decode(self, packed: Tensors, most: int | None = None) -> Tensors:
        """Packed tensors from anyone -> float32. Raises CodecError.

        most: numbers that are expected, all tensors together. A codec that sends less than a byte per number takes no
        memory for more of them. None: whoever sent it is trusted.
        """


class Transform(Protocol):
    """Changes an update before it is sent. `remembers`, if it has one and it is true: earlier ones are mixed in."""

    def on_client(self, tensors: Tensors, kept: Tensors, generator: torch.Generator) -> tuple[Tensors, Tensors]:
        """The client's half: what is sent, and what is kept until the client's next update. float32 in and out.

        kept: as of the client's last accepted update; empty at first.
        """


@dataclass(frozen=True)
class Sealed:
    """An update ready to be sent, and the client's next private state, error feedback included."""

    packed: Tensors
    private: Tensors


@dataclass(frozen=True)
class Label:
    """What an update blob says of itself. encodes: images passed through the backbone for it."""

    client: str
    weight: float
    metrics: dict[str, float]
    private: BlobRef | None
    encodes: int


def seal(
    client: Client, update: Update, *, private: Tensors, codec: Codec, transforms: Sequence[Transform] = ()
) -> Sealed:
    """Apply transforms, add what the codec kept back before, encode, and keep back the new difference.

    private: the private state as read, with what was kept. residual = sent - decode(encode(sent)), under the prefix
    `residual.`; what transforms keep, under `transform.`. Raises CodecError.
    """
    tensors, next_private = dict(update.tensors), dict(update.private)
    for i, transform in enumerate(transforms):
        own = f"{REMEMBERED}{i}."
        before = {k.removeprefix(own): t for k, t in private.items() if k.startswith(own)}
        tensors, kept = transform.on_client(tensors, before, client.generator(f"transform-{i}"))
        next_private |= {own + k: t for k, t in kept.items()}
    if codec.lossless:
        return Sealed(codec.encode(tensors, client.generator("codec")), next_private)
    sent = {k: t + private[RESIDUAL + k] if RESIDUAL + k in private else t for k, t in tensors.items()}
    packed = codec.encode(sent, client.generator("codec"))
    arrived = codec.decode(packed)
    residual = {RESIDUAL + k: t - arrived[k] for k, t in sent.items()}
    return Sealed(packed, next_private | residual)


def of_method(private: Tensors) -> Tensors:
    """The part of a private state that is the method's own."""
    return {k: t for k, t in private.items() if not k.startswith((RESIDUAL, REMEMBERED))}


def write_update(packed: Tensors, label: Label) -> bytes:
    """The blob of an update."""
    return pack(
        packed,
        {
            "client": label.client,
            "weight": repr(label.weight),
            "metrics": canonical(label.metrics).decode(),
            "private": _PRIVATE.dump_json(label.private).decode(),
            "encodes": str(label.encodes),
        },
    )


def open_update(data: bytes, codec: Codec, most: int | None = None) -> tuple[Tensors, Label]:
    """The float32 tensors of an update blob and its label. Raises CodecError, whatever the bytes are.

    most: numbers that are expected; None for what was admitted before.
    """
    label = read_label(data)
    return codec.decode(unpack(data), most), label


def read_label(data: bytes) -> Label:
    """What an update blob says of itself. Raises CodecError."""
    found = metadata(data)
    try:
        label = Label(
            client=found["client"],
            weight=float(found["weight"]),
            metrics=_METRICS.validate_json(found["metrics"]),
            private=_PRIVATE.validate_json(found["private"]),
            encodes=int(found["encodes"]),
        )
    except (KeyError, ValueError, ValidationError, json.JSONDecodeError) as e:
        raise CodecError(f"the update's label is incomplete: {type(e).__name__}") from None
    if not math.isfinite(label.weight) or label.weight < 0 or label.encodes < 0:
        raise CodecError("the update's label holds an impossible number")
    if not all(math.isfinite(v) for v in label.metrics.values()):
        raise CodecError("the update's label holds a metric that is not finite")
    return label


def write_state(state: State) -> bytes:
    """The blob of a method's version 0: tensors as `<group>/<name>`, and who is in which group."""
    named = {f"{group}/{name}": t for group, tensors in state.tensors.items() for name, t in tensors.items()}
    return pack(named, {"assignment": canonical(dict(state.assignment)).decode()})


def read_assignment(data: bytes) -> dict[str, str]:
    """Which client is in which group, of the blob of a version 0. Raises CodecError."""
    try:
        return _ASSIGNMENT.validate_json(metadata(data).get("assignment", "{}"))
    except ValidationError:
        raise CodecError("the groups of the clients are not understood") from None
