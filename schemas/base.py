"""What every contract is built from: frozen models, checked names, canonical JSON and derived seeds.

Knows pydantic and the standard library. Must not know files, networks, tensors or any single message.
"""

import hashlib
import json
import unicodedata
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints

Wire = Literal[1]
WIRE: Wire = 1
"""Version of the messages between orchestrator and workers."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}$")]
"""A client, site or run: safe in a queue name, an object key and a file name."""

Shown = Annotated[
    str,
    StringConstraints(
        min_length=1, max_length=256, pattern=r"^[^\p{Cc}\p{Zl}\p{Zp}\u{202a}-\u{202e}\u{2066}-\u{2069}]+$"
    ),
]
"""Words from elsewhere that are shown to people, e.g. a class: one line, nothing that steers a terminal."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Frozen(BaseModel):
    """An immutable value that refuses fields it does not know, nan and infinity included.

    What is wrong with it is said without the input: that may be a grant, which is a secret.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class Choice(Frozen):
    """A plugin by name (file stem, or `package.module:Class`) with the parameters it validates itself."""

    name: str
    params: dict[str, Any] = {}


def alike(names: Iterable[str]) -> tuple[str, str] | None:
    """Two different names that read the same: CLIP reads lower case and one kind of space, and people read glyphs.

    Not told apart: case, spaces, and how Unicode writes a glyph (composed or not, or with invisible characters).
    """
    known: dict[str, str] = {}
    for name in sorted(set(names)):
        glyphs = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
        other = known.setdefault(" ".join(glyphs.casefold().split()), name)
        if other != name:
            return other, name
    return None


def canonical(value: Any) -> bytes:
    """JSON bytes that depend on the value alone: sorted keys, no spaces, UTF-8."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(data: bytes) -> str:
    """Hex sha256 of the bytes."""
    return hashlib.sha256(data).hexdigest()


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose, e.g. `derive(seed, base, client, "train")`.

    Depends on its arguments only, so a repeated task draws the same numbers wherever and whenever it runs.
    """
    text = json.dumps([seed, *purpose]).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
