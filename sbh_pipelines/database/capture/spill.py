"""Room on disk for rows that memory has no room for: one temporary file, sealed with a key that is nowhere but in memory.

Rows of all tenants of a batch are in it: who finds it later, after a crash, can read nothing of it.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sbh_pipelines.errors import NoRoom


@dataclass(frozen=True, slots=True)
class Spilled:
    """Bytes in the file: which piece it is, where it begins, and how many bytes it takes there."""

    number: int
    at: int
    size: int


class Spill:
    """`put` bytes, `get` them back, in any order. A context: the file, made with the first piece, is gone after it."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._aead = AESGCM(AESGCM.generate_key(256))
        self._number = self.bytes = 0

    def __enter__(self) -> "Spill":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def put(self, plain: "bytes | memoryview") -> Spilled:
        """Raises NoRoom where the disk is full."""
        sealed = self._aead.encrypt(_nonce(self._number), plain, None)
        with _room(self.bytes + len(sealed)):
            if self._file is None:
                # Unlinked at once where the system can do that: a killed process leaves nothing. Without a buffer.
                self._file = tempfile.TemporaryFile(prefix="sbh-rows-", buffering=0)
            rest, at = memoryview(sealed), self.bytes
            while rest:
                written = os.pwrite(self._file.fileno(), rest, at)
                rest, at = rest[written:], at + written
        piece = Spilled(self._number, self.bytes, len(sealed))
        self._number += 1
        self.bytes += len(sealed)
        return piece

    def get(self, piece: Spilled) -> bytes:
        assert self._file is not None
        with _room(self.bytes):
            sealed = os.pread(self._file.fileno(), piece.size, piece.at)
        return self._aead.decrypt(_nonce(piece.number), sealed, None)


def _nonce(number: int) -> bytes:
    return number.to_bytes(12)  # each once in the life of the key


@contextmanager
def _room(needed: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NoRoom(
            "A temporary file for rows cannot be written or read",
            on=tempfile.gettempdir(),
            why=f"{error.strerror or error}; it needs more than {needed:,} bytes",
            remedy="free space there, or set TMPDIR to a folder on a larger disk, or raise backup.memory_mib, and try again",
        ) from None
