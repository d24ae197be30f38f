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
_ALL_PLACES = 5_000  # and in all of them


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
    recent = written_since(connection, snapshot)
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
class Lost:
    """What a bucket lacks of the backup's rows: how many, and the XOR of the hashes of their keys."""

    rows: int
    key_hash: int


@dataclass(frozen=True, slots=True)
class Touched:
    """What was written or deleted since a backup.

    Attributes:
        buckets: buckets with such rows.
        lost: of these, the ones in which rows of the backup are not there as they were.
        fresh: rows that were written since.
        places: where these are (ctid as text); None where there are too many of them.
        census: of all rows.
        key_hash: XOR of the hashes of all live keys.
    """

    buckets: list[int]
    lost: dict[int, Lost]
    fresh: int
    places: list[str] | None
    census: Census
    key_hash: int


def written_since(connection: Connection, since: str) -> str:
    """The condition that a row `t` was written since the snapshot."""
    xmin = snapshot_xmin(since)
    return f"pg_catalog.age(t.xmin) BETWEEN 0 AND {ages(connection, [xmin])[xmin]}"


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
    mask = (1 << stored.bits) - 1
    new, recent = written_since(connection, since), written_since(connection, now)
    with translated("look for changes", table.full_name):
        cursor = connection.cursor()
        cursor.execute(
            f"SELECT ({code.bucket}) & {mask}, {new} AS fresh, count(*), pg_catalog.bit_xor({code.hash}),"
            f" count(*) FILTER (WHERE {recent}), coalesce(pg_catalog.sum(t.xmin::text::bigint) FILTER (WHERE {recent}), 0)::bigint,"
            f" CASE WHEN {new} AND count(*) <= {_PLACES} THEN pg_catalog.array_agg(t.ctid::text) FILTER (WHERE {new}) END"
            f" FROM {table.source} CROSS JOIN (SELECT ({seed})::bigint AS seed) w"
            f" WHERE {table.tenant_is([tenant_key])} GROUP BY 1, 2"
        )
        rows = recent_rows = writers = key_hash = fresh_rows = 0
        old: dict[int, tuple[int, int]] = {}
        written = set[int]()
        places: list[str] | None = []
        for bucket, fresh, count, value, of_late, by, where in cursor.fetchall():
            rows, recent_rows, writers = rows + count, recent_rows + of_late, writers + by
            value &= _MASK64
            key_hash ^= value
            if not fresh:
                old[bucket] = count, value
                continue
            written.add(bucket)
            fresh_rows += count
            if places is not None:
                places = None if where is None or fresh_rows > _ALL_PLACES else places + where
    lost = dict[int, Lost]()
    for bucket, (count, value) in enumerate(zip(stored.counts, stored.hashes, strict=True)):
        still, theirs = old.get(bucket, (0, 0))
        if (still, theirs) != (count, value):
            lost[bucket] = Lost(count - still, value ^ theirs)
    census = Census(rows, recent_rows, writers)
    return Touched(sorted(lost.keys() | written), lost, fresh_rows, places, census, key_hash)


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
    new = written_since(connection, since)
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
