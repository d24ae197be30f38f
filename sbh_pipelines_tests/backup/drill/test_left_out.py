"""A drill by the documented role, of a database full of what only a superuser may make: rows need none of it."""

from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import make_dsn

from sbh_pipelines.backup.drill.records import DrillRecord
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.databases import Database, fresh_database
from sbh_pipelines_tests.support.restore.platform import PROGRAMS, content, same_definition

DATABASE = ["database corruption"]

# Run by a superuser. The tables `leaky` and `sized` are tenants', their defaults take functions that the role may not make.
SUPERUSERS = """
CREATE EXTENSION vector;
CREATE FUNCTION leak(text) RETURNS text LANGUAGE sql IMMUTABLE LEAKPROOF SET search_path = 'public' AS 'SELECT lower($1)';
CREATE FUNCTION quiet() RETURNS int LANGUAGE plpgsql SET log_statement = 'none' SET "work_mem" = '8MB' AS 'BEGIN RETURN 1; END';
CREATE FUNCTION internal_one(int, int) RETURNS int LANGUAGE internal IMMUTABLE STRICT AS 'int4pl';
CREATE FUNCTION unchanged() RETURNS trigger LANGUAGE internal AS 'suppress_redundant_updates_trigger';
CREATE TABLE leaky (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, name text DEFAULT leak('X'),
    number int DEFAULT internal_one(1, 2), CHECK (leak(name) <> ''), CHECK (internal_one(number, 1) > 0));
CREATE TABLE sized (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants,
    leaky_id int REFERENCES leaky, size int NOT NULL DEFAULT vector_dims('[1,2,3]'::vector)) PARTITION BY RANGE (id);
CREATE TABLE sized_1 PARTITION OF sized FOR VALUES FROM (1) TO (50);
CREATE TABLE sized_2 PARTITION OF sized DEFAULT;
INSERT INTO leaky SELECT n, 1 + n % 2, 'Name ' || n, n FROM generate_series(1, 40) n;
INSERT INTO sized (tenant_id, leaky_id) SELECT 2 - n % 2, 1 + n % 40 FROM generate_series(0, 79) n;
CREATE INDEX leaky_name ON leaky (leak(name));
CREATE INDEX leaky_number ON leaky (internal_one(number, 1));
CREATE TRIGGER unchanged BEFORE UPDATE ON leaky FOR EACH ROW EXECUTE FUNCTION unchanged();
ALTER TABLE leaky ENABLE ALWAYS TRIGGER unchanged;
CREATE OPERATOR CLASS strange FOR TYPE int USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >,
    FUNCTION 1 btint4cmp(int, int);
CREATE INDEX leaky_strange ON leaky (number strange);
CREATE VIEW distances AS SELECT id, '[1,2]'::vector <-> '[3,4]'::vector AS distance FROM leaky;
CREATE MATERIALIZED VIEW far AS SELECT * FROM distances;
CREATE FUNCTION on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER on_ddl ON ddl_command_end EXECUTE FUNCTION on_ddl();
CREATE PUBLICATION everything FOR ALL TABLES;
CREATE TYPE colour AS ENUM ('red');
CREATE CAST (colour AS text) WITH INOUT;
CREATE CAST (int AS date) WITHOUT FUNCTION;
CREATE FOREIGN DATA WRAPPER nowhere;
CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere OPTIONS (host 'secret-host');
CREATE USER MAPPING FOR app SERVER nowhere;
CREATE FOREIGN TABLE elsewhere (id int) SERVER nowhere;
ALTER DEFAULT PRIVILEGES FOR ROLE app GRANT SELECT ON TABLES TO pg_monitor;
ALTER TABLE notes OWNER TO app;
CREATE POLICY own ON notes TO app USING (true);
COMMENT ON EXTENSION vector IS 'theirs';
COMMENT ON TABLE leaky IS 'ours';
"""


def _service(application: Application, **more: Any) -> BackupService:
    server = make_dsn(application.database.stack.dsn(postgres.BACKUP), dbname="postgres")
    database = {"excluded": ["elsewhere"], **more}
    return application.service(platform=PROGRAMS, drill={"dsn": server}, database=database)


@pytest.fixture(scope="module")
def drilled(embedded_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The application, its service, and the record of a drill."""
    with fresh_database(embedded_stack) as database:
        application = Application(database, tmp_path_factory.mktemp("left-out"))
        application.create()
        database.run(SUPERUSERS)
        service = _service(application)
        service.backups.create_all([ACME, BOLT], ADMIN)
        service.platform.create(ADMIN)
        yield application, service, service.drills.run(ACME, ADMIN, scenarios=[*DATABASE, "configuration error"])


def test_what_rows_do_not_need_is_left_out_and_noted(drilled: tuple[Application, BackupService, DrillRecord]) -> None:
    _, service, record = drilled
    assert record.status == "passed", record.error
    found = {one.what: one.why for one in record.left_out}
    for name in (
        'CREATE EXTENSION IF NOT EXISTS "vector"',
        'CREATE FUNCTION "public"."leak"',
        'CREATE FUNCTION "public"."quiet"',
        'CREATE FUNCTION "public"."internal_one"',
        'CREATE FUNCTION "public"."unchanged"',
        'CREATE TABLE "public"."sized"',
        "CREATE INDEX public.leaky_number",
        'CREATE OPERATOR CLASS "public"."strange"',
        'CREATE INDEX "leaky_strange"',
        'CREATE VIEW "public"."distances"',
        'CREATE MATERIALIZED VIEW "public"."far"',
        'CREATE EVENT TRIGGER "on_ddl"',
        'CREATE PUBLICATION "everything"',
        'CREATE FOREIGN DATA WRAPPER "nowhere"',
        'CREATE SERVER "nowhere"',
        'CREATE FOREIGN TABLE "public"."elsewhere"',
        "owners and grants",
    ):
        assert any(what.startswith(name) for what in found), name
    assert 'CREATE INDEX "leaky_name"' not in " ".join(found), "its function is there, without LEAKPROOF"
    assert "superuser" in next(why for what, why in found.items() if '"leak"' in what)
    assert "secret" not in str(found)
    (stored,) = service.drills.of(ACME, ADMIN)
    assert stored.left_out == record.left_out


def test_a_superuser_keeps_all_of_it(
    drilled: tuple[Application, BackupService, DrillRecord], embedded_stack: Stack
) -> None:
    application, service, _ = drilled
    with fresh_database(embedded_stack) as target:
        dsn = make_dsn(embedded_stack.dsn(postgres.ADMIN), dbname=target.name)
        report = service.platform.recover(dsn, ADMIN, confirm=True, files=False)
        assert (report.status, list(report.left_out)) == ("completed", [])
        assert content(target) == content(application.database)
        same_definition(application.database, target)


def test_what_rows_need_is_named_with_its_cause(tmp_path: Path, embedded_stack: Stack) -> None:
    """A column of a type that only a superuser may bring."""
    with fresh_database(embedded_stack) as database:
        error = _drill_of_vectors(database, tmp_path)
    assert (error.code, "embeddings" in error.on) == ("SBH-302", True)
    assert "CREATE EXTENSION" in error.why
    assert "[drill]" in error.remedy


def _drill_of_vectors(database: Database, directory: Path) -> Any:
    application = Application(database, directory)
    application.create()
    database.run(
        "CREATE EXTENSION vector; CREATE TABLE embeddings (tenant_id int NOT NULL REFERENCES tenants, at vector(2))"
    )
    database.run("INSERT INTO embeddings VALUES (1, '[1,2]')")
    service = _service(application, excluded=[])
    service.create_backup(ACME, ADMIN)
    service.platform.create(ADMIN)
    return service.drills.run(ACME, ADMIN, scenarios=DATABASE).error
