"""Messages that went wrong: a seeded mutator of JSON documents and of bytes, and things nobody should send."""

import json
from collections.abc import Iterator
from copy import deepcopy
from random import Random
from typing import Any

NASTY: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 1.5, -0.0, 1e308, -1e308, 1e-320, 10**18, 10**400, 2**63, -(2**63),
    "", "0", "1", "null", "x" * 5000, "\0", "\x1b[31m", "../../up", "a/b", "a\nb", "\u202e", "\ud800",
    "ab" * 32, "private:" + "ab" * 32, "os:system", "r", "toy", "train", "evaluate", "client",
    [], {}, [[]], [None], {"": 0}, {"a": {"b": 1}},
)  # fmt: skip
"""Values of every kind, of which few fit anywhere. `\\ud800` is half a character."""

RAW = (
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"0x10", b"9" * 5000, b"'", b"\0", b"\xff\xfe", b"[" * 5000,
)  # fmt: skip
"""What replaces a value in the text, and is mostly no JSON."""


def mutants(document: dict[str, Any], count: int, seed: int, *, spare: tuple[str, ...] = ()) -> Iterator[bytes]:
    """`count` damaged copies of a document. spare: fields, at any depth, that stay as they are."""
    random = Random(seed)
    for _ in range(count):
        whole = deepcopy(document)
        for _ in range(random.choice((1, 1, 1, 2, 5))):
            _damage(whole, random, spare)
        text = json.dumps(whole).encode()
        yield _spoil(text, random) if random.random() < 0.3 and not spare else text


def noise(count: int, seed: int) -> Iterator[bytes]:
    """Bytes that mean nothing."""
    random = Random(seed)
    yield from (random.randbytes(random.choice((0, 1, 7, 100, 3000))) for _ in range(count))


def _damage(whole: dict[str, Any], random: Random, spare: tuple[str, ...]) -> None:
    places = [p for p in _places(whole) if p[1] not in spare]
    if not places:
        return
    holder, name = random.choice(places)
    match random.randrange(7):
        case 0 | 1 | 2:
            holder[name] = deepcopy(random.choice(NASTY))
        case 3:
            del holder[name]
        case 4:
            other, its = random.choice(places)
            holder[name] = deepcopy(other[its])
        case 5 if isinstance(holder, dict):
            holder[f"{name}x"] = deepcopy(random.choice(NASTY))
        case 6 if isinstance(holder, list):
            holder.append(deepcopy(holder[name]))
        case _:
            holder[name] = [holder[name]]


def _spoil(text: bytes, random: Random) -> bytes:
    at = random.randrange(len(text))
    match random.randrange(5):
        case 0:
            return text[:at]
        case 1:
            return text[:at] + random.randbytes(3) + text[at:]
        case 2:
            return text[:at] + text[at + random.randrange(20) :]
        case 3:
            return text[:at] + text[random.randrange(len(text)) :]
        case _:
            return text.replace(random.choice((b"1", b'"r"', b"null", b"3.0", b"[]")), random.choice(RAW), 1)


def _places(value: Any) -> list[tuple[Any, Any]]:
    names = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    return [(value, n) for n in names] + [place for n in names for place in _places(value[n])]
