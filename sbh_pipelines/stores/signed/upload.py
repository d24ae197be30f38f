"""An object put by requests of our own: in one, or in parts that grow with it, as S3 takes 10,000 parts at most."""

import base64
import re
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from hashlib import sha256
from html import unescape
from itertools import chain
from xml.sax.saxutils import escape  # nosec B406  # nothing is parsed

from sbh_pipelines.errors import StoreError
from sbh_pipelines.stores.s3_errors import Told, s3_error
from sbh_pipelines.stores.signed.client import SignedClient

PART = 8 << 20  # bytes of the smallest part
_MIB = 1 << 20
_MOST_PARTS = 10_000
_AT_ONCE = 4
# Larger parts than the smallest are in memory one by one, of one upload at a time.
_LARGE = threading.Lock()


def part_size(size: int | None) -> int:
    """Bytes of a part of an object of `size` bytes, so that there are not too many of them; whole MiB."""
    least = -(-(size or 0) // _MOST_PARTS)
    return max(PART, -(-least // _MIB) * _MIB)


def put(
    client: SignedClient, key: str, pieces: Iterable[bytes], headers: Mapping[str, str], size: int | None = None
) -> None:
    """Put an object of about `size` bytes. What was begun and fails leaves no object. Raises the store's errors."""
    length = part_size(size)
    with _LARGE if length > PART else nullcontext():
        parts = _parts(pieces, length)
        first, second = next(parts, b""), next(parts, None)
        if second is None:
            client.read("put an object", "PUT", key, headers={**headers, **_checksum(first)}, body=first)
            return
        _put_parts(client, key, chain((first, second), parts), headers, _AT_ONCE if length == PART else 1)


def _put_parts(
    client: SignedClient, key: str, parts: Iterator[bytes], headers: Mapping[str, str], at_once: int
) -> None:
    asked = {**headers, "x-amz-checksum-algorithm": "SHA256"}
    document, _ = client.read("begin an upload", "POST", key, query=[("uploads", "")], headers=asked)
    upload = _text(document, "UploadId", client.url(key))
    try:
        done: list[tuple[str, str]] = []  # ETag, checksum

        def send(number: int, part: bytes) -> tuple[str, str]:
            checksum = _checksum(part)
            query = [("partNumber", str(number)), ("uploadId", upload)]
            _, answer = client.read("put a part of an object", "PUT", key, query=query, headers=checksum, body=part)
            return answer.get("etag", ""), checksum["x-amz-checksum-sha256"]

        with ThreadPoolExecutor(at_once, thread_name_prefix="upload") as senders:
            sent: deque[Future[tuple[str, str]]] = deque()
            for number, part in enumerate(parts, 1):
                sent.append(senders.submit(send, number, part))
                if len(sent) >= at_once:
                    done.append(sent.popleft().result())
            done += [future.result() for future in sent]
        _complete(client, key, upload, done)
    except BaseException:
        with suppress(StoreError):
            client.read("abort an upload", "DELETE", key, query=[("uploadId", upload)])
        raise


def _complete(client: SignedClient, key: str, upload: str, parts: list[tuple[str, str]]) -> None:
    body = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag)}</ETag><ChecksumSHA256>{checksum}</ChecksumSHA256></Part>"
        for number, (etag, checksum) in enumerate(parts, 1)
    )
    document = (
        f'<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{body}</CompleteMultipartUpload>'
    )
    query, xml = [("uploadId", upload)], {"content-type": "application/xml"}
    answer, _ = client.read("complete an upload", "POST", key, query=query, body=document.encode(), headers=xml)
    told = Told.read(
        answer.decode("utf-8", "replace"), 500
    )  # S3 begins to answer, with 200, before it knows how it ends
    if told.code:
        raise s3_error("complete an upload", client.url(key), told)
    _text(answer, "ETag", client.url(key))


def _parts(pieces: Iterable[bytes], length: int) -> Iterator[bytes]:
    """The content in parts of `length` bytes, but for the last."""
    part = bytearray()
    for piece in pieces:
        view = memoryview(piece)
        while len(view):
            taken = view[: length - len(part)]
            part += taken
            view = view[len(taken) :]
            if len(part) == length:
                yield bytes(part)
                part = bytearray()
    if part:
        yield bytes(part)


def _checksum(content: bytes) -> dict[str, str]:
    return {"x-amz-checksum-sha256": base64.b64encode(sha256(content).digest()).decode()}


def _text(document: bytes, name: str, on: str) -> str:
    # nosemgrep: expression-of-others - names of ours
    found = re.search(rf"<{name}>([^<]+)</{name}>", document.decode("utf-8", "replace"))
    if found is None:
        raise StoreError("The store's answer to an upload cannot be read", on=on, why=f"no {name}", remedy="try again")
    return unescape(found[1])
