"""The session of a restore, and its one transaction.

Everything happens in one REPEATABLE READ transaction, so a concurrent write to the same rows ends in a serialization
error and a rollback, never in a mixture. `session_replication_role = replica` keeps triggers, rules and foreign key
checks quiet.
"""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import psycopg2

from sbh_pipelines.database.schema.tenancy import TenancyMap
from sbh_pipelines.database.session.connection import Connection, connect, describe_dsn, translated
from sbh_pipelines.database.session.search_path import own_names
from sbh_pipelines.errors import LeaseHeld
from sbh_pipelines.model import Tenant
from sbh_pipelines.settings import DatabaseSettings, Settings

_LOCK = "sbh restore "  # and the tenant's key: the name of the advisory lock
_ENDING_S = 1.0  # the server is told of a closed connection, and then lets go of its locks
_LOOK_S = 0.1


def restore_database(settings: Settings) -> DatabaseSettings:
    """How what writes into the application's database connects: as the role of `restore.dsn`, if there is one."""
    restore = settings.restore
    if restore.dsn is None:
        return settings.database
    # The password of the one role is never sent for the other.
    own = {name: getattr(restore, name) for name in ("password", "password_file", "password_secret")}
    changed: dict[str, object] = {"dsn": restore.dsn, **own}
    return settings.database.model_copy(update=changed)


@contextmanager
def restore_session(settings: DatabaseSettings, tenant: Tenant, wait_s: float) -> Iterator[Connection]:
    """The session of a restore, which while it lasts is the only one of this tenant in this database.

    A lease lies where the backups lie, so one at a copy keeps nobody away who restores from elsewhere: the database is what they
    have in common. The lock is the session's, for the snapshot of the restore must be younger than it, and files are still
    removed after the commit. What holds it dies with the session, and so does what it is held for. Raises LeaseHeld after
    `wait_s`, or a moment in which one that was just closed ends; SourceUnavailable, SettingsError.
    """
    until = time.monotonic() + max(wait_s, _ENDING_S)
    with closing(connect(settings, "restore")) as connection:
        while not _alone(connection, tenant.key):
            if time.monotonic() >= until:
                raise LeaseHeld(
                    "Another restore of the tenant is under way",
                    on=f"{tenant.id} in {describe_dsn(settings.dsn)}",
                    why="it holds the tenant in the database; it may be from a copy of the backups, or run elsewhere",
                    remedy="wait for its end; pg_stat_activity shows its session: application_name = 'sbh restore'",
                )
            time.sleep(min(_LOOK_S, max(0.0, until - time.monotonic())))
        yield connection


def _alone(connection: Connection, tenant_key: str) -> bool:
    with translated("see whether another restore is under way"):
        cursor = connection.cursor()
        cursor.execute(
            "SELECT pg_catalog.pg_try_advisory_lock(pg_catalog.hashtextextended(%s, 0))", (_LOCK + tenant_key,)
        )
        return bool(cursor.fetchone()[0])


@contextmanager
def restore_transaction(settings: DatabaseSettings, connection: Connection = None) -> Iterator[Connection]:
    """The one transaction of a restore, in this session or one of its own; the caller commits, anything else rolls back."""
    if connection is None:
        with closing(connect(settings, "restore")) as own, restore_transaction(settings, own):
            yield own
        return
    with translated("begin the restore"):
        cursor = connection.cursor()
        cursor.execute(
            "SELECT pg_catalog.set_config('lock_timeout', %s, false)", (str(int(settings.lock_timeout_s * 1000)),)
        )
        cursor.execute("SET temp_buffers = '64MB'")
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        cursor.execute("SET LOCAL session_replication_role = replica")
    try:
        yield connection
    except BaseException:
        # What it locked is free before anything else is done, e.g. by a hook.
        with suppress(psycopg2.Error):
            connection.cursor().execute("ROLLBACK")
        raise


def hold_tenant(connection: Connection, tenancy: TenancyMap, tenant_key: str) -> None:
    """Lock the tenant's own row: transactions that insert rows which refer to it wait until the restore is over.

    Raises SourceConflict when another transaction holds it, or has changed it, since the restore's snapshot.
    """
    for table in tenancy.tables:
        if table.status == "tenants":
            with translated("hold the tenant's row", table.full_name):
                connection.cursor().execute(
                    f"SELECT FROM {table.source} WHERE {table.tenant_is([tenant_key])} FOR UPDATE OF t"
                )


def written_by(connection: Connection) -> dict[int, tuple[int, int, int]]:
    """(inserted, updated, deleted) rows of this transaction by table, as the server counts them: partitions with their root.

    Temporary tables are left out. Empty where the server does not count (`track_counts`).
    """
    with translated("count what was written"), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(
            "SELECT coalesce(pg_partition_root(s.relid), s.relid)::oid::bigint, sum(n_tup_ins)::bigint, sum(n_tup_upd)::bigint,"
            " sum(n_tup_del)::bigint FROM pg_stat_xact_user_tables s JOIN pg_class c ON c.oid = s.relid"
            " WHERE c.relpersistence <> 't' AND (n_tup_ins, n_tup_upd, n_tup_del) <> (0, 0, 0)"
            " AND current_setting('track_counts')::boolean GROUP BY 1"
        )
        return {oid: (inserted, updated, deleted) for oid, inserted, updated, deleted in cursor.fetchall()}


def fire_deferred(connection: Connection) -> None:
    """Let triggers that wait for the commit fire now, before what was written is counted."""
    with translated("fire deferred triggers", writing=True):
        connection.cursor().execute("SET CONSTRAINTS ALL IMMEDIATE")


def commit(connection: Connection) -> None:
    with translated("commit the restore", writing=True):
        connection.cursor().execute("COMMIT")
