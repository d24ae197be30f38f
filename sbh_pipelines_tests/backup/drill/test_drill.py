"""Drills of a small application on real servers: what they prove, what they find, and what they leave alone."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import make_dsn

from sbh_pipelines.backup.drill import files_part as drill_files
from sbh_pipelines.backup.drill import proof as drill_proof
from sbh_pipelines.backup.drill.records import DrillRecord, ScenarioResult
from sbh_pipelines.backup.drill.scenarios import SCENARIOS
from sbh_pipelines.backup.recover import recovery as rebuild
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.document import as_document
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import (
    AccessDenied,
    PrivilegeMissing,
    ProofFailed,
    RequestError,
    SourceUnavailable,
    StoreUnavailable,
    UnknownBackup,
)
from sbh_pipelines.model import Progress, utc_now
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.databases import fresh_database
from sbh_pipelines_tests.support.own_server import wait_for

PROGRAMS = {"pg_dump": str(postgres.binaries() / "pg_dump"), "psql": str(postgres.binaries() / "psql")}
ASSERTIONS = [
    "SELECT count(*) = 20 FROM projects WHERE tenant_id = :tenant",
    "SELECT NOT EXISTS (SELECT FROM items i JOIN projects p ON p.id = i.project_id WHERE p.tenant_id::text <> :tenant::text)",
]
CONFIG = ["configuration error"]
FILES = ["file system loss"]
DATABASE = ["database corruption"]


@pytest.fixture(scope="module")
def application(embedded_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """Two tenants and the platform, backed up; no test changes what lives."""
    with fresh_database(embedded_stack) as database:
        made = Application(database, tmp_path_factory.mktemp("drills"))
        made.create()
        service = drilling(made)
        service.backups.create_all([ACME, BOLT], ADMIN)
        service.platform.create(ADMIN)
        yield made


def server(application: Application, role: str = postgres.ADMIN) -> str:
    return make_dsn(application.database.stack.dsn(role), dbname="postgres")


def drilling(application: Application, clock: Any = utc_now, **drill: Any) -> BackupService:
    """The service of a site that may create databases."""
    settings = {"dsn": server(application), "assertions": ASSERTIONS, **drill}
    return application.service(clock=clock, platform=PROGRAMS, drill=settings)


@pytest.fixture
def service(application: Application) -> BackupService:
    return drilling(application)


def databases(application: Application) -> set[str]:
    """Those of drills, and those that look alike."""
    return {str(name) for (name,) in application.database.ask("SELECT datname FROM pg_database") if "drill" in name}


def manage(application: Application, *statements: str) -> None:
    with closing(psycopg2.connect(server(application))) as connection:
        connection.autocommit = True
        for statement in statements:
            connection.cursor().execute(statement)


def by_name(record: DrillRecord) -> dict[str, ScenarioResult]:
    return {one.scenario: one for one in record.scenarios}


def test_a_drill_proves_every_scenario_and_leaves_nothing_behind(
    application: Application, service: BackupService
) -> None:
    """What lives is as it was; the numbers are those of the live database, counted without the engine."""
    before = [application.state(tenant) for tenant in (ACME, BOLT)]
    record = service.drills.run(ACME, ADMIN)
    assert [application.state(tenant) for tenant in (ACME, BOLT)] == before
    assert databases(application) == set()
    assert (record.status, record.error, record.drilled_by) == ("passed", None, "tester")
    found = by_name(record)
    assert list(found) == list(SCENARIOS)
    assert all(one.met and one.margin_s == round(one.objective_s - one.seconds, 3) for one in found.values())
    rows = sum(text.count(b"\n") for text in before[0].rows.values())
    files = before[0].files
    keys = application.database.ask("SELECT count(*) FROM pg_constraint WHERE contype = 'f'")
    assert found["database corruption"].rows == found["complete failure"].rows == rows
    assert found["database corruption"].proof["foreign_keys"] == keys[0][0]
    assert found["database corruption"].proof["assertions"] == len(ASSERTIONS)
    assert found["file system loss"].files == found["complete failure"].files == len(files)
    assert found["file system loss"].bytes == sum(map(len, files.values()))
    assert found["configuration error"].rows == 1  # the tenant's own row
    longest = found["database corruption"].seconds + found["file system loss"].seconds
    assert found["complete failure"].seconds == pytest.approx(longest, abs=0.002)
    assert 0 <= record.recovery_point_age_s < 3600
    assert record.recovery_point_objective_s == 3600
    (stored,) = [one for one in service.drills.of(ACME, ADMIN) if one.drill_id == record.drill_id]
    assert as_document(stored) == json.loads(json.dumps(as_document(record)))


def test_configuration_that_belongs_to_the_tenant_by_other_rows(application: Application) -> None:
    """`items` are the tenant's by their projects, which this scenario does not bring back."""
    site = {"platform": PROGRAMS, "drill": {"dsn": server(application)}, "database": {"config_tables": ["items"]}}
    service = application.service(**site)
    service.create_backup(ACME, ADMIN)
    record = service.drills.run(ACME, ADMIN, scenarios=CONFIG)
    assert record.error is None
    assert record.scenarios[0].rows == 1 + application.state(ACME).rows["items"].count(b"\n")
    drilling(application).create_backup(ACME, ADMIN)  # the latest is of the other tests' settings again


def test_a_changed_record_is_shown_as_damaged(application: Application, service: BackupService) -> None:
    drill = service.drills.run(BOLT, ADMIN, scenarios=FILES).drill_id
    file = application.repository(BOLT) / "drills" / f"{drill}.json"
    file.write_bytes(file.read_bytes().replace(b'"passed"', b'"failed"'))
    (listed,) = [record for record in service.drills.of(BOLT, ADMIN) if record.drill_id == drill]
    assert (listed.status, listed.error.code) == ("damaged", "SBH-601")
    (issue,) = service.drills.report(ADMIN, [BOLT]).issues
    assert drill in issue.on
    file.unlink()


def test_a_damaged_pack_fails_the_drill_and_is_recorded(application: Application, service: BackupService) -> None:
    """The backup before it is sound, and is not taken in its stead: this one is on trial. What is sound of it passes."""
    folder = application.repository(BOLT) / "packs"
    before = set(folder.iterdir())
    application.database.run("UPDATE projects SET body = body || '!' WHERE tenant_id = 2")
    last = service.create_backup(BOLT, ADMIN)["id"]
    packs = {pack: pack.read_bytes() for pack in set(folder.iterdir()) - before}
    try:
        for pack, body in packs.items():
            pack.write_bytes(bytes(len(body)))
        record = service.drills.run(BOLT, ADMIN)
    finally:
        for pack, body in packs.items():
            pack.write_bytes(body)
    assert (record.status, record.backup_id) == ("failed", last)
    assert record.error.code in ("SBH-601", "SBH-602")  # damage may look like a newer format
    assert [(one.status, one.met) for one in record.scenarios] == [
        ("failed", False), ("failed", False), ("passed", True), ("passed", True),
    ]  # fmt: skip
    assert databases(application) == set()
    assert record.drill_id in [one.drill_id for one in service.drills.of(BOLT, ADMIN)]
    failed = service.drills.report(ADMIN, [BOLT]).recovery_time[1]
    assert (failed.met, failed.failed[0].drill_id) == (False, record.drill_id)
    assert service.drills.run(BOLT, ADMIN, scenarios=DATABASE).status == "passed"


def test_an_assertion_that_does_not_hold_fails_the_drill_without_a_row(application: Application) -> None:
    """All that fail are named; neither what they gave nor what the server quoted of a row is told."""
    wrong = [
        "SELECT true",
        "SELECT count(*) > 1000 FROM projects",
        "SELECT body::int = 1 FROM projects",
        "SELECT body FROM projects ORDER BY id LIMIT 1",
        "SELECT true WHERE false",
        "DELETE FROM items RETURNING true",
    ]
    service = drilling(application, assertions=wrong)
    record = service.drills.run(ACME, ADMIN, scenarios=[*DATABASE, *FILES])
    found = by_name(record)
    assert (found["database corruption"].status, found["file system loss"].status) == ("failed", "passed")
    error = record.error
    assert error.code == "SBH-705"
    assert [n for n in range(len(wrong)) if f"drill.assertions[{n}]" in error.on] == [1, 2, 3, 4, 5]
    assert "22P02" in error.why
    bodies = [body for (body,) in application.database.ask("SELECT body FROM projects")]
    assert not any(body in json.dumps(as_document(record)) for body in bodies)
    assert databases(application) == set()


def test_a_row_that_refers_to_what_is_nobodys_fails_the_drill(application: Application, service: BackupService) -> None:
    """A reference into another tenant would not hold after a restore of this one."""
    change = "UPDATE projects SET lead = {} WHERE id = (SELECT max(id) FROM projects WHERE tenant_id = 2)"
    application.database.run(change.format("(SELECT min(id) FROM projects WHERE tenant_id = 1)"))
    try:
        service.create_backup(BOLT, ADMIN)
        record = service.drills.run(BOLT, ADMIN, scenarios=DATABASE)
    finally:
        application.database.run(change.format("id - 2"))
        service.create_backup(BOLT, ADMIN)
    assert (record.error.code, "projects_lead_fkey" in record.error.on) == ("SBH-705", True)


def test_a_damaged_platform_backup_that_could_be_got_over_is_told(
    application: Application, service: BackupService
) -> None:
    newest = service.platform.create(ADMIN).manifest.id
    manifest = application.bucket / "_sbh-platform" / "manifests" / f"{newest}.json"
    manifest.write_bytes(b"{}")
    record = service.drills.run(ACME, ADMIN, scenarios=CONFIG)
    manifest.unlink()
    assert record.status == "passed"
    (issue,) = record.issues
    assert newest in issue.on


@pytest.mark.parametrize(
    ("module", "name", "code"),
    [
        (rebuild, "prove_tenant", "SBH-702"),
        (drill_proof, "count_rows", "SBH-705"),
        (drill_files, "read_files", "SBH-705"),
    ],
)
def test_what_is_not_proved_fails_the_drill(
    application: Application, service: BackupService, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, code: str
) -> None:
    """A proof that fails, a row too few, a file too few."""

    def broken(*arguments: Any) -> Any:
        if module is rebuild:
            raise ProofFailed("The rows read back are not the backup's", on="items")
        return 0 if module is drill_proof else iter(())

    monkeypatch.setattr(module, name, broken)
    record = service.drills.run(ACME, ADMIN, scenarios=FILES if module is drill_files else DATABASE)
    assert (record.status, record.error.code) == ("failed", code)
    assert databases(application) == set()


def test_what_may_pass_by_itself_is_raised_and_not_recorded(
    application: Application, service: BackupService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that is gone for a moment says nothing of the backup."""

    def gone(*_: Any) -> Any:
        raise StoreUnavailable("Cannot reach the store", on="packs/x")

    before = len(service.drills.of(ACME, ADMIN))
    monkeypatch.setattr(drill_proof, "count_rows", gone)
    with pytest.raises(StoreUnavailable):
        service.drills.run(ACME, ADMIN, scenarios=DATABASE)
    assert databases(application) == set()
    assert len(service.drills.of(ACME, ADMIN)) == before


def _dies_while_proving(settings: str) -> None:
    """In the process that is to die."""
    service = BackupService(Settings.model_validate_json(settings))

    def progress(notice: Progress) -> None:
        if notice.step == "drill: prove":
            os.kill(os.getpid(), signal.SIGKILL)

    service.drills.run(ACME, ADMIN, scenarios=DATABASE, progress=progress)


def test_what_a_killed_drill_left_is_dropped_by_the_next_one_and_nothing_else(application: Application) -> None:
    """It holds a tenant's rows. A database of another name, and one that somebody works in, stay."""
    code = "import sys; from sbh_pipelines_tests.backup.drill.test_drill import _dies_while_proving as f; f(sys.stdin.read())"
    settings = drilling(application).settings.model_dump_json()
    ended = subprocess.run([sys.executable, "-c", code], input=settings, capture_output=True, text=True, timeout=240)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    (left,) = databases(application)
    used, unused = "sbh_drill_20200101_000000_abcdef", f"sbh_drill_{utc_now():%Y%m%d_%H%M%S}_abcdef"
    strange = [f"sbh_drill_20200101_000000_{name}" for name in ("abcdef_2", "ABCDEF")]
    others = {used, *strange}
    manage(application, *(f'CREATE DATABASE "{name}"' for name in {*others, unused}))
    try:
        with closing(psycopg2.connect(make_dsn(server(application), dbname=used))):
            wait_for(lambda: not _sessions(application, left), "the server to notice")
            drilling(application).drills.run(ACME, ADMIN, scenarios=CONFIG)
        assert databases(application) == others
    finally:
        manage(application, *(f'DROP DATABASE IF EXISTS "{name}"' for name in {left, unused, *others}))


def _sessions(application: Application, name: str) -> bool:
    query = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = %s)"
    return bool(application.database.ask(query, (name,))[0][0])


def test_a_drill_whose_connections_are_cut_leaves_nothing_behind(
    application: Application, service: BackupService
) -> None:
    """All of its sessions are ended in the middle; it says so, and its database is gone."""
    before = len(service.drills.of(ACME, ADMIN))
    with pytest.raises(SourceUnavailable):
        _cut(service, application)
    assert databases(application) == set()
    assert len(service.drills.of(ACME, ADMIN)) == before


def _cut(service: BackupService, application: Application) -> None:
    def progress(notice: Progress) -> None:
        if (notice.step, notice.subject) == ("recovery", "post_data"):
            manage(
                application, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'sbh_drill%'"
            )

    service.drills.run(ACME, ADMIN, scenarios=DATABASE, progress=progress)


def test_two_drills_at_once_do_not_disturb_each_other(application: Application, service: BackupService) -> None:
    """One of them with the tenant's oldest backup."""
    asked = [(ACME, "latest"), (BOLT, service.list_backups(BOLT, ADMIN)[-1]["id"])]
    with ThreadPoolExecutor(2) as pool:
        drills = [pool.submit(service.drills.run, t, ADMIN, backup_id=b, scenarios=DATABASE) for t, b in asked]
        records = [drill.result() for drill in drills]
    assert [(r.tenant_id, r.error) for r in records] == [(ACME, None), (BOLT, None)]
    assert records[1].backup_id == asked[1][1]
    assert databases(application) == set()


def test_a_drill_that_cannot_begin_says_why_and_records_nothing(
    application: Application, service: BackupService
) -> None:
    before = len(service.drills.of(ACME, ADMIN))
    with pytest.raises(UnknownBackup, match="backup_20200101_0000"):
        service.drills.run(ACME, ADMIN, backup_id="backup_20200101_0000")
    with pytest.raises(RequestError, match="Not a scenario"):
        service.drills.run(ACME, ADMIN, scenarios=["flood"])
    with pytest.raises(AccessDenied):
        service.drills.run(ACME, UserContext("op", ACME, Role.OPERATOR))
    lesser = drilling(application, dsn=server(application, postgres.OWNER))
    with pytest.raises(PrivilegeMissing, match="CREATEDB"):
        lesser.drills.run(ACME, ADMIN, scenarios=CONFIG)
    assert lesser.drills.run(ACME, ADMIN, scenarios=FILES).status == "passed"  # needs no database
    bare = application.service(platform={"prefix": "_elsewhere/"})
    with pytest.raises(UnknownBackup, match="sbh platform backup"):
        bare.drills.run(ACME, ADMIN)
    assert len(service.drills.of(ACME, ADMIN)) == before + 1


def test_a_disk_without_room_is_told(
    application: Application, service: BackupService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drill_files, "_SPARE", 1 << 60)
    monkeypatch.setattr(drill_files, "_SMALL", 0)
    record = service.drills.run(ACME, ADMIN, scenarios=FILES)
    assert record.error.code == "SBH-701"
    assert "TMPDIR" in record.error.remedy


def test_those_drilled_longest_ago_are_next(application: Application) -> None:
    """Never drilled first, and of those the first by name; whoever has no backup is passed over."""
    application.database.run("INSERT INTO tenants VALUES (3, 'aaron', 'eu-west-1', 'archive', NULL)")
    try:
        service = drilling(application, tenants_per_drill=2)
        now = utc_now()
        for tenant in (ACME, BOLT):
            for record in (application.repository(tenant) / "drills").glob("*"):
                record.unlink()
        assert service.drills.candidates(ADMIN) == [ACME, BOLT]
        assert service.drills.candidates(ADMIN, 1) == [ACME]
        drilling(application, clock=lambda: now - timedelta(days=2)).drills.run(ACME, ADMIN, scenarios=FILES)
        assert service.drills.candidates(ADMIN) == [BOLT, ACME]
        drilling(application, clock=lambda: now - timedelta(days=1)).drills.run(BOLT, ADMIN, scenarios=FILES)
        assert service.drills.candidates(ADMIN) == [ACME, BOLT]
        with pytest.raises(AccessDenied):
            service.drills.candidates(UserContext("one", ACME, Role.ADMIN))
    finally:
        application.database.run("DELETE FROM tenants WHERE id = 3")


def test_the_newest_backup_is_drilled_into_the_newest_schema_after_a_restore(application: Application) -> None:
    """The safety backup of a restore is newer, and makes no old one of it."""
    service = application.service(
        platform=PROGRAMS, drill={"dsn": server(application)}, restore={"safety_backup": True}
    )
    application.database.run("CREATE TABLE later (tenant_id int NOT NULL REFERENCES tenants, body text)")
    try:
        application.database.run("INSERT INTO later VALUES (1, 'x')")
        service.create_backup(ACME, ADMIN)
        service.platform.create(ADMIN)
        application.database.run("UPDATE later SET body = 'y'")
        service.restores.run("latest", ACME, ADMIN, confirm=True)
        record = service.drills.run(ACME, ADMIN, scenarios=DATABASE)
        assert (record.status, record.error) == ("passed", None)
    finally:
        application.database.run("DROP TABLE later")
        service.create_backup(ACME, ADMIN)
        service.platform.create(ADMIN)
