"""Recovery after complete failure: an empty database and the buckets, from backups alone."""

import itertools
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg2.extensions import make_dsn

from sbh_pipelines.backup.recover.recovery import RecoveryReport
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import (
    AccessDenied,
    ApprovalNeeded,
    NotConfirmed,
    PrivilegeMissing,
    RequestError,
    RestoreRefused,
    UnknownBackup,
    UnknownTenant,
)
from sbh_pipelines.model import Progress
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.databases import Database, fresh_database
from sbh_pipelines_tests.support.fault_stores import Killed, nothing, wrap
from sbh_pipelines_tests.support.restore.platform import PROGRAMS, content, files, hard, make_hard, same_definition

COMET = "comet"


@pytest.fixture
def empty(embedded_stack: Stack) -> Iterator[Database]:
    """Where to recover to."""
    with fresh_database(embedded_stack) as made:
        yield made


@pytest.fixture
def service(application: Application) -> BackupService:
    """Of the small application, both tenants and the platform backed up."""
    made = application.service(platform=PROGRAMS)
    made.backups.create_all([ACME, BOLT], ADMIN)
    made.platform.create(ADMIN)
    return made


def dsn(database: Database, role: str = postgres.ADMIN) -> str:
    return str(make_dsn(database.stack.dsn(role), dbname=database.name))


def recover(service: BackupService, target: Database, **options: Any) -> RecoveryReport:
    return service.platform.recover(dsn(target), ADMIN, confirm=True, **options)


def statuses(report: RecoveryReport) -> dict[str, str]:
    return {tenant.tenant_id: tenant.status for tenant in report.tenants}


def add_comet(application: Application) -> None:
    """A third tenant."""
    application.database.run(
        "INSERT INTO tenants VALUES (3, 'comet', 'eu-west-1', NULL, NULL);"
        " INSERT INTO notes VALUES (3, 'of comet'); INSERT INTO projects (tenant_id, code) VALUES (3, 'comet 1')"
    )
    application.write_file(COMET, "new", b"new")


def test_everything_comes_back(application: Application, empty: Database) -> None:
    """Rows, files, the schema to its last comment, sequences, grants; layers of incremental backups, too."""
    make_hard(application)
    service = application.service(**hard())
    service.backups.create_all([ACME, BOLT], ADMIN)
    application.database.run("UPDATE projects SET body = 'later' WHERE id = 3; DELETE FROM items WHERE id % 50 = 1")
    service.backups.create_all([ACME, BOLT], ADMIN, "incremental")
    platform = service.platform.create(ADMIN)
    assert service.platform.validate(ADMIN, deep=True).valid
    before, on_disk = content(application.database), files(application.bucket)
    for tenant in (ACME, BOLT):
        shutil.rmtree(application.bucket / "files" / tenant / "docs")
    application.write_file(ACME, "empty", b"not empty")
    report = recover(service, empty)
    assert (report.status, report.platform_backup) == ("completed", platform.manifest.id)
    assert statuses(report) == {ACME: "restored", BOLT: "restored"}
    after = content(empty)
    assert after.keys() == before.keys()
    assert {name: (before[name], after[name]) for name in before if before[name] != after[name]} == {}
    same_definition(application.database, empty)
    assert files(application.bucket) == on_disk
    assert (report.files, report.foreign_keys_not_valid, report.issues) == (7, [], [])
    assert report.ddl_only == ["public.cache"]
    # The application goes on: identities and sequences give new values, the trigger fires again.
    empty.run(
        "INSERT INTO projects (tenant_id, code) VALUES (1, 'after'); INSERT INTO plans (name) VALUES ('after');"
        " INSERT INTO slots (tenant_id, nr) VALUES (1, 5000)"
    )
    assert empty.ask("SELECT nr FROM slots ORDER BY id DESC LIMIT 1") == [(6000,)]
    assert empty.ask("SELECT count(*) FROM pg_namespace WHERE nspname = 'sbh_recovery'") == [(0,)]
    with pytest.raises(RestoreRefused, match="not empty"):
        recover(service, empty)


def test_a_run_that_dies_between_any_two_steps_goes_on(
    application: Application, service: BackupService, empty: Database
) -> None:
    """Each attempt dies at the first notice of progress that none before it came to; nothing is loaded twice."""
    heard: list[tuple[str, str, int]] = []

    def progress(notice: Progress) -> None:
        point = (notice.step, notice.subject, notice.done)
        if point not in heard:
            heard.append(point)
            raise Killed

    def attempt() -> RecoveryReport | None:
        try:
            return recover(service, empty, progress=progress)
        except Killed:
            return None

    report = next(report for report in iter(attempt, object()) if report is not None)
    assert len(heard) > 20
    assert [subject for step, subject, _ in heard if step == "load"].count(ACME) == 1
    assert (report.status, statuses(report)) == ("completed", {ACME: "restored", BOLT: "restored"})
    assert content(empty) == content(application.database)
    same_definition(application.database, empty)


def test_a_run_that_loses_its_store_anywhere_goes_on(
    application: Application, service: BackupService, empty: Database
) -> None:
    """Within steps, too: what a step did until then is rolled back."""
    attempts = 0
    while True:
        attempts += 1
        left = itertools.count(attempts * 9, -1)

        def before(verb: str, key: str, left: Iterator[int] = left) -> None:
            if next(left) <= 0:
                raise Killed

        try:
            report = recover(wrap(application.service(platform=PROGRAMS), before, nothing), empty)
            break
        except Killed:
            continue
    assert attempts > 4
    assert report.status == "completed"
    assert content(empty) == content(application.database)


_VICTIM = """
import json, os, signal, sys
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.settings import Settings
settings, dsn, step, subject = json.loads(sys.argv[1])
def progress(notice):
    if (notice.step, notice.subject) == (step, subject):
        os.kill(os.getpid(), signal.SIGKILL)
BackupService(Settings(**json.loads(settings))).platform.recover(
    dsn, UserContext("tester", "*", Role.ADMIN), confirm=True, progress=progress)
"""


def test_a_process_that_is_killed_is_taken_over(
    application: Application, service: BackupService, empty: Database
) -> None:
    """SIGKILL: its sessions, and the psql it started, end without a trace."""
    settings = service.settings.model_dump_json()
    for step, subject in (("load", BOLT), ("recovery", "post_data")):
        arguments = json.dumps([settings, dsn(empty), step, subject])
        ended = subprocess.run([sys.executable, "-c", _VICTIM, arguments], check=False, timeout=240)
        assert ended.returncode == -signal.SIGKILL
    assert recover(service, empty).status == "completed"
    assert content(empty) == content(application.database)


def test_damage_to_one_tenant_keeps_nobody_else(application: Application, empty: Database) -> None:
    """An older backup serves where there is one. Where there is none the tenant comes later, past all constraints."""
    make_hard(application)
    application.database.run(
        "UPDATE projects SET lead = (SELECT min(id) FROM projects WHERE tenant_id = 2) WHERE id IN (SELECT max(id) FROM projects WHERE tenant_id = 1)"
    )
    service = application.service(**hard())
    service.backups.create_all([ACME, BOLT], ADMIN)
    service.platform.create(ADMIN)
    before = content(application.database)
    packs = set((application.repository(ACME) / "packs").iterdir())
    application.database.run("INSERT INTO notes SELECT 1, md5(n::text) FROM generate_series(1, 99) n")
    service.backups.create_all([ACME], ADMIN)
    for pack in set((application.repository(ACME) / "packs").iterdir()) - packs:
        body = bytearray(pack.read_bytes())
        body[20] ^= 1  # the size stays: only reading tells
        pack.write_bytes(body)
    away = application.directory / "away"
    shutil.move(application.repository(BOLT) / "packs", away)

    report = recover(service, empty)
    acme, bolt = report.tenants
    assert (report.status, acme.status, bolt.status) == ("incomplete", "restored", "failed")
    assert [passed.code for passed in acme.passed_over] == ["SBH-601"]
    assert (bolt.error.code, bolt.rows) == ("SBH-601", 0)
    assert report.foreign_keys_not_valid == ["public.projects: projects_lead_fkey"]
    assert empty.ask("SELECT DISTINCT tenant_id FROM notes") == [(1,)]
    assert empty.ask("SELECT count(*) FROM pg_indexes WHERE indexname = 'slots idx %'") == [(1,)]

    shutil.move(away, application.repository(BOLT) / "packs")
    empty.run("UPDATE slots SET nr = 1 WHERE id = (SELECT max(id) FROM slots)")  # which is one of the missing tenant's
    refused = recover(service, empty).tenants[1]
    assert (refused.status, refused.error.code) == ("failed", "SBH-701")
    assert "nr once" in refused.error.on

    empty.run("UPDATE slots SET nr = 30 WHERE nr = 1")
    again = recover(service, empty)
    assert (again.status, again.restore_id, again.foreign_keys_not_valid) == (
        "completed",
        report.restore_id,
        [],
    )
    after = content(empty)
    assert {name for name in before if before[name] != after[name]} == set()
    same_definition(application.database, empty)


def test_tenants_that_came_and_went(application: Application, service: BackupService, empty: Database) -> None:
    """One that is younger than the platform backup is recovered, one that was deleted before is not."""
    add_comet(application)
    service.backups.create_all([COMET], ADMIN)
    application.database.run(
        "UPDATE projects SET lead = NULL WHERE tenant_id = 2; DELETE FROM items WHERE project_id IN (SELECT id FROM projects WHERE tenant_id = 2);"
        " DELETE FROM projects WHERE tenant_id = 2; DELETE FROM notes WHERE tenant_id = 2; DELETE FROM tenants WHERE id = 2"
    )
    shutil.rmtree(application.bucket / "files" / COMET / "new", ignore_errors=True)
    assert statuses(recover(service, empty)) == {ACME: "restored", BOLT: "restored", COMET: "restored"}
    with fresh_database(empty.stack) as second:
        service.platform.create(ADMIN)
        assert statuses(recover(service, second)) == {ACME: "restored", COMET: "restored"}
        assert content(second) == content(application.database)


def test_everything_as_of_a_time(application: Application, service: BackupService, empty: Database) -> None:
    """Each tenant's newest backup at or before it, and the platform backup of then; a tenant that was not there yet is not."""
    then, before = datetime.now(UTC), content(application.database)
    application.wreck(ACME)
    add_comet(application)
    service.backups.create_all([ACME, COMET], ADMIN)
    service.platform.create(ADMIN)
    report = recover(service, empty, until=then, tenants=[ACME, BOLT])
    assert report.status == "completed"
    assert content(empty) == before
    with fresh_database(empty.stack) as second, pytest.raises(UnknownBackup, match="no backup to recover from"):
        recover(service, second, until=datetime.now(UTC) - timedelta(hours=1))
    with fresh_database(empty.stack) as second:
        assert statuses(recover(service, second, until=then)) == {ACME: "restored", BOLT: "restored"}
        assert content(second) == before


def test_a_schema_that_changed_after_the_platform_backup(
    application: Application, service: BackupService, empty: Database
) -> None:
    """A tenant whose backup has a column more is not recovered from it, and that is said; its state before the change is."""
    then, before = datetime.now(UTC), application.state(ACME)
    application.database.run("ALTER TABLE notes ADD COLUMN colour text DEFAULT 'red'")
    service.backups.create_all([ACME], ADMIN)
    report = recover(service, empty)
    assert (report.status, statuses(report)) == ("incomplete", {ACME: "failed", BOLT: "restored"})
    assert report.tenants[0].error.code == "SBH-305"
    assert "colour" in report.tenants[0].error.why
    again = recover(service, empty, until=then)
    assert (again.status, statuses(again)) == ("completed", {ACME: "restored", BOLT: "restored"})
    assert Application(empty, application.directory).state(ACME).rows == before.rows


def test_a_backup_that_is_named(application: Application, service: BackupService, empty: Database) -> None:
    before, first = application.state(BOLT), service.list_backups(BOLT, ADMIN)[0]["id"]
    application.wreck(BOLT)
    service.backups.create_all([BOLT], ADMIN)
    report = recover(service, empty, tenants=[f"{BOLT}={first}"])
    assert [(t.tenant_id, t.backup_id) for t in report.tenants] == [(BOLT, first)]
    assert Application(empty, application.directory).state(BOLT).rows == before.rows


def test_one_tenant_into_a_throw_away_database(application: Application, embedded_stack: Stack) -> None:
    """By a role that may not create roles, nor give its tables to others, and owns no more than the database."""
    make_hard(application)
    service = application.service(**hard())
    service.backups.create_all([ACME], ADMIN)
    service.platform.create(ADMIN)
    with fresh_database(embedded_stack) as place:
        application.database.run(f"ALTER DATABASE {place.name} OWNER TO {postgres.BACKUP}")
        place.run("CREATE EXTENSION vector")  # which takes a superuser
        report = service.platform.recover(place.dsn, ADMIN, tenants=[ACME], files=False, owners=False, confirm=True)
        assert (report.status, report.foreign_keys_not_valid) == ("completed", [])
        assert Application(place, application.directory).state(ACME).rows == application.state(ACME).rows
        assert place.ask("SELECT DISTINCT tenant_id FROM slots") == [(1,)]
        assert place.ask("SELECT count(*) FROM plans") == [(9,)]
        assert place.ask("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal") == [(1,)]
    with fresh_database(embedded_stack) as place:
        application.database.run(f"ALTER DATABASE {place.name} OWNER TO {postgres.BACKUP}")
        with pytest.raises(PrivilegeMissing, match="superuser"):
            service.platform.recover(place.dsn, ADMIN, tenants=[ACME], confirm=True)


def test_files_go_over_live_ones_with_a_second_person_or_a_reason(
    application: Application, service: BackupService, empty: Database
) -> None:
    """A recovery of the platform is no way around approvals: rows go into an empty database, files over what is there."""
    strict = application.service(platform=PROGRAMS, approval={"restore": "two-person"})
    nobody = ["nobody"]  # found out after the permission
    with pytest.raises(ApprovalNeeded, match="--no-files"):
        recover(strict, empty, tenants=nobody)
    with pytest.raises(RequestError, match="reason"):
        recover(strict, empty, tenants=nobody, break_glass=" ")
    closed = {"restore": "two-person", "break_glass": False}
    with pytest.raises(ApprovalNeeded, match="break_glass is off"):
        recover(application.service(platform=PROGRAMS, approval=closed), empty, tenants=nobody, break_glass="fire")
    assert strict.audit.events(ADMIN, "*", event="restore.break_glass").events == []
    with pytest.raises(UnknownTenant):
        recover(strict, empty, tenants=nobody, files=False)
    with pytest.raises(UnknownTenant):
        recover(strict, empty, tenants=nobody, break_glass="the bucket burns")
    (told,) = strict.audit.events(ADMIN, "*", event="restore.break_glass").events
    assert (told.user_id, told.props["reason"]) == (ADMIN.user_id, "the bucket burns")


def test_what_is_refused(application: Application, service: BackupService, empty: Database) -> None:
    """Without confirmation, by a tenant's own user, into a database of another encoding."""
    with pytest.raises(NotConfirmed):
        service.platform.recover(dsn(empty), ADMIN)
    with pytest.raises(UnknownTenant):
        recover(service, empty, tenants=["nobody"])
    for user in (UserContext("u", ACME, Role.ADMIN), UserContext("u", "*", Role.OPERATOR)):
        with pytest.raises(AccessDenied):
            service.platform.recover(dsn(empty), user, confirm=True)
        with pytest.raises(AccessDenied):
            service.platform.create(user)
    odd = f"{empty.name}_odd"
    empty.run(f"CREATE DATABASE {odd} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    try:
        with pytest.raises(RestoreRefused, match="encoding"):
            recover(service, Database(empty.stack, odd))
    finally:
        empty.run(f"DROP DATABASE {odd} WITH (FORCE)")
    assert empty.ask("SELECT count(*) FROM pg_namespace WHERE nspname = 'sbh_recovery'") == [(0,)]
