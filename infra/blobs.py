"""The object store: immutable bytes under keys, and grants for those who hold no credentials.

`BlobStore` is the orchestrator's side (credentials, any key); `get` and `put` are a worker's side (grants only).
Knows nothing of what the bytes mean.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from infra import http
from infra.files import regular, write_whole
from schemas.base import digest
from schemas.errors import BlobCorrupt, BlobError, BlobExists, BlobMissing, GrantRefused
from schemas.messages import BlobRef, Grant, Outlet, Ref

LOCAL_GRANT_S = 86_400.0
"""Least life of a local grant: virtual time says nothing about how long the work really takes."""


class BlobStore(Protocol):
    """Write-once objects. Keys are slash-separated names, relative to the store's root."""

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> BlobRef:
        """Store the bytes, all or nothing. Raises BlobExists if `if_absent` and the key is taken, else BlobError."""

    def get(self, ref: BlobRef) -> bytes:
        """The bytes; size is checked before and hash after reading. Raises BlobMissing, BlobCorrupt, BlobError."""

    def read(self, key: str, *, limit: int) -> bytes:
        """The bytes under a key of which no hash is known, at most `limit`. Raises BlobMissing, BlobCorrupt."""

    def grant(self, key: str, method: Literal["GET", "PUT"], ttl_s: float) -> Grant:
        """Leave for one method on one key for `ttl_s` seconds; a PUT only if the key is free."""

    def delete(self, *keys: str) -> None:
        """Forget the objects. An absent key is no error."""

    def keys(self, prefix: str) -> Iterator[str]:
        """All keys that begin with the prefix, sorted."""


def outlet(store: BlobStore, key: str, ttl_s: float) -> Outlet:
    """Leave to write a key once, and to read back what an earlier attempt wrote there."""
    return Outlet(key=key, put=store.grant(key, "PUT", ttl_s), get=store.grant(key, "GET", ttl_s))


def readable(store: BlobStore, blob: BlobRef, ttl_s: float) -> Ref:
    """The blob with leave to read it."""
    return Ref(blob=blob, grant=store.grant(blob.key, "GET", ttl_s))


def verified(ref: BlobRef, data: bytes) -> bytes:
    """The bytes, if they are what the reference promises. Raises BlobCorrupt."""
    if len(data) != ref.size or digest(data) != ref.sha256:
        raise BlobCorrupt(f"{ref.key}: {len(data)} bytes do not match the promised {ref.size} bytes and hash")
    return data


def get(ref: Ref) -> bytes:
    """A worker's read. Raises GrantRefused, BlobMissing, BlobCorrupt, BlobError."""
    if ref.grant is None:
        raise GrantRefused(f"{ref.blob.key}: no grant to read it")
    return verified(ref.blob, fetch(ref.grant, limit=ref.blob.size))


def fetch(grant: Grant, *, limit: int) -> bytes:
    """The bytes behind a GET grant, at most `limit`: more is BlobCorrupt, before they are read."""
    url = urlsplit(grant.url.get_secret_value())
    if url.scheme == "file":
        return _read_file(Path(unquote(url.path)), limit)
    return http.get(grant, limit)


def put(target: Outlet, data: bytes) -> BlobRef:
    """A worker's write. Raises BlobExists (read back what is there), GrantRefused, BlobError."""
    url = urlsplit(target.put.url.get_secret_value())
    if url.scheme == "file":
        _write_file(Path(unquote(url.path)), data, if_absent=True)
    else:
        http.put(target.put, data)
    return BlobRef(key=target.key, sha256=digest(data), size=len(data))


class FileBlobs:
    """A folder as an object store. A write is a hard link of a finished file: whole or not at all, once or never."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.normpath(root.absolute()))
        self._inside = os.path.join(self.root, "")

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> BlobRef:
        """As BlobStore."""
        _write_file(self._path(key), data, if_absent=if_absent)
        return BlobRef(key=key, sha256=digest(data), size=len(data))

    def get(self, ref: BlobRef) -> bytes:
        """As BlobStore."""
        return verified(ref, _read_file(self._path(ref.key), ref.size))

    def read(self, key: str, *, limit: int) -> bytes:
        """As BlobStore."""
        return _read_file(self._path(key), limit)

    def grant(self, key: str, method: Literal["GET", "PUT"], ttl_s: float) -> Grant:
        """A `file:` URL. It lives at least a day, because virtual seconds are not wall seconds."""
        expires = time.time() + max(ttl_s, LOCAL_GRANT_S)
        return Grant(url=SecretStr(self._path(key).as_uri()), method=method, expires=expires)

    def delete(self, *keys: str) -> None:
        """As BlobStore."""
        for key in keys:
            try:
                self._path(key).unlink(missing_ok=True)
            except OSError as e:
                raise BlobError(f"{key}: {e.strerror}") from e

    def keys(self, prefix: str) -> Iterator[str]:
        """As BlobStore."""
        folder = self._path(prefix.rpartition("/")[0]) if "/" in prefix else self.root
        names = (p.relative_to(self.root).as_posix() for p in folder.rglob("*") if p.is_file())
        yield from sorted(n for n in names if n.startswith(prefix) and not Path(n).name.startswith("."))

    def _path(self, key: str) -> Path:
        path = os.path.normpath(os.path.join(self._inside, key))
        if not path.startswith(self._inside) or not key.isprintable():
            raise BlobError(f"key {key[:80]!r} is no name in the store")
        return Path(path)


def _read_file(path: Path, limit: int) -> bytes:
    try:
        with regular(path) as f:
            if os.fstat(f.fileno()).st_size > limit:
                raise BlobCorrupt(f"{path.name}: larger than {limit} bytes")
            return f.read()
    except FileNotFoundError:
        raise BlobMissing(f"{path.name}: not in the store") from None
    except OSError as e:
        raise BlobError(f"{path.name}: {e.strerror}") from e


def _write_file(path: Path, data: bytes, *, if_absent: bool) -> None:
    # No fsync: a killed process loses nothing, and after a power cut the hash tells.
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, data, os.link if if_absent else os.replace)
    except FileExistsError:
        raise BlobExists(f"{path.name}: written already") from None
    except OSError as e:
        raise BlobError(f"{path.name}: {e.strerror}") from e
