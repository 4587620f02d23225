"""Grants over HTTP: one GET or PUT of a presigned URL, retried where that is safe. No credentials here.

A PUT repeats the headers that the grant signed (`if-none-match: *`), so the store itself enforces write-once.
"""

import functools

import urllib3

from infra.trust import distrust
from schemas.errors import BlobCorrupt, BlobError, BlobExists, BlobMissing, BlobUnavailable, GrantRefused
from schemas.messages import Grant

_ERRORS = {403: GrantRefused, 404: BlobMissing, 412: BlobExists}

PASSING = frozenset((408, 429, *range(500, 600)))
"""Answers of a store that may be another one later."""


@functools.cache
def pool() -> urllib3.PoolManager:
    """Connections of this process. Connect 3 s, read 30 s, three retries of lost connections and 5xx."""
    retries = urllib3.Retry(
        total=3, backoff_factor=0.3, status_forcelist=(500, 502, 503, 504), allowed_methods=None, raise_on_status=False
    )
    return urllib3.PoolManager(maxsize=8, timeout=urllib3.Timeout(connect=3, read=30), retries=retries)


def get(grant: Grant, limit: int) -> bytes:
    """The object's bytes, at most `limit`. Raises GrantRefused, BlobMissing, BlobCorrupt, BlobUnavailable, BlobError.

    A connection cut in the middle is BlobUnavailable: fewer bytes than announced are never taken for the object.
    """
    try:
        answer = pool().request("GET", grant.url.get_secret_value(), headers=grant.headers, preload_content=False)
        try:
            _check(answer, "GET")
            if int(answer.headers.get("content-length", limit + 1)) > limit:
                answer.close()  # else the connection would hand the unread rest to its next user
                raise BlobCorrupt(f"the object is larger than {limit} bytes")
            return answer.read()
        finally:
            answer.release_conn()
    except urllib3.exceptions.HTTPError as e:  # it says the URL, which is a secret
        raise BlobUnavailable(f"GET failed: {distrust(e) or type(e).__name__}") from None
    except ValueError as e:
        raise BlobError(f"GET failed: {type(e).__name__}") from None


def put(grant: Grant, data: bytes) -> None:
    """Store the bytes once. Raises BlobExists, GrantRefused, BlobUnavailable, BlobError."""
    try:
        answer = pool().request("PUT", grant.url.get_secret_value(), body=data, headers=grant.headers)
    except urllib3.exceptions.HTTPError as e:
        raise BlobUnavailable(f"PUT failed: {distrust(e) or type(e).__name__}") from None
    _check(answer, "PUT")


def _check(answer: urllib3.BaseHTTPResponse, method: str) -> None:
    if answer.status >= 300:
        default = BlobUnavailable if answer.status in PASSING else BlobError
        raise _ERRORS.get(answer.status, default)(f"{method} answered {answer.status}")
