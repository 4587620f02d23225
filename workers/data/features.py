"""Frozen features, computed once per image content and backbone, and kept on disk.

Knows the backbone and one SQLite file per fingerprint; must not know clients, labels or methods.

A feature is raw (not normalised) and rounded to float16 before anyone uses it, so a first run and one that finds
everything on disk compute with the same bits. Several processes may share the file. While a chunk of images is
encoded, the next one is read and decoded. What another process is encoding is waited for, after all else.
"""

import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import structlog
import torch
from PIL import Image

from schemas.base import canonical, digest
from schemas.errors import DataError, StoreError
from workers.data.ahead import ahead, hands
from workers.data.claims import CLAIMS, Claims
from workers.data.pixels import decode, read
from workers.data.progress import Progress, Step
from workers.data.shelf import Read, Shelf

CHUNK = 256
"""Images decoded and encoded, then stored, at a time."""

FEW = 16
"""Files that are read sooner than threads for it would have begun."""

log = structlog.get_logger()


class Backbone(Protocol):
    """A frozen CLIP (workers/models). The bits of a row do not depend on the rows beside it."""

    @property
    def fingerprint(self) -> str:
        """Hex sha256 over weights, architecture and preprocessing."""

    @property
    def dim(self) -> int:
        """Length D of a feature."""

    @property
    def scale(self) -> float:
        """exp(logit_scale): what cosines are multiplied by."""

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """RGB image -> float32 (3, H, W)."""

    def encode_images(self, batch: torch.Tensor) -> torch.Tensor:
        """float32 (B, 3, H, W) -> float32 (B, D), CPU, raw."""

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """N texts -> float32 (N, D), CPU, raw."""


@dataclass(frozen=True)
class Encoded:
    """Features of N images, float32 (N, D), and how many images went through the backbone for them."""

    features: torch.Tensor
    encodes: int


@dataclass(frozen=True)
class _Chunk:
    """Files, ready to be encoded. keys: of all, in order. known: what is on disk.

    fresh: contents to be encoded here, by key, with a file of each; pixels: theirs, float32 (F, 3, H, W). others: those
    that another process is encoding.
    """

    keys: list[str]
    known: dict[str, bytes]
    fresh: dict[str, Path]
    pixels: torch.Tensor
    others: dict[str, Path]


@dataclass
class _Pass:
    """Keys of files in their order, what is known of them, and what other processes are encoding."""

    keys: list[str] = field(default_factory=list)
    found: dict[str, bytes] = field(default_factory=dict)
    others: dict[str, Path] = field(default_factory=dict)
    encodes: int = 0


class Features:
    """What one backbone makes of images and texts, kept in `<cache>/features/<fingerprint>.sqlite`."""

    def __init__(self, backbone: Backbone, cache: Path) -> None:
        self.backbone, self._progress = backbone, Progress()
        self._shelf = Shelf(cache / "features" / f"{backbone.fingerprint}.sqlite")
        self._claimed = Shelf(self._shelf.path.with_suffix(CLAIMS), lasting=False)
        self._warned = False

    def images(self, paths: Sequence[Path]) -> Encoded:
        """Features in the order of the paths. Raises DataError naming a file that cannot be read."""
        with Claims(self._claimed) as claims:
            whole = made = self._pass(paths, claims)
            while made.others:
                claims.wait(made.others)
                made = self._pass(list(made.others.values()), claims)
                whole.found |= made.found
                whole.encodes += made.encodes
        data = b"".join(whole.found[k] for k in whole.keys)
        rows = np.frombuffer(data, dtype="<f2").reshape(len(whole.keys), self.backbone.dim)
        return Encoded(torch.from_numpy(rows.astype(np.float32)), whole.encodes)

    def texts(self, classes: Sequence[str], prompts: Sequence[str]) -> torch.Tensor:
        """One unit row per class, float32 (K, D): the mean of its normalised prompt embeddings, normalised."""
        wanted = {f"text:{digest(canonical([name, *prompts]))}": name for name in classes}
        known = self._known(self._shelf.read, wanted, 4 * self.backbone.dim)
        fresh = {k: self._text(name, prompts) for k, name in wanted.items() if k not in known}
        known |= self._keep(fresh)
        rows = np.frombuffer(b"".join(known[k] for k in wanted), dtype="<f4").reshape(len(wanted), self.backbone.dim)
        return torch.from_numpy(rows.astype(np.float32))

    def scale(self) -> float:
        """exp(logit_scale). Kept too: with nothing left to encode, CLIP need not be built at all."""
        kept = self._known(self._shelf.read, ["scale"], 8).get("scale")
        if kept is None:
            kept = self._keep({"scale": struct.pack("<d", self.backbone.scale)})["scale"]
        return float(struct.unpack("<d", kept)[0])

    def _pass(self, paths: Sequence[Path], claims: Claims) -> _Pass:
        """Encode of these files what nobody else is encoding. Holds no claim when it returns."""
        made, began = _Pass(), time.monotonic()
        with closing(ahead(self._chunks(paths, claims), several=len(paths) > CHUNK)) as chunks:
            for chunk in chunks:
                made.found |= chunk.known
                made.keys += chunk.keys
                made.others |= chunk.others
                if chunk.fresh:
                    made.found |= self._keep(self._encode(chunk))
                    claims.drop(chunk.fresh)
                    made.encodes += len(chunk.fresh)
                    now = time.monotonic()
                    self._progress.tell(Step(len(chunk.fresh), now - began, len(paths) - len(made.keys)))
                    began = now
        return made

    def _chunks(self, paths: Sequence[Path], claims: Claims) -> Iterator[_Chunk]:
        seen: set[str] = set()
        with ExitStack() as stack, hands() as pool:
            find = self._reader(stack)
            for start in range(0, len(paths), CHUNK):
                yield self._chunk(paths[start : start + CHUNK], seen, find, claims, pool)

    def _chunk(self, paths: Sequence[Path], seen: set[str], find: Read, claims: Claims, pool: Executor) -> _Chunk:
        """seen: contents of chunks before, this one's added: they are encoded already, or about to be."""
        each = pool.map if len(paths) > FEW else map  # that starts no thread
        keys = list(each(_key, paths))
        known = find(set(keys) - seen, 2 * self.backbone.dim)
        missing = {k: i for i, k in enumerate(keys) if k not in known and k not in seen}
        mine = self._take(claims, missing)
        done = find(mine, 2 * self.backbone.dim)  # by another process, between the two looks
        claims.drop(done)
        fresh = {k: i for k, i in missing.items() if k in mine and k not in done}
        others = {k: paths[i] for k, i in missing.items() if k not in mine}
        seen.update(keys)
        pixels = list(pool.map(lambda k: self._pixels(paths[fresh[k]], k), fresh))
        ready = torch.stack(pixels or [torch.zeros(0)])
        return _Chunk(keys, known | done, {k: paths[i] for k, i in fresh.items()}, ready, others)

    def _pixels(self, path: Path, key: str) -> torch.Tensor:
        # Read once more, for 256 files may not fit into memory together.
        data = read(path)
        if _named(data) != key:
            raise DataError(f"cannot use {path}: it was changed while it was read")
        return self.backbone.preprocess(decode(path, data))

    def _take(self, claims: Claims, keys: Iterable[str]) -> set[str]:
        try:
            return claims.take(keys)
        except StoreError as e:
            self._go_without(e)
            return set(keys)

    def _reader(self, stack: ExitStack) -> Read:
        """Reads what is on disk, over one connection that the stack closes. What cannot be read is not known."""
        try:
            read = stack.enter_context(self._shelf.reading())
        except StoreError as e:
            self._go_without(e)
            return lambda keys, size: {}
        return lambda keys, size: self._known(read, keys, size)

    def _known(self, read: Read, keys: Iterable[str], size: int) -> dict[str, bytes]:
        try:
            return read(keys, size)
        except StoreError as e:
            self._go_without(e)
            return {}

    def _keep(self, values: dict[str, bytes]) -> dict[str, bytes]:
        try:
            return self._shelf.write(values)
        except StoreError as e:
            self._go_without(e)
            return values

    def _go_without(self, error: StoreError) -> None:
        """What cannot be kept on disk is computed and used all the same. Said once."""
        if not self._warned:
            log.warning("features are not kept on disk", error=error.message, hint=error.hint)
        self._warned = True

    def _encode(self, chunk: _Chunk) -> dict[str, bytes]:
        rows = self.backbone.encode_images(chunk.pixels).to(torch.float16)
        for path, row in zip(chunk.fresh.values(), rows, strict=True):
            if not bool(row.isfinite().all()):
                raise DataError(f"cannot use {path}: the backbone's feature of it is not finite in half precision")
        return {k: row.numpy().astype("<f2").tobytes() for k, row in zip(chunk.fresh, rows, strict=True)}

    def _text(self, name: str, prompts: Sequence[str]) -> bytes:
        rows = self.backbone.encode_texts([p.replace("{}", name) for p in prompts])
        mean = torch.nn.functional.normalize(rows, dim=1).mean(dim=0)
        return torch.nn.functional.normalize(mean, dim=0).numpy().astype("<f4").tobytes()


def _key(path: Path) -> str:
    return _named(read(path))


def _named(content: bytes) -> str:
    return f"image:{digest(content)}"
