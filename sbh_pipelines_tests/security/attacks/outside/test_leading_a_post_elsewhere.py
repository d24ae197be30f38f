"""Whoever answers a hook of restores or an alert's webhook wants the POST sent on, into this network or over plain http; or a restore held up.

What stops them: nothing that is posted follows a redirect, and the whole of a post has the seconds that its setting says.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from sbh_pipelines.backup.restore.hooks import run_hooks
from sbh_pipelines.errors import HookFailed
from sbh_pipelines.orchestration.alerting.channels import channel
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.support.served import served

_SECRET = "hunter2"


@contextmanager
def _server(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[tuple[str, list[str]]]:
    """(its address, the requests that came)."""
    seen = list[str]()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(f"{self.command} {self.path}")
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with suppress(OSError):
                answer(self)

        do_GET = do_POST

        def log_message(self, format: str, *args: Any) -> None:
            return

    with served(HTTPServer(("127.0.0.1", 0), Handler)) as server:
        yield f"http://127.0.0.1:{server.server_port}/{_SECRET}", seen


def _redirect(status: int, to: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Location", to)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


class _Site:
    """As much of a site as hooks look at."""

    def __init__(self, url: str, timeout_s: float = 60) -> None:
        self.settings = Settings(restore={"before": [{"webhook_url": url, "timeout_s": timeout_s}]})  # type: ignore[arg-type]


class _Tenant:
    id, key = "acme", "1"


def _hooked(url: str, timeout_s: float = 60) -> HookFailed:
    with pytest.raises(HookFailed) as caught, run_hooks(_Site(url, timeout_s), _Tenant(), "backup", None):  # type: ignore[arg-type]
        raise AssertionError("the restore began")
    return caught.value


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_failure(status: int) -> None:
    with _server(lambda handler: _redirect(200, "")(handler)) as (inside, seen):
        with _server(_redirect(status, inside)) as (outside, asked):
            error = _hooked(outside)
            with pytest.raises(OSError, match=str(status)):
                channel.post(outside, {"secret": _SECRET}, "alerts.webhook_url")
        assert (len(asked), seen) == (2, [])
    assert "redirect" in error.why
    assert _SECRET not in str(error)


def test_a_file_is_no_address(tmp_path: Any) -> None:
    for url in (f"file://{tmp_path}", "ftp://127.0.0.1/x", "data:text/plain,x"):
        assert url not in str(_hooked(url))


def test_an_answer_that_never_ends() -> None:
    """A byte of a header now and then, which no timeout of a socket bounds: the hook has its seconds, and no more."""
    stop = threading.Event()
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:

        def dribble() -> None:
            with suppress(OSError):
                connection = listening.accept()[0]
                with closing(connection):
                    connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
                    while not stop.wait(0.05):
                        connection.sendall(b"x")

        thread = threading.Thread(target=dribble)
        thread.start()
        began = time.monotonic()
        error = _hooked(f"http://127.0.0.1:{listening.getsockname()[1]}/{_SECRET}", timeout_s=0.5)
        took = time.monotonic() - began
        stop.set()
        thread.join()
    assert took < 60
    assert "TimeoutError" in error.why
