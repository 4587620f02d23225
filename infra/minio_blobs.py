"""The object store on any S3, through the MinIO SDK: the side that holds the credentials.

Write-once goes through a presigned PUT that signs `if-none-match: *`, because the SDK turns such a header into user
metadata and overwrites. Grants are signed for the endpoint that the workers see. Needs a store that honours
If-None-Match (MinIO and its forks, SeaweedFS >= 4.17, AWS, Ceph).
"""

import io
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Literal, TypeVar
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.deleteobjects import DeleteObject
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from pydantic import SecretStr

from infra import http
from infra.blobs import verified
from infra.sigv4 import LONGEST_S, Signer
from infra.trust import HINT, distrust
from schemas.base import digest
from schemas.errors import BlobCorrupt, BlobError, BlobMissing, BlobUnavailable, GrantRefused, SettingsError
from schemas.messages import BlobRef, Grant

_OWN_GRANT_S = 300.0
_WRITE_ONCE = {"if-none-match": "*"}
_REFUSED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch")
_SKEWED = ("RequestTimeTooSkewed", "RequestExpired")
_THERE_ALREADY = ("BucketAlreadyOwnedByYou", "BucketAlreadyExists")

T = TypeVar("T")


class MinioBlobs:
    """One bucket. Thread-safe; make one per process, after a fork."""

    def __init__(self, url: str, *, access_key: str, secret_key: str, region: str, public: str = "") -> None:
        """url: `http(s)://HOST[:PORT]/BUCKET`; public: the endpoint that workers see, if it is another.

        Makes the bucket if it is not there. Raises BlobError, and SettingsError if the credentials, or the server's
        certificate, are refused.
        """
        parts = urlsplit(url)
        self.bucket = parts.path.strip("/")
        self._own = Signer(endpoint(url), region, access_key, secret_key)
        self._signer = Signer(endpoint(public or url), region, access_key, secret_key)
        self._client = Minio(
            endpoint=urlsplit(self._own.endpoint).netloc,
            access_key=access_key,
            secret_key=secret_key,
            secure=parts.scheme == "https",
            region=region,  # saves a request, and lets signing work offline
            http_client=http.pool(),
        )
        self._make_bucket()

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> BlobRef:
        """As BlobStore."""
        path = self._path(key)
        if if_absent:
            self._put_once(key, path, data)
        else:
            name, length = path.removeprefix(f"/{self.bucket}/"), len(data)
            self._try(
                key,
                lambda: self._client.put_object(
                    bucket_name=self.bucket, object_name=name, data=io.BytesIO(data), length=length
                ),
            )
        return BlobRef(key=key, sha256=digest(data), size=len(data))

    def get(self, ref: BlobRef) -> bytes:
        """As BlobStore."""
        return verified(ref, self.read(ref.key, limit=ref.size))

    def read(self, key: str, *, limit: int) -> bytes:
        """As BlobStore."""
        self._path(key)
        return self._try(key, lambda: self._read(key, limit))

    def grant(self, key: str, method: Literal["GET", "PUT"], ttl_s: float) -> Grant:
        """A presigned URL for the workers' endpoint, of a week at most; a PUT must say `if-none-match: *`."""
        return _grant(self._signer, self._path(key), method, ttl_s)

    def delete(self, *keys: str) -> None:
        """As BlobStore: one request for up to a thousand keys."""
        for key in keys:
            self._path(key)
        first = next(iter(keys), "")
        wanted = [DeleteObject(key) for key in keys]
        failed = self._try(
            first, lambda: list(self._client.remove_objects(bucket_name=self.bucket, delete_object_list=wanted))
        )
        for error in failed:
            raise BlobError(f"{error.name}: S3 says {error.code}")

    def keys(self, prefix: str) -> Iterator[str]:
        """As BlobStore. The listing is read whole: a store may sort it by folder, not by key."""
        yield from self._try(
            prefix,
            lambda: sorted(
                str(found.object_name)
                for found in self._client.list_objects(bucket_name=self.bucket, prefix=prefix, recursive=True)
                if not found.is_dir
            ),
        )

    def _put_once(self, key: str, path: str, data: bytes) -> None:
        try:
            http.put(_grant(self._own, path, "PUT", _OWN_GRANT_S), data)
        except GrantRefused:
            self._try(key, lambda: self._client.bucket_exists(bucket_name=self.bucket))  # a wrong clock says so here
            raise BlobError(f"{key}: S3 refuses the write", hint="check the rights of QUORATE_S3_ACCESS_KEY") from None

    def _read(self, key: str, limit: int) -> bytes:
        # Not by a presigned URL: of one that a wrong clock has signed the store does not say why it refuses it.
        answer = self._client.get_object(bucket_name=self.bucket, object_name=key)
        try:
            if int(answer.headers.get("content-length", limit + 1)) > limit:
                answer.close()  # else the connection would hand the unread rest to its next user
                raise BlobCorrupt(f"{key}: larger than {limit} bytes")
            return bytes(answer.read())
        finally:
            answer.release_conn()

    def _path(self, key: str) -> str:
        parts = key.split("/")
        if any(p in ("", ".", "..") for p in parts) or len(key.encode()) > 1024 or not key.isprintable():
            raise BlobError(f"key {key[:80]!r} is no name in the store")
        return f"/{self.bucket}/{key}"

    def _try(self, key: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except S3Error as e:
            raise _said(e)(f"{key}: S3 says {e.code}", hint=_hint(e)) from None
        except (urllib3.exceptions.HTTPError, ServerError, InvalidResponseError) as e:
            raise BlobUnavailable(f"{key}: S3 failed, {type(e).__name__}") from None
        except (MinioException, ValueError) as e:
            raise BlobError(f"{key}: S3 failed, {type(e).__name__}") from e

    def _make_bucket(self) -> None:
        where = f"S3 at {self._own.endpoint}, bucket {self.bucket!r}"
        try:
            if not self._client.bucket_exists(bucket_name=self.bucket):
                self._client.make_bucket(bucket_name=self.bucket)
        except S3Error as e:
            if e.code in _REFUSED:
                raise SettingsError(f"{where}: {e.code}", hint="check QUORATE_S3_ACCESS_KEY and its rights") from None
            if e.code not in _THERE_ALREADY:
                raise _said(e)(f"{where}: {e.code}", hint=_hint(e)) from None
        except ValueError as e:
            raise SettingsError(f"{where}: {e}") from None
        except (MinioException, urllib3.exceptions.HTTPError) as e:
            if why := distrust(e):
                raise SettingsError(f"QUORATE_BLOBS: {why}", hint=HINT) from None
            hint = "is QUORATE_BLOBS right?"
            raise BlobUnavailable(f"{where}: not reachable ({type(e).__name__})", hint=hint) from None


def endpoint(url: str) -> str:
    """Scheme, host and port as a client's Host header will say them: without the scheme's own port.

    >>> endpoint("http://minio:80/quorate")
    'http://minio'
    """
    parts = urlsplit(url)
    own = {"http": ":80", "https": ":443"}.get(parts.scheme, "")
    return f"{parts.scheme}://{parts.netloc.removesuffix(own) if own else parts.netloc}"


def _said(error: S3Error) -> type[BlobError]:
    if error.code == "NoSuchKey":
        return BlobMissing
    later = error.response.status in http.PASSING or error.code in _SKEWED
    return BlobUnavailable if later else BlobError


def _hint(error: S3Error) -> str:
    return "is the clock of this machine right?" if error.code in _SKEWED else ""


def _grant(signer: Signer, path: str, method: Literal["GET", "PUT"], ttl_s: float) -> Grant:
    headers = _WRITE_ONCE if method == "PUT" else {}
    now = time.time()
    url = signer.presign(method, path, at=datetime.fromtimestamp(now, UTC), ttl_s=ttl_s, headers=headers)
    return Grant(url=SecretStr(url), method=method, headers=headers, expires=now + min(ttl_s, LONGEST_S))
