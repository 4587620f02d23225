"""Frozen features, computed once per image content and backbone, and kept on disk.

Knows the backbone and one SQLite file per fingerprint; must not know clients, labels or methods.

A feature is raw (not normalised) and rounded to float16 before anyone uses it, so a first run and one that finds
everything on disk compute with the same bits. Several processes may share the file.
"""

import contextlib
import sqlite3
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import structlog
import torch
from PIL import Image

from schemas.base import canonical, digest
from schemas.errors import DataError, StoreError
from workers.data.pixels import decode, read

CHUNK = 256
"""Images decoded and encoded, then stored, at a time."""

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


class Features:
    """What one backbone makes of images and texts, kept in `<cache>/features/<fingerprint>.sqlite`."""

    def __init__(self, backbone: Backbone, cache: Path) -> None:
        self.backbone = backbone
        self._shelf = Shelf(cache / "features" / f"{backbone.fingerprint}.sqlite")
        self._warned = False

    def images(self, paths: Sequence[Path]) -> Encoded:
        """Features in the order of the paths. Raises DataError naming a file that cannot be read."""
        found: dict[str, bytes] = {}
        keys: list[str] = []
        encodes = 0
        for start in range(0, len(paths), CHUNK):
            contents = [read(p) for p in paths[start : start + CHUNK]]
            chunk = [f"image:{digest(data)}" for data in contents]
            known = self._find(chunk, 2 * self.backbone.dim)
            fresh = {k: i for i, k in enumerate(chunk) if k not in known}
            if fresh:
                encoded = self._encode([(paths[start + i], contents[i]) for i in fresh.values()])
                known |= self._keep(dict(zip(fresh, encoded, strict=True)))
            encodes += len(fresh)
            found |= known
            keys += chunk
        rows = np.frombuffer(b"".join(found[k] for k in keys), dtype="<f2").reshape(len(keys), self.backbone.dim)
        return Encoded(torch.from_numpy(rows.astype(np.float32)), encodes)

    def texts(self, classes: Sequence[str], prompts: Sequence[str]) -> torch.Tensor:
        """One unit row per class, float32 (K, D): the mean of its normalised prompt embeddings, normalised."""
        wanted = {f"text:{digest(canonical([name, *prompts]))}": name for name in classes}
        known = self._find(list(wanted), 4 * self.backbone.dim)
        fresh = {k: self._text(name, prompts) for k, name in wanted.items() if k not in known}
        known |= self._keep(fresh)
        rows = np.frombuffer(b"".join(known[k] for k in wanted), dtype="<f4").reshape(len(wanted), self.backbone.dim)
        return torch.from_numpy(rows.astype(np.float32))

    def scale(self) -> float:
        """exp(logit_scale). Kept too: with nothing left to encode, CLIP need not be built at all."""
        kept = self._find(["scale"], 8).get("scale")
        if kept is None:
            kept = self._keep({"scale": struct.pack("<d", self.backbone.scale)})["scale"]
        return float(struct.unpack("<d", kept)[0])

    def _find(self, keys: list[str], size: int) -> dict[str, bytes]:
        try:
            return self._shelf.read(keys, size)
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

    def _encode(self, files: list[tuple[Path, bytes]]) -> list[bytes]:
        batch = torch.stack([self.backbone.preprocess(decode(path, data)) for path, data in files])
        rows = self.backbone.encode_images(batch).to(torch.float16)
        for (path, _), row in zip(files, rows, strict=True):
            if not bool(row.isfinite().all()):
                raise DataError(f"cannot use {path}: the backbone's feature of it is not finite in half precision")
        return [row.numpy().astype("<f2").tobytes() for row in rows]

    def _text(self, name: str, prompts: Sequence[str]) -> bytes:
        rows = self.backbone.encode_texts([p.replace("{}", name) for p in prompts])
        mean = torch.nn.functional.normalize(rows, dim=1).mean(dim=0)
        return torch.nn.functional.normalize(mean, dim=0).numpy().astype("<f4").tobytes()


class Shelf:
    """Byte strings by key in one SQLite file. The first value of a key stays; each carries its own checksum.

    A damaged file is replaced by an empty one, a damaged value is as good as absent: everything can be computed again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, keys: Iterable[str], size: int) -> dict[str, bytes]:
        """The sound values of `size` bytes among these keys. Raises StoreError."""
        if not self.path.exists():
            return {}
        with self._open() as db:
            return _select(db, keys, size)

    def write(self, values: dict[str, bytes]) -> dict[str, bytes]:
        """Keep the values, all or nothing, and return them as kept: what another process wrote first wins.

        Raises StoreError.
        """
        if not values:
            return {}
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            first = _select(db, values, len(next(iter(values.values()))))
            missing = [(k, v + zlib.crc32(v).to_bytes(4, "big")) for k, v in values.items() if k not in first]
            db.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?)", missing)
        return values | first

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            db = self._sound()
            with contextlib.closing(db), db:
                yield db
        except (sqlite3.Error, OSError) as e:
            raise StoreError(f"feature cache {self.path}: {e}", hint="QUORATE_CACHE names its folder") from e

    def _sound(self) -> sqlite3.Connection:
        try:
            return _connect(self.path)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:
            self.path.with_name(f"{self.path.name}-journal").unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)
            return _connect(self.path)


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=60)
    try:
        db.execute("CREATE TABLE IF NOT EXISTS kept (key TEXT PRIMARY KEY, value BLOB NOT NULL)")
        db.execute("SELECT value FROM kept LIMIT 1").fetchone()
    except sqlite3.Error:
        db.close()
        raise
    return db


def _select(db: sqlite3.Connection, keys: Iterable[str], size: int) -> dict[str, bytes]:
    rows = {k: db.execute("SELECT value FROM kept WHERE key = ?", (k,)).fetchone() for k in keys}
    sound = {k: _checked(row[0]) for k, row in rows.items() if row}
    return {k: value for k, value in sound.items() if value is not None and len(value) == size}


def _checked(value: bytes) -> bytes | None:
    data, crc = value[:-4], value[-4:]
    return data if zlib.crc32(data).to_bytes(4, "big") == crc else None
