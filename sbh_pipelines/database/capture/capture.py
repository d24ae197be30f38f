"""Reading tables at one snapshot, several at once; one tenant's rows by an ordered COPY.

The rows of a batch of tenants come in one pass, and are taken apart by `tenant_cutter.py`.
"""

import io
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.database.capture.row_groups import GroupCutter, Take
from sbh_pipelines.database.schema.key_hash import MAX_BITS, KeyCode
from sbh_pipelines.database.schema.name_types import exact_names
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.copying import copy
from sbh_pipelines.database.session.search_path import own_names
from sbh_pipelines.database.session.snapshot import on_snapshot
from sbh_pipelines.database.session.sql import copy_options, free_name, ident, sql_name
from sbh_pipelines.errors import SourceChanged, SourceError
from sbh_pipelines.settings import DatabaseSettings
from sbh_pipelines.spill import Spill

if TYPE_CHECKING:
    from sbh_pipelines.database.capture.key_sums import TableSums

_WRITE_BUFFER = 1 << 20
_TAKEN_APART = 2 << 20  # bytes of rows at once


class TableSink(Protocol):
    """Takes the groups of one tenant and table, in key order."""

    def group(self, text: bytes, rows: int) -> None: ...

    def close(self) -> None: ...


class BatchSink(Protocol):
    """A TableSink for one tenant of a batch: a text in a view is the sink's until it returns."""

    def group(self, text: "bytes | memoryview", rows: int) -> None: ...

    def close(self) -> None: ...


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


def copy_table(
    connection: Connection,
    table: MappedTable,
    tenant_key: str,
    sink: TableSink,
    plan: Iterator[int] | None = None,
) -> None:
    """Stream one tenant's rows of one table into a sink, in the canonical order.

    `plan` gives the number of rows of each group where they are known beforehand.
    """
    columns = ", ".join(f"t.{ident(name)}" for name in table.captured_columns)
    query = f"SELECT {columns} FROM {table.source} WHERE {table.tenant_is([tenant_key])} ORDER BY {order_by(table)}"
    with translated("read a table", table.full_name), exact_names(connection, table):
        copy_groups(connection.cursor(), query, table.encoding, sink.group, plan)
    sink.close()


def copy_tenants(
    connection: Connection,
    table: MappedTable,
    code: KeyCode,
    chosen: Selection,
    sinks: Mapping[str, BatchSink],
    held_bytes: int,
) -> "dict[str, TableSums]":
    """Stream the chosen rows of one table into the sinks, by tenant key, in one pass; their sums, of tenants without rows as well.

    `chosen.source` has the tenants as `changes.watched` names them, in the order of `sinks`. `held_bytes`: how much may be in
    memory of rows that are not whole groups yet.
    """
    # Slow imports, NumPy and Arrow, which only backups need.
    from sbh_pipelines.database.capture.key_sums import KeySums
    from sbh_pipelines.database.capture.tenant_cutter import TenantCutter

    with translated("read a table", table.full_name), Spill() as spill:
        sums = KeySums(len(sinks), code.keyed, spill)
        cutter = TenantCutter(list(sinks.values()), sums, spill, held_bytes)
        with io.BufferedWriter(cutter, _TAKEN_APART) as buffered:
            query = f"COPY ({_select_coded(table, code, chosen)}) TO STDOUT{copy_options(table.encoding)}"
            cursor = connection.cursor()
            copy(cursor, query, buffered)
            buffered.flush()
            try:
                cutter.finish()
                sums.check(cursor.rowcount)
            except ValueError as error:
                raise SourceError("A table was not read whole", on=table.full_name, why=str(error)) from None
        return dict(zip(sinks, sums.finish(), strict=True))


def _select_coded(table: MappedTable, code: KeyCode, chosen: Selection) -> str:
    """Codes and captured columns of the chosen rows, each tenant's in the order of the key.

    In the order of the key alone, which often is nearly that of the file. Where there is no key, or it begins with the tenant, the
    server has to sort: by tenant first, which leaves one group open, and then each tenant's rows. OFFSET 0 keeps the planner from
    making one sort of the two: comparing one number is what the server does fastest.
    """
    names = [column.name for column in table.table.columns]
    coded, tenant = free_name("sbh_code", names), free_name("sbh_tenant", names)
    slot = f"(w.nth << {MAX_BITS}) | ({code.bucket})"
    sent = f"pg_catalog.encode(pg_catalog.int8send({code.hash}) OPERATOR(pg_catalog.||) pg_catalog.int4send({slot}), 'base64')"
    columns = ", ".join(f"t.{ident(name)}" for name in table.captured_columns) or "''"  # a row may have nothing to keep
    key = table.table.primary_key
    if key and (table.hops or key[0] != table.tenant_column.name):
        return f"SELECT {sent}, {columns} FROM {chosen.source} WHERE {chosen.condition} ORDER BY {order_by(table)}"
    needed = "".join(f", t.{ident(name)}" for name in dict.fromkeys((*table.captured_columns, *key)))
    by_tenant = (
        f"SELECT {sent} AS {coded}, w.nth AS {tenant}{needed} FROM {chosen.source} WHERE {chosen.condition}"
        f" ORDER BY {tenant} OFFSET 0"
    )
    return f"SELECT t.{coded}, {columns} FROM ({by_tenant}) AS t ORDER BY t.{tenant}, {order_by(table)}"


def copy_groups(cursor: Any, query: str, encoding: str, take: Take, plan: Iterator[int] | None = None) -> int:
    """COPY a query's rows, cut into groups; their number."""
    cutter = GroupCutter(take, plan)
    # The buffered writer gathers a MiB of rows in C before Python sees them.
    with io.BufferedWriter(cutter, _WRITE_BUFFER) as buffered:
        copy(cursor, f"COPY ({query}) TO STDOUT{copy_options(encoding)}", buffered)
        buffered.flush()
        cutter.finish()
    return cutter.rows


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
