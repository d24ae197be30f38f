"""What the two ends of a copy have, by two listings: small in memory however many objects there are.

A listing has no order that may be relied on, so both go into a table of SQLite's temporary database, which spills to a file. It
holds names, sizes and ETags only.
"""

import sqlite3
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

from sbh_pipelines.backup.copies.copier.transfer import SETTLED_S, plain_etag
from sbh_pipelines.stores.base import ObjectInfo

_CACHE_KIB = 4096
_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Wanted:
    """An object of the source that the copy does not have, or may have otherwise.

    Attributes:
        name: Its key below the prefix.
        size: Its bytes at the source.
        absent: Whether the copy has none of this name.
        size_there: The bytes of the copy's; None where it has none.
        etag: What the source's listing says.
    """

    name: str
    size: int
    absent: bool
    size_there: int | None
    etag: str


class Inventory:
    """Use in a `with` block. `kind_of` gives the kind of an object by its name below the prefix, None for what is not copied."""

    def __init__(self, prefix: str, kind_of: Callable[[str], int | None]) -> None:
        self._prefix, self._kind_of = prefix, kind_of
        self._db = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._db.executescript(
            f"""PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-{_CACHE_KIB};
            CREATE TABLE here (name TEXT PRIMARY KEY, kind INTEGER, size INTEGER, etag TEXT, at REAL) WITHOUT ROWID;
            CREATE TABLE there (name TEXT PRIMARY KEY, kind INTEGER, size INTEGER, etag TEXT, at REAL) WITHOUT ROWID;"""
        )

    def __enter__(self) -> "Inventory":
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def add_source(self, listing: Iterable[ObjectInfo], *, without: int | None = None) -> None:
        """What the source has; `without`: a kind that another listing tells."""
        self._add("here", listing, without)

    def add_target(self, listing: Iterable[ObjectInfo], prefix: str | None = None) -> None:
        """What the copy has, in place of an earlier listing of it. `prefix`: of its keys, where it is another than the source's."""
        self._db.execute("DELETE FROM there")
        self._add("there", listing, None, prefix)

    def _add(self, table: str, listing: Iterable[ObjectInfo], without: int | None, prefix: str | None = None) -> None:
        rows: list[tuple[str, int, int, str, float]] = []
        insert = f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?, ?, ?)"  # nosec B608  # one of two names of ours
        skip = len(self._prefix if prefix is None else prefix)
        for info in listing:
            name = info.key[skip:]
            kind = self._kind_of(name)
            if kind is None or kind == without:
                continue
            rows.append((name, kind, info.size, plain_etag(info.etag), info.modified.timestamp()))
            if len(rows) == _AT_ONCE:
                self._insert(insert, rows)
                rows = []
        self._insert(insert, rows)

    def _insert(self, insert: str, rows: list[tuple[str, int, int, str, float]]) -> None:
        self._db.execute("BEGIN")
        self._db.executemany(insert, rows)
        self._db.execute("COMMIT")

    def wanted(self, kind: int, *, immutable: bool, all_of_them: bool = False) -> Generator[Wanted, None, None]:
        """In the order of names: what the copy has not, or has in another size; of what changes, also what may differ.

        What changes is taken for the same where the ETags say so, or where it was copied long after it was written.
        `all_of_them`: also what seems to be there as it is here.
        """
        changed = (
            " OR 1"
            if all_of_them
            else ""
            if immutable
            else f" OR (here.etag <> there.etag AND there.at < here.at + {SETTLED_S})"
        )
        query = (
            "SELECT here.name, here.size, there.size, here.etag FROM here LEFT JOIN there USING (name)"  # nosec B608  # no input
            f" WHERE here.kind = ? AND (there.name IS NULL OR here.size <> there.size{changed}) ORDER BY here.name"
        )
        with closing(self._db.cursor()) as cursor:
            for name, size, size_there, etag in cursor.execute(query, (kind,)):
                yield Wanted(name, size, size_there is None, size_there, etag)

    def missing(self, kinds: Iterable[int]) -> str | None:
        """An object of these kinds that the source has and the copy has not; None where there is none."""
        for kind in kinds:
            for one in self.wanted(kind, immutable=True):
                return one.name
        return None

    @property
    def is_empty(self) -> bool:
        """Whether the source has nothing."""
        return bool(self._db.execute("SELECT NOT EXISTS (SELECT 1 FROM here)").fetchone()[0])

    def last(self, kind: int) -> str | None:
        """The greatest name of a kind at the source."""
        name: str | None = self._db.execute("SELECT max(name) FROM here WHERE kind = ?", (kind,)).fetchone()[0]
        return name

    def names(self, kind: int) -> Iterator[str]:
        """All names of a kind at the source."""
        for (name,) in self._db.execute("SELECT name FROM here WHERE kind = ?", (kind,)):
            yield name

    def leave_out(self, name: str) -> None:
        """Not to be copied after all."""
        self._db.execute("DELETE FROM here WHERE name = ?", (name,))
