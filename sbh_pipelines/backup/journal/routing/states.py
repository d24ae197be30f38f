"""What is known of rows that others follow, by index and key: in memory while it is little, else in a temporary file.

The file holds no values of rows that somebody could read: keys are digests under a key of this process, states are sealed. It is
written in batches in the order of the digests, and read in batches by whoever says beforehand what will be asked for: a statement
for each row would cost more than all else that is done with it.
"""

import hashlib
import marshal
import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sbh_pipelines.backup.journal.routing.routes import Key, Link
from sbh_pipelines.repository.journal.segments.room import room

MOST_IN_MEMORY = 100_000
_CACHE_KIB = 8 << 10
_MOST_READ = 10_000  # states of the file that are kept in mind besides
_STATE_BYTES = 150  # of the file, about
_AT_ONCE = 500  # digests of one statement


class State(NamedTuple):
    """A row as others followed it.

    Attributes:
        there: Whether there was such a row.
        link: Of the row; where there was none, of the one that was there before, or that came.
        transaction: Number of the transaction that made it so.
    """

    there: bool
    link: Link
    transaction: int


class States:
    """States by (index, key). A context: what is on disk is gone after it. Not thread-safe."""

    def __init__(self, most: int = MOST_IN_MEMORY, directory: Path | None = None) -> None:
        self._recent: dict[tuple[int, Key], State] = {}
        self._firsts: dict[tuple[int, Key], State] = {}  # they count where the file has nothing of the key
        self._read: dict[tuple[int, Key], State | None] = {}  # what the file has
        self._most, self._directory = most, directory
        self._secret = os.urandom(32)
        self._aead = AESGCM(os.urandom(32))
        self._sealed = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._database: sqlite3.Connection | None = None

    def __enter__(self) -> "States":
        return self

    def __exit__(self, *_: object) -> None:
        if self._database is not None:
            self._database.close()
        if self._folder is not None:
            self._folder.cleanup()

    def get(self, index: int, key: Key) -> State | None:
        of = index, key
        found = self._recent.get(of)
        if found is None and self._database is not None:
            if of not in self._read:
                self.prepare(index, [key])
            found = self._read[of]
            if found is None:
                found = self._firsts.get(of)
        return found

    def prepare(self, index: int, keys: Iterable[Key]) -> None:
        """Read from the file at once what `get` will be asked for next."""
        if self._database is None:
            return
        wanted = {
            self._digest(index, key): key
            for key in keys
            if (index, key) not in self._recent and (index, key) not in self._read
        }
        if len(self._read) + len(wanted) > _MOST_READ:
            self._read.clear()
        digests = sorted(wanted)
        for start in range(0, len(digests), _AT_ONCE):
            asked = digests[start : start + _AT_ONCE]
            found = self._found(asked)
            for digest in asked:
                self._read[index, wanted[digest]] = found.get(digest)

    def put(self, index: int, key: Key, state: State) -> None:
        of = index, key
        self._recent[of] = state
        if self._database is not None:
            self._read.pop(of, None)
            self._firsts.pop(of, None)
        if len(self._recent) > self._most:
            self._move()

    def put_first(self, index: int, key: Key, state: State) -> None:
        """Unless something is known of it already."""
        of = index, key
        if of in self._recent:
            return
        if self._database is None:
            self.put(index, key, state)
            return
        self._firsts.setdefault(of, state)
        if len(self._firsts) > self._most:
            self._move()

    def _found(self, digests: Sequence[bytes]) -> Mapping[bytes, State]:
        assert self._database is not None
        marks = ", ".join("?" * len(digests))
        rows = self._database.execute(
            f"SELECT digest, sealed FROM states WHERE digest IN ({marks})",  # nosec B608  # question marks
            digests,
        )
        return {digest: self._opened(digest, sealed) for digest, sealed in rows}

    def _opened(self, digest: bytes, sealed: bytes) -> State:
        plain = self._aead.decrypt(sealed[:12], sealed[12:], digest)
        return State(*marshal.loads(plain))  # noqa: S302  # nosec B302  # written by this process, and authenticated

    def _move(self) -> None:
        """All from memory to the file."""
        with room((self._sealed + len(self._firsts) + len(self._recent)) * _STATE_BYTES, self._directory):
            self._write()

    def _write(self) -> None:
        if self._database is None:
            self._folder = tempfile.TemporaryDirectory(prefix="sbh-journal-", dir=self._directory)
            self._database = sqlite3.connect(Path(self._folder.name) / "states", isolation_level=None)
            for pragma in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{_CACHE_KIB}"):
                self._database.execute(f"PRAGMA {pragma}")
            self._database.execute("CREATE TABLE states (digest BLOB PRIMARY KEY, sealed BLOB NOT NULL) WITHOUT ROWID")
        with _transaction(self._database) as database:
            database.executemany("INSERT OR IGNORE INTO states VALUES (?, ?)", self._rows(self._firsts))
            database.executemany("INSERT OR REPLACE INTO states VALUES (?, ?)", self._rows(self._recent))
        self._firsts.clear()
        self._recent.clear()
        self._read.clear()

    def _rows(self, states: Mapping[tuple[int, Key], State]) -> Iterator[tuple[bytes, bytes]]:
        for digest, state in sorted((self._digest(*of), state) for of, state in states.items()):
            self._sealed += 1
            nonce = self._sealed.to_bytes(12, "big")
            yield digest, nonce + self._aead.encrypt(nonce, marshal.dumps(tuple(state)), digest)

    def _digest(self, index: int, key: Key) -> bytes:
        exact = b"".join([index.to_bytes(4, "big"), *(len(value).to_bytes(4, "big") + value for value in key)])
        return hashlib.blake2b(exact, digest_size=20, key=self._secret).digest()


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    database.execute("BEGIN")
    yield database
    database.execute("COMMIT")
