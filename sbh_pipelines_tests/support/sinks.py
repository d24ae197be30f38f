"""Real servers, small ones, that alerts are sent to."""

import json
import socketserver
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from sbh_pipelines_tests.support.served import served


@dataclass
class WebhookSink:
    port: int = 0
    status: int = 200
    location: str = ""  # where it sends others to
    bodies: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@contextmanager
def webhook() -> Iterator[WebhookSink]:
    """An HTTP server that keeps what is posted to it and answers `status`."""
    sink = WebhookSink()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            sink.bodies.append(json.loads(body))
            sink.paths.append(self.path)
            self.send_response(sink.status)
            if sink.location:
                self.send_header("Location", sink.location)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with served(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        sink.port = server.server_port
        yield sink


@dataclass
class MailSink:
    port: int = 0
    messages: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)  # as received, with `TLS ` before those that came encrypted


@contextmanager
def smtp(tls: ssl.SSLContext | None = None) -> Iterator[MailSink]:
    """An SMTP server that keeps messages; with `tls` it offers STARTTLS, and AUTH after it."""
    sink = MailSink()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            secure = False
            self.say("220 sink")
            while line := self.rfile.readline().decode().strip():
                sink.commands.append(("TLS " if secure else "") + line)
                verb = line.split()[0].upper()
                if verb == "EHLO":
                    offer = ["AUTH PLAIN"] if secure else ["STARTTLS"] if tls else []
                    for n, word in enumerate(["sink", *offer]):
                        self.say(f"250{' ' if n == len(offer) else '-'}{word}")
                elif verb == "STARTTLS" and tls:
                    self.say("220 go ahead")
                    self.request = tls.wrap_socket(self.request, server_side=True)
                    self.rfile, self.wfile = self.request.makefile("rb"), self.request.makefile("wb", buffering=0)
                    secure = True
                elif verb == "DATA":
                    self.say("354 go ahead")
                    lines = iter(lambda: self.rfile.readline().decode(), ".\r\n")
                    sink.messages.append("".join(lines))
                    self.say("250 kept")
                elif verb == "QUIT":
                    self.say("221 bye")
                    return
                else:
                    self.say("235 welcome" if verb == "AUTH" else "250 fine")

        def say(self, line: str) -> None:
            self.wfile.write(f"{line}\r\n".encode())

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = daemon_threads = True

    with served(Server(("127.0.0.1", 0), Handler)) as server:
        sink.port = server.server_address[1]
        yield sink
