"""A file of a backup on its way to a browser: bounded in number and time, and closed whatever becomes of it.

The browser may leave before the first piece, or the opening be given up while a thread still works at it.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any

import anyio
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from sbh_pipelines.api.app.limits import Streams
from sbh_pipelines.backup.service.results import OpenFile

_SLOWEST = 256 << 10  # bytes/s: whoever takes less is cut off

_log = logging.getLogger("sbh_pipelines.api")


class Download:
    """One of `streams` from here until it is closed. Raises TooManyRequests. `least_s`: what the smallest may take, s."""

    def __init__(self, streams: Streams, whose: str, least_s: float) -> None:
        streams.begin(whose)
        self._streams, self._whose, self._least_s = streams, whose, least_s
        self._lock, self._closed = threading.Lock(), False
        self._file: OpenFile | None = None

    def opened(self, open_file: Callable[[], OpenFile]) -> Callable[[], int]:
        """Work for a thread: opens the file, and gives its size, bytes."""

        def work() -> int:
            found = open_file()
            with self._lock:
                if not self._closed:
                    self._file = found
                    return found.size
            found.close()
            return found.size

        return work

    @property
    def file(self) -> OpenFile:
        """What was opened."""
        assert self._file is not None
        return self._file

    @property
    def most_s(self) -> float:
        """It has to be sent within this, s."""
        return self._least_s + self.file.size / _SLOWEST

    async def close(self) -> None:
        """Once only."""
        with self._lock:
            self._closed = True
        try:
            if self._file is not None:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(self._file.close)
        finally:
            self._streams.end(self._whose)


class Sent(StreamingResponse):
    """Sends a download within its time, and closes it."""

    def __init__(self, download: Download, **more: Any) -> None:
        super().__init__(download.file, media_type="application/octet-stream", **more)
        self._download = download

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with anyio.move_on_after(self._download.most_s) as time:
                await super().__call__(scope, receive, send)
            if time.cancelled_caught:
                _log.warning("A download was cut off after %.0f s: the client took too little", self._download.most_s)
        finally:
            await self._download.close()
