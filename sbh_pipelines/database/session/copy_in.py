"""COPY ... FROM STDIN out of an iterator of pieces of text."""

import io
from collections.abc import Iterable
from typing import Any

_BUFFER = 1 << 20


def copy_in(cursor: Any, into: str, pieces: Iterable[bytes]) -> int:
    """COPY text into `into`, a table and perhaps its columns as SQL; rows. What the pieces raise is raised."""
    reader = _Pieces(pieces)
    try:
        cursor.copy_expert(f"COPY {into} FROM STDIN", reader, _BUFFER)
    except Exception:
        if reader.error is not None:  # the driver would make a cancelled statement of it
            raise reader.error from None
        raise
    rows: int = cursor.rowcount
    return rows


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
