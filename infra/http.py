"""Grants over HTTP: one GET or PUT of a presigned URL, retried where that is safe. No credentials here.

A PUT repeats the headers that the grant signed (`if-none-match: *`), so the store itself enforces write-once.
"""

import functools

import urllib3

from schemas.errors import BlobCorrupt, BlobError, BlobExists, BlobMissing, GrantRefused
from schemas.messages import Grant

_ERRORS = {403: GrantRefused, 404: BlobMissing, 412: BlobExists}


@functools.cache
def pool() -> urllib3.PoolManager:
    """Connections of this process. Connect 3 s, read 30 s, three retries of lost connections and 5xx."""
    retries = urllib3.Retry(
        total=3, backoff_factor=0.3, status_forcelist=(500, 502, 503, 504), allowed_methods=None, raise_on_status=False
    )
    return urllib3.PoolManager(maxsize=8, timeout=urllib3.Timeout(connect=3, read=30), retries=retries)


def get(grant: Grant, limit: int) -> bytes:
    """The object's bytes, at most `limit`. Raises GrantRefused, BlobMissing, BlobCorrupt, BlobError."""
    try:
        answer = pool().request("GET", grant.url.get_secret_value(), headers=grant.headers, preload_content=False)
        try:
            _check(answer, "GET")
            if int(answer.headers.get("content-length", limit + 1)) > limit:
                raise BlobCorrupt(f"the object is larger than {limit} bytes")
            return answer.read()
        finally:
            answer.release_conn()
    except (urllib3.exceptions.HTTPError, ValueError) as e:
        raise BlobError(f"GET failed: {type(e).__name__}") from None  # the text of e holds the URL, which is a secret


def put(grant: Grant, data: bytes) -> None:
    """Store the bytes once. Raises BlobExists, GrantRefused, BlobError."""
    try:
        answer = pool().request("PUT", grant.url.get_secret_value(), body=data, headers=grant.headers)
    except urllib3.exceptions.HTTPError as e:
        raise BlobError(f"PUT failed: {type(e).__name__}") from None
    _check(answer, "PUT")


def _check(answer: urllib3.BaseHTTPResponse, method: str) -> None:
    if answer.status >= 300:
        raise _ERRORS.get(answer.status, BlobError)(f"{method} answered {answer.status}")
