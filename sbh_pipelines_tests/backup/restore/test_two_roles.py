"""Backups by a role that only reads, restores by another: `restore.dsn`."""

from collections.abc import Iterator
from contextlib import closing

import pytest
from psycopg2.extensions import make_dsn

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.doctor import database
from sbh_pipelines.doctor.findings import Report
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.databases import Database
from sbh_pipelines_tests.support.restore.platform import PROGRAMS

READER = "sbh_only_reads"
PASSWORD = "only reads"


@pytest.fixture
def settings(application: Application) -> Iterator[Settings]:
    made: Database = application.database
    made.run(
        f"CREATE ROLE {READER} LOGIN BYPASSRLS PASSWORD '{PASSWORD}'; GRANT pg_read_all_data TO {READER}",
        f"GRANT CREATE, TEMPORARY ON DATABASE {made.name} TO sbh_backup; REVOKE ALL ON DATABASE {made.name} FROM PUBLIC",
        f"GRANT CONNECT ON DATABASE {made.name} TO {READER}, sbh_backup",
    )
    dsn = application.settings.database.dsn
    yield application.configured(
        database={"dsn": make_dsn(dsn, user=READER), "password": PASSWORD},
        restore={"dsn": dsn, "safety_backup": True, "before": [{"sql": "UPDATE tenants SET tier = tier"}]},
        platform=PROGRAMS,
    )
    made.run(f"REVOKE ALL ON DATABASE {made.name} FROM {READER}", f"DROP OWNED BY {READER}", f"DROP ROLE {READER}")


def test_each_does_what_is_its(application: Application, settings: Settings) -> None:
    """Everything works; the one that reads holds no other privilege, nor may it make a temporary table."""
    service = BackupService(settings)
    service.backups.create_all([ACME, BOLT], ADMIN)
    service.platform.create(ADMIN)
    before = application.state(ACME)
    application.wreck(ACME)
    wrecked = application.state(ACME)
    service.backups.create(ACME, ADMIN, "incremental")
    (first, *_) = [m.id for m in reversed(service.backups.of(ACME, ADMIN))]
    assert service.restores.plan(first, ACME, ADMIN).tables
    done = service.restores.run(first, ACME, ADMIN)
    assert application.state(ACME).rows == before.rows
    service.restores.undo(done.restore_id, ACME, ADMIN)
    assert application.state(ACME).rows == wrecked.rows
    look = service.restores.into_schema(first, ACME, ADMIN)
    assert service.restores.drop_look(look.schema, ACME, ADMIN).dropped == (look.schema,)


def _complaints(settings: Settings) -> list[str]:
    report = Report()
    database.check(report, settings, lambda _: None)
    return [f"{found.level} {found.what}" for found in report.findings if found.level != "ok" and "role" in found.what]


def test_doctor_asks_each_for_its_own(application: Application, settings: Settings) -> None:
    assert _complaints(settings) == []
    application.database.run(f"GRANT pg_write_all_data TO {READER}")
    (warning,) = _complaints(settings)
    assert f"{READER} may write 4 tables" in warning
    application.database.run(
        f"REVOKE pg_write_all_data FROM {READER}; REVOKE TEMPORARY ON DATABASE {application.database.name} FROM sbh_backup"
    )
    (error,) = _complaints(settings)
    assert "sbh_backup may not create temporary tables" in error
    with closing(application.database.connect()) as connection:
        connection.cursor().execute(f"GRANT TEMPORARY ON DATABASE {application.database.name} TO sbh_backup")
