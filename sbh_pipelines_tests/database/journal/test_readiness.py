"""What a server and a role bring for a journal, as servers of two versions say it."""

from contextlib import closing

from psycopg2.extensions import make_dsn

from sbh_pipelines.database.journal.readiness import read_readiness
from sbh_pipelines.database.session.connection import connect
from sbh_pipelines.settings import DatabaseSettings
from sbh_pipelines_tests.database.journal.conftest import Journaled


def test_a_server_says_what_it_has(journaled: Journaled) -> None:
    before = read_readiness(journaled.connection)
    assert (before.wal_level, before.standby, before.keeps_bytes, before.idle_timeout_s) == (
        "logical",
        False,
        None,
        None,
    )
    assert before.may_replicate
    assert before.may_publish
    assert before.system_id > 0
    assert before.most_slots >= 1
    journaled.begin()
    assert read_readiness(journaled.connection).slots == before.slots + 1


def test_limits_are_read_in_bytes_and_seconds(journaled: Journaled) -> None:
    cursor = journaled.connection.cursor()
    cursor.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '3GB'")
    if journaled.connection.server_version >= 180000:
        cursor.execute("ALTER SYSTEM SET idle_replication_slot_timeout = '2h'")
    try:
        journaled.database.reload()
        with closing(connect(DatabaseSettings(dsn=journaled.connection.dsn), "test")) as later:
            found = read_readiness(later)
        assert found.keeps_bytes == 3 << 30
        assert found.idle_timeout_s == (7200 if found.version >= 180000 else None)
    finally:
        cursor.execute("ALTER SYSTEM RESET ALL")
        journaled.database.reload()


def test_a_role_without_rights_is_told(journaled: Journaled) -> None:
    journaled.run("CREATE ROLE poor_one LOGIN")
    try:
        dsn = make_dsn(journaled.database.dsn, user="poor_one")
        with closing(connect(DatabaseSettings(dsn=dsn), "test")) as poor:
            found = read_readiness(poor)
        assert (found.role, found.may_replicate, found.may_publish) == ("poor_one", False, False)
    finally:
        journaled.run("DROP ROLE poor_one")
