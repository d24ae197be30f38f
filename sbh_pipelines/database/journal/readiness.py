"""What the server and the role bring for a change journal: asked by `sbh doctor` before there is one, and beside one."""

from dataclasses import dataclass

from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.search_path import own_names


@dataclass(frozen=True, slots=True)
class Readiness:
    """The server, as a journal needs it.

    Attributes:
        version: As server_version_num.
        database: The session's.
        role: The session's.
        system_id: System identifier of the cluster.
        standby: Whether it is in recovery.
        wal_level: replica, or logical.
        slots: How many slots there are.
        most_slots: How many there can be.
        may_replicate: Whether the role may use slots.
        may_publish: Whether the role may make publications in the database.
        keeps_bytes: How much of the log a slot may hold before the server gives it up; None: as much as there is.
        idle_timeout_s: After how long the server gives up a slot that nobody reads; None: never.
        standbys: Standbys that are connected now, as far as the role may see them.
        synchronized: The slots of standbys that have to have the log before the journal gets it.
    """

    version: int
    database: str
    role: str
    system_id: int
    standby: bool
    wal_level: str
    slots: int
    most_slots: int
    may_replicate: bool
    may_publish: bool
    keeps_bytes: int | None
    idle_timeout_s: int | None
    standbys: int
    synchronized: str


_READINESS = """
SELECT current_setting('server_version_num')::int, current_database()::text, current_user::text,
       (SELECT system_identifier::text FROM pg_control_system()), pg_is_in_recovery(), current_setting('wal_level'),
       (SELECT count(*)::int FROM pg_replication_slots), current_setting('max_replication_slots')::int,
       (SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = current_user),
       has_database_privilege(current_database(), 'CREATE'),
       (SELECT setting::int8 FROM pg_settings WHERE name = 'max_slot_wal_keep_size'),
       (SELECT setting::int8 * CASE unit WHEN 'min' THEN 60 ELSE 1 END FROM pg_settings
        WHERE name = 'idle_replication_slot_timeout'),
       (SELECT count(*)::int FROM pg_stat_replication),
       coalesce(current_setting('synchronized_standby_slots', true), '')"""


def read_readiness(connection: Connection) -> Readiness:
    """As the session's role sees it."""
    with translated("ask the server what a change journal needs"), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(_READINESS)
        version, database, role, system, *rest = cursor.fetchone()
        standby, wal_level, slots, most, replicates, publishes, keeps_mib, idle_s, standbys, synchronized = rest
    return Readiness(
        version=version,
        database=database,
        role=role,
        system_id=int(system),
        standby=standby,
        wal_level=wal_level,
        slots=slots,
        most_slots=most,
        may_replicate=bool(replicates),
        may_publish=publishes,
        keeps_bytes=None if keeps_mib is None or keeps_mib < 0 else keeps_mib << 20,
        idle_timeout_s=idle_s or None,
        standbys=standbys,
        synchronized=synchronized,
    )
