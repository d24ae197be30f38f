"""The connection: uvicorn's HTTP/1.1, which does not let a client take its time, and logs that hold lines of JSON.

uvicorn bounds how long an idle connection may live after an answer, but not before its first request, nor how long the head
of a request may dribble in. Bodies are bounded in `middleware`.
"""

import asyncio
import json
import logging
import traceback

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from sbh_pipelines.model import timestamp, utc_now


class PromptH11Protocol(H11Protocol):
    """Closes a connection whose first request, or the rest of whose next request's head, is not there in time.

    Between requests it may be idle for `timeout_keep_alive`, which is longer than proxies keep connections: they close first.
    """

    head_timeout_s = 10.0
    _head_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        if self.conn.their_state is h11.IDLE and self._head_due is None:
            self._expect_head()
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._head_is_there()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is not h11.IDLE:  # a pipelined request is at work
            self._head_is_there()

    def _expect_head(self) -> None:
        self._head_due = self.loop.call_later(self.head_timeout_s, self._too_slow)

    def _head_is_there(self) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None

    def _too_slow(self) -> None:
        self._head_due = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.close()


class JsonLines(logging.Formatter):
    """One JSON object a line. The access log's message is one already. Of an error nobody foresaw it says where, and not what."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {"at": timestamp(utc_now()), "level": record.levelname.lower(), "log": record.name}
        message = record.getMessage()
        if record.name == "sbh_pipelines.api.access":
            line |= json.loads(message)
        else:
            line["message"] = message
        if record.exc_info:
            line["traceback"] = _places(record.exc_info[1])
        return json.dumps(line)


def _places(error: BaseException | None) -> list[str]:
    """What kinds of errors led to this one, and where. Not their texts: those of libraries can hold a row, a key or an address."""
    lines: list[str] = []
    while error is not None:
        lines.append(f"{type(error).__module__}.{type(error).__qualname__}")
        lines += [f"  {f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return lines
