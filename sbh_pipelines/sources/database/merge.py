"""Putting a tenant's rows back: stage, compare, write only the differences, prove.

Everything happens in one REPEATABLE READ transaction, so a concurrent write to the same rows ends in a serialization
error and a rollback, never in a mixture. `session_replication_role = replica` keeps triggers, rules and foreign key
checks quiet; the foreign keys of the tenant are checked by queries of our own before the commit.

For each table two temporary tables hold what differs: `want`, rows of the backup's groups that the live table lacks,
and `have`, rows of the live groups that the backup lacks. Of a table whose backup has layers they hold everything: where
its rows lie among each other is only known once they are sorted. Rows in both, with the same key and text, are equal. A
row that differs is deleted and inserted: that works for identity columns and for values swapped between unique rows.
"""

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from sbh_pipelines.settings import DatabaseSettings
from sbh_pipelines.sources.database.capture import TableSink, copy_groups, order_by
from sbh_pipelines.sources.database.catalog import ForeignKey, Table
from sbh_pipelines.sources.database.connection import Connection, connect, translated
from sbh_pipelines.sources.database.groups import Segment
from sbh_pipelines.sources.database.tenancy import MappedTable, TenancyMap, from_only, ident, literal, sql_name

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
    """The merge of one table: `stage`, then `delete` (children before parents), then `insert`.

    `number` tells its temporary tables apart. Their columns are named c1, c2, ... whatever the table's are called, so
    that no name of the application's can collide with one of ours.
    """

    def __init__(self, connection: Connection, table: MappedTable, tenant_key: str, number: int) -> None:
        self._connection, self.table, self._tenant_key = connection, table, tenant_key
        self._want, self._have = f"pg_temp.sbh_want_{number}", f"pg_temp.sbh_have_{number}"
        self._columns = ", ".join(ident(c) for c in table.captured_columns)
        self._staged = {c: f"c{nth}" for nth, c in enumerate(table.captured_columns, 1)}
        self._deleted = self._updated = 0

    def stage(self, want: Iterator[bytes], have: Spool) -> None:
        """Fill the two temporary tables; both streams are COPY text of the captured columns."""
        with translated("stage rows", self.table.full_name):
            cursor = self._connection.cursor()
            self._create(cursor)
            self._fill_wanted(cursor, want)
            have.file.seek(0)
            cursor.copy_expert(f"COPY {self._have} FROM STDIN", have.file, 1 << 20)
            cursor.execute(f"ANALYZE {self._want}; ANALYZE {self._have}")

    def stage_all(self, want: Iterator[bytes]) -> None:
        """As `stage`, with all rows of the backup, in any order, against all live ones."""
        with translated("stage rows", self.table.full_name):
            cursor = self._connection.cursor()
            self._create(cursor)
            self._fill_wanted(cursor, want)
            live = ", ".join(f"t.{ident(c)}" for c in self.table.captured_columns)
            cursor.execute(
                f"INSERT INTO {self._have} SELECT {live} FROM {self.table.source}"
                f" WHERE {self.table.tenant_is([self._tenant_key])}"
            )
            cursor.execute(f"ANALYZE {self._want}; ANALYZE {self._have}")

    def copy_wanted(self, sink: TableSink) -> None:
        """The staged rows of the backup in the canonical order, cut into groups."""
        columns = ", ".join(f"r.{staged} AS {ident(name)}" for name, staged in self._staged.items())
        with translated("sort the rows of the backup", self.table.full_name):
            cursor = self._connection.cursor()
            cursor.execute(f"SELECT count(*) FROM {self._want}")
            copy_groups(
                cursor,
                f"SELECT t.* FROM (SELECT {columns} FROM {self._want} r) AS t ORDER BY {order_by(self.table)}",
                [Segment(cursor.fetchone()[0], sink.group)],
            )

    def _create(self, cursor: Any) -> None:
        for name in (self._want, self._have):
            cursor.execute(
                f"CREATE TEMP TABLE {name} ({', '.join(self._staged.values())}) ON COMMIT DROP AS"
                f" SELECT {self._columns} FROM {sql_name(self.table.table)} WITH NO DATA"
            )

    def _fill_wanted(self, cursor: Any, want: Iterator[bytes]) -> None:
        reader = _Reader(want)
        try:
            cursor.copy_expert(f"COPY {self._want} FROM STDIN", reader, 1 << 20)
        except Exception:
            if reader.error is not None:  # the driver would make a cancelled statement of it
                raise reader.error from None
            raise

    def delete(self) -> None:
        """Delete the live rows that are not wanted as they are. Needs `stage`; parents must still be there."""
        with translated("delete rows", self.table.full_name):
            cursor = self._connection.cursor()
            if self.table.table.primary_key:
                self._delete_keyed(cursor)
            else:
                self._delete_keyless(cursor)

    def insert(self) -> TableChanges:
        """Insert what is missing. Needs `delete`."""
        with translated("write rows", self.table.full_name):
            cursor = self._connection.cursor()
            if self.table.table.primary_key:
                wanted = f"{self._want} w WHERE NOT EXISTS (SELECT FROM {self._have} h WHERE {self._same('w', 'h')})"
            else:
                want, have = self._numbered(self._want), self._numbered(self._have)
                same = "h.sbh_text = w.sbh_text AND h.sbh_n = w.sbh_n"
                wanted = f"{want} w WHERE NOT EXISTS (SELECT FROM {have} h WHERE {same})"
            cursor.execute(
                f"INSERT INTO {sql_name(self.table.table)} ({self._columns}) OVERRIDING SYSTEM VALUE"
                f" SELECT {', '.join('w.' + c for c in self._staged.values())} FROM {wanted}"
            )
            return TableChanges(cursor.rowcount - self._updated, self._updated, self._deleted - self._updated)

    def _delete_keyed(self, cursor: Any) -> None:
        cursor.execute(
            f"SELECT count(*) FROM {self._want} w JOIN {self._have} h ON {self._same_key('w', 'h')}"
            f" WHERE {self._row('w')} <> {self._row('h')}"
        )
        self._updated = cursor.fetchone()[0]
        pairs = zip(self.table.table.primary_key, self.table.table.key_operators, strict=True)
        key_of_live = " AND ".join(f"t.{ident(k)} {equals} h.{self._staged[k]}" for k, equals in pairs)
        cursor.execute(
            f"DELETE FROM {from_only(self.table.table)} AS t USING {self._have} AS h WHERE {key_of_live}"
            f" AND NOT EXISTS (SELECT FROM {self._want} w WHERE {self._same('w', 'h')})"
        )
        self._deleted = cursor.rowcount

    def _delete_keyless(self, cursor: Any) -> None:
        # Without a key rows are a multiset: the nth of equal texts here matches the nth of equal texts there.
        surplus = (
            f"SELECT h.sbh_text, count(*) AS excess FROM {self._numbered(self._have)} h"
            f" LEFT JOIN {self._numbered(self._want)} w ON w.sbh_text = h.sbh_text AND w.sbh_n = h.sbh_n"
            " WHERE w.sbh_text IS NULL GROUP BY h.sbh_text"
        )
        live = f"ROW({', '.join('t.' + ident(c) for c in self.table.captured_columns)})::text"
        cursor.execute(
            f"DELETE FROM {from_only(self.table.table)} AS d USING ("
            f"  SELECT t.tableoid AS part, t.ctid AS place, {live} AS sbh_text,"
            f"         row_number() OVER (PARTITION BY {live}) AS sbh_n"
            f"  FROM {self.table.source} WHERE {self.table.tenant_is([self._tenant_key])}) AS l, ({surplus}) AS s"
            f" WHERE l.sbh_text = s.sbh_text AND l.sbh_n <= s.excess AND d.tableoid = l.part AND d.ctid = l.place"
        )
        self._deleted = cursor.rowcount

    def _numbered(self, name: str) -> str:
        text = self._row("r")
        return f"(SELECT {text} AS sbh_text, row_number() OVER (PARTITION BY {text}) AS sbh_n, r.* FROM {name} r)"

    def _same_key(self, one: str, other: str) -> str:
        pairs = zip(self.table.table.primary_key, self.table.table.key_operators, strict=True)
        return " AND ".join(f"{one}.{self._staged[k]} {equals} {other}.{self._staged[k]}" for k, equals in pairs)

    def _same(self, one: str, other: str) -> str:
        return f"{self._same_key(one, other)} AND {self._row(one)} = {self._row(other)}"

    def _row(self, alias: str) -> str:
        """A whole staged row as text, which every type has; equality it may lack."""
        return f"ROW({', '.join(f'{alias}.{c}' for c in self._staged.values())})::text"

    def orphans(self, key: ForeignKey, child: Table) -> int:
        """Rows of any tenant, or of none, that refer to a row which this merge deleted and did not put back."""
        if not all(c in self._staged for c in key.parent_columns):
            return 0  # refers to a generated column, whose value follows from the others
        staged = [self._staged[c] for c in key.parent_columns]
        still = " AND ".join(
            f"l.{ident(p)} {equals} x.{c}"
            for p, equals, c in zip(key.parent_columns, key.operators, staged, strict=True)
        )
        gone = (
            f"SELECT DISTINCT {', '.join('x.' + c for c in staged)} FROM {self._have} x"
            f" WHERE NOT EXISTS (SELECT FROM {sql_name(self.table.table)} l WHERE {still})"
        )
        pairs = " AND ".join(
            f"g.{c} {equals} t.{ident(own)}" for c, equals, own in zip(staged, key.operators, key.columns, strict=True)
        )
        with translated("check a foreign key", child.full_name):
            cursor = self._connection.cursor()
            cursor.execute(f"SELECT count(*) FROM ({gone}) g")
            if not cursor.fetchone()[0]:
                return 0  # the usual case, and much cheaper than reading the child
            cursor.execute(
                f"SELECT count(*) FROM {from_only(child)} AS t WHERE EXISTS (SELECT FROM ({gone}) g WHERE {pairs})"
            )
            rows: int = cursor.fetchone()[0]
        return rows

    def conflicts(self) -> list[tuple[str, int]]:
        """(constraint, rows of the tenant that conflict with another row), for constraints that are checked by triggers."""
        found = []
        with translated("check a deferrable constraint", self.table.full_name):
            cursor = self._connection.cursor()
            for key in self.table.table.deferrable_keys:
                elements = ", ".join(f"{text} AS e{nth}" for nth, text in enumerate(key.elements))
                rows = (
                    f"(SELECT tableoid AS part, ctid AS place, {elements} FROM {from_only(self.table.table)}"
                    f"{f' WHERE {key.predicate}' if key.predicate else ''})"
                )
                both = " AND ".join(
                    f"(a.e{nth} {operator} b.e{nth}"
                    + (f" OR a.e{nth} IS NULL AND b.e{nth} IS NULL)" if key.nulls_equal else ")")
                    for nth, operator in enumerate(key.operators)
                )
                cursor.execute(
                    f"SELECT count(*) FROM (SELECT t.tableoid AS part, t.ctid AS place FROM {self.table.source}"
                    f" WHERE {self.table.tenant_is([self._tenant_key])}) m JOIN {rows} a ON a.part = m.part AND a.place = m.place"
                    f" WHERE EXISTS (SELECT FROM {rows} b WHERE (b.part, b.place) <> (a.part, a.place) AND {both})"
                )
                if count := cursor.fetchone()[0]:
                    found.append((key.name, count))
        return found

    def raise_sequences(self) -> None:
        """Move sequences behind identity and serial columns past what was inserted; they never go back."""
        with translated("adjust a sequence", self.table.full_name):
            cursor = self._connection.cursor()
            for column in self.table.table.columns:
                if column.sequence and column.name in self._staged:
                    sequence = literal(column.sequence)
                    cursor.execute(
                        f"SELECT setval({sequence}, w.top)"
                        f" FROM (SELECT max({self._staged[column.name]}) AS top FROM {self._want}) w, pg_sequences s"
                        f" WHERE (quote_ident(s.schemaname) || '.' || quote_ident(s.sequencename)) = {sequence}"
                        " AND s.increment_by > 0 AND w.top > coalesce(s.last_value, s.min_value - 1)"
                    )


class _Reader(io.RawIOBase):
    """A file over an iterator of pieces, for COPY FROM STDIN."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        super().__init__()
        self._pieces, self._rest = pieces, memoryview(b"")
        self.error: BaseException | None = None  # what reading the pieces raised

    def read(self, size: int = -1) -> bytes:
        while not self._rest:
            try:
                piece = next(self._pieces, None)
            except BaseException as error:
                self.error = error
                raise
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
    """Check every foreign key of the tenant's rows, and all those that refer to a row just deleted.

    The latter may be rows of other tenants, of shared tables, or of tables of other schemas. Returns (number of keys
    checked, the broken ones). A row with a NULL in the key is not checked, as in MATCH SIMPLE.
    """
    broken: list[BrokenForeignKey] = []
    checked = 0
    captured = {t.table.oid: t for t in tenancy.tables}
    merged = {m.table.table.oid: m for m in merges}
    catalog = tenancy.catalog
    tables = {**catalog.outside, **catalog.tables}
    for key in [*(k for table in catalog.tables.values() for k in table.foreign_keys), *catalog.outside_keys]:
        child, parent = tables[key.table], tables[key.parent]
        if child.oid not in captured and parent.oid not in merged:
            continue
        rows = 0
        if child.oid in captured:
            rows = _dangling(connection, captured[child.oid], key, parent, tenant_key)
        if parent.oid in merged:
            rows = max(rows, merged[parent.oid].orphans(key, child))
        checked += 1
        if rows:
            broken.append(BrokenForeignKey(key.name, child.full_name, parent.full_name, rows))
    return checked, broken


def _dangling(connection: Connection, child: MappedTable, key: ForeignKey, parent: Table, tenant_key: str) -> int:
    pairs = " AND ".join(
        f"x.{ident(theirs)} {equals} t.{ident(own)}"
        for own, equals, theirs in zip(key.columns, key.operators, key.parent_columns, strict=True)
    )
    filled = " AND ".join(f"t.{ident(own)} IS NOT NULL" for own in key.columns)
    with translated("check a foreign key", child.full_name):
        cursor = connection.cursor()
        cursor.execute(
            f"SELECT count(*) FROM {child.source} WHERE {child.tenant_is([tenant_key])} AND {filled}"
            f" AND NOT EXISTS (SELECT FROM {from_only(parent)} x WHERE {pairs})"
        )
        rows: int = cursor.fetchone()[0]
    return rows


def commit(connection: Connection) -> None:
    with translated("commit the restore"):
        connection.cursor().execute("COMMIT")
