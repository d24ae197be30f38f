"""One bucket of an S3 server, asked by requests of our own. A connection may take as long as bytes go over it.

`timeout_s` bounds a silence, not a request: a body of any size is read and sent as long as something of it arrives. A request
is repeated on transient errors, and a download goes on where it broke.
"""

import os
import re
import secrets
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from hashlib import md5, sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import urllib3

from sbh_pipelines.errors import ObjectChanged, StoreError, StoreUnavailable
from sbh_pipelines.stores.s3_errors import Told, s3_error
from sbh_pipelines.stores.signed import signature
from sbh_pipelines.stores.signed.credentials import Credentials
from sbh_pipelines.stores.signed.headers import TAGGING, attributes_of, tagging_of

PIECE_BYTES = 256 << 10  # small: what a thread frees of it, it takes again for the next
SLOWEST = 64 << 10  # bytes that a line carries in a second at the least
_BUFFERED = 8 << 20  # bytes that the system may hold back when all is sent
_BLOCK = 128 << 10  # bytes sent at once: the timeout is one block's
_MOST_ERROR = 64 << 10
_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_NOTHING = sha256(b"").hexdigest()
_MD5 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a bucket is, and how it is spoken to.

    Attributes:
        bucket: Its name.
        region: Its region, for signatures.
        url: The server's address; None: AWS's, of the region.
        ca_file: Certificates that are trusted besides the system's; None: none.
        timeout_s: How long the connection may be silent, s.
        retries: How often a request is repeated on transient errors.
    """

    bucket: str
    region: str
    url: str | None = None
    ca_file: Path | None = None
    timeout_s: float = 60.0
    retries: int = 5

    @property
    def address(self) -> str:
        """The server's address, without a "/" at its end."""
        named = self.url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        suffix = "amazonaws.com.cn" if self.region.startswith("cn-") else "amazonaws.com"
        return (named or f"https://s3.{self.region}.{suffix}").rstrip("/")


class SignedClient:
    """Requests about the objects of one bucket. Thread-safe. No request is made before the first is asked for."""

    def __init__(self, endpoint: Endpoint, credentials: Credentials) -> None:
        self._endpoint, self._credentials = endpoint, credentials
        parts = urlsplit(endpoint.address)
        self._host, self._base = parts.netloc.rpartition("@")[2], f"{parts.path}/{endpoint.bucket}/"

    @cached_property
    def _pool(self) -> Any:
        """urllib3's connections to the server, or through the proxy that the environment names."""
        from botocore.utils import get_environ_proxies

        options: dict[str, Any] = {"maxsize": 32}
        if self._endpoint.address.startswith("https:"):
            context = ssl.create_default_context()
            if self._endpoint.ca_file:
                context.load_verify_locations(self._endpoint.ca_file)
            options["ssl_context"] = context
        proxies = get_environ_proxies(self._endpoint.address)
        if proxy := proxies.get(urlsplit(self._endpoint.address).scheme):
            return urllib3.ProxyManager(proxy, **options)
        # Not a PoolManager's urlopen, which makes `a/./b` to `a/b`.
        return urllib3.PoolManager(**options).connection_from_url(self._endpoint.address)

    def url(self, key: str) -> str:
        """The address of an object for people."""
        return f"s3://{self._endpoint.bucket}/{ascii(key)[1:-1]}"

    def ask(
        self,
        action: str,
        method: str,
        key: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        body: bytes | memoryview = b"",
    ) -> Any:
        """urllib3's answer to a request that went well, its body not read. Raises the error that the answer means.

        `action` says in words what is done, for errors.
        """
        for attempt in range(self._endpoint.retries + 1):
            try:
                return self._once(action, method, key, query, headers or {}, body)
            except StoreUnavailable:
                if attempt == self._endpoint.retries:
                    raise
            time.sleep((0.5 + secrets.randbelow(500) / 1000) * min(_PAUSE_S * 2**attempt, _LONGEST_PAUSE_S))
        raise AssertionError

    def read(self, action: str, method: str, key: str, **request: Any) -> tuple[bytes, Mapping[str, str]]:
        """The whole body of an answer, and its headers. Parameters as of `ask`."""
        answer = self.ask(action, method, key, **request)
        with self._translated(action, key):
            return answer.read(decode_content=False), _lower(answer)

    def stream(
        self, key: str, *, version: str | None = None, if_match: str | None = None
    ) -> tuple[Mapping[str, str], Iterator[memoryview]]:
        """All that S3 keeps with an object, and its content. Raises ObjectMissing, ObjectChanged and others of the store's."""
        query = [("versionId", version)] if version else []
        answer = self.ask("get an object", "GET", key, query=query, headers={"if-match": if_match} if if_match else {})
        found = _lower(answer)
        attributes = attributes_of(found)
        if int(found.get("x-amz-tagging-count") or 0):
            document, _ = self.read("get the tags of an object", "GET", key, query=[*query, ("tagging", "")])
            with self._translated("get the tags of an object", key):
                attributes[TAGGING] = tagging_of(document)
        pieces = self._pieces(key, query, answer, found.get("etag", ""))
        return attributes, self._as_stored(key, query, pieces, found)

    def _as_stored(
        self, key: str, query: Sequence[tuple[str, str]], pieces: Iterator[memoryview], found: Mapping[str, str]
    ) -> Iterator[memoryview]:
        """The pieces, and at their end ObjectChanged where the line or a cache on it changed them.

        TLS lets nothing be changed. Without it the ETag tells, where it is the MD5 of the content: it is not of uploads in parts,
        of encryption with KMS or customers' keys, and of some servers. So one that does not fit is believed only if the
        object, read again, is another.
        """
        wanted = _md5_of(found) if self._endpoint.address.startswith("http:") else None
        if wanted is None:
            yield from pieces
            return
        digest = md5(usedforsecurity=False)
        for piece in pieces:
            digest.update(piece)
            yield piece
        if digest.hexdigest() == wanted:
            return
        again = md5(usedforsecurity=False)
        answer = self.ask("get an object", "GET", key, query=query, headers={"if-match": found["etag"]})
        for piece in self._pieces(key, query, answer, found["etag"]):
            again.update(piece)
        if again.digest() != digest.digest():
            raise ObjectChanged(
                "The object changed on its way here",
                on=self.url(key),
                why="read twice, it was not the same",
                remedy="try again; use https for storage.endpoint_url, and look at proxies and caches on the way",
            )

    def _pieces(self, key: str, query: Sequence[tuple[str, str]], answer: Any, etag: str) -> Iterator[memoryview]:
        """The body; where it breaks it is asked for from there on, as often as something came since."""
        action, done, without_progress = "get an object", 0, 0
        length = answer.headers.get("content-length")
        while True:
            try:
                with self._translated(action, key):
                    piece = answer.read(PIECE_BYTES, decode_content=False)
                    if not piece and length is not None and done != int(length):
                        raise urllib3.exceptions.ProtocolError("the body ends early")  # as a resumed one may
            except StoreUnavailable:
                answer.close()
                without_progress += 1
                if without_progress > self._endpoint.retries or not etag:
                    raise
                wanted = {"if-match": etag} | ({"range": f"bytes={done}-"} if done else {})
                answer = self.ask(action, "GET", key, query=query, headers=wanted)
                if done and not answer.headers.get("content-range", "").startswith(f"bytes {done}-"):
                    raise StoreError(
                        "The store does not answer with the range asked for",
                        on=self.url(key),
                        remedy="use another store",
                    ) from None
                continue
            if not piece:
                answer.release_conn()
                return
            done, without_progress = done + len(piece), 0
            yield memoryview(piece)

    def _once(
        self,
        action: str,
        method: str,
        key: str,
        query: Sequence[tuple[str, str]],
        headers: Mapping[str, str],
        body: bytes | memoryview,
    ) -> Any:
        path, asked = signature.encoded_path(self._base + key), signature.encoded_query(query)
        body_hash = sha256(body).hexdigest() if len(body) else _NOTHING
        signed = signature.signed_headers(
            method,
            path,
            asked,
            {**headers, "host": self._host},
            body_hash,
            self._credentials.keys(),
            self._endpoint.region,
            datetime.now(UTC),
        )
        if method in ("PUT", "POST"):
            signed["content-length"] = str(len(body))
        target = f"{path}?{asked}" if asked else path
        with self._translated(action, key):
            pool = self._pool
            if isinstance(pool, urllib3.ProxyManager):
                target = f"{urlsplit(self._endpoint.address).scheme}://{self._host}{target}"
            silence = self._endpoint.timeout_s
            answer = pool.urlopen(
                method,
                target,
                timeout=urllib3.Timeout(connect=silence, read=silence + min(len(body), _BUFFERED) / SLOWEST),
                body=_blocks(body) if len(body) else None,
                headers=signed,
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
            )
            if answer.status < 300:
                return answer
            text = answer.read(_MOST_ERROR, decode_content=False).decode("utf-8", "replace")
            answer.close()
        raise s3_error(action, self.url(key), Told.read(text, answer.status), bucket=self._endpoint.bucket, key=key)

    def _translated(self, action: str, key: str) -> "_Translated":
        return _Translated(action, self.url(key))


class _Translated:
    """Raises urllib3's errors as StoreUnavailable."""

    def __init__(self, action: str, on: str) -> None:
        self._action, self._on = action, on

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: Any, error: BaseException | None, _: object) -> None:
        if isinstance(error, urllib3.exceptions.HTTPError | OSError | ValueError):
            raise StoreUnavailable(
                f"Cannot {self._action}",
                on=self._on,
                why=" ".join(f"{type(error).__name__}: {error}".split())[:300],
                remedy="check storage.endpoint_url, storage.ca_file and the network; run `sbh doctor`",
            ) from None


def _md5_of(found: Mapping[str, str]) -> str | None:
    """The MD5 that an ETag may be, in hex; None where it cannot be one."""
    etag = found.get("etag", "").strip('"')
    encrypted = found.get("x-amz-server-side-encryption", "").startswith("aws:kms")
    if encrypted or "x-amz-server-side-encryption-customer-algorithm" in found:
        return None
    return etag if _MD5.fullmatch(etag) else None


def _blocks(body: bytes | memoryview) -> Iterator[memoryview]:
    view = memoryview(body)
    for start in range(0, len(view), _BLOCK):
        yield view[start : start + _BLOCK]


def _lower(answer: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.headers.itermerged()}
