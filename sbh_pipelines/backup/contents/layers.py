"""Putting a table of a backup together: the base's rows, less what was deleted or changed, and the layers' rows.

Goes from the newest layer to the base. A row counts unless a newer layer has its key, among its rows or the deleted ones,
or says what was left of its bucket and the row is not among it. Keys are compared as COPY text: what the server hashes is
the same text, so that a key which changed its spelling is another key there as well. The order of the rows is nobody's.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing

from sbh_pipelines.backup.contents.stored_table import Layer, StoredTable
from sbh_pipelines.database.schema.key_hash import bucket_of
from sbh_pipelines.errors import CorruptObject
from sbh_pipelines.repository.format import VALIDATE
from sbh_pipelines.repository.repository import Repository

_KEYS_IN_MEMORY = 200_000


def table_rows(repository: Repository, table: StoredTable) -> Iterator[bytes]:
    """COPY text of the table's rows in pieces, each of whole rows. Raises CorruptObject.

    That the rows add up to what the backup says is known only when the last piece was taken.
    """
    state = table.state
    if state is None or not state.layers:
        yield from repository.read_chunks(group.chunk for group in table.groups)
        return
    newer = _Newer(table)
    with closing(newer):
        found = 0
        for layer in reversed(state.layers):
            for text in repository.read_chunks(map(bytes.fromhex, layer.chunks)):
                kept = newer.filtered(text)
                found += kept.count(b"\n")
                yield kept
            newer.add(repository, layer)
        for text in repository.read_chunks(group.chunk for group in table.groups):
            kept = newer.filtered(text)
            found += kept.count(b"\n")
            yield kept
    if found != state.rows:
        raise CorruptObject(
            "A table's layers do not add up",
            on=table.header.full_name,
            why=f"{found} rows, and the backup had {state.rows}",
            remedy=VALIDATE,
        )


class _Keys:
    """A set of keys; a large one goes to a temporary file."""

    def __init__(self) -> None:
        self._known: set[bytes] = set()
        self._db: sqlite3.Connection | None = None

    def add(self, keys: Iterable[bytes]) -> None:
        if self._db is None:
            self._known.update(keys)
            if len(self._known) <= _KEYS_IN_MEMORY:
                return
            self._db = sqlite3.connect("", isolation_level=None)
            self._db.executescript(
                "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-8192;"
                " CREATE TABLE known (key BLOB PRIMARY KEY) WITHOUT ROWID"
            )
            keys, self._known = self._known, set()
        self._db.execute("BEGIN")
        self._db.executemany("INSERT INTO known VALUES (?) ON CONFLICT DO NOTHING", ((key,) for key in keys))
        self._db.execute("COMMIT")

    def __contains__(self, key: bytes) -> bool:
        if self._db is None:
            return key in self._known
        return self._db.execute("SELECT 1 FROM known WHERE key = ?", (key,)).fetchone() is not None

    def among(self, keys: Sequence[bytes]) -> set[bytes]:
        """Those of these keys that are in the set."""
        return self._known.intersection(keys) if self._db is None else {key for key in keys if key in self}

    def close(self) -> None:
        if self._db is not None:
            self._db.close()


class _Newer:
    """What the layers gone through so far say about older rows."""

    def __init__(self, table: StoredTable) -> None:
        assert table.state is not None
        self._kind, self._mask = table.state.kind, (1 << table.state.bits) - 1
        self._fields = table.key_fields
        self._changed = _Keys()
        self._left: dict[int, list[_Keys]] = {}  # bucket -> for each layer that lists it, the keys left
        self._opened = [self._changed]

    def close(self) -> None:
        for keys in self._opened:
            keys.close()

    def filtered(self, text: bytes) -> bytes:
        """The rows of `text` that still count."""
        lines = text.split(b"\n")
        lines.pop()
        keys = self._keys(lines)
        gone = self._changed.among(keys)
        if self._left:
            gone |= {key for key in keys if not self._is_left(key)}
        if not gone:
            return text
        return b"".join([line + b"\n" for line, key in zip(lines, keys, strict=True) if key not in gone])

    def _is_left(self, key: bytes) -> bool:
        bucket = bucket_of(self._kind, key.split(b"\t")) & self._mask
        return all(key in left for left in self._left.get(bucket, ()))

    def _keys(self, lines: Iterable[bytes]) -> list[bytes]:
        if self._fields == [0]:
            return [line.partition(b"\t")[0] for line in lines]
        split = (line.split(b"\t") for line in lines)
        return [b"\t".join([fields[at] for at in self._fields]) for fields in split]

    def add(self, repository: Repository, layer: Layer) -> None:
        """The layer is newer than all that follows."""
        for text in repository.read_chunks(map(bytes.fromhex, layer.chunks)):
            lines = text.split(b"\n")
            lines.pop()
            self._changed.add(self._keys(lines))
        for text in repository.read_chunks(map(bytes.fromhex, layer.deleted)):
            self._changed.add(text.split(b"\n")[:-1])
        if not layer.survivors:
            return
        left = _Keys()
        self._opened.append(left)
        listed: set[int] = set()
        for text in repository.read_chunks(map(bytes.fromhex, layer.survivors)):
            keys = []
            for line in text.split(b"\n")[:-1]:
                number, tab, key = line.partition(b"\t")
                listed.add(int(number))
                if tab:
                    keys.append(key)
            left.add(keys)
        for bucket in listed:
            self._left.setdefault(bucket, []).append(left)
