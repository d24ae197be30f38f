"""Room on disk for what memory has no room for: one temporary file, sealed with a key that is nowhere but in memory.

Rows of all tenants of a batch are in it: who finds it later, after a crash, can read nothing of it.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sbh_pipelines.errors import NoRoom

_SLACK = 64 << 20  # bytes of the file that nobody needs, before what is needed is moved to another


class Spill:
    """`put` bytes, `take` them back once, in any order. A context: the file, made with the first piece, is gone after it.

    What was taken leaves its room in the file. Where that is more than is left, and some MiB, what is left goes to a new file.
    """

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._aead = AESGCM(AESGCM.generate_key(256))
        self._places: dict[int, tuple[int, int]] = {}  # of each piece: where it begins, and how many bytes it takes
        self._number = self._live = 0
        self.bytes = 0  # of the file

    def __enter__(self) -> "Spill":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def put(self, plain: "bytes | bytearray | memoryview") -> int:
        """The piece's number. Raises NoRoom where the disk is full."""
        number, self._number = self._number, self._number + 1
        sealed = self._aead.encrypt(_nonce(number), plain, None)
        with _room(self.bytes + len(sealed)):
            if self._file is None:
                self._file = _file()
            elif self.bytes - self._live > max(self._live, _SLACK):
                self._move()
            _write(self._file, sealed, self.bytes)
        self._places[number] = self.bytes, len(sealed)
        self.bytes += len(sealed)
        self._live += len(sealed)
        return number

    def take(self, number: int) -> bytes:
        """Raises NoRoom where the file cannot be read."""
        at, size = self._forgotten(number)
        return self._aead.decrypt(_nonce(number), self._sealed(at, size), None)

    def drop(self, number: int) -> None:
        """The piece is not needed."""
        self._forgotten(number)

    def _forgotten(self, number: int) -> tuple[int, int]:
        at, size = self._places.pop(number)
        self._live -= size
        return at, size

    def _sealed(self, at: int, size: int) -> bytes:
        assert self._file is not None
        with _room(self.bytes):
            return os.pread(self._file.fileno(), size, at)

    def _move(self) -> None:
        fresh, end = _file(), 0
        try:
            for number, (at, size) in self._places.items():
                _write(fresh, self._sealed(at, size), end)
                self._places[number] = end, size
                end += size
        except BaseException:
            fresh.close()
            raise
        assert self._file is not None
        self._file.close()
        self._file, self.bytes = fresh, end


def _file() -> IO[bytes]:
    # Unlinked at once where the system can do that: a killed process leaves nothing. Without a buffer.
    return tempfile.TemporaryFile(prefix="sbh-spill-", buffering=0)


def _write(file: IO[bytes], sealed: bytes, at: int) -> None:
    rest = memoryview(sealed)
    while rest:
        written = os.pwrite(file.fileno(), rest, at)
        rest, at = rest[written:], at + written


def _nonce(number: int) -> bytes:
    return number.to_bytes(12)  # each once in the life of the key


@contextmanager
def _room(needed: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        folder = "TMPDIR"
        with suppress(OSError):  # there may be none that can be written to
            folder = tempfile.gettempdir()
        raise NoRoom(
            "A temporary file cannot be written or read",
            on=folder,
            why=f"{error.strerror or error}; it needs more than {needed:,} bytes",
            remedy="free space there, or set TMPDIR to a folder on a larger disk, or raise backup.memory_mib, and try again",
        ) from None
