"""What is known of each key while changes are merged: in memory, and beyond a bound in a temporary file.

Rows are tenants' data: what lies in the file is encrypted with a key that only this process ever has, and keys of rows stand there
as keyed digests.
"""

import hashlib
import os
import sqlite3
import struct
import threading
from collections.abc import Hashable, Iterator
from contextlib import closing
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sbh_pipelines.repository.journal.segments.room import room

MOST_BYTES = 64 << 20
_OVERHEAD = 400  # bytes of an entry beside its texts, about
_FETCHED = 500
_HEAD = struct.Struct(">BII")  # flags, length of the key, length of the origin
_EXISTED, _EXISTS = 1, 2


@dataclass(frozen=True, slots=True)
class KeyState:
    """One key, half way through the changes.

    Attributes:
        existed: Whether there was a row of it before the first change.
        exists: Whether there is one now.
        row: COPY text of what is known of the row, UNCHANGED fields in it; empty where nothing is.
        origin: The key that the row had before the first change.
    """

    existed: bool
    exists: bool
    row: bytes
    origin: bytes


class KeyStates:
    """States by group and key. Thread-safe, but for a group that is written to while its items are gone through."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most, self._held, self._spilled = most_bytes, 0, 0
        self._lock = threading.Lock()
        self._fresh: dict[int, dict[bytes, KeyState]] = {}  # what the file does not have yet
        self._groups: dict[Hashable, int] = {}
        self._file: sqlite3.Connection | None = None
        self._digest_key, self._nonce = os.urandom(32), 0
        self._cipher = AESGCM(AESGCM.generate_key(256))

    def close(self) -> None:
        with self._lock:
            self._fresh.clear()
            if self._file is not None:
                self._file.close()

    def get(self, group: Hashable, key: bytes) -> KeyState | None:
        """What was put last."""
        with self._lock:
            number = self._number(group)
            known = self._fresh.get(number, {}).get(key)
            return known if known is not None or self._file is None else self._read(number, key)

    def put(self, group: Hashable, key: bytes, state: KeyState) -> None:
        """From now on the key's state."""
        with self._lock:
            mine = self._fresh.setdefault(self._number(group), {})
            self._held += len(state.row) + (len(key) + _OVERHEAD if key not in mine else 0)
            mine[key] = state
            if self._held > self._most:
                self._spill()

    def items(self, group: Hashable) -> Iterator[tuple[bytes, KeyState]]:
        """All of a group, each key once."""
        with self._lock:
            number, spilled = self._number(group), self._file
            held = list(self._fresh.get(number, {}).items())
            if spilled is not None:
                self._spill()
        if spilled is None:
            yield from held
            return
        after = b""
        while True:
            with self._lock, closing(spilled.cursor()) as cursor:
                found = cursor.execute(
                    "SELECT digest, sealed FROM states WHERE grp = ? AND digest > ? ORDER BY digest LIMIT ?",
                    (number, after, _FETCHED),
                ).fetchall()
            if not found:
                return
            after = found[-1][0]
            for digest, sealed in found:
                yield self._open(number, digest, sealed)

    def _number(self, group: Hashable) -> int:
        return self._groups.setdefault(group, len(self._groups))

    def _digest(self, number: int, key: bytes) -> bytes:
        return hashlib.blake2b(struct.pack(">I", number) + key, key=self._digest_key, digest_size=16).digest()

    def _read(self, number: int, key: bytes) -> KeyState | None:
        assert self._file is not None
        digest = self._digest(number, key)
        found = self._file.execute(
            "SELECT sealed FROM states WHERE grp = ? AND digest = ?", (number, digest)
        ).fetchone()
        return self._open(number, digest, found[0])[1] if found else None

    def _spill(self) -> None:
        self._spilled += self._held
        with room(self._spilled):
            self._write()

    def _write(self) -> None:
        if self._file is None:
            self._file = sqlite3.connect("", isolation_level=None, check_same_thread=False)
            self._file.executescript(
                "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-8192;"
                " CREATE TABLE states (grp INT, digest BLOB, sealed BLOB, PRIMARY KEY (grp, digest)) WITHOUT ROWID"
            )
        self._file.execute("BEGIN")
        self._file.executemany(
            "INSERT OR REPLACE INTO states VALUES (?, ?, ?)",
            (self._sealed(number, key, state) for number, mine in self._fresh.items() for key, state in mine.items()),
        )
        self._file.execute("COMMIT")
        self._fresh, self._held = {}, 0

    def _sealed(self, number: int, key: bytes, state: KeyState) -> tuple[int, bytes, bytes]:
        digest = self._digest(number, key)
        self._nonce += 1
        nonce = self._nonce.to_bytes(12, "big")
        flags = _EXISTED * state.existed | _EXISTS * state.exists
        plain = _HEAD.pack(flags, len(key), len(state.origin)) + key + state.origin + state.row
        return number, digest, nonce + self._cipher.encrypt(nonce, plain, digest)

    def _open(self, number: int, digest: bytes, sealed: bytes) -> tuple[bytes, KeyState]:
        plain = self._cipher.decrypt(sealed[:12], sealed[12:], digest)
        flags, key_length, origin_length = _HEAD.unpack_from(plain)
        origin_at = _HEAD.size + key_length
        row_at = origin_at + origin_length
        state = KeyState(bool(flags & _EXISTED), bool(flags & _EXISTS), plain[row_at:], plain[origin_at:row_at])
        return plain[_HEAD.size : origin_at], state
