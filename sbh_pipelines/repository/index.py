"""Which chunk lies where: the tenant's index objects, read into a table that stays small in memory.

The table is SQLite's temporary database: it lives in a bounded page cache and spills to a temporary file when it
outgrows it, so that a tenant with a hundred million chunks costs disk, not memory. It holds ids and numbers only.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from sbh_pipelines.repository.format import FIRST_EPOCH, Entry

_CACHE_KIB = 8192
_MARKED_AT_ONCE = 1000
PENDING = -1  # claimed by this session, not in a pack yet


@dataclass(frozen=True, slots=True)
class Location:
    pack: bytes
    offset: int
    length: int
    plain: int


@dataclass(frozen=True, slots=True)
class PackUse:
    """How much of a pack is needed. Of a chunk that lies in several packs only the copy that is read counts."""

    pack: bytes
    size: int  # of the object
    payload: int  # bytes of sealed chunks in it
    live: int  # bytes of those that are marked
    chunks: int  # how many are marked


class ChunkIndex:
    """Chunk id -> location. Thread-safe.

    `last_resort` is called once, when a chunk is looked for and not found: it may add packs that are not read otherwise.
    """

    def __init__(self) -> None:
        self.last_resort: Callable[[], None] | None = None
        self._resorted = False
        self._resorting = threading.RLock()
        self._lock = threading.Lock()

    @cached_property
    def _db(self) -> sqlite3.Connection:
        """Made at the first use, under the lock: reading manifests needs none, and it costs a millisecond."""
        db = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        db.executescript(
            f"""PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-{_CACHE_KIB};
            CREATE TABLE pack (n INTEGER PRIMARY KEY, id BLOB UNIQUE NOT NULL, size INTEGER NOT NULL,
                payload INTEGER NOT NULL, epoch INTEGER NOT NULL);
            CREATE TABLE chunk (id BLOB PRIMARY KEY, pack INTEGER NOT NULL, at INTEGER, length INTEGER, plain INTEGER)
            WITHOUT ROWID;
            CREATE TABLE lost (chunk BLOB PRIMARY KEY, pack BLOB NOT NULL) WITHOUT ROWID;
            CREATE TABLE named (pack BLOB, object TEXT, PRIMARY KEY (pack, object)) WITHOUT ROWID;"""
        )
        return db

    def close(self) -> None:
        if "_db" in self.__dict__:
            self._db.close()

    def add_pack(self, pack_id: bytes, size: int, entries: Iterable[Entry], epoch: int = FIRST_EPOCH) -> None:
        rows = [(e.chunk, e.offset, e.length, e.plain) for e in entries]  # may raise: before anything is written
        with self._lock:
            self._db.execute("BEGIN")
            number = self._db.execute(
                "INSERT INTO pack (id, size, payload, epoch) VALUES (?, ?, ?, ?) ON CONFLICT (id)"
                " DO UPDATE SET size = excluded.size, payload = max(payload, excluded.payload) RETURNING n",
                (pack_id, size, sum(length for _, _, length, _ in rows), epoch),
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
        """True when this chunk is neither stored nor claimed: the caller must store it."""
        with self._lock:
            return (
                self._db.execute(
                    "INSERT INTO chunk VALUES (?, ?, NULL, NULL, NULL) ON CONFLICT DO NOTHING", (chunk, PENDING)
                ).rowcount
                == 1
            )

    def find(self, chunk: bytes) -> Location | None:
        resorted = self._resorted  # before looking: another thread may be adding what is looked for
        found = self._find(chunk)
        if found is None and not resorted:
            self.resort()
            found = self._find(chunk)
        return found

    def resort(self) -> None:
        """Add what `last_resort` has, once."""
        with self._resorting:
            if self.last_resort is not None and not self._resorted:
                self.last_resort()
                self._resorted = True

    def _find(self, chunk: bytes) -> Location | None:
        with self._lock:
            row = self._db.execute(
                "SELECT pack.id, at, length, plain FROM chunk JOIN pack ON pack.n = chunk.pack WHERE chunk.id = ?",
                (chunk,),
            ).fetchone()
        return Location(*row) if row else None

    def packs(self) -> list[bytes]:
        """Ids of the packs that chunks are read from."""
        with self._lock:
            return [row[0] for row in self._db.execute("SELECT id FROM pack")]

    def has_pack(self, pack_id: bytes) -> bool:
        with self._lock:
            return self._db.execute("SELECT 1 FROM pack WHERE id = ?", (pack_id,)).fetchone() is not None

    def epoch_of(self, pack_id: bytes) -> int | None:
        """The key epoch of a pack; None for one that is not known."""
        with self._lock:
            row = self._db.execute("SELECT epoch FROM pack WHERE id = ?", (pack_id,)).fetchone()
        return row[0] if row else None

    def size_of(self, pack_id: bytes) -> int | None:
        """The size of a pack, as its index says and the store told; None for one that is not known."""
        with self._lock:
            row = self._db.execute("SELECT size FROM pack WHERE id = ?", (pack_id,)).fetchone()
        return row[0] if row else None

    def entries_of(self, pack_id: bytes) -> list[Entry]:
        """The chunks that are read from this pack."""
        with self._lock:
            self._db.execute("CREATE INDEX IF NOT EXISTS chunk_pack ON chunk (pack)")
            rows = self._db.execute(
                "SELECT chunk.id, at, length, plain FROM chunk JOIN pack ON pack.n = chunk.pack WHERE pack.id = ? ORDER BY at",
                (pack_id,),
            ).fetchall()
        return [Entry(*row) for row in rows]

    def name_packs(self, index_object: str, packs: Iterable[bytes]) -> None:
        """Record which packs an index object names, whether they are there or not."""
        rows = [(pack, index_object) for pack in packs]
        with self._lock:
            self._db.executemany("INSERT INTO named VALUES (?, ?) ON CONFLICT DO NOTHING", rows)

    def names_of(self, pack_id: bytes) -> list[str]:
        """The index objects that name a pack."""
        with self._lock:
            rows = self._db.execute("SELECT object FROM named WHERE pack = ?", (pack_id,)).fetchall()
        return [row[0] for row in rows]

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

    def add_all(self, chunks: Iterable[bytes]) -> None:
        """Any number of chunks, a few at a time."""
        remaining = iter(chunks)
        while some := [(chunk,) for chunk in islice(remaining, _MARKED_AT_ONCE)]:
            with self._lock:
                self._db.execute("BEGIN")
                self._db.executemany("INSERT INTO mark VALUES (?) ON CONFLICT DO NOTHING", some)
                self._db.execute("COMMIT")

    def missing(self) -> bytes | None:
        """A marked chunk that lies in no pack, if there is one."""
        query = (
            "SELECT id FROM mark WHERE NOT EXISTS"
            f" (SELECT 1 FROM chunk WHERE chunk.id = mark.id AND pack <> {PENDING}) LIMIT 1"
        )
        with self._lock:
            row = self._db.execute(query).fetchone()
        return row[0] if row else None

    def measure(self) -> None:
        """Add up what is marked in each pack, for `use_of`."""
        with self._lock:
            self._db.executescript(
                """DROP TABLE IF EXISTS used;
                CREATE TABLE used (pack INTEGER PRIMARY KEY, live INTEGER NOT NULL, chunks INTEGER NOT NULL);
                INSERT INTO used SELECT pack, sum(length), count(*) FROM chunk WHERE id IN (SELECT id FROM mark)
                GROUP BY pack;"""
            )

    def use_of(self, pack_id: bytes) -> PackUse | None:
        """How much of a pack was marked when it was measured; None for a pack that is not read from."""
        with self._lock:
            row = self._db.execute(
                "SELECT id, size, payload, coalesce(live, 0), coalesce(chunks, 0) FROM pack"
                " LEFT JOIN used ON used.pack = pack.n WHERE id = ?",
                (pack_id,),
            ).fetchone()
        return PackUse(*row) if row else None

    def of_pack(self, pack_id: bytes) -> list[Entry]:
        """The marked chunks that are read from a pack, in order of offset."""
        with self._lock:
            self._db.execute("CREATE INDEX IF NOT EXISTS chunk_pack ON chunk (pack)")
            rows = self._db.execute(
                "SELECT id, at, length, plain FROM chunk WHERE pack = (SELECT n FROM pack WHERE id = ?)"
                " AND id IN (SELECT id FROM mark) ORDER BY at",
                (pack_id,),
            ).fetchall()
        return [Entry(*row) for row in rows]

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
