"""Tables that an extension made: its own rows are its own, the site's rows of its configuration are in the platform backup."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import make_dsn

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.own_server import OwnServer, own_server
from sbh_pipelines_tests.support.restore.platform import PROGRAMS, content

MAPS = """
CREATE TABLE spatial (srid int PRIMARY KEY, name text); INSERT INTO spatial VALUES (4326, 'WGS 84'), (3857, 'Web');
CREATE FUNCTION area(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
"""
# As pg_partman and pg_cron have them: in a schema of their own, with rows of the site among those that the extension makes.
JOBS = """
CREATE SCHEMA jobs;
CREATE TABLE jobs.config (name text PRIMARY KEY, value text); INSERT INTO jobs.config VALUES ('builtin', '1');
CREATE SEQUENCE jobs.ids; CREATE TABLE jobs.job (id int DEFAULT nextval('jobs.ids'), command text);
CREATE FUNCTION jobs.noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER noted BEFORE INSERT OR DELETE ON jobs.job FOR EACH ROW EXECUTE FUNCTION jobs.noted();
SELECT pg_extension_config_dump('jobs.config', $$WHERE name <> 'builtin'$$);
SELECT pg_extension_config_dump('jobs.job', ''); SELECT pg_extension_config_dump('jobs.ids', '');
"""
ROWS = """
CREATE EXTENSION maps; CREATE EXTENSION jobs;
INSERT INTO jobs.config VALUES ('mine', E'tab\\t'); INSERT INTO jobs.job (command) VALUES ('VACUUM'), ('VACUUM');
CREATE TABLE places (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, srid int REFERENCES spatial,
    size int DEFAULT area(1));
INSERT INTO places VALUES (1, 1, 4326), (2, 2, 3857);
"""


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    """One that finds extensions which are made here."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "extension")
        made.mkdir()
        for name, script in (("maps", MAPS), ("jobs", JOBS)):
            (made / f"{name}.control").write_text("default_version = '1.0'\nrelocatable = false\n")
            (made / f"{name}--1.0.sql").write_text(script)
        Path(folder).chmod(0o755)  # the server's user reads it
        with own_server(extension_control_path=f"'$system:{folder}'") as started:
            started.database("postgres").run("ALTER ROLE sbh_backup CREATEDB")
            yield started


@pytest.fixture
def application(server: OwnServer, tmp_path: Path) -> Iterator[Application]:
    database = server.create_database("app")
    try:
        made = Application(database, tmp_path)
        made.create()
        database.run(ROWS)
        yield made
    finally:
        server.drop_database("app")


def _service(application: Application, server: OwnServer, **database: Any) -> BackupService:
    drill = make_dsn(server.dsn(postgres.BACKUP), dbname="postgres")
    return application.service(platform=PROGRAMS, drill={"dsn": drill}, database=database)


@pytest.mark.parametrize("database", [{}, {"shared": ["spatial"]}])
def test_they_come_back_once(application: Application, server: OwnServer, database: dict[str, Any]) -> None:
    service = _service(application, server, **database)
    service.backups.create_all([ACME, BOLT], ADMIN)
    made = service.platform.create(ADMIN)
    assert made.manifest.components["shared"].rows == 3
    target = server.create_database("new")
    try:
        dsn = make_dsn(server.dsn(), dbname="new")
        report = service.platform.recover(dsn, ADMIN, confirm=True, files=False)
        assert (report.status, report.left_out) == ("completed", [])
        assert content(target) == content(application.database)
        target.run("DELETE FROM jobs.config WHERE name = 'builtin'")  # the extension's row was there as well
    finally:
        server.drop_database("new")


def test_a_drill_by_a_role_that_may_not_make_them(application: Application, server: OwnServer) -> None:
    """Rows refer to a table of an extension that a drill has not got: the key is left out, and noted."""
    service = _service(application, server)
    service.backups.create_all([ACME, BOLT], ADMIN)
    service.platform.create(ADMIN)
    record = service.drills.run(ACME, ADMIN, scenarios=["database corruption"])
    noted = {one.what: one.why for one in record.left_out}
    assert any(what.startswith("CREATE EXTENSION") and '"jobs"' in what for what in noted)
    assert "its table is not there" in noted["rows of jobs.config"]
    assert record.status == "passed", record.error
    assert "places_srid_fkey" in " ".join(noted)
