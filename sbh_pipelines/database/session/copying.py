"""COPY: rows in and out as text.

A server that ends a session in the middle of a COPY says why, and then that the session is gone. The driver (psycopg2 2.9) makes an
error of each, the second while the first is raised: that fails, and is printed with its traceback and the row that the server was
at. Nothing of a row may be printed, and the first reason is the one that counts: it is raised here.
"""

import io
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import psycopg2

from sbh_pipelines.database.session.driver import cut
from sbh_pipelines.database.session.sql import copy_options
from sbh_pipelines.errors import SbhError

_BUFFER = 1 << 20


def copy_in(cursor: Any, into: str, pieces: Iterable[bytes], encoding: str) -> int:
    """COPY text into `into`, a table and perhaps its columns as SQL; rows. What the pieces raise is raised."""
    reader = _Pieces(pieces)
    try:
        copy(cursor, f"COPY {into} FROM STDIN{copy_options(encoding)}", reader)
    except Exception:
        if reader.error is not None:  # the driver would make a cancelled statement of it
            raise reader.error from None
        raise
    rows: int = cursor.rowcount
    return rows


def copy(cursor: Any, statement: str, file: Any) -> None:
    """Run a COPY from or to a file. Raises psycopg2's error with the server's first reason, and prints nothing."""
    with _quiet():
        try:
            cursor.copy_expert(statement, file, _BUFFER)
        except (SystemError, psycopg2.Error) as error:
            first = getattr(_TOLD, "error", None) or _cause(error)
            if first is not None:
                raise cut(first) from None
            raise
        except (
            SbhError
        ):  # of the file that is written to: else the driver reads all that is left before it does anything more
            cursor.connection.cancel()
            raise


class _Pieces(io.RawIOBase):
    """A file over pieces of text. `error` is what making the pieces raised."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        super().__init__()
        self._pieces, self._rest = iter(pieces), memoryview(b"")
        self.error: BaseException | None = None

    def read(self, size: int = -1) -> bytes:
        while not self._rest:
            try:
                piece = next(self._pieces, None)
            except BaseException as error:
                self.error = error
                raise
            if piece is None:
                return b""
            self._rest = memoryview(piece)
        taken, self._rest = self._rest[:size], self._rest[size:]
        return bytes(taken)


# The driver prints by `sys.excepthook`, in the thread of the COPY. Nothing that it prints there is let through.

_TOLD = threading.local()
_LOCK = threading.Lock()


class _Hook:
    """How many COPYs are under way, and the hook that was there before them."""

    in_use = 0
    before: Callable[..., Any] = staticmethod(sys.excepthook)


@contextmanager
def _quiet() -> Iterator[None]:
    _TOLD.error, _TOLD.copying = None, True
    with _LOCK:
        if not _Hook.in_use:
            _Hook.before, sys.excepthook = staticmethod(sys.excepthook), _hook
        _Hook.in_use += 1
    try:
        yield
    finally:
        _TOLD.error, _TOLD.copying = None, False
        with _LOCK:
            _Hook.in_use -= 1
            if not _Hook.in_use and sys.excepthook is _hook:
                sys.excepthook = _Hook.before


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not getattr(_TOLD, "copying", False):
        _Hook.before(kind, error, trace)
    elif _TOLD.error is None:
        _TOLD.error = _cause(error)


def _cause(error: BaseException) -> psycopg2.Error | None:
    """The first of the driver's errors, where raising a second one failed."""
    found = error.__cause__ if isinstance(error, SystemError) else error
    return found if isinstance(found, psycopg2.Error) else None
