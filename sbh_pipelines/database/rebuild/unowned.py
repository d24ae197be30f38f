"""Rows that are no tenant's, as the platform backup has them: read, and put into the tables of an empty database.

    shared     all rows of the tables that tenants share; of an extension's configuration table the site's own
    of nobody  rows of tenants' tables that have no tenant: built-in ones, templates, and what hangs on them

A table of an extension is not empty when rows come: the extension filled it. And a row that was nobody's may be a tenant's in
that tenant's newer backup, or the other way round. So these rows are staged first.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sbh_pipelines.database.capture.capture import copy_groups, order_by
from sbh_pipelines.database.schema.catalog import Column, Table, read_catalog
from sbh_pipelines.database.schema.name_types import exact_names
from sbh_pipelines.database.schema.tenancy import EXTENSION, SHARED, MappedTable, TenancyMap
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.copying import copy_in
from sbh_pipelines.database.session.search_path import own_names
from sbh_pipelines.database.session.sql import from_only, ident, sql_name

FOREIGN_TABLE = "f"
_STAGED = Table(0, "pg_temp", "sbh_rows", "r", (), (), False, 0)
_CONFIGURED = """
SELECT DISTINCT n.nspname FROM pg_extension e CROSS JOIN LATERAL unnest(e.extconfig) o
JOIN pg_class c ON c.oid = o JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p')"""
_OF_EXTENSION = """
SELECT c.oid IS NOT NULL, EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
       AND d.deptype = 'e') FROM (SELECT to_regclass(%s)) t(oid) LEFT JOIN pg_class c ON c.oid = t.oid"""


@dataclass(frozen=True, slots=True)
class UnownedRows:
    """Some rows of a table, or all.

    Attributes:
        table: The table; its way to a tenant is not followed.
        where: SQL after its FROM item, in which it is `t`: `WHERE ...`, or nothing for all rows.
    """

    table: MappedTable
    where: str = ""


def shared_rows(connection: Connection, tenancy: TenancyMap, left_out: Sequence[str]) -> list[UnownedRows]:
    """Those of shared tables, and the site's own rows of the configuration tables of extensions, wherever they are.

    Rows of a foreign table are on another server, which is not rebuilt: they are left there. `left_out` names schemas and tables
    whose rows the settings leave out.
    """
    statuses = zip(tenancy.statuses, tenancy.catalog.tables.values(), strict=True)
    found = [
        table
        for status, table in statuses
        if (status.status == SHARED and table.kind != FOREIGN_TABLE)
        or (status.status == EXTENSION and table.extension_rows is not None)
    ]
    with translated("read the extensions"), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(_CONFIGURED)
        schemas = [name for (name,) in cursor.fetchall()]
    mapped = {status.schema for status in tenancy.statuses}
    elsewhere = [name for name in schemas if name not in mapped and name not in left_out]
    if elsewhere:
        others = read_catalog(connection, elsewhere).tables.values()
        found += [t for t in others if t.extension_rows is not None and t.full_name not in left_out]
    return [UnownedRows(_unowned(table), table.extension_rows or "") for table in found]


def nobodys_rows(tenancy: TenancyMap) -> list[UnownedRows]:
    """Those of tenants' tables that may have any."""
    return [UnownedRows(t, f"WHERE {t.belongs_to_nobody}") for t in tenancy.tables if not t.always_belongs]


def copy_rows(connection: Connection, rows: UnownedRows, take: Any, plan: Iterator[int] | None = None) -> int:
    """The rows, in the order of the table's key, to `take(text, rows)`; their number."""
    table, columns = rows.table, ", ".join(f"t.{ident(name)}" for name in rows.table.captured_columns)
    source = f"{table.own_source} {rows.where}"
    query = f"SELECT {columns} FROM {source} ORDER BY {order_by(table)}"
    with translated("read a table", table.full_name), exact_names(connection, table):
        return copy_groups(connection.cursor(), query, table.encoding, take, plan)


def _unowned(table: Table) -> MappedTable:
    nobody = Column("", "text", False, False, False, "", None)
    return MappedTable(table, SHARED, "shared", (), nobody, "shared by the settings")


# into the new database


def of_extension(connection: Connection, table: MappedTable) -> bool | None:
    """Whether the table is an extension's; None where it is not there."""
    with translated("look for a table", table.full_name), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(_OF_EXTENSION, (sql_name(table.table),))
        there, of_extension = cursor.fetchone()
        return bool(of_extension) if there else None


class StagedRows:
    """Rows of one table in a temporary table, within a transaction: proved there, then moved."""

    def __init__(self, connection: Connection, table: MappedTable, pieces: Iterable[bytes]) -> None:
        self._connection, self._table = connection, table
        bare = replace(table.table, schema=_STAGED.schema, name=_STAGED.name, kind=_STAGED.kind)
        self._staged = replace(table, table=bare, hops=())
        self._columns = ", ".join(map(ident, table.captured_columns))
        with translated("stage rows", table.full_name):
            cursor = connection.cursor()
            cursor.execute(
                f"CREATE TEMP TABLE {_STAGED.name} AS SELECT {self._columns} FROM {sql_name(table.table)} WITH NO DATA"
            )
            copy_in(cursor, f"{sql_name(bare)} ({self._columns})", pieces, table.encoding)

    def groups(self, name: Callable[[bytes], bytes], plan: Iterator[int]) -> list[bytes]:
        """What `name` makes of each group of the rows read back, cut after as many rows as `plan` says."""
        found: list[bytes] = []
        copy_rows(self._connection, UnownedRows(self._staged), lambda text, _: found.append(name(text)), plan)
        return found

    def move_over(self) -> int:
        """All of them into the table, in the place of those of the same key; how many there are."""
        own = f"{sql_name(self._table.table)} AS o"
        self._run(
            f"DELETE FROM {own} WHERE EXISTS (SELECT FROM {sql_name(self._staged.table)} AS x WHERE {self._same()})"
        )
        return self._insert("")

    def move_beside(self) -> int:
        """Those whose key no row of the table has into it; how many."""
        if not self._table.table.primary_key:
            return self._insert("")
        there = f"SELECT FROM {from_only(self._table.table)} AS o WHERE {self._same()}"
        return self._insert(f" WHERE NOT EXISTS ({there})")

    def _same(self) -> str:
        """A row of the table (`o`) and a staged one (`x`) have one key, or are the same where there is none."""
        table = self._table.table
        if table.primary_key:
            pairs = zip(table.primary_key, table.key_operators, strict=True)
            return " AND ".join(f"o.{ident(name)} {equals} x.{ident(name)}" for name, equals in pairs)
        one, other = (f"ROW({', '.join(f'{a}.{ident(c)}' for c in self._table.captured_columns)})" for a in "ox")
        return f"{one}::pg_catalog.text OPERATOR(pg_catalog.=) {other}::pg_catalog.text"

    def _insert(self, where: str) -> int:
        staged = f"SELECT {self._columns} FROM {sql_name(self._staged.table)} AS x{where}"
        target = f"{sql_name(self._table.table)} ({self._columns})"
        return self._run(f"INSERT INTO {target} OVERRIDING SYSTEM VALUE {staged}")

    def _run(self, statement: str) -> int:
        with translated("load rows", self._table.full_name):
            cursor = self._connection.cursor()
            cursor.execute(statement)
            return int(cursor.rowcount)

    def drop(self) -> None:
        self._run(f"DROP TABLE {sql_name(self._staged.table)}")
