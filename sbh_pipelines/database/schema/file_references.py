"""Object keys that rows refer to (e.g. files.storage_key), in key order, to be checked against the listing."""

from collections.abc import Iterator, Sequence

from sbh_pipelines.database.schema.tenancy import MappedTable, TenancyMap
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.sql import SQL_ASCII, UTF8, ident
from sbh_pipelines.errors import SettingsError
from sbh_pipelines.settings import Settings

_PAGE = 5000


def reference_columns(settings: Settings, tenancy: TenancyMap) -> list[tuple[MappedTable, str]]:
    """The columns that `files.references` names. Raises SettingsError where one does not exist."""
    columns = []
    for reference in settings.files.references:
        table = tenancy.catalog.find(reference.table, settings.database.schemas)
        mapped = tenancy.find(table.full_name) if table else None
        if mapped is None or mapped.table.column(reference.column) is None:
            raise SettingsError(
                "A file reference names no column of a tenant's table",
                on=f"files.references: {reference.table}.{reference.column}",
                remedy="correct it; the table must be owned, inherited or declared",
            )
        columns.append((mapped, reference.column))
    return columns


def referenced_keys(
    connection: Connection, columns: list[tuple[MappedTable, str]], tenant_keys: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """(tenant key, object key), distinct, by tenant and then in UTF-8 byte order: one pass for all tenants, a page at a time
    in memory."""
    if not columns or not tenant_keys:
        return
    parts = [
        f"SELECT DISTINCT {table.tenant_number(tenant_keys)} AS tenant, t.{ident(column)}::text AS key FROM {table.source}"
        f" WHERE {table.tenant_is(tenant_keys)} AND t.{ident(column)} IS NOT NULL"
        for table, column in columns
    ]
    # Bytes of these encodings are in the order of characters; the others' are not.
    ordered = columns[0][0].encoding in (UTF8, SQL_ASCII, "LATIN1")
    by_key = 'key COLLATE "C"' if ordered else "pg_catalog.convert_to(key, 'UTF8')"
    query = f"SELECT tenant, key FROM ({' UNION '.join(parts)}) AS keys ORDER BY tenant, {by_key}"
    with translated("read file references"):
        cursor = connection.cursor()
        name = "sbh_references"
        cursor.execute(f"DECLARE {name} NO SCROLL CURSOR FOR {query}")
        while True:
            cursor.execute(f"FETCH {_PAGE} FROM {name}")
            rows = cursor.fetchall()
            if not rows:
                break
            yield from ((tenant_keys[number - 1], key) for number, key in rows)
        cursor.execute(f"CLOSE {name}")
