"""Who reads the database server's log wants rows of tenants, which the server writes there when a statement of ours fails.

What stops them: a role that was granted these parameters tells the server to write neither values nor statements. Without the
grant the server's log is as its administrator set it; doctor says so.
"""

from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from sbh_pipelines.database.session.connection import connect
from sbh_pipelines.database.session.pinned import QUIET
from sbh_pipelines.doctor import database
from sbh_pipelines.doctor.findings import Report
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines_tests.support.application import Application
from sbh_pipelines_tests.support.own_server import own_server

SECRET = "0170 4711 0815"


def _fail(application: Application) -> None:
    """As a restore fails: by a value that is there already, by one that does not fit, in COPY and in a statement."""
    with closing(connect(application.settings.database, "test")) as connection:
        cursor = connection.cursor()
        for statement in (
            f"INSERT INTO phones VALUES ('{SECRET}'), ('{SECRET}')",
            f"SELECT '{SECRET}'::int",
            f"SELECT 'slow {SECRET}' FROM pg_catalog.pg_sleep(0.01)",
        ):
            try:
                cursor.execute(statement)
            except psycopg2.Error:
                continue


@pytest.mark.parametrize("granted", [True, False])
def test_what_the_server_writes_of_our_statements(tmp_path: Path, *, granted: bool) -> None:
    loud = {"log_statement": "all", "log_min_duration_statement": "0"}
    with own_server(**loud) as server:
        application = Application(server.create_database("app"), tmp_path)
        application.create()
        application.database.run("CREATE TABLE phones (number text PRIMARY KEY); GRANT ALL ON phones TO PUBLIC")
        if granted:
            application.database.run(f"GRANT SET ON PARAMETER {', '.join(QUIET)} TO {postgres.BACKUP}")
        _fail(application)
        assert (SECRET in (server.directory / "log").read_text()) is not granted
        report = Report()
        database.check(report, application.configured(database={"shared": ["phones"]}), lambda _: None)
        told = [found.remedy for found in report.findings if "server's log" in found.what]
        assert told == (
            [] if granted else [f'GRANT SET ON PARAMETER {", ".join(sorted(QUIET))} TO "{postgres.BACKUP}";']
        )
