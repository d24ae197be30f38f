"""Sessions of the journal on the primary, and what they ask of the server itself. The application comes first: no long waits."""

from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from sbh_pipelines.database.journal.lsn import as_number
from sbh_pipelines.database.session.connection import Connection, connect, translated
from sbh_pipelines.database.session.search_path import own_names
from sbh_pipelines.errors import SettingsError
from sbh_pipelines.settings import DatabaseSettings

STREAM_S = 3600  # the longest that one look at the stream may take, where the log to look at is not long
_SLOWEST = 1 << 20  # bytes of the log that a look is over in a second, at least


@dataclass(frozen=True, slots=True)
class ServerLife:
    """Which server it is, and where it is in its log.

    Attributes:
        system_id: System identifier of the cluster.
        timeline: Timeline of its log; 0 where the server does not say it.
        database: The database of the session.
        flushed: What is on disk of the log.
    """

    system_id: int
    timeline: int
    database: str
    flushed: int


_LIFE = f"""
SELECT pg_is_in_recovery(), (SELECT system_identifier::text FROM pg_control_system()), current_database()::text,
       CASE WHEN pg_is_in_recovery() THEN 0 ELSE {as_number("pg_current_wal_flush_lsn()")} END,
       CASE WHEN pg_is_in_recovery() THEN 0 ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END"""


@contextmanager
def journal_session(
    database: DatabaseSettings, purpose: str, *, statement_s: float | None = None
) -> Iterator[Connection]:
    """A connection in autocommit whose statements and waits for locks end in time. `statement_s`: of a statement."""
    bound = statement_s or database.statement_timeout_s or database.look_timeout_s
    with closing(connect(database, purpose)) as connection:
        with translated("prepare the session"):
            connection.cursor().execute(
                f"SET lock_timeout = {int(database.lock_timeout_s * 1000)}; SET statement_timeout = {int(bound * 1000)}"
            )
        yield connection


def stream_timeout(log_bytes: int) -> float:
    """Seconds that a look over so much of the log may take: after a long outage it is one look all the same."""
    return STREAM_S + max(log_bytes, 0) / _SLOWEST


def read_life(connection: Connection) -> ServerLife:
    """Raises SettingsError where the server is a standby."""
    with translated("ask the server what it is"), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(_LIFE)
        standby, system, database, flushed, timeline = cursor.fetchone()
    if standby:
        raise SettingsError(
            "The change journal needs the primary",
            on=database,
            why="the server is a standby",
            remedy='name the primary: dsn = "host=..." under [journal]',
        )
    return ServerLife(int(system), timeline, database, flushed)


def still_running(connection: Connection, xids: Collection[int]) -> set[int]:
    """Those of these 64-bit transaction ids whose effects no snapshot sees yet."""
    with translated("take a snapshot"):
        cursor = connection.cursor()
        cursor.execute("SELECT pg_catalog.pg_current_snapshot()::pg_catalog.text")
        xmin, xmax, running = cursor.fetchone()[0].split(":")
    listed = {int(xid) for xid in running.split(",") if xid}
    return {xid for xid in xids if xid >= int(xmin) and (xid >= int(xmax) or xid in listed)}


def publication_oid(connection: Connection, publication: str) -> int:
    """By which a publication is told from another that had its name; 0 where there is none."""
    with translated("read the publication", publication), own_names(connection):
        cursor = connection.cursor()
        cursor.execute("SELECT oid::int8 FROM pg_publication WHERE pubname = %s", (publication,))
        found = cursor.fetchone()
        return int(found[0]) if found else 0


_MEMBERS = """
SELECT r.prrelid::int8, r.xmin::text::int8, pg_snapshot_xmax(pg_current_snapshot())::text::int8
FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE p.pubname = %s"""


def memberships(connection: Connection, publication: str) -> dict[int, int]:
    """By the oid of each table of the publication the 64-bit id of the transaction that added it, or last altered that."""
    with translated("read the publication", publication), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(_MEMBERS, (publication,))
        # Of one that is older than 2**32 transactions: some later one.
        return {oid: now - ((now - xid) & 0xFFFF_FFFF) for oid, xid, now in cursor.fetchall()}
