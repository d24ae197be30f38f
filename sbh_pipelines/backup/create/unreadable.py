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
    if error.cause == "large":
        return UnreadableRow("A row is too large to be read", on=on, why=_too_large(error, found), remedy=_SPLIT)
    if error.cause == "encoding" or found.column is None or found.empty is None:
        return UnreadableRow("A row cannot be read", on=on, why=error.why, remedy=f"{error.remedy}{_where(found)}")
    return UnreadableRow("A row cannot be read", on=on, why=error.why, remedy=_mend(table, found, tenant))


_SPLIT = (
    "keep the value in several rows (500 MB each at most, of bytea), or in a file among the tenant's files; until then the tenant"
    " has no new backup"
)


def _too_large(error: SbhError, found: FoundRow) -> str:
    size = f"its text has at least {found.size:,} bytes, and " if found.size is not None else ""
    return f"{size}PostgreSQL's COPY carries {LIMIT:,} bytes a row at most (bytea counts twice): {error.why}"


def _where(found: FoundRow) -> str:
    return f": it is the row of {found.table} WHERE {found.condition}"


def _mend(table: MappedTable, found: FoundRow, tenant: Tenant | None) -> str:
    assert found.column is not None
    update = f"UPDATE {found.table} SET {ident(found.column)} = {found.empty} WHERE {found.condition};"
    if tenant is not None and found.withheld:
        key = ", ".join(map(ident, found.withheld))
        return (
            f"the value is lost there: note the row's key, SELECT {key} FROM {found.table} WHERE {found.condition}; put an empty"
            f" value in its place: {update} then bring it back from an earlier backup, where one has it:"
            f" sbh restore run latest -t {tenant.id} --rows '{sql_name(table.table)} where ...' --confirm; and look at the"
            " server's disk"
        )
    if tenant is None or not found.key:
        return f"the value is lost there: put an older copy's, or an empty one, in its place: {update} and look at the disk"
    rows = shlex.quote(f"{sql_name(table.table)} where {found.condition}")
    back = f"sbh restore run latest -t {tenant.id} --rows {rows} --confirm"
    return (
        f"the value is lost there: put an empty one in its place: {update} then bring it back from an earlier backup, where one has"
        f" it: {back}; and look at the server's disk"
    )
