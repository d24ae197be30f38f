"""Changes to the fleet, scattered over all pages, and what they would weigh if nothing else were stored.

All is chosen by a hash of a row's id and of the one transaction that makes a pass's changes, so that each picks other rows.
Then the tables are vacuumed, so that no contender pays for what the changes left on the pages.
"""

import io
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import _common as common
import psycopg2
import zstandard

from sbh_pipelines.embedded.servers.stack import Stack

_COLUMNS = {
    "events": "kind, user_id, occurred_at, props",
    "messages": "sender_id, channel_id, sent_at, body",
    "orders": "number, customer_id, total, currency, status, ordered_at, lines",
}
_UPDATES = {
    "events": "props = props || jsonb_build_object('ms', id % 997)",
    "messages": "body = body || ' (edited)'",
    "orders": "status = 'returned', total = total + 1",
}
TABLES = tuple(_COLUMNS)


@dataclass(frozen=True, slots=True)
class Parts:
    """Which part of the rows is updated, deleted, and how many, as a part of them, are inserted."""

    updated: float = 0.01
    deleted: float = 0.001
    inserted: float = 0.01


@dataclass(frozen=True, slots=True)
class Changes:
    """What a pass did: rows by what happened to them, and the transaction that did it."""

    updated: int
    deleted: int
    inserted: int
    transaction: str

    @property
    def written(self) -> int:
        return self.updated + self.inserted


def change(servers: Stack, parts: Parts = Parts(), *, slugs: Sequence[str] = ()) -> Changes:
    """A pass of changes to the rows of all tenants or of those named; committed, vacuumed, written out."""
    done = [0, 0, 0]
    with closing(psycopg2.connect(servers.dsn())) as connection:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_current_xact_id()::xid::text")
            transaction = cursor.fetchone()[0]
            for table in TABLES:
                for at, statement in enumerate(_statements(cursor, table, parts, transaction, slugs)):
                    cursor.execute(statement)
                    done[at] += cursor.rowcount
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"VACUUM (ANALYZE) {', '.join(TABLES)}")
    common.checkpoint(servers)
    return Changes(*done, transaction)


def _statements(cursor: Any, table: str, parts: Parts, seed: str, slugs: Sequence[str]) -> Iterator[str]:
    """Updates, deletions, insertions: of rows that have their turn in this order, so that no row is touched twice."""
    by_tenant = ""
    if slugs:
        cursor.execute("SELECT string_agg(id::text, ', ') FROM tenants WHERE slug = ANY(%s)", (list(slugs),))
        by_tenant = f" AND tenant_id IN ({cursor.fetchone()[0]})"
    chance = f"((hashint8extended(id, {seed}) & 16777215) / 16777216.0)"
    ends = (parts.updated, parts.updated + parts.deleted, parts.updated + parts.deleted + parts.inserted)
    updated, deleted, copied = (
        f"{chance} >= {start} AND {chance} < {end}{by_tenant}" for start, end in zip((0, *ends), ends, strict=False)
    )
    yield f"UPDATE {table} SET {_UPDATES[table]} WHERE {updated}"
    yield f"DELETE FROM {table} WHERE {deleted}"
    # New rows look like old ones. Ids go on from the highest, so they lie in the last pages, as in an application.
    columns = _COLUMNS[table]
    yield (
        f"INSERT INTO {table} (id, tenant_id, {columns}) SELECT m.top + row_number() OVER (ORDER BY id), tenant_id, {columns}"
        f" FROM {table}, (SELECT max(id) AS top FROM {table}) m WHERE {copied}"
    )


def compressed(servers: Stack, changes: Changes, level: int) -> int:
    """Bytes of the rows that were written, as COPY text, each tenant's of each table compressed by itself."""
    compress = zstandard.ZstdCompressor(level=level).compress
    total = 0
    with closing(psycopg2.connect(servers.dsn())) as connection, connection.cursor() as cursor:
        for table in TABLES:
            text = io.BytesIO()
            cursor.copy_expert(
                f"COPY (SELECT id, tenant_id, {_COLUMNS[table]} FROM {table} WHERE xmin = '{changes.transaction}'::xid"
                " ORDER BY tenant_id, id) TO STDOUT",
                text,
            )
            tenants: dict[bytes, list[bytes]] = defaultdict(list)
            for line in text.getvalue().splitlines(keepends=True):
                tenants[line.split(b"\t", 2)[1]].append(line)
            total += sum(len(compress(b"".join(lines))) for lines in tenants.values())
    return total
