"""What `sbh doctor` says of a change journal: each thing that is missing is named, and mended by what it prints."""

from contextlib import closing
from dataclasses import replace
from typing import Any

import psycopg2
import pytest

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.database.journal.readiness import Readiness
from sbh_pipelines.database.journal.slot import SlotState, create_slot, drop_slot
from sbh_pipelines.database.schema.tenancy import survey_map
from sbh_pipelines.database.session.connection import connect, look
from sbh_pipelines.database.session.targets import journal_database
from sbh_pipelines.doctor import journal
from sbh_pipelines.doctor.findings import Finding, Level, Report
from sbh_pipelines.doctor.suggest import suggest
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.settings import JournalSettings, Settings, load_settings
from sbh_pipelines_tests.cli.conftest import sql

READY = Readiness(
    version=180000,
    database="app",
    role="sbh_journal",
    system_id=7,
    standby=False,
    wal_level="logical",
    slots=0,
    most_slots=10,
    may_replicate=True,
    may_publish=True,
    keeps_bytes=40 << 30,
    idle_timeout_s=None,
    standbys=0,
    synchronized="",
)
SLOT = SlotState(
    name="sbh_journal",
    plugin="pgoutput",
    database="app",
    restart_lsn=1,
    confirmed_flush=1,
    wal_status="reserved",
    safe_wal_size=None,
    invalidation_reason=None,
    active=False,
    active_pid=None,
    catalog_xmin_age=0,
    held_bytes=1000,
    failover=False,
)


def found(report: Report, level: Level, words: str) -> Finding:
    (only,) = [one for one in report.findings if one.level is level and words in one.what]
    return only


@pytest.mark.parametrize(
    ("changes", "words", "remedy"),
    [
        ({"version": 130000}, "too old", "upgrade"),
        ({"standby": True}, "standby", "dsn"),
        ({"wal_level": "replica"}, "wal_level is replica", "ALTER SYSTEM SET wal_level = logical"),
        ({"may_replicate": False}, "may not replicate", 'ALTER ROLE "sbh_journal" REPLICATION;'),
    ],
)
def test_a_server_without_what_a_journal_needs_is_an_error(changes: dict[str, Any], words: str, remedy: str) -> None:
    report = Report()
    assert not journal._server(report, JournalSettings(), replace(READY, **changes))
    assert remedy in found(report, Level.ERROR, words).remedy


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"keeps_bytes": None}, "until its disk is full"),
        ({"keeps_bytes": 1 << 30}, "before the journal would"),
        ({"idle_timeout_s": 600}, "idle for a while"),
    ],
)
def test_limits_of_the_server_are_held_against_those_of_the_journal(changes: dict[str, Any], words: str) -> None:
    report = Report()
    assert journal._server(report, JournalSettings(), READY)
    assert report.findings == []
    assert journal._server(report, JournalSettings(), replace(READY, **changes))
    assert "ALTER SYSTEM SET" in found(report, Level.WARNING, words).remedy


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({}, Level.OK, "in order"),
        ({"database": "other"}, Level.ERROR, "of another database"),
        ({"wal_status": "lost"}, Level.ERROR, "is lost"),
        ({"invalidation_reason": "wal_removed"}, Level.ERROR, "is lost"),
        ({"wal_status": "unreserved"}, Level.WARNING, "holds back"),
        ({"held_bytes": 6 << 30}, Level.WARNING, "holds back 6.0 GB"),
        ({"catalog_xmin_age": 60_000_000}, Level.WARNING, "from being vacuumed"),
    ],
)
def test_a_slot_in_trouble_is_told(changes: dict[str, Any], level: Level, words: str) -> None:
    report = Report()
    journal._slot(report, JournalSettings(), READY, replace(SLOT, **changes))
    found(report, level, words)


def test_a_server_without_room_for_a_slot_is_an_error() -> None:
    report = Report()
    journal._slot(report, JournalSettings(), replace(READY, slots=10), None)
    assert "max_replication_slots = 15" in found(report, Level.ERROR, "no room").remedy


def test_a_gap_after_a_failover_is_told_where_there_is_a_standby() -> None:
    report = Report()
    journal._slot(report, JournalSettings(), replace(READY, standbys=1), SLOT)
    assert "sync_replication_slots" in found(report, Level.OK, "After a failover").detail
    quiet = Report()
    journal._slot(quiet, JournalSettings(), replace(READY, standbys=1), replace(SLOT, failover=True))
    assert [one.what for one in quiet.findings if "failover" in one.what] == []


@pytest.fixture
def settings(sample_stack: Stack) -> Settings:
    """Of a server without a slot and a publication: other tests' commands drain what they share with these."""
    settings = load_settings(sample_stack.settings)
    BackupService(settings).journal.drop(UserContext("test", "*", Role.ADMIN), confirm=settings.journal.slot)
    return settings


def examined(settings: Settings) -> Report:
    report = Report()
    with closing(look(settings.database, "test")) as connection:
        tenancy = survey_map(connection, settings)
    journal.check(report, settings, tenancy)
    return report


def test_the_sample_is_journaled_whole_and_an_index_that_must_stay_is_told(settings: Settings) -> None:
    report = examined(settings)
    assert [*report.errors, *report.warnings] == []
    found(report, Level.OK, "11 of 11 tables")
    assert "public.tasks" in found(report, Level.OK, "somebody could break").detail
    found(report, Level.OK, "refuse none of the application's statements")


def test_a_journal_that_is_off_is_nothing_to_look_at(settings: Settings) -> None:
    off = settings.model_copy(update={"journal": JournalSettings()})
    assert examined(off).findings == []
    with closing(connect(journal_database(settings), "test")) as connection:
        create_slot(connection, off.journal.slot)
        try:
            left = found(examined(off), Level.WARNING, "its slot is still there")
        finally:
            drop_slot(connection, off.journal.slot)
    assert left.remedy == "sbh journal drop --confirm sbh_journal"
    assert "MiB of the server's log" in left.detail


def run(stack: Stack, statements: list[str]) -> None:
    """As the owner, each in a transaction of its own: an index is built concurrently."""
    with closing(psycopg2.connect(stack.dsn(postgres.OWNER))) as connection:
        connection.autocommit = True
        for statement in statements:
            connection.cursor().execute(statement)


def test_a_table_whose_changes_do_not_say_whose_they_are_is_mended_by_what_is_printed(
    settings: Settings, sample_stack: Stack
) -> None:
    """A table without a tenant in its identity, and one that follows it."""
    make = (
        "CREATE TABLE boxes (id int PRIMARY KEY, tenant_id bigint NOT NULL REFERENCES tenants)",
        "CREATE TABLE box_items (id int PRIMARY KEY, box_id int NOT NULL REFERENCES boxes)",
        "ALTER TABLE boxes OWNER TO app",
        "ALTER TABLE box_items OWNER TO app",
    )
    with sql(sample_stack, *make, after="DROP TABLE boxes, box_items"):
        report = examined(settings)
        boxes = found(report, Level.WARNING, "public.boxes is not journaled")
        assert "without tenant_id" in boxes.detail
        assert "REPLICA IDENTITY USING INDEX" in boxes.remedy
        assert "-- ALTER TABLE" in boxes.remedy  # the other way, in a comment
        assert found(report, Level.WARNING, "public.box_items is not journaled")
        suggestion = suggest(settings)
        assert 'ALTER TABLE "public"."boxes" REPLICA IDENTITY' in suggestion.text
        assert all(line.startswith(("#", "")) for line in suggestion.text.splitlines())
        run(sample_stack, [line for line in suggestion.statements if not line.startswith("--")])
        assert [one.what for one in examined(settings).warnings] == []
        assert suggest(settings).statements == []


def test_a_role_that_may_not_publish_and_another_database_are_told(settings: Settings, sample_stack: Stack) -> None:
    poor = settings.journal.model_copy(update={"dsn": "user=poor_journal", "password": None, "password_file": None})
    make = (
        "CREATE ROLE poor_journal LOGIN REPLICATION",
        "GRANT pg_read_all_data TO poor_journal",
        "CREATE DATABASE other_app",
    )
    with closing(psycopg2.connect(sample_stack.dsn(postgres.ADMIN))) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        for statement in make:
            cursor.execute(statement)
        try:
            elsewhere = settings.journal.model_copy(update={"dsn": "user=sbh_journal dbname=other_app"})
            other = examined(settings.model_copy(update={"journal": elsewhere}))
            assert "other_app" in found(other, Level.ERROR, "leads to another database").detail
            cursor.execute("ALTER ROLE poor_journal PASSWORD 'poor'")
            given = type(poor).model_validate({**poor.model_dump(), "password": "poor"})
            report = examined(settings.model_copy(update={"journal": given}))
            found(report, Level.WARNING, "may not publish 11 tables")
            assert "GRANT CREATE ON DATABASE" in found(report, Level.WARNING, "may not make publications").remedy
        finally:
            cursor.execute("DROP DATABASE other_app")
            cursor.execute("DROP OWNED BY poor_journal")
            cursor.execute("DROP ROLE poor_journal")
