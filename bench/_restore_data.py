"""The data of `restore.py`: the fleet with one large tenant among the small ones, damaged and made whole again.

Nothing is done to the database that the fleet is made in: each measurement gets a new copy of it, byte by byte, because
delete-and-copy leaves the tenant's rows together at the end of the table, where they are cheaper to find than before.
"""

import hashlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _common as common
import psycopg2
from psycopg2.extensions import make_dsn

from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.embedded.servers.stack import Stack

TABLE, TENANT, SLUG = "events", 1, "tenant-1"
WORK = "bench_restore"  # the database that is damaged and restored
ROWS = 408_150  # of the tenant in the table of 3 M, at scale 1
_SEED = 4
_COLUMNS = "id, tenant_id, kind, user_id, occurred_at, props"
_OWN = f"SELECT {_COLUMNS} FROM {TABLE} WHERE tenant_id = {TENANT} ORDER BY id"


@dataclass(frozen=True, slots=True)
class Damage:
    """Which part of the tenant's rows is updated and which is deleted, chosen by a hash of the id."""

    name: str
    updated: float
    deleted: float


@dataclass(frozen=True, slots=True)
class Expected:
    """The tenant's rows as COPY text in the order of the key: their digest; and how many the other tenants have."""

    rows: int
    digest: str
    others: int


def fill(servers: Stack, *, tenants: int, scale: float) -> int:
    """Make the fleet and give the tenant its rows: those of others, taken from all over the table. Returns their number.

    The table is written anew, so that it has no dead rows; then it gets what the fleet's has: a primary key, an index on
    `tenant_id` and a foreign key to `tenants`.
    """
    common.fill_fleet(servers, tenants=tenants, scale=scale)
    wanted = round(ROWS * scale)
    with closing(psycopg2.connect(servers.dsn())) as connection:
        with connection, connection.cursor() as cursor:
            cursor.execute(f"SELECT count(*) FROM {TABLE} WHERE tenant_id = {TENANT}")
            missing = wanted - cursor.fetchone()[0]
            if missing == 0:
                return wanted
            cursor.execute(
                f"CREATE TEMP TABLE moved ON COMMIT DROP AS SELECT id AS moved FROM {TABLE} WHERE tenant_id <> {TENANT}"
                f" ORDER BY hashint8extended(id, {_SEED}), id LIMIT {missing}"
            )
            columns = _COLUMNS.replace(
                "tenant_id", f"CASE WHEN moved IS NULL THEN tenant_id ELSE {TENANT} END AS tenant_id"
            )
            cursor.execute(
                f"CREATE TABLE again AS SELECT {columns} FROM {TABLE} LEFT JOIN moved ON moved = id ORDER BY id"
            )
            cursor.execute(f"DROP TABLE {TABLE}; ALTER TABLE again RENAME TO {TABLE}")
            cursor.execute(
                f"ALTER TABLE {TABLE} ALTER tenant_id SET NOT NULL, ADD PRIMARY KEY (id),"
                f" ADD FOREIGN KEY (tenant_id) REFERENCES tenants; CREATE INDEX ON {TABLE} (tenant_id)"
            )
        connection.autocommit = True
        connection.cursor().execute(f"VACUUM (ANALYZE) {TABLE}")
    return wanted


def work_dsn(servers: Stack, role: str = postgres.OWNER, database: str = WORK) -> str:
    found: str = make_dsn(servers.dsn(role), dbname=database)
    return found


@contextmanager
def work_session(servers: Stack, role: str = postgres.OWNER, database: str = WORK) -> Iterator[Any]:
    """A cursor in autocommit."""
    with closing(psycopg2.connect(work_dsn(servers, role, database))) as connection:
        connection.autocommit = True
        yield connection.cursor()


def drop(servers: Stack, database: str = WORK) -> None:
    with work_session(servers, postgres.ADMIN, "postgres") as cursor:
        cursor.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")


def renew(servers: Stack) -> None:
    """The database anew: the fleet's, page by page."""
    drop(servers)
    with work_session(servers, postgres.ADMIN, "postgres") as cursor:
        cursor.execute(f"CREATE DATABASE {WORK} OWNER {postgres.OWNER} TEMPLATE {postgres.DATABASE} STRATEGY file_copy")
        cursor.execute(f"GRANT CREATE, TEMPORARY ON DATABASE {WORK} TO {postgres.BACKUP}")


def apply(servers: Stack, damage: Damage) -> int:
    """Damage the tenant's rows; how many. Committed, vacuumed and written out, so that no contender pays for it."""
    chance = f"((hashint8extended(id, {_SEED + 1}) & 16777215) / 16777216.0)"
    mine = f"tenant_id = {TENANT} AND {chance}"
    with work_session(servers) as cursor:
        done = 0
        if damage.updated:
            cursor.execute(
                f"UPDATE {TABLE} SET kind = 'lost', props = props || jsonb_build_object('ms', id % 997)"
                f" WHERE {mine} < {damage.updated}"
            )
            done += cursor.rowcount
        cursor.execute(
            f"DELETE FROM {TABLE} WHERE {mine} >= {damage.updated} AND {chance} < {damage.updated + damage.deleted}"
        )
        done += cursor.rowcount
        cursor.execute(f"VACUUM (ANALYZE) {TABLE}")
    common.checkpoint(servers)
    return done


def expected(servers: Stack, database: str = WORK) -> Expected:
    """What is in the table, by plain SQL."""
    with work_session(servers, postgres.ADMIN, database) as cursor:
        text = _Digest()
        cursor.copy_expert(f"COPY ({_OWN}) TO STDOUT", text)
        cursor.execute(f"SELECT count(*) FROM {TABLE} WHERE tenant_id <> {TENANT}")
        return Expected(text.rows, text.sum.hexdigest(), cursor.fetchone()[0])


def others(servers: Stack) -> int:
    """A hash of all rows of the other tenants, whatever their order."""
    with work_session(servers, postgres.ADMIN) as cursor:
        cursor.execute(f"SELECT bit_xor(hashtextextended(e::text, 0)) FROM {TABLE} e WHERE tenant_id <> {TENANT}")
        found: int = cursor.fetchone()[0]
        return found


def save(servers: Stack, file: Path, database: str = WORK) -> int:
    """The tenant's rows as COPY text: what delete-and-copy puts back. Bytes."""
    with work_session(servers, postgres.ADMIN, database) as cursor, file.open("wb") as output:
        cursor.copy_expert(f"COPY ({_OWN}) TO STDOUT", output)
    return file.stat().st_size


class _Digest:
    """Something to COPY to that keeps only a digest and the number of rows."""

    def __init__(self) -> None:
        self.sum = hashlib.md5(usedforsecurity=False)
        self.rows = 0

    def write(self, text: bytes) -> int:
        self.sum.update(text)
        self.rows += text.count(b"\n")
        return len(text)


def wal(servers: Stack) -> int:
    """Where the write-ahead log ends, in bytes."""
    with work_session(servers, postgres.ADMIN, "postgres") as cursor:
        cursor.execute("SELECT pg_current_wal_insert_lsn() - '0/0'")
        return int(cursor.fetchone()[0])
