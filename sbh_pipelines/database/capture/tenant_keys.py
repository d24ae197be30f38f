"""Tenants' keys of types in which values can be equal and yet differ: citext, numeric, text of a collation that ignores case.

Whose a row is, the equality of its column's type decides, as the application sees it. That must not make two tenants one.
"""

from typing import Any

from sbh_pipelines.database.schema.tenancy import TENANTS, MappedTable, TenancyMap
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.errors import TenancyError


def check_keys_apart(connection: Connection, tenancy: TenancyMap) -> None:
    """Raises TenancyError where a table could not tell two tenants apart: to its column's type their keys are equal."""
    listing = next((table for table in tenancy.tables if table.status == TENANTS), None)
    for table in tenancy.tables:
        if listing is None or table.hops or table.tenant_column.exact:
            continue
        with translated("compare the tenants' keys", table.full_name):
            equal = _equal_keys(connection.cursor(), listing, table)
        if equal:
            raise TenancyError(
                "Two tenants have keys that a table does not tell apart",
                on=table.full_name,
                why=f"{equal[0]!r} and {equal[1]!r} are equal to the type of its column {table.tenant_column.name}",
                remedy="give one of the tenants another key",
            )


def _equal_keys(cursor: Any, listing: MappedTable, table: MappedTable) -> tuple[str, str] | None:
    column = table.tenant_column
    cursor.execute(
        "SELECT ' COLLATE ' || pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(l.collname) FROM pg_attribute a"
        " JOIN pg_collation l ON l.oid = a.attcollation JOIN pg_namespace n ON n.oid = l.collnamespace"
        " WHERE a.attrelid = %s::oid AND a.attname = %s",
        (table.table.oid, column.name),
    )
    collation = (cursor.fetchone() or ("",))[0]
    text = 'k.key COLLATE "C"'
    cursor.execute(
        f"SELECT pg_catalog.min({text}), pg_catalog.max({text}) FROM"
        f" (SELECT {listing.tenant}::text AS key, {listing.tenant}::text::{column.type} AS value FROM {listing.source}) AS k"
        f" GROUP BY k.value{collation} HAVING pg_catalog.count(DISTINCT {text}) > 1 LIMIT 1"
    )
    found: tuple[str, str] | None = cursor.fetchone()
    return found
