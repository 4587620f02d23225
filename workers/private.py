"""Private state: tensors of one client that come back to it and are never aggregated.

In a simulation they lie in the run's store, through the task's grants. At a site they are files of that site, named
by their content, and only an opaque id travels.
"""

import contextlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from infra import blobs
from infra.files import regular, write_whole
from schemas.base import digest
from schemas.errors import BlobMissing, StoreError
from schemas.messages import BlobRef, ClientSlot
from workers.reach import Reach
from workers.tensors import Tensors, pack, unpack

OWN = "private:"
"""Keys of private state that stays at its site begin so."""

DAY_S = 86_400.0
KEPT = 8
"""Files of one client that stay: which of its last answers was accepted, only the loop knows."""


class Private(Protocol):
    """Where a worker keeps private state."""

    def read(self, run: str, slot: ClientSlot) -> Tensors:
        """The client's private state as last accepted, empty at first."""

    def write(self, run: str, slot: ClientSlot, tensors: Tensors) -> BlobRef | None:
        """Keep the next private state; None if there is none."""


@dataclass(frozen=True)
class PoolPrivate:
    """Of simulated clients: blobs of the run."""

    reach: Reach

    def read(self, run: str, slot: ClientSlot) -> Tensors:
        """The client's private state as last accepted, empty at first. Raises BlobError, CodecError."""
        return unpack(self.reach.get(slot.private)) if slot.private else {}

    def write(self, run: str, slot: ClientSlot, tensors: Tensors) -> BlobRef | None:
        """Keep the next private state; None if there is none. Raises BlobError."""
        return self.reach.upload(slot.outputs["private"], pack(tensors))[0] if tensors else None


@dataclass(frozen=True)
class SitePrivate:
    """Of a site's own clients: files under `<root>/<run>/<client>/`.

    keep_days: when a run begins, those that nothing was read or written of for so long are forgotten; None: never.
    Which runs have ended no site can know: it holds no credentials of their store.
    """

    root: Path
    keep_days: int | None = None

    def read(self, run: str, slot: ClientSlot) -> Tensors:
        """As PoolPrivate, from the site's files. Raises BlobMissing, BlobCorrupt, StoreError."""
        if slot.private is None:
            return {}
        ref = slot.private.blob
        path = self._path(run, slot.client, ref.sha256)
        try:
            os.utime(path)
            with regular(path) as file:
                return unpack(blobs.verified(ref, file.read(ref.size + 1)))
        except FileNotFoundError:
            raise BlobMissing(f"private state {ref.sha256[:12]} is not here") from None
        except OSError as e:
            raise StoreError(f"private state cannot be read: {e.strerror}") from None

    def write(self, run: str, slot: ClientSlot, tensors: Tensors) -> BlobRef | None:
        """As PoolPrivate; the key is an opaque id. Raises StoreError."""
        if not tensors:
            return None
        data = pack(tensors)
        sha256 = digest(data)
        path = self._path(run, slot.client, sha256)
        try:
            if self.keep_days is not None and not (self.root / run).exists():
                _forget_runs(self.root, before=time.time() - self.keep_days * DAY_S)
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_whole(path, data)
            _forget_old(path.parent)
        except OSError as e:
            raise StoreError(f"private state cannot be kept: {e.strerror}") from None
        return BlobRef(key=f"{OWN}{sha256}", sha256=sha256, size=len(data))

    def _path(self, run: str, client: str, sha256: str) -> Path:
        return self.root / run / client / f"{sha256}.safetensors"


def _forget_runs(root: Path, before: float) -> None:
    """Remove the private state of runs whose last file was touched before that moment, and nothing else."""
    for run in [p for p in root.glob("*") if p.is_dir()]:
        files = [p for p in run.glob("*/*.safetensors") if re.fullmatch("[0-9a-f]{64}", p.stem)]
        if files and max(p.stat().st_mtime for p in files) < before:
            for path in files:
                path.unlink(missing_ok=True)
            for folder in [*{p.parent for p in files}, run]:
                with contextlib.suppress(OSError):  # something else lies there too, which is not ours
                    folder.rmdir()


def _forget_old(folder: Path) -> None:
    files = sorted(folder.glob("*.safetensors"), key=lambda p: p.stat().st_mtime_ns, reverse=True)
    for path in files[KEPT:]:
        path.unlink(missing_ok=True)
