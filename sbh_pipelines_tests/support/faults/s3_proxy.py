"""A real HTTP proxy before an S3 server, with faults. Host and path go through as they came, so signatures stay valid."""

import hashlib
import http.client
import random
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from sbh_pipelines_tests.support.faults.past import Past, entries, reordered
from sbh_pipelines_tests.support.faults.schedule import Asked, Fault, Schedule
from sbh_pipelines_tests.support.served import served

_HOP = {"connection", "transfer-encoding", "content-length", "date", "server"}
_XML = {"Content-Type": "application/xml"}
_BUSY = (
    (500, "InternalError"),
    (503, "SlowDown"),
    (503, "ServiceUnavailable"),
    (429, "TooManyRequests"),
)
_FULL = ((507, "XMinioStorageFull"), (500, "InternalError"), (507, "InsufficientStorage"))


class _Cut(Exception):
    """The connection ends here."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False, default=b"")

    def header(self, name: str) -> str:
        return next((value for known, value in self.headers.items() if known.lower() == name), "")


@dataclass
class S3Proxy:
    """`url` is the endpoint that clients use.

    Attributes:
        url: Where it listens.
        schedule: The faults; may be changed at any time.
        past: What the server had before.
        stall_s: How long a stall lasts, s.
        requests: How many requests came.
    """

    url: str
    schedule: Schedule
    past: Past = field(default_factory=Past)
    stall_s: float = 3.0
    requests: int = 0


@contextmanager
def faulty_s3(target: str, schedule: Schedule, stall_s: float = 3.0) -> Iterator[S3Proxy]:
    """A proxy before `target` (http://host:port), gone at the end of the block."""
    host = urlsplit(target).netloc
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    proxy = S3Proxy(f"http://127.0.0.1:{server.server_address[1]}", schedule, stall_s=stall_s)

    class Handler(_Handler):
        upstream, state = host, proxy

    server.RequestHandlerClass = Handler
    server.daemon_threads = True
    server.block_on_close = False
    with served(server):
        yield proxy


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream: str
    state: S3Proxy
    disable_nagle_algorithm = True
    _connection: http.client.HTTPConnection | None = None

    def pass_on(self) -> None:
        path, _, query = self.path.partition("?")
        asked = Asked(self.command, unquote(path), query, not self.headers.get("Range"))
        self.state.requests += 1
        fault, chance = self.state.schedule.draw(asked)
        try:
            self._answer(self._served(asked, fault, chance), asked, fault, chance)
        except (_Cut, OSError, http.client.HTTPException):
            self._hang_up()

    def _served(self, asked: Asked, fault: Fault | None, chance: random.Random) -> _Answer:
        if fault is Fault.DELAY:
            time.sleep(chance.random() * 0.2)
        if fault is Fault.CUT_BEFORE:
            raise _Cut
        body = self._body(cut=chance.random() if fault is Fault.CUT_REQUEST else None)
        if fault is Fault.STALL:
            time.sleep(self.state.stall_s)
            raise _Cut
        if fault is Fault.BUSY:
            status, code = chance.choice(_BUSY)
            return _error(status, code, {"Retry-After": "1"} if chance.random() < 0.5 else {})
        if fault is Fault.FULL:
            return _error(*chance.choice(_FULL))
        if fault is Fault.LOST_WRITE:
            return _acknowledged(asked, body)
        if fault is Fault.STALE_READ and (stale := self._stale(asked)) is not None:
            return stale
        if fault is Fault.FLIP_REQUEST and body:
            body = _flipped(body, chance)
        answer = self._forwarded(body)
        if answer.status < 300:
            self._remember(asked, body, answer)
        if fault is Fault.CUT_AFTER:
            raise _Cut
        if fault is Fault.LATE_ERROR:
            return _error(*chance.choice(_BUSY[:2]))
        return self._changed(answer, asked, fault, chance)

    def _changed(self, answer: _Answer, asked: Asked, fault: Fault | None, chance: random.Random) -> _Answer:
        body = answer.body
        if answer.status >= 300 or not body:
            return answer
        if fault is Fault.FLIP_ANSWER:
            body = _flipped(body, chance)
        elif fault is Fault.SHORT_ANSWER:
            body = body[: chance.randrange(len(body))]
        elif fault is Fault.REORDER:
            order = list(range(entries(body)))
            chance.shuffle(order)
            body = reordered(body, order)
        elif fault is Fault.STALE_LISTING:
            body = self.state.past.without_late(asked.path.strip("/").split("/")[0], body)
        return _Answer(answer.status, answer.headers, body)

    def _stale(self, asked: Asked) -> _Answer | None:
        if self.headers.get("Range"):
            return None
        before = self.state.past.before(asked.path)
        if isinstance(before, bool):
            return None
        if before is None:
            return _error(404, "NoSuchKey")
        wanted = self.headers.get("If-Match")
        if wanted and wanted != before.etag:
            return _error(412, "PreconditionFailed")
        headers = {"ETag": before.etag, "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        return _Answer(200, headers | {"Content-Type": "application/octet-stream"}, before.body)

    def _remember(self, asked: Asked, body: bytes, answer: _Answer) -> None:
        if asked.method == "PUT" and not asked.query:
            self.state.past.put(asked.path, body, answer.header("etag"))
        elif asked.method == "DELETE":
            self.state.past.deleted(asked.path)
        elif asked.method == "POST" and asked.query.startswith("delete"):
            for key in re.findall(rb"<Key>(.*?)</Key>", body, re.S):
                self.state.past.deleted(asked.path.rstrip("/") + "/" + key.decode())

    def _answer(self, answer: _Answer, asked: Asked, fault: Fault | None, chance: random.Random) -> None:
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if not (asked.method == "HEAD" and answer.header("content-length")):
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if fault is Fault.CUT_ANSWER:
            self.wfile.write(answer.body[: chance.randrange(len(answer.body) + 1)])
            self.wfile.flush()
            raise _Cut
        self.wfile.write(answer.body)

    def _forwarded(self, body: bytes) -> _Answer:
        for attempt in (1, 2):
            connection = self._connection or http.client.HTTPConnection(self.upstream, timeout=30)
            fresh, self._connection = self._connection is None, connection
            try:
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in _HOP - {"date"}:
                        connection.putheader(name, value)
                connection.putheader("Content-Length", str(len(body)))
                connection.endheaders(body)
                answer = connection.getresponse()
                content = answer.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                self._connection = None
                if fresh or attempt == 2:
                    raise
                continue
            drop = _HOP - ({"content-length"} if self.command == "HEAD" else set())
            return _Answer(answer.status, {n: v for n, v in answer.getheaders() if n.lower() not in drop}, content)
        raise AssertionError

    def _body(self, cut: float | None) -> bytes:
        if "chunked" in (self.headers.get("Transfer-Encoding") or ""):
            content = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content
        length = int(self.headers.get("Content-Length") or 0)
        if cut is not None:
            self.rfile.read(int(length * cut))
            raise _Cut
        return self.rfile.read(length)

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def finish(self) -> None:
        with suppress(OSError):
            super().finish()
        if self._connection:
            self._connection.close()

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = pass_on

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing is printed."""


def _flipped(body: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(body))
    return body[:at] + bytes([body[at] ^ 1 << chance.randrange(8)]) + body[at + 1 :]


def _error(status: int, code: str, headers: Mapping[str, str] | None = None) -> _Answer:
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>it was to be</Message></Error>'
    return _Answer(status, {**_XML, **(headers or {})}, body.encode())


def _acknowledged(asked: Asked, body: bytes) -> _Answer:
    """As if it had been done."""
    if asked.method == "DELETE":
        return _Answer(204, {})
    if asked.method == "POST" and asked.query.startswith("delete"):
        named = b"".join(b"<Deleted>%s</Deleted>" % key for key in re.findall(rb"<Key>.*?</Key>", body, re.S))
        return _Answer(200, _XML, b"<DeleteResult>" + named + b"</DeleteResult>")
    if asked.method == "POST":
        tag = b"<UploadId>never</UploadId>" if asked.query.startswith("uploads") else b"<ETag>never-1</ETag>"
        return _Answer(200, _XML, b"<Result>" + tag + b"</Result>")
    return _Answer(200, {"ETag": f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'})
