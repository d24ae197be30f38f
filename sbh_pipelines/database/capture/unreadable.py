"""A row that the server cannot give: it fails its own tenant alone, and is found and named.

Damaged TOAST values, values larger than COPY can carry, bytes that are not in the database's encoding: one of them ends the
COPY of all tenants of a batch. The tenants are read again in halves, down to the one that it is of, and its row is looked for.

    apart     work for many tenants, where one of them may fail
    find_row  which row it is, and which column
"""

import io
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from sbh_pipelines.database.schema.catalog import Column
from sbh_pipelines.database.schema.key_hash import unescape
from sbh_pipelines.database.schema.large_rows import LIMIT, row_size
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.connection import Connection, savepoint, translated
from sbh_pipelines.database.session.copying import copy
from sbh_pipelines.database.session.sql import copy_options, ident, literal
from sbh_pipelines.errors import SbhError, UnreadableRow


def apart(
    connection: Connection,
    tenant_keys: Sequence[str],
    work: Callable[[Sequence[str]], None],
    failed: Callable[[str, SbhError], None],
) -> None:
    """`work` for all tenants at once; where a row cannot be read, for halves of them. `failed` takes the tenants that it is of.

    What `work` did for tenants is done again, so it must begin anew each time. Needs a transaction.
    """
    if not tenant_keys:
        return
    try:
        with savepoint(connection):
            work(tenant_keys)
    except UnreadableRow as error:
        if len(tenant_keys) == 1:
            failed(tenant_keys[0], error)
            return
        middle = len(tenant_keys) // 2
        for half in (tenant_keys[:middle], tenant_keys[middle:]):
            apart(connection, half, work, failed)


@dataclass(frozen=True, slots=True)
class FoundRow:
    """A row that cannot be read.

    Attributes:
        table: The table that it is in, as SQL; of a partitioned one the partition.
        place: Its ctid.
        key: The primary key's columns and values; without a key, and where its values may say something of people, empty.
        column: The first column that cannot be read; None where each can be, by itself.
        empty: SQL of a value that this column takes in its place; None where none is known.
        size: Bytes of the row's text, at least, where that is over the limit.
        withheld: Columns of a primary key that is not told: the error is in records, runs and alerts, which others read.
    """

    table: str
    place: str
    key: tuple[tuple[str, str], ...]
    column: str | None
    empty: str | None
    size: int | None
    withheld: tuple[str, ...] = ()

    @property
    def named(self) -> str:
        """For people: `id = 7`."""
        if not self.key:
            return f"the row at ctid {self.place}"
        return ", ".join(f"{name} = {value}" for name, value in self.key)

    @property
    def condition(self) -> str:
        """SQL: which row of its table it is."""
        if not self.key:
            return f"ctid = {literal(self.place)}"
        return " AND ".join(f"{ident(name)} = {literal(value)}" for name, value in self.key)


def find_row(connection: Connection, table: MappedTable, rows: str) -> FoundRow | None:
    """The first of some rows that cannot be read; None where all can be. Needs a transaction.

    `rows` is SQL: FROM items in which the table is `t`, and a condition.
    """
    in_order = "ORDER BY t.tableoid, t.ctid"
    columns = ", ".join(f"t.{ident(name)}" for name in table.captured_columns)
    lines = _Lines()
    if _readable(connection, table, f"SELECT {columns} FROM {rows} {in_order}", lines):
        return None
    # The server sends a row when it has all of it: the next one is the one that it failed at.
    keys = [name for name in table.table.primary_key if name in table.captured_columns]
    found = _row(
        connection,
        table,
        f"SELECT {_PART}, t.ctid, {row_size(table) or 0}{''.join(f', t.{ident(name)}' for name in keys)}"
        f" FROM {rows} {in_order} OFFSET {lines.count} LIMIT 1",
    )
    if found is None:
        return None
    part, place, size, *values = found
    one = f"FROM ONLY {part} AS t WHERE t.ctid = {literal(place)}"
    bad = next(
        (c for c in table.captured_columns if not _readable(connection, table, f"SELECT t.{ident(c)} {one}")), None
    )
    if bad is None and _readable(connection, table, f"SELECT {columns} {one}"):
        return None  # it was another row
    column = table.table.column(bad) if bad else None
    plain = all(c.type in _PLAIN_KEYS for c in table.table.columns if c.name in keys)
    key = tuple(zip(keys, values, strict=True)) if plain else ()
    over = int(size) if int(size) > LIMIT else None
    return FoundRow(part, place, key, bad, _empty(column) if column else None, over, () if plain else tuple(keys))


_PLAIN_KEYS = ("smallint", "integer", "bigint", "uuid")  # numbers that the application gives out


# Of types that can be stored out of line, for columns that are NOT NULL.
_EMPTY = {
    "text": "''",
    "character varying": "''",
    "character": "''",
    "bytea": "''",
    "json": "'{}'",
    "jsonb": "'{}'",
    "numeric": "0",
}


def _empty(column: Column) -> str | None:
    if not column.not_null:
        return "NULL"
    if column.default is not None:
        return "DEFAULT"
    return "'{}'" if column.type.endswith("[]") else _EMPTY.get(column.type.partition("(")[0])


# Qualified, whatever the search path is.
_PART = (
    "(SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.oid = t.tableoid)"
)


def _readable(connection: Connection, table: MappedTable, query: str, take: "_Lines | None" = None) -> bool:
    with suppress(UnreadableRow), savepoint(connection), translated("read a table", table.full_name):
        copy(connection.cursor(), f"COPY ({query}) TO STDOUT{copy_options(table.encoding)}", take or _Lines())
        return True
    return False


def _row(connection: Connection, table: MappedTable, query: str) -> list[str] | None:
    """The one row of a query as text, whatever its bytes are; None where it cannot be read either."""
    lines = _Lines(keep=True)
    if not _readable(connection, table, query, lines) or not lines.count:
        return None
    fields = bytes(lines.kept).rstrip(b"\n").split(b"\t")
    return [unescape(field).decode("utf-8", "backslashreplace") for field in fields]


class _Lines(io.RawIOBase):
    """A file to COPY into that counts rows."""

    def __init__(self, *, keep: bool = False) -> None:
        super().__init__()
        self._keep, self.kept, self.count = keep, bytearray(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: "bytes") -> int:  # type: ignore[override]
        self.count += bytes(data).count(b"\n")
        if self._keep:
            self.kept += data
        return len(data)
