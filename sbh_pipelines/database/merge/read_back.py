"""Rows read back as COPY text and compared with the backup's bytes, not with what a session made of them.

What a session stages it has parsed, and a value that it parsed wrong is equal to itself. So the text that came out of the backup
is summed up on its way in (`Staging.lines`), and the text of the rows that are there in the end is summed up again, in a session
that was just told once more how values are written. Columns that a changed schema converts or fills are left out on both sides.
"""

import io
import os

from sbh_pipelines.database.capture.line_sums import LineSums, RowSums, SummedText
from sbh_pipelines.database.merge.merge import TableMerge
from sbh_pipelines.database.merge.staging import Staging
from sbh_pipelines.database.schema.name_types import exact_names
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.copying import copy
from sbh_pipelines.database.session.pinned import pin_values
from sbh_pipelines.database.session.sql import copy_options, from_only, ident
from sbh_pipelines.errors import ProofFailed

_BUFFER = 1 << 20


def rows_differ(merge: TableMerge) -> bool:
    """Whether the rows that were written, and those staged that needed no writing, are not the backup's. Needs `insert`.

    Rows without a key cannot be found by it: of them the staged ones are compared, and `TableMerge.unproven` finds them by
    their text.
    """
    staging = merge.staging
    if staging.lines is None or not staging.unchanged:
        return False
    if not staging.keyed:
        return _differs(staging, _staged(staging))
    written = (
        f"SELECT {', '.join(f't.{ident(name)}' for _, name in staging.unchanged)} FROM {merge.todo} x"
        f" JOIN {from_only(staging.table.table)} t ON {staging.key_of_live('t', 'x')}"
    )
    if not merge.few:  # only rows that this transaction wrote can be meant
        written += " AND t.xmin = pg_catalog.pg_current_xact_id()::xid"
    sums = _sums(staging, written, few=merge.few)
    if merge.todo != staging.want:
        others = f"NOT EXISTS (SELECT FROM {merge.todo} x WHERE {staging.same_key('x', 'w')})"
        _read(staging, f"{_staged(staging)} WHERE {others}", sums)
    return not sums.same(staging.lines.text())


def check_staged(staging: Staging) -> None:
    """Raises ProofFailed where the staged rows of the backup are not the backup's, before some of them are chosen."""
    if staging.lines is not None and staging.unchanged and _differs(staging, _staged(staging)):
        raise ProofFailed(
            "Rows of the backup do not go through the server unchanged; nothing was written",
            on=staging.table.full_name,
            why="what the server makes of a value's text is written in another way",
            remedy="compare the server's version, and the settings of the role and of the database, with those of the backup's"
            " time",
        )


def sum_staged(staging: Staging) -> None:
    """What is staged by now is what is to be compared with; `check_staged` has compared it with the backup."""
    if staging.lines is not None and staging.unchanged:
        staging.lines = _sums(staging, _staged(staging))


def _staged(staging: Staging) -> str:
    return f"SELECT {', '.join(f'w.{staging.columns[name]}' for _, name in staging.unchanged)} FROM {staging.want} w"


def _differs(staging: Staging, query: str) -> bool:
    assert staging.lines is not None
    return not _sums(staging, query).same(staging.lines.text())


def _sums(staging: Staging, query: str, *, few: bool = False) -> LineSums:
    sums = staging.lines.fresh() if staging.lines is not None else LineSums(os.urandom(32))
    cursor = staging.connection.cursor()
    if few:  # each by its key, whatever the planner thinks of it
        cursor.execute("SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off")
    _read(staging, query, sums)
    cursor.execute("SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on")
    return sums


def _read(staging: Staging, query: str, sums: LineSums) -> None:
    with translated("read back what was written", staging.table.full_name):
        _sum(staging.connection, staging.table, query, staging.encoding, sums)


def sum_live(connection: Connection, table: MappedTable, tenant_key: str, sums: RowSums) -> None:
    """Add all live rows of the tenant to sums, in no order."""
    columns = ", ".join(f"t.{ident(name)}" for name in table.captured_columns)
    query = f"SELECT {columns} FROM {table.source} WHERE {table.tenant_is([tenant_key])}"
    with translated("read a table", table.full_name):
        _sum(connection, table, query, table.encoding, sums)


def _sum(connection: Connection, table: MappedTable, query: str, encoding: str, sums: RowSums) -> None:
    cursor = connection.cursor()
    cursor.execute(pin_values())
    with exact_names(connection, table), io.BufferedWriter(SummedText(sums), _BUFFER) as buffered:
        copy(cursor, f"COPY ({query}) TO STDOUT{copy_options(encoding)}", buffered)
