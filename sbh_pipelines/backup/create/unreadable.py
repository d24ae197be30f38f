"""The error of a tenant one of whose rows cannot be read: which table, which row, and what to do, ready to paste."""

import shlex

from sbh_pipelines.database.capture.unreadable import FoundRow, find_row
from sbh_pipelines.database.schema.large_rows import LIMIT
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.connection import Connection
from sbh_pipelines.database.session.sql import ident, sql_name
from sbh_pipelines.errors import SbhError, UnreadableRow
from sbh_pipelines.model import Tenant


def named(error: SbhError, connection: Connection, table: MappedTable, tenant: Tenant) -> SbhError:
    """The error of one tenant, with the row in it where it can be found. Needs a transaction."""
    return named_among(error, connection, table, f"{table.source} WHERE {table.tenant_is([tenant.key])}", tenant)


def named_among(
    error: SbhError, connection: Connection, table: MappedTable, rows: str, tenant: Tenant | None = None
) -> SbhError:
    """The same of some rows of a table, which are no tenant's: SQL as `find_row` takes it."""
    if not isinstance(error, UnreadableRow):
        return error
    try:
        found = find_row(connection, table, rows)
    except SbhError:
        found = None
    on = table.full_name + (f" of {tenant.id}" if tenant else "")
    if found is None:
        return UnreadableRow(error.what, on=on, why=error.why, remedy=error.remedy)
    on += f", {found.named}" + (f", column {found.column}" if found.column else "")
    if found.size is not None or found.column is None:
        return UnreadableRow("A row is too large to be read", on=on, why=_too_large(error, found), remedy=_SPLIT)
    return UnreadableRow("A row cannot be read", on=on, why=error.why, remedy=_mend(table, found, tenant))


_SPLIT = (
    "keep the value in several rows (500 MB each at most, of bytea), or in a file among the tenant's files; until then the tenant"
    " has no new backup"
)


def _too_large(error: SbhError, found: FoundRow) -> str:
    size = f"its text has at least {found.size:,} bytes, and " if found.size is not None else ""
    return f"{size}PostgreSQL's COPY carries {LIMIT:,} bytes a row at most (bytea counts twice): {error.why}"


def _mend(table: MappedTable, found: FoundRow, tenant: Tenant | None) -> str:
    assert found.column is not None
    empty = "NULL" if found.nullable else "DEFAULT"
    update = f"UPDATE {found.table} SET {ident(found.column)} = {empty} WHERE {found.condition};"
    if tenant is None or not found.key:
        return f"take the value from an older copy, or give it up: {update} and look at the server's disk"
    rows = shlex.quote(f"{sql_name(table.table)} where {found.condition}")
    back = f"sbh restore run latest -t {tenant.id} --rows {rows} --confirm"
    return f"give the value up: {update} then, where an earlier backup has it, bring it back: {back}; and look at the server's disk"
