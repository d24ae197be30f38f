"""The recovery point: one exported snapshot that several connections read."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2

from sbh_pipelines.database.session.connection import Connection, connect, translated
from sbh_pipelines.database.session.search_path import own_names
from sbh_pipelines.model import RecoveryPoint
from sbh_pipelines.settings import DatabaseSettings

_DESCRIBE = """
SELECT to_char(transaction_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), pg_current_snapshot()::text,
       (SELECT system_identifier::text FROM pg_control_system()),
       current_setting('server_version_num')::int, current_database()::text,
       -- Statistics are discarded when the server recovers from a crash, also of one process, which restarts no postmaster.
       to_char(pg_postmaster_start_time() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') || '/' ||
       (SELECT coalesce(to_char(stats_reset AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), '') FROM pg_stat_bgwriter)"""

_POSITION = """
SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text,
       CASE WHEN pg_is_in_recovery()
            THEN (SELECT greatest(c.timeline_id, r.min_recovery_end_timeline)
                  FROM pg_control_checkpoint() c, pg_control_recovery() r)
            -- A server promoted a moment ago writes a new timeline before its control file says so.
            ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END"""
_NO_POSITION = ("0/0", 0)
_NO_LOG = ("55000", "0A000")  # of servers whose log is their provider's


@contextmanager
def exported_snapshot(settings: DatabaseSettings) -> Iterator[tuple[str, RecoveryPoint, Connection]]:
    """(snapshot id, recovery point, the connection that holds it). The snapshot lives as long as the context."""
    with closing(connect(settings, "snapshot")) as connection:
        with translated("take a snapshot"):
            cursor = connection.cursor()
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        point = describe_snapshot(connection)
        yield export_snapshot(connection), point, connection


def describe_snapshot(connection: Connection) -> RecoveryPoint:
    """What the transaction of this connection sees."""
    with translated("take a snapshot"), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(_DESCRIBE)
        time, snapshot, system, *more = cursor.fetchone()
        lsn, timeline = _position(cursor)
    return RecoveryPoint(time, snapshot, lsn, system, timeline, *more)


def _position(cursor: Any) -> tuple[str, int]:
    """Where in its log the server is, and on which timeline. Some servers do not say it: then both are zero, at every backup."""
    cursor.execute("SAVEPOINT sbh_position")
    try:
        cursor.execute(_POSITION)
        lsn, timeline = cursor.fetchone()
    except psycopg2.Error as error:
        if error.pgcode not in _NO_LOG:
            raise
        cursor.execute("ROLLBACK TO SAVEPOINT sbh_position")
        lsn, timeline = _NO_POSITION
    cursor.execute("RELEASE SAVEPOINT sbh_position")
    return lsn, timeline


def export_snapshot(connection: Connection) -> str:
    """Let other connections see what the transaction of this one sees, for as long as it lasts: an id for `on_snapshot`."""
    with translated("take a snapshot"):
        cursor = connection.cursor()
        cursor.execute("SELECT pg_export_snapshot()")
        snapshot_id: str = cursor.fetchone()[0]
    return snapshot_id


@contextmanager
def on_snapshot(settings: DatabaseSettings, snapshot_id: str) -> Iterator[Connection]:
    """Another connection that sees exactly the same instant."""
    with closing(connect(settings, "capture")) as connection:
        with translated("join the snapshot"):
            cursor = connection.cursor()
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            cursor.execute("SET TRANSACTION SNAPSHOT %s", (snapshot_id,))
            # Several tables are read at once: workers inside each would only add the cost of handing rows on. And a
            # batch's rows lie scattered over whole tables: counting on a large cache, the planner would fetch them in
            # the order of an index on the tenant, page by page at random, each several times.
            cursor.execute("SET max_parallel_workers_per_gather = 0; SET effective_cache_size = '16MB'")
        yield connection
