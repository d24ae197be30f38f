"""Which chunk lies where: the tenant's index objects, read into a table that stays small in memory.

The table is SQLite's temporary database: it lives in a bounded page cache and spills to a temporary file when it
outgrows it, so that a tenant with a hundred million chunks costs disk, not memory. It holds ids and numbers only.
"""

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sbh_pipelines.repository.format import Entry

_CACHE_KIB = 8192
PENDING = -1  # claimed by this session, not in a pack yet


@dataclass(frozen=True, slots=True)
class Location:
    pack: bytes
    offset: int
    length: int
    plain: int


class ChunkIndex:
    """Chunk id -> location. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._db.executescript(
            f"""PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-{_CACHE_KIB};
            CREATE TABLE pack (n INTEGER PRIMARY KEY, id BLOB UNIQUE NOT NULL, size INTEGER NOT NULL);
            CREATE TABLE chunk (id BLOB PRIMARY KEY, pack INTEGER NOT NULL, at INTEGER, length INTEGER, plain INTEGER)
            WITHOUT ROWID;
            CREATE TABLE lost (chunk BLOB PRIMARY KEY, pack BLOB NOT NULL) WITHOUT ROWID;"""
        )

    def close(self) -> None:
        self._db.close()

    def add_pack(self, pack_id: bytes, size: int, entries: Iterable[Entry]) -> None:
        rows = [(e.chunk, e.offset, e.length, e.plain) for e in entries]  # may raise: before anything is written
        with self._lock:
            self._db.execute("BEGIN")
            number = self._db.execute(
                "INSERT INTO pack (id, size) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET size = excluded.size RETURNING n",
                (pack_id, size),
            ).fetchone()[0]
            self._db.executemany(
                f"INSERT INTO chunk VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET pack = excluded.pack,"
                f" at = excluded.at, length = excluded.length, plain = excluded.plain WHERE chunk.pack = {PENDING}",
                ((chunk, number, *place) for chunk, *place in rows),
            )
            self._db.execute("COMMIT")

    def add_lost(self, pack_id: bytes, entries: Iterable[Entry]) -> None:
        """A pack that an index names but the store does not have, or not whole: its chunks are to be stored anew."""
        with self._lock:
            self._db.executemany(
                "INSERT INTO lost VALUES (?, ?) ON CONFLICT DO NOTHING", ((e.chunk, pack_id) for e in entries)
            )

    def lost_pack(self, chunk: bytes) -> bytes | None:
        """The lost pack that held the chunk."""
        with self._lock:
            row = self._db.execute("SELECT pack FROM lost WHERE chunk = ?", (chunk,)).fetchone()
        return row[0] if row else None

    def claim(self, chunk: bytes) -> bool:
        """True when nobody has this chunk yet: the caller must store it. False when it is stored or claimed."""
        with self._lock:
            return (
                self._db.execute(
                    "INSERT INTO chunk VALUES (?, ?, NULL, NULL, NULL) ON CONFLICT DO NOTHING", (chunk, PENDING)
                ).rowcount
                == 1
            )

    def find(self, chunk: bytes) -> Location | None:
        with self._lock:
            row = self._db.execute(
                "SELECT pack.id, at, length, plain FROM chunk JOIN pack ON pack.n = chunk.pack WHERE chunk.id = ?",
                (chunk,),
            ).fetchone()
        return Location(*row) if row else None

    def has_pack(self, pack_id: bytes) -> bool:
        with self._lock:
            return self._db.execute("SELECT 1 FROM pack WHERE id = ?", (pack_id,)).fetchone() is not None

    def entries_of(self, pack_id: bytes) -> list[Entry]:
        """The chunks that are read from this pack."""
        with self._lock:
            self._db.execute("CREATE INDEX IF NOT EXISTS chunk_pack ON chunk (pack)")
            rows = self._db.execute(
                "SELECT chunk.id, at, length, plain FROM chunk JOIN pack ON pack.n = chunk.pack WHERE pack.id = ? ORDER BY at",
                (pack_id,),
            ).fetchall()
        return [Entry(*row) for row in rows]

    @contextmanager
    def marks(self) -> "Iterator[Marks]":
        """A set of this index's chunks, to be gone through pack by pack; as small in memory as the index."""
        with self._lock:
            self._db.execute("CREATE TABLE IF NOT EXISTS mark (id BLOB PRIMARY KEY) WITHOUT ROWID")
            self._db.execute("DELETE FROM mark")
        yield Marks(self._db, self._lock)


class Marks:
    """Chunks marked by `add`. One at a time per index."""

    def __init__(self, db: sqlite3.Connection, lock: threading.Lock) -> None:
        self._db, self._lock = db, lock

    def add(self, chunk: bytes) -> None:
        with self._lock:
            self._db.execute("INSERT INTO mark VALUES (?) ON CONFLICT DO NOTHING", (chunk,))

    def count(self) -> int:
        return self._number("SELECT count(*) FROM mark")

    def pack_count(self) -> int:
        return self._number("SELECT count(DISTINCT pack) FROM chunk WHERE id IN (SELECT id FROM mark)")

    def _number(self, query: str) -> int:
        with self._lock:
            number: int = self._db.execute(query).fetchone()[0]
        return number

    def touches(self, packs: Iterable[bytes]) -> bool:
        """Whether a marked chunk lies in one of these packs."""
        query = "SELECT 1 FROM chunk JOIN pack ON pack.n = chunk.pack JOIN mark ON mark.id = chunk.id WHERE pack.id = ? LIMIT 1"
        with self._lock:
            return any(self._db.execute(query, (pack,)).fetchone() for pack in packs)

    def by_pack(self) -> Iterator[tuple[bytes, list[Entry]]]:
        """(pack id, its marked entries in order of offset), pack by pack."""
        with self._lock:
            packs = self._db.execute(
                "SELECT DISTINCT pack.n, pack.id FROM chunk JOIN pack ON pack.n = chunk.pack"
                " WHERE chunk.id IN (SELECT id FROM mark)"
            ).fetchall()
            self._db.execute("CREATE INDEX IF NOT EXISTS chunk_pack ON chunk (pack)")
        for number, pack_id in packs:
            with self._lock:
                rows = self._db.execute(
                    "SELECT id, at, length, plain FROM chunk WHERE pack = ? AND id IN (SELECT id FROM mark) ORDER BY at",
                    (number,),
                ).fetchall()
            yield pack_id, [Entry(*row) for row in rows]
