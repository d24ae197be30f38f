"""A drill's database goes with the drill, also where a session of the server's own is in it."""

import threading
import time
from contextlib import closing
from pathlib import Path

import psycopg2

from sbh_pipelines.database.rebuild.throwaway import ThrowawayDatabase
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.model import DrillId
from sbh_pipelines_tests.support.application import Application
from sbh_pipelines_tests.support.own_server import own_server


def test_a_session_that_the_role_may_not_end_is_waited_for(tmp_path: Path) -> None:
    """As of autovacuum, which a role that is no superuser cannot terminate: DROP ... FORCE is refused then."""
    with own_server() as server:
        server.database("postgres").run(f"ALTER ROLE {postgres.BACKUP} CREATEDB")
        settings = Application(server.create_database("live"), tmp_path).settings
        name = "sbh_drill_20260101_000000_abcdef"
        with ThrowawayDatabase.create(settings, DrillId(name.removeprefix("sbh_"))):
            busy = psycopg2.connect(server.dsn().replace("dbname=postgres", f"dbname={name}"))

            def leave() -> None:
                time.sleep(0.5)
                busy.close()

            leaving = threading.Thread(target=leave)
            leaving.start()
        leaving.join()
        with closing(psycopg2.connect(server.dsn())) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_database WHERE datname LIKE 'sbh_drill%'")
            assert cursor.fetchone() == (0,)
