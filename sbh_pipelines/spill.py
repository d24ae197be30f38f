"""Room on disk for what memory has no room for: one temporary file, sealed with a key that is nowhere but in memory.

Rows of all tenants of a batch are in it: who finds it later, after a crash, can read nothing of it.
"""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sbh_pipelines.errors import NoRoom

_TAG = 16  # bytes of it at the end of each piece
_WRITTEN = 1 << 20  # bytes at once: many small writes cost more than sealing does
PIECE = _WRITTEN - _TAG  # bytes of the largest piece that needs no memory of its own
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
        self.bytes = 0  # of the file, and what waits to be written at its end
        self._waiting, self._begun = bytearray(), 0  # sealed pieces, and how many bytes of them there are
        self._read = bytearray()  # memory for a piece that comes back

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
        size = len(plain) + _TAG
        with _room(self.bytes + size):
            if self._file is None:
                self._file, self._waiting = _file(), bytearray(_WRITTEN)
            elif self.bytes - self._live > max(self._live, _SLACK):
                self._move()
            if self._begun + size > _WRITTEN:
                self._write_waiting()
            if size > _WRITTEN:
                _write(self._file, self._aead.encrypt(_nonce(number), plain, None), self.bytes)
            else:
                with memoryview(self._waiting) as waiting:
                    self._aead.encrypt_into(_nonce(number), plain, None, waiting[self._begun : self._begun + size])
                self._begun += size
        self._places[number] = self.bytes, size
        self.bytes += size
        self._live += size
        return number

    def take(self, number: int) -> bytes:
        """Raises NoRoom where the file cannot be read."""
        plain = bytearray(self._places[number][1] - _TAG)
        self.take_into(number, memoryview(plain))
        return bytes(plain)

    def take_into(self, number: int, memory: memoryview) -> int:
        """The size of the piece, which is put at the beginning of `memory`. Raises NoRoom where the file cannot be read."""
        at, size = self._forgotten(number)
        with self._sealed(at, size) as sealed:
            self._aead.decrypt_into(_nonce(number), sealed, None, memory[: size - _TAG])
        return size - _TAG

    def drop(self, number: int) -> None:
        """The piece is not needed."""
        self._forgotten(number)

    def _forgotten(self, number: int) -> tuple[int, int]:
        at, size = self._places.pop(number)
        self._live -= size
        return at, size

    def _sealed(self, at: int, size: int) -> memoryview:
        """A piece as it is in the file, or will be: to be used before the next one is asked for, or put."""
        written = self.bytes - self._begun
        if at >= written:
            return memoryview(self._waiting)[at - written : at - written + size]
        assert self._file is not None
        memory = self._read
        if len(memory) < size:
            memory = bytearray(size)
            if size <= _WRITTEN:
                self._read = memory
        view = memoryview(memory)[:size]
        filled = 0
        with _room(self.bytes):
            while filled < size:
                read = os.preadv(self._file.fileno(), [view[filled:]], at + filled)
                if not read:
                    raise OSError(errno.EIO, "the temporary file is shorter than what was written")
                filled += read
        return view

    def _write_waiting(self) -> None:
        assert self._file is not None
        with memoryview(self._waiting) as waiting:
            _write(self._file, waiting[: self._begun], self.bytes - self._begun)
        self._begun = 0

    def _move(self) -> None:
        self._write_waiting()
        fresh, end = _file(), 0
        places: dict[int, tuple[int, int]] = {}
        try:
            for number, (at, size) in self._places.items():
                _write(fresh, self._sealed(at, size), end)
                places[number] = end, size
                end += size
        except BaseException:  # where the disk is full, what is there stays where it is
            fresh.close()
            raise
        assert self._file is not None
        self._file.close()
        self._file, self._places, self.bytes = fresh, places, end


def _file() -> IO[bytes]:
    # Unlinked at once where the system can do that: a killed process leaves nothing. Without a buffer.
    return tempfile.TemporaryFile(prefix="sbh-spill-", buffering=0)


def _write(file: IO[bytes], sealed: "bytes | memoryview", at: int) -> None:
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
