"""Objects planted in a schema of the application's search path take over no statement of ours."""

from contextlib import closing
from pathlib import Path

import pytest

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.database.schema import inspect
from sbh_pipelines.database.schema.listing import find_listing
from sbh_pipelines.database.schema.tenancy import survey_map
from sbh_pipelines.database.session.connection import connect
from sbh_pipelines.doctor import contents, role, tables, tenants
from sbh_pipelines.doctor.findings import Report
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.model import MergeMode
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.support import planted
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.databases import fresh_database
from sbh_pipelines_tests.support.restore.platform import PROGRAMS

# Types whose equality is another type's, or of any type; keys of every kind; a declared link; a table without a key.
TABLES = """
CREATE TABLE kinds (word varchar(20) PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, feeling mood, small short,
    flags text[], fixed char(4), id uuid, made timestamptz, UNIQUE (feeling, small), CHECK (fixed <> ''));
INSERT INTO kinds SELECT 'word ' || n, 1 + n % 2, CASE n % 3 WHEN 0 THEN 'sad' WHEN 1 THEN 'glad' END::mood, 's' || n,
    ARRAY['a', NULL], 'f', md5(n::text)::uuid, '2026-01-01' FROM generate_series(1, 30) n;
CREATE TABLE pairs (word varchar(20) REFERENCES kinds, nr numeric, body text, PRIMARY KEY (word, nr));
INSERT INTO pairs SELECT 'word ' || 1 + n % 30, n, 'x' FROM generate_series(1, 90) n;
CREATE TABLE heap (tenant_id int NOT NULL REFERENCES tenants, feeling mood, body varchar);
INSERT INTO heap SELECT 1 + n % 2, 'glad', NULLIF('b' || n % 3, 'b0') FROM generate_series(1, 30) n;
CREATE TABLE linked (id smallint PRIMARY KEY, word varchar(20));
INSERT INTO linked SELECT n, 'word ' || n FROM generate_series(1, 30) n;
CREATE TABLE common (word varchar(20) PRIMARY KEY, feeling mood); INSERT INTO common VALUES ('all', 'glad');
"""
WRECK = """
SET search_path = pg_catalog;
UPDATE public.kinds SET fixed = 'r' WHERE tenant_id = 1; DELETE FROM public.pairs WHERE nr < 30; DELETE FROM public.linked WHERE id < 9;
INSERT INTO public.kinds (word, tenant_id) VALUES ('new', 1); UPDATE public.heap SET body = 'r' WHERE tenant_id = 1;
"""
LINKS = [{"table": "linked", "parent": "kinds", "join": "t.word OPERATOR(pg_catalog.=) p.word::text"}]


@pytest.fixture
def application(embedded_stack: Stack, tmp_path: Path) -> object:
    with fresh_database(embedded_stack) as database:
        made = Application(database, tmp_path)
        made.create()
        yield made


def test_nothing_planted_is_called(application: Application, tmp_path: Path) -> None:
    database = application.database
    database.run(planted.TYPES, TABLES, f"GRANT CREATE ON DATABASE {database.name} TO sbh_backup")
    before = database.copy("SELECT * FROM kinds WHERE tenant_id = 1 ORDER BY word")
    assert planted.plant(database) > 100
    service = application.service(
        database={"links": LINKS, "shared": ["common"]},
        restore={"safety_backup": True, "batch_rows": 100},
        files={"references": [{"table": "kinds", "column": "small"}]},
        platform=PROGRAMS,
    )
    first = service.backups.create_all([ACME, BOLT], ADMIN)[0].backup_id
    database.run(WRECK)
    service.backups.create(ACME, ADMIN, "incremental")
    for request in (
        RestoreRequest(rows="kinds where tenant_id = 1 and small is not null"),
        RestoreRequest(tables=("heap",)),
        RestoreRequest(mode=MergeMode.MISSING_ONLY),
        RestoreRequest(mode=MergeMode.NEWEST_WINS),
        RestoreRequest(),
    ):
        service.restores.plan(first, ACME, ADMIN, request)
        done = service.restores.run(first, ACME, ADMIN, request)
    assert database.copy("SELECT * FROM kinds WHERE tenant_id = 1 ORDER BY word") == before
    service.restores.undo(done.restore_id, ACME, ADMIN)
    service.restores.into_schema(first, ACME, ADMIN, "looked_at")
    service.platform.create(ADMIN)
    examined(service.settings)
    drill = service.drills.run(ACME, ADMIN, scenarios=["database corruption", "configuration error"])
    assert drill.status == "passed", drill.error
    assert planted.called(database) == []


def examined(settings: Settings) -> None:
    report = Report()
    with closing(connect(settings.database, "test")) as connection:
        facts = inspect.server_facts(connection)
        tenancy, listing = survey_map(connection, settings), find_listing(connection, settings)
        role.check(report, connection, settings, facts)
        role.check_tables(report, connection, settings, tenancy, facts)
        tables.check(report, connection, settings, tenancy)
        tables.check_rows(report, connection, settings, tenancy, listing)
        contents.check(report, connection, tenancy)
        tenants.check(report, connection, settings, listing)
    assert [finding.detail for finding in report.findings if "planted" in finding.detail] == []
