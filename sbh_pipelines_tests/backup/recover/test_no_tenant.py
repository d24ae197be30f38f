"""Rows that have no tenant, in tables of tenants: they are in the platform backup, and come back with it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import make_dsn

from sbh_pipelines.backup.recover.recovery import RecoveryReport
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.databases import Database, fresh_database
from sbh_pipelines_tests.support.restore.platform import PROGRAMS, content

# Built-in roles with what hangs on them, a tenant's own roles; rows that lost their parent; a table without a key; a polymorphic one.
TABLES = r"""
CREATE TABLE roles (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant_id int REFERENCES tenants, name text UNIQUE,
    upper_name text GENERATED ALWAYS AS (upper(name)) STORED);
CREATE TABLE rights (id int PRIMARY KEY, role_id int NOT NULL REFERENCES roles, word text);
CREATE TABLE members (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, role_id int NOT NULL REFERENCES roles);
CREATE TABLE comments (id int PRIMARY KEY, project_id int REFERENCES projects ON DELETE SET NULL, body text);
CREATE TABLE prices (tenant_id int, price numeric, note text);
CREATE TABLE versions (id int PRIMARY KEY, item_type text, item_id int, body text);
INSERT INTO roles (tenant_id, name) VALUES (NULL, 'Admin \ tab	'), (1, 'Custom'), (NULL, 'Reader'), (2, 'Theirs');
INSERT INTO rights VALUES (1, 1, 'all'), (2, 2, 'some'), (3, 3, NULL);
INSERT INTO members VALUES (1, 1, 1), (2, 1, 2), (3, 2, 1), (4, 2, 4);
INSERT INTO comments VALUES (1, 1, 'of a project'), (2, NULL, 'of none');
INSERT INTO prices VALUES (NULL, 1.50, NULL), (NULL, 1.50, NULL), (1, 2, 'own');
INSERT INTO versions VALUES (1, 'Project', 1, 'v1'), (2, 'Project', 99999, 'of a project that is gone');
"""
DATABASE = {
    "links": [{"table": "versions", "parent": "projects", "join": "t.item_type = 'Project' AND t.item_id = p.id"}]
}
OF_NOBODY = {"public.roles": 2, "public.rights": 2, "public.comments": 1, "public.prices": 2, "public.versions": 1}


@pytest.fixture
def application(embedded_stack: Stack, tmp_path: Path) -> Iterator[Application]:
    with fresh_database(embedded_stack) as database:
        made = Application(database, tmp_path)
        made.create()
        database.run(TABLES)
        yield made


def _service(application: Application, **more: Any) -> BackupService:
    server = make_dsn(application.database.stack.dsn(postgres.BACKUP), dbname="postgres")
    links = [*DATABASE["links"], {"table": "comments", "via": ["project_id"]}, {"table": "rights", "via": ["role_id"]}]
    return application.service(platform=PROGRAMS, drill={"dsn": server}, database={"links": links, **more})


def _recovered(service: BackupService, target: Database, **options: Any) -> RecoveryReport:
    dsn = make_dsn(target.stack.dsn(postgres.ADMIN), dbname=target.name)
    return service.platform.recover(dsn, ADMIN, confirm=True, files=False, **options)


def test_they_are_counted_and_come_back(application: Application, embedded_stack: Stack) -> None:
    service = _service(application)
    service.backups.create_all([ACME, BOLT], ADMIN)
    manifest = service.platform.create(ADMIN).manifest
    component = manifest.components["no-tenant"]
    assert {one.table: one.rows for one in component.tables} == OF_NOBODY
    assert component.rows == sum(OF_NOBODY.values())
    assert service.platform.validate(ADMIN, deep=True).valid
    with fresh_database(embedded_stack) as target:
        report = _recovered(service, target)
        assert (report.status, report.error, report.foreign_keys_not_valid) == ("completed", None, [])
        assert report.rows_of_no_tenant == OF_NOBODY
        assert content(target) == content(application.database)
    record = service.drills.run(ACME, ADMIN, scenarios=["database corruption", "configuration error"])
    assert record.status == "passed", record.error


def test_a_row_that_became_a_tenants_is_the_tenants(application: Application, embedded_stack: Stack) -> None:
    """Its newer backup has it: the platform backup's stays away, and what hung on it follows."""
    service = _service(application)
    service.platform.create(ADMIN)
    application.database.run("UPDATE roles SET tenant_id = 2, name = 'Reader of bolt' WHERE name = 'Reader'")
    service.backups.create_all([ACME, BOLT], ADMIN)
    with fresh_database(embedded_stack) as target:
        report = _recovered(service, target)
        assert report.status == "completed"
        assert {one.what for one in report.left_out} == {
            "1 rows of public.roles that had no tenant",
            "1 rows of public.rights that had no tenant",
        }
        assert content(target) == content(application.database)


def test_a_recovery_whose_references_are_broken_does_not_end_well(
    application: Application, embedded_stack: Stack
) -> None:
    """It says which rows, and ends when they are mended."""
    service = _service(application)
    service.backups.create_all([ACME, BOLT], ADMIN)
    service.platform.create(ADMIN)
    application.database.run(
        "INSERT INTO roles (tenant_id, name) VALUES (NULL, 'newer'); UPDATE members SET role_id = 5 WHERE id = 3"
    )
    service.create_backup(BOLT, ADMIN)
    with fresh_database(embedded_stack) as target:
        report = _recovered(service, target)
        assert report.status == "references broken"
        assert report.foreign_keys_not_valid == ["public.members: members_role_id_fkey"]
        assert report.error is not None
        assert (report.error.code, report.error.exit_status) == ("SBH-707", 9)
        shown = target.ask(report.error.remedy.split(";")[0])
        assert shown == [(3, 2, 5)]
        target.run("UPDATE members SET role_id = 1 WHERE id = 3")
        again = _recovered(service, target)
        assert (again.status, again.restore_id) == ("completed", report.restore_id)
    record = service.drills.run(BOLT, ADMIN, scenarios=["database corruption"])
    assert record.error is not None
    assert record.error.code == "SBH-705"
    assert service.drills.run(ACME, ADMIN, scenarios=["database corruption"]).status == "passed"


def test_shared_rows_that_refer_to_other_tenants(application: Application, embedded_stack: Stack) -> None:
    """Users of all tenants, with the project that each looked at last: a drill of one tenant has not got the others' projects."""
    application.database.run(
        "CREATE TABLE users (id int PRIMARY KEY, last_project int REFERENCES projects, seen_comment int REFERENCES comments)",
        "CREATE TABLE logins (user_id int REFERENCES users)",
        "INSERT INTO users VALUES (1, (SELECT min(id) FROM projects WHERE tenant_id = 1), 2),"
        " (2, (SELECT min(id) FROM projects WHERE tenant_id = 2), 1)",
    )
    service = _service(application, shared=["users"], excluded=["logins"])
    service.backups.create_all([ACME, BOLT], ADMIN)
    service.platform.create(ADMIN)
    record = service.drills.run(BOLT, ADMIN, scenarios=["database corruption"])
    assert record.status == "passed", record.error
    noted = {one.what: one.why for one in record.left_out}
    assert (
        "1 shared rows refer to rows of public.projects" in noted["FOREIGN KEY public.users: users_last_project_fkey"]
    )
    with fresh_database(embedded_stack) as target:
        assert _recovered(service, target, tenants=[BOLT]).status == "completed"
    with fresh_database(embedded_stack) as target:
        report = _recovered(service, target)
        assert (report.status, report.left_out) == ("completed", [])


def test_rows_that_refer_to_what_is_in_no_backup(application: Application, embedded_stack: Stack) -> None:
    """The remedy is the setting that brings them."""
    application.database.run(
        "CREATE TABLE plans (id int PRIMARY KEY); INSERT INTO plans VALUES (1); ALTER TABLE notes ADD plan int REFERENCES plans DEFAULT 1"
    )
    service = _service(application, excluded=["plans"])
    service.backups.create_all([ACME, BOLT], ADMIN)
    service.platform.create(ADMIN)
    with fresh_database(embedded_stack) as target:
        error = _recovered(service, target).error
        assert error is not None
        assert "in no backup" in error.why
        assert 'add "public.plans" to `shared`' in error.remedy
    record = service.drills.run(BOLT, ADMIN, scenarios=["database corruption"])
    assert record.error is not None
    assert '"public.plans"' in record.error.remedy
