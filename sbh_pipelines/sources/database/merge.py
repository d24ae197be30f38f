"""Putting a tenant's rows back: stage, compare, write only the differences, prove.

Everything happens in one REPEATABLE READ transaction, so a concurrent write to the same rows ends in a serialization
error and a rollback, never in a mixture. `session_replication_role = replica` keeps triggers, rules and foreign key
checks quiet; the foreign keys of the tenant are checked by queries of our own before the commit.

For each table two temporary tables hold what differs: `want`, rows of the backup's groups that the live table lacks,
and `have`, rows of the live groups that the backup lacks. Rows in both, with the same key and text, are equal. A row
that differs is deleted and inserted: that works for identity columns and for values swapped between unique rows.
"""

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from sbh_pipelines.settings import DatabaseSettings
from sbh_pipelines.sources.database.catalog import ForeignKey, Table
from sbh_pipelines.sources.database.connection import Connection, connect, translated
from sbh_pipelines.sources.database.tenancy import MappedTable, TenancyMap, from_only, ident, sql_name

_SPOOL = 8 << 20  # bytes of live rows kept in memory before they go to a temporary file


@dataclass(frozen=True, slots=True)
class TableChanges:
    """Rows written to one table: a changed row counts as updated only."""

    inserted: int
    updated: int
    deleted: int

    @property
    def any(self) -> bool:
        return bool(self.inserted or self.updated or self.deleted)


@contextmanager
def restore_transaction(settings: DatabaseSettings) -> Iterator[Connection]:
    """The one transaction of a restore; the caller commits, anything else rolls back."""
    connection = connect(settings, "restore")
    try:
        with translated("begin the restore"):
            cursor = connection.cursor()
            cursor.execute("SELECT set_config('lock_timeout', %s, false)", (str(int(settings.lock_timeout_s * 1000)),))
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("SET LOCAL session_replication_role = replica")
        yield connection
    finally:
        connection.close()


class Spool:
    """Rows of live groups that the backup lacks, kept until the COPY that found them is over."""

    def __init__(self) -> None:
        self.file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=_SPOOL)
        self.rows = 0

    def add(self, text: bytes, rows: int) -> None:
        self.file.write(text)
        self.rows += rows

    def close(self) -> None:
        self.file.close()


class TableMerge:
    """The merge of one table. `number` tells its temporary tables apart."""

    def __init__(self, connection: Connection, table: MappedTable, tenant_key: str, number: int) -> None:
        self._connection, self.table, self._tenant_key = connection, table, tenant_key
        self._want, self._have = f"sbh_want_{number}", f"sbh_have_{number}"
        self._columns = ", ".join(ident(c) for c in table.captured_columns)

    def stage(self, want: Iterator[bytes], have: Spool) -> None:
        """Fill the two temporary tables; both streams are COPY text of the captured columns."""
        with translated("stage rows", self.table.full_name):
            cursor = self._connection.cursor()
            for name in (self._want, self._have):
                cursor.execute(
                    f"CREATE TEMP TABLE {name} ON COMMIT DROP AS"
                    f" SELECT {self._columns} FROM {sql_name(self.table.table)} WITH NO DATA"
                )
            cursor.copy_expert(f"COPY pg_temp.{self._want} ({self._columns}) FROM STDIN", _Reader(want), 1 << 20)
            have.file.seek(0)
            cursor.copy_expert(f"COPY pg_temp.{self._have} ({self._columns}) FROM STDIN", have.file, 1 << 20)
            cursor.execute(f"ANALYZE pg_temp.{self._want}; ANALYZE pg_temp.{self._have}")

    def apply(self) -> TableChanges:
        """Delete what is not wanted, insert what is missing. Needs `stage`."""
        with translated("write rows", self.table.full_name):
            cursor = self._connection.cursor()
            return self._apply_keyed(cursor) if self.table.table.primary_key else self._apply_keyless(cursor)

    def _apply_keyed(self, cursor: Any) -> TableChanges:
        key = self.table.table.primary_key
        same_key = " AND ".join(f"w.{ident(k)} = h.{ident(k)}" for k in key)
        key_of_live = " AND ".join(f"t.{ident(k)} = h.{ident(k)}" for k in key)
        same = f"{same_key} AND {self._row('w')} = {self._row('h')}"
        cursor.execute(
            f"SELECT count(*) FROM pg_temp.{self._want} w JOIN pg_temp.{self._have} h ON {same_key}"
            f" WHERE {self._row('w')} <> {self._row('h')}"
        )
        updated: int = cursor.fetchone()[0]
        cursor.execute(
            f"DELETE FROM {from_only(self.table.table)} AS t USING pg_temp.{self._have} AS h WHERE {key_of_live}"
            f" AND NOT EXISTS (SELECT FROM pg_temp.{self._want} w WHERE {same})"
        )
        deleted: int = cursor.rowcount
        cursor.execute(
            f"INSERT INTO {sql_name(self.table.table)} ({self._columns}) OVERRIDING SYSTEM VALUE"
            f" SELECT {self._columns} FROM pg_temp.{self._want} w"
            f" WHERE NOT EXISTS (SELECT FROM pg_temp.{self._have} h WHERE {same})"
        )
        return TableChanges(cursor.rowcount - updated, updated, deleted - updated)

    def _apply_keyless(self, cursor: Any) -> TableChanges:
        # Without a key rows are a multiset: the nth of equal texts here matches the nth of equal texts there.
        want, have = (
            f"(SELECT {self._row('r')} AS sbh_text, row_number() OVER (PARTITION BY {self._row('r')}) AS sbh_n, r.*"
            f" FROM pg_temp.{name} r)"
            for name in (self._want, self._have)
        )
        surplus = (
            f"SELECT h.sbh_text, count(*) AS excess FROM {have} h LEFT JOIN {want} w"
            " ON w.sbh_text = h.sbh_text AND w.sbh_n = h.sbh_n WHERE w.sbh_text IS NULL GROUP BY h.sbh_text"
        )
        cursor.execute(
            f"DELETE FROM {from_only(self.table.table)} AS d USING ("
            f"  SELECT t.tableoid AS part, t.ctid AS place, {self._row('t')} AS sbh_text,"
            f"         row_number() OVER (PARTITION BY {self._row('t')}) AS sbh_n"
            f"  FROM {self.table.source} WHERE {self.table.tenant_is('%s')}) AS l, ({surplus}) AS s"
            f" WHERE l.sbh_text = s.sbh_text AND l.sbh_n <= s.excess AND d.tableoid = l.part AND d.ctid = l.place",
            ([self._tenant_key],),
        )
        deleted: int = cursor.rowcount
        cursor.execute(
            f"INSERT INTO {sql_name(self.table.table)} ({self._columns}) OVERRIDING SYSTEM VALUE"
            f" SELECT {', '.join('w.' + ident(c) for c in self.table.captured_columns)} FROM {want} w"
            f" WHERE NOT EXISTS (SELECT FROM {have} h WHERE h.sbh_text = w.sbh_text AND h.sbh_n = w.sbh_n)"
        )
        return TableChanges(cursor.rowcount, 0, deleted)

    def _row(self, alias: str) -> str:
        """A whole row as text. Columns are spelled out: an alias alone would mean a column of that name."""
        return f"ROW({', '.join(f'{alias}.{ident(c)}' for c in self.table.captured_columns)})::text"

    def orphans(self, key: ForeignKey, child: Table) -> int:
        """Rows of a table outside the tenancy map that refer to a row this merge deleted."""
        pairs = " AND ".join(
            f"x.{ident(p)} = t.{ident(c)}" for c, p in zip(key.columns, key.parent_columns, strict=True)
        )
        with translated("check a foreign key", child.full_name):
            cursor = self._connection.cursor()
            cursor.execute(
                f"SELECT count(*) FROM {from_only(child)} AS t WHERE EXISTS (SELECT FROM pg_temp.{self._have} x WHERE {pairs})"
                f" AND NOT EXISTS (SELECT FROM {sql_name(self.table.table)} x WHERE {pairs})"
            )
            rows: int = cursor.fetchone()[0]
        return rows

    def raise_sequences(self) -> None:
        """Move sequences behind identity and serial columns past what was inserted; they never go back."""
        with translated("adjust a sequence", self.table.full_name):
            cursor = self._connection.cursor()
            for column in self.table.table.columns:
                if column.sequence:
                    cursor.execute(
                        f"SELECT setval(%s, w.top) FROM (SELECT max({ident(column.name)}) AS top FROM pg_temp.{self._want}) w,"
                        " pg_sequences s WHERE (quote_ident(s.schemaname) || '.' || quote_ident(s.sequencename)) = %s"
                        " AND s.increment_by > 0 AND w.top > coalesce(s.last_value, s.min_value - 1)",
                        (column.sequence, column.sequence),
                    )


class _Reader(io.RawIOBase):
    """A file over an iterator of pieces, for COPY FROM STDIN."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        super().__init__()
        self._pieces, self._rest = pieces, memoryview(b"")

    def read(self, size: int = -1) -> bytes:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._rest = memoryview(piece)
        taken, self._rest = self._rest[:size], self._rest[size:]
        return bytes(taken)


@dataclass(frozen=True, slots=True)
class BrokenForeignKey:
    constraint: str
    table: str
    parent: str
    rows: int


def check_foreign_keys(
    connection: Connection, tenancy: TenancyMap, tenant_key: str, merges: list[TableMerge]
) -> tuple[int, list[BrokenForeignKey]]:
    """Check every foreign key of the tenant's rows, and those of other tables that refer to a row just deleted.

    Returns (number of keys checked, the broken ones). A row with a NULL in the key is not checked, as in MATCH SIMPLE.
    """
    broken: list[BrokenForeignKey] = []
    checked = 0
    captured = {t.table.oid: t for t in tenancy.tables}
    merged = {m.table.table.oid: m for m in merges}
    for child in tenancy.catalog.tables.values():
        mapped = captured.get(child.oid)
        for key in child.foreign_keys:
            if mapped is not None:
                rows = _dangling(connection, mapped, key, tenancy.catalog.tables[key.parent], tenant_key)
            elif key.parent in merged:
                rows = merged[key.parent].orphans(key, child)
            else:
                continue
            checked += 1
            if rows:
                broken.append(
                    BrokenForeignKey(key.name, child.full_name, tenancy.catalog.tables[key.parent].full_name, rows)
                )
    return checked, broken


def _dangling(connection: Connection, child: MappedTable, key: ForeignKey, parent: Table, tenant_key: str) -> int:
    pairs = " AND ".join(f"x.{ident(p)} = t.{ident(c)}" for c, p in zip(key.columns, key.parent_columns, strict=True))
    filled = " AND ".join(f"t.{ident(own)} IS NOT NULL" for own in key.columns)
    with translated("check a foreign key", child.full_name):
        cursor = connection.cursor()
        cursor.execute(
            f"SELECT count(*) FROM {child.source} WHERE {child.tenant_is('%s')} AND {filled}"
            f" AND NOT EXISTS (SELECT FROM {sql_name(parent)} x WHERE {pairs})",
            ([tenant_key],),
        )
        rows: int = cursor.fetchone()[0]
    return rows


def commit(connection: Connection) -> None:
    with translated("commit the restore"):
        connection.cursor().execute("COMMIT")
