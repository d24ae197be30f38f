"""Tenants whose backups are from before a migration, into the schema that a platform backup made after it has."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import make_dsn

from sbh_pipelines.backup.recover.recovery import RecoveryReport
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import SchemaMismatch
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.databases import Database, fresh_database
from sbh_pipelines_tests.support.restore.platform import PROGRAMS, content

BEFORE = r"""
CREATE TABLE legacy (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, body text);
CREATE TABLE tasks (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, title text, at timestamp, old text, n int,
    shout text, weight numeric(8, 2));
CREATE TABLE tags (tenant_id int NOT NULL REFERENCES tenants, old_key int, word text, PRIMARY KEY (tenant_id, old_key));
INSERT INTO legacy SELECT n, 1 + n % 2, 'legacy ' || n FROM generate_series(1, 6) n;
INSERT INTO tasks SELECT n, 1 + n % 2, E'tab\t back\\slash ' || n, timestamp '2024-01-01' + n * interval '1 day', 'gone', n, 'x', n
    FROM generate_series(1, 50) n;
INSERT INTO tags SELECT 1 + n % 2, n, nullif('word ' || n % 3, 'word 0') FROM generate_series(1, 20) n;
"""
MIGRATION = """
DROP TABLE legacy;
ALTER TABLE projects DROP COLUMN body;
ALTER TABLE tasks DROP COLUMN old, ALTER COLUMN at TYPE timestamptz USING at AT TIME ZONE 'UTC', ALTER COLUMN n TYPE bigint;
ALTER TABLE tasks DROP COLUMN shout;
ALTER TABLE tasks ADD COLUMN shout text GENERATED ALWAYS AS (upper(title)) STORED, ADD COLUMN done bool NOT NULL DEFAULT false;
ALTER TABLE tasks RENAME COLUMN title TO name; ALTER TABLE tasks RENAME TO jobs;
ALTER TABLE tags DROP CONSTRAINT tags_pkey, ADD COLUMN id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, DROP COLUMN old_key;
ALTER TABLE tenants DROP COLUMN settings;
"""
RENAMED = {"tasks": "jobs", "tasks.title": "name"}


@pytest.fixture
def application(embedded_stack: Stack, tmp_path: Path) -> Iterator[Application]:
    with fresh_database(embedded_stack) as database:
        made = Application(database, tmp_path)
        made.create()
        database.run(BEFORE)
        yield made


def _service(application: Application, **more: Any) -> BackupService:
    server = make_dsn(application.database.stack.dsn(postgres.BACKUP), dbname="postgres")
    return application.service(platform=PROGRAMS, drill={"dsn": server}, **more)


def _recovered(service: BackupService, target: Database, **options: Any) -> RecoveryReport:
    dsn = make_dsn(target.stack.dsn(postgres.ADMIN), dbname=target.name)
    return service.platform.recover(dsn, ADMIN, confirm=True, files=False, **options)


def test_what_was_dropped_since_is_left_out_and_told(application: Application, embedded_stack: Stack) -> None:
    """As after a restore in place that accepts schema changes; what a rename or a new type became is the migrated database's."""
    service = _service(application, restore={"safety_backup": False, "renamed": RENAMED})
    service.backups.create_all([ACME, BOLT], ADMIN)
    application.database.run("UPDATE tasks SET n = n + 100 WHERE id % 7 = 0; DELETE FROM tasks WHERE id = 9")
    service.backups.create_all([ACME, BOLT], ADMIN, "incremental")
    application.database.run(MIGRATION)
    service.platform.create(ADMIN)
    with fresh_database(embedded_stack) as target:
        report = _recovered(service, target)
        assert report.status == "completed", [line.error for line in report.tenants]
        found, wanted = content(target), content(application.database)
        # New numbers are given in the order in which rows come.
        assert _words(target) == _words(application.database)
        for name in ("public.tags", "public.tags_id_seq"):
            del found[name], wanted[name]
        assert found == wanted
        told = {(c.table, c.column, c.change) for line in report.tenants for c in line.schema_changes}
    for change in (
        ("public.legacy", None, "dropped table"),
        ("public.projects", "body", "dropped column"),
        ("public.jobs", "old", "dropped column"),
        ("public.jobs", "at", "retyped column"),
        ("public.jobs", None, "renamed table"),
        ("public.tenants", "settings", "dropped column"),
        ("public.tags", "old_key", "dropped column"),
    ):
        assert change in told
    record = service.drills.run(ACME, ADMIN, scenarios=["database corruption", "configuration error"])
    assert record.status == "passed", record.error
    assert "public.projects.body: dropped column" in {one.what for one in record.left_out}


def _words(database: Database) -> list[tuple[Any, ...]]:
    return database.ask("SELECT tenant_id, word, count(*) FROM tags GROUP BY 1, 2 ORDER BY 1, 2")


def test_what_came_since_is_left_out_only_where_that_is_accepted(
    application: Application, embedded_stack: Stack
) -> None:
    service = _service(application)
    service.platform.create(ADMIN)
    service.backups.create_all([BOLT], ADMIN)
    application.database.run("ALTER TABLE notes ADD COLUMN colour text DEFAULT 'red'")
    service.backups.create_all([ACME], ADMIN)
    with fresh_database(embedded_stack) as target:
        report = _recovered(service, target)
        (acme, _) = report.tenants
        assert (report.status, acme.status) == ("incomplete", "failed")
        assert acme.error is not None
        assert ("public.notes.colour" in acme.error.why, "--accept-schema-changes" in acme.error.remedy) == (True, True)
        again = _recovered(service, target, accept_schema_changes=True)
        assert again.status == "completed"
        assert target.ask("SELECT count(*) FROM notes") == application.database.ask("SELECT count(*) FROM notes")
    record = service.drills.run(ACME, ADMIN, scenarios=["database corruption"])
    assert record.error is not None
    assert "sbh platform backup" in record.error.remedy
    service.platform.create(ADMIN)
    assert service.drills.run(ACME, ADMIN, scenarios=["database corruption"]).status == "passed"


def test_what_cannot_be_says_the_setting(application: Application, embedded_stack: Stack) -> None:
    """A new column that has no value for rows from before."""
    service = _service(application)
    service.backups.create_all([ACME], ADMIN)
    application.database.run("ALTER TABLE notes ADD COLUMN size int NOT NULL DEFAULT 1")
    application.database.run("ALTER TABLE notes ALTER COLUMN size DROP DEFAULT")
    service.platform.create(ADMIN)
    with fresh_database(embedded_stack) as target:
        with pytest.raises(SchemaMismatch, match=r"restore\.fill"):
            _recovered(service, target, tenants=[ACME])
        filled = _service(application, restore={"fill": {"notes.size": "7"}})
        assert _recovered(filled, target, tenants=[ACME]).status == "completed"
        assert target.ask("SELECT DISTINCT size FROM notes") == [(7,)]
