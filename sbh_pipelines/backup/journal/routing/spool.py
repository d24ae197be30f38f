"""Records in a temporary file, sealed with a key that is nowhere but in memory: what a drain has read and not yet routed.

A transaction may be larger than memory, and whose its first change is may show after its last one has come. So the stream is read
to its end first, into this file. Rows of all tenants are in it: who finds it later, after a crash, can read nothing of it.
"""

import marshal
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sbh_pipelines.errors import JournalError
from sbh_pipelines.repository.journal.segments.room import room

FRAME_BYTES = 256 << 10
_FLAT = 2  # of marshal: the version that does not look for the same object again
_LENGTH = struct.Struct(">I")
_NONCE = struct.Struct(">Q")


class Spool:
    """Append records, then iterate over them, as often as wanted. A context: the file is gone after it. Not thread-safe.

    A record is a tuple of bytes, integers, None and tuples of these.
    """

    def __init__(self, directory: Path | None = None, frame_bytes: int = FRAME_BYTES) -> None:
        # Unlinked at once where the system can do that: a killed process leaves nothing.
        with room(frame_bytes, directory):
            self._file = tempfile.TemporaryFile(prefix="sbh-journal-", dir=directory)
        self._directory = directory
        self._size = 0
        self._aead = AESGCM(os.urandom(32))
        self._frame_bytes = frame_bytes
        self._records: list[Any] = []
        self._gathered = 0
        self._frames = 0
        self.records = 0

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # what is not written yet is wanted by nobody
            self._file.close()

    def append(self, record: tuple[Any, ...], size: int) -> None:
        """`size`: about how many bytes it has."""
        self._records.append(tuple(record))
        self.records += 1
        self._gathered += size + 64
        if self._gathered >= self._frame_bytes:
            self._flush()

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """The records in order. What is appended later is not among them."""
        self._flush()
        at = 0
        for number in range(self._frames):
            self._file.seek(at)
            (length,) = _LENGTH.unpack(self._file.read(_LENGTH.size))
            sealed = self._file.read(length)
            at += _LENGTH.size + length
            yield from _records(self._opened(sealed, number))
        self._file.seek(0, os.SEEK_END)

    def _flush(self) -> None:
        if not self._records:
            return
        sealed = self._aead.encrypt(_nonce(self._frames), marshal.dumps(self._records, _FLAT), None)
        self._size += _LENGTH.size + len(sealed)
        with room(self._size, self._directory):
            self._file.seek(0, os.SEEK_END)
            self._file.write(_LENGTH.pack(len(sealed)))
            self._file.write(sealed)
            self._file.flush()
        self._frames += 1
        self._records, self._gathered = [], 0

    def _opened(self, sealed: bytes, number: int) -> bytes:
        try:
            return self._aead.decrypt(_nonce(number), sealed, None)
        except InvalidTag:
            raise JournalError(
                "The drain's temporary file was changed under its hands",
                on=tempfile.gettempdir(),
                remedy="see what else writes there; nothing was taken from the slot, so drain again",
            ) from None


def _nonce(number: int) -> bytes:
    return bytes(4) + _NONCE.pack(number)  # each number once in the life of the key


def _records(plain: bytes) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = marshal.loads(plain)  # noqa: S302  # nosec B302  # written by this process, and authenticated
    return found
