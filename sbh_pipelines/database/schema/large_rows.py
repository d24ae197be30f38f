"""Rows whose text PostgreSQL's COPY cannot carry: it builds a row's text in one piece of memory, which has a limit.

What is stored out of line says how long it is without being read, so that looking for such rows costs one pass over the table.
"""

from collections.abc import Iterator

from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.search_path import own_names
from sbh_pipelines.database.session.sql import ident

LIMIT = (1 << 30) - 1
"""Bytes of a row's COPY text, and of one value's text, that the server can give or take."""

# Types whose length is known without reading the value. The text of a bytea is twice as long.
_MEASURED = ("bytea", "text", "character varying", "character", "xml", "json")
_COMPRESSED = 1 << 20  # bytes out of line that may be over the limit when they are decompressed


def row_size(table: MappedTable) -> str | None:
    """SQL of a row's size as text, at least; None where nothing in it can be large."""
    sizes = [
        f"coalesce(pg_catalog.octet_length(t.{ident(c.name)}), 0)::bigint{' * 2' if c.type == 'bytea' else ''}"
        for c in table.table.columns
        if not c.generated and c.type.partition("(")[0] in _MEASURED
    ]
    return " + ".join(sizes) or None


def large_rows(
    connection: Connection, tables: tuple[MappedTable, ...], timeout_s: float
) -> Iterator[tuple[MappedTable, int]]:
    """The tables with rows over the limit, and how many. Scans those that have much out of line, each for at most `timeout_s`:
    past that it raises SourceConflict.
    """
    with translated("look for large rows"), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(
            "SELECT k.oid::bigint FROM unnest(%s::oid[]) AS k(oid) WHERE (SELECT sum(pg_relation_size(c.reltoastrelid)) FROM"
            " (SELECT relid FROM pg_partition_tree(k.oid) UNION SELECT k.oid) p JOIN pg_class c ON c.oid = p.relid"
            " WHERE c.reltoastrelid <> 0) >= %s",
            ([table.table.oid for table in tables], _COMPRESSED),
        )
        wide = {oid for (oid,) in cursor.fetchall()}
    for table in tables:
        size = row_size(table)
        if size is None or table.table.oid not in wide:
            continue
        with translated("look for large rows", table.full_name):
            cursor.execute(
                "SELECT pg_catalog.set_config('statement_timeout', %s, false)", (str(int(timeout_s * 1000)),)
            )
            try:
                cursor.execute(f"SELECT count(*) FROM {table.own_source} WHERE {size} > {LIMIT}")
                found = cursor.fetchone()[0]
            finally:
                cursor.execute("SELECT pg_catalog.set_config('statement_timeout', '0', false)")
        if found:
            yield table, found
