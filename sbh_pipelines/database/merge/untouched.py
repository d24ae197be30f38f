"""Which of a tenant's rows were not written since a backup, so that a restore need look at the others only.

An incremental backup's evidence (capture/changes.py) is used the other way round: a row whose `xmin` is older than the backup's
snapshot was not written since. If the keys of such rows in a bucket are those of the backup (their number and the XOR of their
hashes say so), every row of the backup in that bucket is there as it was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sbh_pipelines.database.capture.changes import ages, snapshot_xmin
from sbh_pipelines.database.capture.deleted_rows import Sums
from sbh_pipelines.database.merge.staging import Staging
from sbh_pipelines.database.schema.key_hash import KeyCode
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.search_path import own_names
from sbh_pipelines.database.session.sql import ident, literal

_MASK64 = (1 << 64) - 1
_PLACES = 16  # of new rows in one bucket that are worth being fetched one by one


@dataclass(frozen=True, slots=True)
class Census:
    """How many rows a tenant has in a table, and how many of them were written by transactions of late."""

    rows: int
    recent: int
    written_by: int  # sum of the recent rows' transaction ids


def census(connection: Connection, table: MappedTable, tenant_key: str, snapshot: str) -> Census:
    """Rows now; `recent` ones are those not older than the oldest transaction that ran at `snapshot`.

    Where the numbers are the same at two instants, no row was inserted, updated or deleted in between: a deletion lowers
    the first; a row that was inserted or updated has a later transaction id than any before.
    """
    xmin = snapshot_xmin(snapshot)
    recent = f"pg_catalog.age(t.xmin) BETWEEN 0 AND {ages(connection, [xmin])[xmin]}"
    with translated("count rows", table.full_name):
        cursor = connection.cursor()
        cursor.execute(
            f"SELECT count(*), count(*) FILTER (WHERE {recent}),"
            f" coalesce(pg_catalog.sum(t.xmin::text::bigint) FILTER (WHERE {recent}), 0)::bigint FROM {table.source}"
            f" WHERE {table.tenant_is([tenant_key])}"
        )
        return Census(*cursor.fetchone())


def others_wrote(
    connection: Connection,
    before: Mapping[str, Census],
    tables: Mapping[str, MappedTable],
    tenant_key: str,
    snapshot: str,
) -> list[str]:
    """Tables in which other transactions committed rows of the tenant since; `connection` must not be the restore's own."""
    return [name for name, then in before.items() if census(connection, tables[name], tenant_key, snapshot) != then]


def no_other_transaction_ended(connection: Connection, own: Connection, snapshot: str) -> bool:
    """Whether the restore's own transaction, not ended yet, is the first since its snapshot, and no later one has ended."""
    xmin, xmax, running = snapshot.split(":")
    if xmin != xmax or running:
        return False  # another one was at work already
    with translated("look for other transactions"), own_names(connection):
        cursor = own.cursor()
        cursor.execute("SELECT coalesce(pg_catalog.pg_current_xact_id_if_assigned()::text::bigint, 0)")
        mine = cursor.fetchone()[0]
        cursor = connection.cursor()
        # xmax is one more than the last transaction that has ended.
        cursor.execute("SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint")
        return bool(mine == int(xmax) and cursor.fetchone()[0] <= mine + 1)


@dataclass(frozen=True, slots=True)
class Touched:
    """Buckets in which rows were written or deleted since a backup, and where the written ones are.

    `places` (ctid as text) is None where there are too many of them, or they may lie in several relations.
    """

    buckets: list[int]
    places: list[str] | None
    census: Census
    key_hash: int  # XOR of the hashes of all live keys


def find_touched(
    connection: Connection,
    table: MappedTable,
    code: KeyCode,
    tenant_key: str,
    since: str,
    seed: int,
    stored: Sums,
    now: str,
) -> Touched:
    """What was touched since the snapshot `since`, whose sums are `stored`; the census is as of the snapshot `now`. One scan."""
    then_xmin, now_xmin = snapshot_xmin(since), snapshot_xmin(now)
    age = ages(connection, [then_xmin, now_xmin])
    mask = (1 << stored.bits) - 1
    new, recent = (f"pg_catalog.age(t.xmin) BETWEEN 0 AND {age[xmin]}" for xmin in (then_xmin, now_xmin))
    with translated("look for changes", table.full_name):
        cursor = connection.cursor()
        cursor.execute(
            f"SELECT ({code.bucket}) & {mask}, count(*) FILTER (WHERE NOT {new}),"
            f" pg_catalog.bit_xor({code.hash}) FILTER (WHERE NOT {new}), count(*) FILTER (WHERE {new}),"
            f" pg_catalog.bit_xor({code.hash}),"
            f" count(*) FILTER (WHERE {recent}), coalesce(pg_catalog.sum(t.xmin::text::bigint) FILTER (WHERE {recent}), 0)::bigint,"
            f" CASE WHEN count(*) FILTER (WHERE {new}) <= {_PLACES}"
            f" THEN pg_catalog.array_agg(t.ctid::text) FILTER (WHERE {new}) END"
            f" FROM {table.source} CROSS JOIN (SELECT ({seed})::bigint AS seed) w"
            f" WHERE {table.tenant_is([tenant_key])} GROUP BY 1"
        )
        rows = recent_rows = writers = key_hash = 0
        found: dict[int, tuple[tuple[int, int], int]] = {}
        places: list[str] | None = [] if table.table.kind == "r" and not table.hops else None
        for bucket, old, value, fresh, every, of_late, by, where in cursor.fetchall():
            writers += by
            key_hash ^= every & _MASK64
            found[bucket] = (old, (value or 0) & _MASK64), fresh
            rows, recent_rows = rows + old + fresh, recent_rows + of_late
            if fresh and places is not None:
                places = None if where is None else places + where
    nothing = ((0, 0), 0)
    touched = []
    for bucket, then in enumerate(zip(stored.counts, stored.hashes, strict=True)):
        old, fresh = found.get(bucket, nothing)
        if fresh or old != then:
            touched.append(bucket)
    return Touched(touched, places, Census(rows, recent_rows, writers), key_hash)


def hash_of_keys(connection: Connection, staging: Staging, rows: str, code: KeyCode, seed: int) -> int:
    """XOR of the hashes of the keys of staged rows."""
    with translated("hash keys", staging.table.full_name):
        cursor = connection.cursor()
        cursor.execute(
            f"SELECT coalesce(pg_catalog.bit_xor({code.hash}), 0) FROM {staging.named(rows, 't')}"
            f" CROSS JOIN (SELECT ({seed})::bigint AS seed) w"
        )
        return int(cursor.fetchone()[0]) & _MASK64


def untouched_rows(
    connection: Connection, table: MappedTable, tenant_key: str, since: str, lows: Sequence[str]
) -> list[int | None]:
    """For each range of keys from one of `lows` (ascending) to the next: how many rows were not written since; None where one was.

    For tables with a primary key of one column. One scan.
    """
    xmin = snapshot_xmin(since)
    new = f"pg_catalog.age(t.xmin) BETWEEN 0 AND {ages(connection, [xmin])[xmin]}"
    column = table.table.column(table.table.primary_key[0])
    assert column is not None
    key = f"t.{ident(column.name)}" + (' COLLATE "C"' if column.collatable else "")
    listed = ", ".join(map(literal, lows))
    found: list[int | None] = [0] * len(lows)
    with translated("look for changes", table.full_name):
        cursor = connection.cursor()
        cursor.execute(
            f"SELECT pg_catalog.width_bucket({key}, ARRAY[{listed}]::text[]::{column.type}[]), count(*) FILTER (WHERE NOT {new}),"
            f" count(*) FILTER (WHERE {new}) FROM {table.source} WHERE {table.tenant_is([tenant_key])} GROUP BY 1"
        )
        for number, old, fresh in cursor.fetchall():
            if number > 0:  # rows before the first range are new ones
                found[number - 1] = None if fresh else old
    return found
