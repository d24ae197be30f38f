"""Large objects (`lo_create` and its like): rows hold their numbers, and their contents are in no backup.

Their contents belong to roles of their own, which `pg_read_all_data` does not cover. So they are not captured, and whoever
makes a backup is told: which columns refer to large objects, and to how many.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sbh_pipelines.database.schema.tenancy import MappedTable, TenancyMap
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.search_path import own_names
from sbh_pipelines.database.session.sql import ident


@dataclass(frozen=True, slots=True)
class LargeObjectColumn:
    """A column of a tenants' table whose values are numbers of large objects.

    Attributes:
        table: The table.
        column: Its name.
        declared: Whether the type says so: `lo`, or a domain over it. Others are of type `oid`, and some of their values are
            numbers of large objects.
        listed: Whether it is a column of arrays.
    """

    table: MappedTable
    column: str
    declared: bool
    listed: bool = False

    @property
    def named(self) -> str:
        return f"{self.table.full_name}.{self.column}"


# Columns of type oid, of arrays of it, and of domains over either; whether one of the domains is called lo, as the extension's.
_COLUMNS = """
WITH RECURSIVE kinds AS (
    SELECT oid AS type, false AS declared, false AS listed FROM pg_type WHERE oid = 'oid'::regtype
  UNION
    SELECT t.oid, k.declared OR t.typname = 'lo', k.listed OR t.typtype <> 'd'
    FROM kinds k JOIN pg_type t ON (t.typtype = 'd' AND t.typbasetype = k.type)
         OR (t.typelem = k.type AND t.typsubscript = 'array_subscript_handler'::regproc))
SELECT a.attrelid::bigint, a.attname, bool_or(k.declared), bool_or(k.listed) FROM pg_attribute a JOIN kinds k ON k.type = a.atttypid
WHERE a.attrelid = ANY(%s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
GROUP BY a.attrelid, a.attname ORDER BY a.attrelid, min(a.attnum)"""


def large_objects_text(objects: int) -> str:
    """What a manifest says of them."""
    return f"{objects:,} large object{'' if objects == 1 else 's'}: their numbers are in the backup, their contents are not"


def large_objects(connection: Connection) -> int:
    """How many there are in the database, whoever's they are."""
    with translated("count the large objects"):
        cursor = connection.cursor()
        cursor.execute("SELECT count(*) FROM pg_largeobject_metadata")
        found: int = cursor.fetchone()[0]
        return found


def large_object_columns(connection: Connection, tenancy: TenancyMap) -> list[LargeObjectColumn]:
    """The columns of tenants' tables that refer to large objects. Reads columns of type `oid` where the database has any."""
    tables = {table.table.oid: table for table in tenancy.tables}
    with translated("look for large objects"), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(_COLUMNS, (list(tables),))
        candidates = cursor.fetchall()
        cursor.execute("SELECT EXISTS (SELECT FROM pg_largeobject_metadata)")
        any_there = cursor.fetchone()[0]
    found = []
    for oid, column, declared, listed in candidates:
        one = LargeObjectColumn(tables[oid], column, declared, listed)
        if declared or (any_there and _refers(connection, one)):
            found.append(one)
    return found


def _refers(connection: Connection, one: LargeObjectColumn) -> bool:
    with translated("look for large objects", one.table.full_name):
        cursor = connection.cursor()
        cursor.execute(
            f"SELECT EXISTS (SELECT FROM {one.table.own_source}{_values(one)} JOIN pg_largeobject_metadata m ON m.oid = v.value)"
        )
        return bool(cursor.fetchone()[0])


def _values(one: LargeObjectColumn) -> str:
    """The numbers in a column, as `v.value`."""
    column = f"t.{ident(one.column)}"
    return f" CROSS JOIN LATERAL {f'pg_catalog.unnest({column}::oid[])' if one.listed else f'(SELECT {column}::oid)'} AS v(value)"


def count_large_objects(connection: Connection, one: LargeObjectColumn, tenant_keys: Sequence[str]) -> dict[str, int]:
    """How many large objects the rows of each tenant refer to by this column; tenants without any are left out."""
    table = one.table
    with translated("count large objects", table.full_name):
        cursor = connection.cursor()
        cursor.execute(
            f"SELECT {table.tenant_number(tenant_keys)}, pg_catalog.count(DISTINCT v.value) FROM {table.source}{_values(one)}"
            f" JOIN pg_largeobject_metadata m ON m.oid = v.value WHERE {table.tenant_is(tenant_keys)} GROUP BY 1"
        )
        return {tenant_keys[number - 1]: count for number, count in cursor.fetchall()}
