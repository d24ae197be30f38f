"""AWS Signature Version 4. Header values are texts of which each character is a byte (ISO 8859-1), and are signed as such bytes.

After https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from urllib.parse import quote

from sbh_pipelines.stores.signed.credentials import Keys

_ALGORITHM = "AWS4-HMAC-SHA256"


def encoded_path(path: str) -> str:
    """A path as it is sent and signed. A key's lone surrogates stand for bytes that are no UTF-8."""
    return quote(path.encode("utf-8", "surrogatepass"), safe="/-_.~")


def encoded_query(query: Sequence[tuple[str, str]]) -> str:
    return "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in sorted(query))


def signed_headers(
    method: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    body_hash: str,
    keys: Keys,
    region: str,
    now: datetime,
) -> dict[str, str]:
    """The headers, and those that sign the request. `path` and `query` are encoded; names of headers are in lower case."""
    moment = now.strftime("%Y%m%dT%H%M%SZ")
    sent = {**headers, "x-amz-date": moment, "x-amz-content-sha256": body_hash}
    if keys.token:
        sent["x-amz-security-token"] = keys.token
    names = sorted(n for n in sent if n.startswith("x-amz-") or n in ("host", "content-type", "content-md5"))
    canonical = b"\n".join(
        (
            f"{method}\n{path}\n{query}".encode(),
            *(name.encode("latin-1") + b":" + b" ".join(sent[name].encode("latin-1").split()) for name in names),
            b"",
            ";".join(names).encode("latin-1"),
            body_hash.encode(),
        )
    )
    scope = f"{moment[:8]}/{region}/s3/aws4_request"
    to_sign = f"{_ALGORITHM}\n{moment}\n{scope}\n{hashlib.sha256(canonical).hexdigest()}"
    key = _signing_key(keys.secret, moment[:8], region)
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    credential = f"Credential={keys.access}/{scope}"
    sent["authorization"] = f"{_ALGORITHM} {credential}, SignedHeaders={';'.join(names)}, Signature={signature}"
    return sent


@lru_cache(maxsize=64)
def _signing_key(secret: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key
