"""Presigned S3 URLs by AWS Signature Version 4 (query form), with headers that the caller must repeat.

Signs `if-none-match: *` (and `content-length`) into the URL, which the SDK's own presigning cannot: without the
signed header the store answers 403, so write-once does not depend on the writer's good will. Pure: no clock, no I/O.
"""

import functools
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote, urlsplit

LONGEST_S = 604_800
"""S3 accepts no presigned URL that lives longer than a week."""


@dataclass(frozen=True)
class Signer:
    """Credentials for one endpoint (`http(s)://HOST[:PORT]`). The secret is not in the repr."""

    endpoint: str
    region: str
    access_key: str
    secret_key: str

    def __repr__(self) -> str:
        return f"Signer({self.endpoint!r}, {self.region!r})"

    def presign(
        self, method: str, path: str, *, at: datetime, ttl_s: float, headers: Mapping[str, str] | None = None
    ) -> str:
        """The URL that allows `method` on `path` (`/bucket/key`, not quoted) until at + ttl_s (1 s to a week).

        at: aware, UTC. headers: lower-case names; the request must carry exactly these values.
        """
        signed = dict(sorted({"host": urlsplit(self.endpoint).netloc, **(headers or {})}.items()))
        scope = f"{at:%Y%m%d}/{self.region}/s3/aws4_request"
        query = "&".join(
            f"{name}={quote(value, safe='-_.~')}"
            for name, value in (  # in the order of their names, as the canonical request wants them
                ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
                ("X-Amz-Credential", f"{self.access_key}/{scope}"),
                ("X-Amz-Date", f"{at:%Y%m%dT%H%M%SZ}"),
                ("X-Amz-Expires", str(max(1, min(LONGEST_S, int(ttl_s))))),
                ("X-Amz-SignedHeaders", ";".join(signed)),
            )
        )
        quoted = quote(path, safe="/-_.~")
        lines = "".join(f"{name}:{value}\n" for name, value in signed.items())
        canonical = f"{method}\n{quoted}\n{query}\n{lines}\n{';'.join(signed)}\nUNSIGNED-PAYLOAD"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        to_sign = f"AWS4-HMAC-SHA256\n{at:%Y%m%dT%H%M%SZ}\n{scope}\n{digest}"
        key = _key(self.secret_key, f"{at:%Y%m%d}", self.region)
        signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
        return f"{self.endpoint}{quoted}?{query}&X-Amz-Signature={signature}"


@functools.lru_cache(maxsize=8)
def _key(secret: str, day: str, region: str) -> bytes:
    """Signs a day's URLs: a task needs six, and four of the five hashes of each would be the same."""
    key = f"AWS4{secret}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key
