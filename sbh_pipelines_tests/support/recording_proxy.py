"""A real HTTP proxy in front of a server: notes every request, may answer itself or change an answer.

The Host header goes through as it came, so signatures stay valid.
"""

import http.client
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from sbh_pipelines_tests.support.served import served

_KEPT = 1 << 20  # bytes of a request's body that are noted
_HOP = {"connection", "transfer-encoding", "content-length"}


@dataclass(frozen=True)
class Seen:
    """A request. `path` is decoded, `query` as it came; header names are in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


Before = Callable[[Seen], Answer | None]
After = Callable[[Seen, Answer], Answer]


@dataclass
class Proxy:
    """`before` may answer in the server's place; `after` may change what the server answered."""

    url: str
    seen: list[Seen] = field(default_factory=list)
    before: Before = lambda _: None
    after: After = lambda _, answer: answer


@contextmanager
def recording(target: str) -> Iterator[Proxy]:
    """A proxy before `target` (http://host:port), gone at the end of the block."""
    host = urlsplit(target).netloc
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    proxy = Proxy(f"http://127.0.0.1:{server.server_address[1]}")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if "chunked" in (self.headers.get("Transfer-Encoding") or ""):
                body = self._chunks()
            path, _, query = self.path.partition("?")
            named = {name.lower(): value for name, value in self.headers.items()}
            seen = Seen(self.command, unquote(path), query, named, body[:_KEPT])
            proxy.seen.append(seen)
            answer = proxy.before(seen)
            if answer is None:
                answer = proxy.after(seen, self._asked(body))
            self.send_response_only(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if not any(name.lower() == "content-length" for name in answer.headers):
                self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def _asked(self, body: bytes) -> Answer:
            connection = http.client.HTTPConnection(host, timeout=240)
            try:
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in _HOP:
                        connection.putheader(name, value)
                connection.putheader("Content-Length", str(len(body)))
                connection.endheaders(body)
                answer = connection.getresponse()
                content = answer.read()
                drop = _HOP - ({"content-length"} if self.command == "HEAD" else set())
                return Answer(answer.status, {n: v for n, v in answer.getheaders() if n.lower() not in drop}, content)
            finally:
                connection.close()

        def _chunks(self) -> bytes:
            content = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = pass_on

        def log_message(self, format: str, *arguments: Any) -> None:
            """Nothing is printed."""

    server.RequestHandlerClass = Handler
    server.daemon_threads = True
    with served(server):
        yield proxy
