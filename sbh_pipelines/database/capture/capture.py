"""Reading tenants' rows: one ordered COPY per table for a whole batch of tenants, several tables at once.

One pass over a table serves every tenant of the batch: `... WHERE tenant = ANY(batch) ORDER BY tenant, key`. A count on
the same snapshot, in the same order, says after how many rows each tenant ends. For scattered tenants that costs the
server a third of what one COPY per tenant does (docs/decisions/0001-one-pass-for-all-tenants.md).
"""

import io
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.database.capture.row_groups import GroupCutter, Segment
from sbh_pipelines.database.schema.name_types import exact_names
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.copying import copy
from sbh_pipelines.database.session.search_path import own_names
from sbh_pipelines.database.session.snapshot import on_snapshot
from sbh_pipelines.database.session.sql import copy_options, ident, literal, sql_name
from sbh_pipelines.errors import SourceChanged, SourceError
from sbh_pipelines.settings import DatabaseSettings

_WRITE_BUFFER = 1 << 20
_TENANT = '"sbh tenant"'


class TableSink(Protocol):
    """Takes the groups of one tenant and table, in key order."""

    def group(self, text: bytes, rows: int) -> None: ...

    def close(self) -> None: ...


OpenSink = Callable[[MappedTable, str, int], TableSink]  # table, tenant key, rows


def order_by(table: MappedTable) -> str:
    """The canonical order of a tenant's rows: the primary key, else the whole row's text; collation C.

    Independent of the database's collation, so that another server gives the same order.
    """
    if table.table.primary_key:
        columns = [table.table.column(name) for name in table.table.primary_key]
        return ", ".join(f"t.{ident(c.name)}" + (' COLLATE "C"' if c.collatable else "") for c in columns if c)
    listed = ", ".join(f"t.{ident(name)}" for name in table.captured_columns)
    return f'ROW({listed})::text COLLATE "C"'


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows of a table: FROM items in which the table is `t`, and a condition over them."""

    source: str
    condition: str


def rows_of(table: MappedTable, tenant_keys: Sequence[str]) -> Selection:
    """All rows of these tenants."""
    return Selection(table.source, table.tenant_is(tenant_keys))


def select_rows(table: MappedTable, chosen: Selection, tenant_keys: Sequence[str]) -> str:
    """SELECT of the captured columns of the chosen rows of these tenants, ordered by tenant and key.

    Sorted in two stages, by tenant and then each tenant's rows by key: comparing one column is what the server does
    fastest. OFFSET 0 keeps the planner from making one sort of the two.
    """
    by = _tenant_order(table, tenant_keys)
    columns = ", ".join(f"t.{ident(name)}" for name in table.captured_columns)
    needed = dict.fromkeys((*table.captured_columns, *table.table.primary_key))
    by_tenant = (
        f"SELECT {', '.join(f't.{ident(name)}' for name in needed)}, {by} AS {_TENANT}"
        f" FROM {chosen.source} WHERE {chosen.condition} ORDER BY {_TENANT} OFFSET 0"
    )
    return f"SELECT {columns} FROM ({by_tenant}) AS t ORDER BY t.{_TENANT}, {order_by(table)}"


def _tenant_order(table: MappedTable, tenant_keys: Sequence[str]) -> str:
    if not table.tenant_column.exact or len(tenant_keys) == 1:
        return table.tenant_number(tenant_keys)  # values that are equal and yet differ may lie apart
    return table.tenant + (' COLLATE "C"' if table.tenant_column.collatable else "")


def copy_table(
    connection: Connection,
    table: MappedTable,
    tenant_keys: Sequence[str],
    open_sink: OpenSink,
    plan: Callable[[str], Iterator[int]] | None = None,
) -> int:
    """Stream the tenants' rows of one table into sinks; bytes of text read.

    Every tenant in `tenant_keys` gets a sink, also those without rows.
    """
    chosen = rows_of(table, tenant_keys)
    counts = count_chosen(connection, table, chosen, tenant_keys)
    with exact_names(connection, table):
        return copy_chosen(connection, table, chosen, counts, open_sink, plan)


def count_chosen(
    connection: Connection, table: MappedTable, chosen: Selection, tenant_keys: Sequence[str]
) -> dict[str, int]:
    """Chosen rows by tenant key, for every tenant in `tenant_keys`."""
    with translated("read a table", table.full_name):
        cursor = connection.cursor()
        cursor.execute(
            f"SELECT {table.tenant_number(tenant_keys)}, count(*) FROM {chosen.source} WHERE {chosen.condition} GROUP BY 1"
        )
        return dict.fromkeys(tenant_keys, 0) | {tenant_keys[nth - 1]: rows for nth, rows in cursor.fetchall()}


def copy_chosen(
    connection: Connection,
    table: MappedTable,
    chosen: Selection,
    counts: Mapping[str, int],
    open_sink: OpenSink,
    plan: Callable[[str], Iterator[int]] | None = None,
) -> int:
    """Stream the chosen rows of one table into sinks; bytes of text read.

    `counts` says how many of them each tenant has at this snapshot. Tenants without rows get a sink as well.
    """
    for key in (key for key, rows in counts.items() if not rows):
        open_sink(table, key, 0).close()
    present = [key for key, rows in counts.items() if rows]
    if not present:
        return 0
    with translated("read a table", table.full_name):
        cursor = connection.cursor()
        in_order = [(key, counts[key]) for key in _in_order(cursor, table, present)]
        try:
            segments = _segments(table, in_order, open_sink, plan)
            return copy_groups(cursor, select_rows(table, chosen, present), segments, table.encoding)
        except ValueError as error:
            raise SourceError("A table was not read whole", on=table.full_name, why=str(error)) from None


def _in_order(cursor: Any, table: MappedTable, tenant_keys: list[str]) -> list[str]:
    """The tenants in the order of `select_rows`."""
    if not table.tenant_column.exact or len(tenant_keys) == 1:
        return tenant_keys
    # Only the server knows how it orders values of the type.
    listed = ", ".join(
        f"({number}, {literal(key)}::{table.tenant_column.type})" for number, key in enumerate(tenant_keys)
    )
    collation = ' COLLATE "C"' if table.tenant_column.collatable else ""
    cursor.execute(f"SELECT number FROM (VALUES {listed}) AS k(number, key) ORDER BY key{collation}")
    return [tenant_keys[number] for (number,) in cursor.fetchall()]


def copy_groups(cursor: Any, query: str, segments: Iterable[Segment], encoding: str) -> int:
    """COPY a query's rows, cut into groups; bytes of text read. Raises ValueError when it gives other numbers of rows."""
    cutter = GroupCutter(segments)
    # The buffered writer gathers a MiB of rows in C before Python sees them.
    with io.BufferedWriter(cutter, _WRITE_BUFFER) as buffered:
        copy(cursor, f"COPY ({query}) TO STDOUT{copy_options(encoding)}", buffered)
        buffered.flush()
        cutter.finish()
    return cutter.bytes


def _segments(
    table: MappedTable, counts: list[tuple[str, int]], open_sink: OpenSink, plan: Callable[[str], Iterator[int]] | None
) -> Iterator[Segment]:
    # A generator: each tenant's sink opens when the stream reaches it and closes when the next one begins.
    for key, rows in counts:
        sink = open_sink(table, key, rows)
        yield Segment(rows, sink.group, plan(key) if plan else None)
        sink.close()


# The catalogue as of the snapshot, next to the names, partitions and files that are read now. Locks of the reads keep them from
# changing again. A partition that is newer than the snapshot does not matter: no row of it can be seen.
_REWRITTEN = """
WITH RECURSIVE known AS (SELECT * FROM unnest(%s::oid[], %s::text[]) AS k(oid, name)),
tree AS (
    SELECT oid FROM known
  UNION
    SELECT i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid
    JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition),
live AS (SELECT oid FROM known UNION SELECT p.relid FROM known CROSS JOIN LATERAL pg_partition_tree(known.oid) AS p)
SELECT EXISTS (SELECT FROM known WHERE to_regclass(known.name)::oid IS DISTINCT FROM known.oid)
    OR EXISTS (SELECT FROM tree WHERE oid NOT IN (SELECT oid FROM live))
    OR EXISTS (SELECT FROM live JOIN pg_class c ON c.oid = live.oid WHERE live.oid NOT IN (SELECT oid FROM tree))
    OR EXISTS (SELECT FROM tree JOIN pg_class c ON c.oid = tree.oid
               WHERE c.relfilenode <> 0 AND pg_relation_filenode(c.oid) IS DISTINCT FROM c.relfilenode)"""


def check_same_files(connection: Connection, table: MappedTable) -> None:
    """Raises SourceChanged when the table, or one that decides its rows' tenant, was truncated, rewritten or exchanged after the
    snapshot was taken.

    TRUNCATE and most forms of ALTER TABLE are not MVCC-safe (PostgreSQL documentation, "Caveats" of concurrency control):
    to an older snapshot the table looks empty, which it was not. Names and partitions are looked up as they are now.
    """
    involved = {one.oid: sql_name(one) for one in (table.table, *(hop.parent for hop in table.hops))}
    with translated("look at a table's files", table.full_name), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(_REWRITTEN, (list(involved), list(involved.values())))
        if cursor.fetchone()[0]:
            raise SourceChanged(
                "A table was truncated, rewritten or exchanged while it was read",
                on=table.full_name,
                why="what it held at the recovery point is gone",
                remedy="try again; keep TRUNCATE, VACUUM FULL and ALTER TABLE out of the hours of backups",
            )


def each_table(
    settings: DatabaseSettings,
    snapshot_id: str,
    tables: Sequence[MappedTable],
    work: Callable[[Connection, MappedTable], None],
) -> None:
    """`work` on every table, `settings.connections` at a time, on one snapshot; the largest first.

    Raises the first error; tables not begun by then are left.
    """
    queue = sorted(tables, key=lambda t: -t.table.estimated_bytes)
    lock = threading.Lock()

    def run(_: int) -> None:
        with on_snapshot(settings, snapshot_id) as connection:
            while True:
                with lock:
                    if not queue:
                        return
                    table = queue.pop(0)
                try:
                    with exact_names(connection, table):
                        work(connection, table)
                    check_same_files(connection, table)
                except BaseException:
                    with lock:
                        queue.clear()
                    raise

    workers = min(settings.connections, len(queue)) or 1
    side_by_side(run, range(workers), name="capture", threads=workers)
