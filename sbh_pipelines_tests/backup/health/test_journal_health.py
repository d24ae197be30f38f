"""Health of the change journal: each finding is made by really breaking what it is about, and goes when that is mended."""

import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from sbh_pipelines.backup.health.examination import Examination
from sbh_pipelines.backup.journal.view.standing import Newest, Standing, standing_of
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.model import utc_now
from sbh_pipelines.repository.journal.gaps import PREDICTION_FAILED, Gap
from sbh_pipelines.repository.journal.segments.changes import moment_text
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines_tests.support.application import ADMIN
from sbh_pipelines_tests.support.folding import Folding
from sbh_pipelines_tests.support.journal import logical_server
from sbh_pipelines_tests.support.own_server import OwnServer

BOTH = ("acme", "bolt")
SCHEMA = """
CREATE TABLE tenants (id int PRIMARY KEY, slug text UNIQUE NOT NULL, region text NOT NULL, tier text);
INSERT INTO tenants VALUES (1, 'acme', 'eu-west-1', 'critical'), (2, 'bolt', 'eu-west-1', 'critical');
CREATE TABLE docs (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, body text);
ALTER TABLE docs REPLICA IDENTITY FULL;
INSERT INTO docs SELECT n, 1 + n % 2, 'doc ' || n FROM generate_series(1, 40) n;
"""


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    with logical_server() as made:
        yield made


@pytest.fixture
def journaled(server: OwnServer, tmp_path: Path) -> Iterator[Folding]:
    """Drained, backed up, and drained again."""
    database = server.create_database(f"test_{uuid.uuid4().hex[:12]}")
    database.run(SCHEMA)
    made = Folding.of(database, tmp_path, health={"refresh_s": 0})
    try:
        made.drain()
        made.back_up(BOTH, "full")
        made.drain()
        yield made
    finally:
        made.drop_slot()
        server.drop_database(database.name)


def later(folding: Folding, minutes: float) -> BackupService:
    return BackupService(folding.settings, clock=lambda: utc_now() + timedelta(minutes=minutes))


def examined(folding: Folding, minutes: float = 0.0) -> Examination:
    return later(folding, minutes).health.examine(ADMIN)


def kinds(found: Examination) -> set[str]:
    return {finding.kind for finding in found.findings if finding.kind.startswith("journal_")}


def test_what_is_told_is_not_lost(journaled: Folding) -> None:
    """The age of a tenant's recovery point is that of the last drain, where every table is told since its backup."""
    folding = journaled
    folding.database.run("UPDATE docs SET body = 'new'")
    folding.drain()
    found = examined(folding, 10)
    assert kinds(found) == set()
    assert set(found.journal.behind) == set(BOTH)
    for tenant in BOTH:
        assert 600 <= (found.ages[tenant] or 0) == found.journal.behind[tenant] < 700
    assert found.journal.regions["eu-west-1"].tables == 2


def test_the_report_measures_what_is_told(journaled: Folding) -> None:
    """Of rows by the journal; of files, which it has none of, by the newest backup."""
    folding = journaled
    folding.drain()
    service = later(folding, 90)
    (row,) = [one for one in service.drills.report(ADMIN).recovery_point if one.data_type == "critical"]
    assert row.by_journal_count == 2
    assert row.worst_age_s is not None
    assert row.worst_backup_age_s is not None
    assert 90 * 60 <= row.worst_age_s < row.worst_backup_age_s
    assert row.margin_s == round(row.objective_s - row.worst_age_s, 3)
    points = service.backups.recovery_points([], ADMIN).recovery_points
    assert all(point.rows_until and (point.rows_lost_s or 0) < (point.age_s or 0) for point in points)


def test_a_table_without_an_identity_leaves_the_age_to_backups(journaled: Folding) -> None:
    folding = journaled
    folding.database.run("CREATE TABLE notes (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants)")
    folding.back_up(BOTH, "full")
    before = utc_now()
    folding.drain()
    found = examined(folding)
    assert found.journal.behind == {}
    assert all((found.ages[tenant] or 0) >= (found.examined_at - before).total_seconds() for tenant in BOTH)


def test_a_journal_that_is_behind(journaled: Folding) -> None:
    folding = journaled
    assert kinds(examined(folding, 14)) == set()
    found = examined(folding, 20)
    assert "journal_behind" in kinds(found)
    report = later(folding, 20).check_backup_health(ADMIN)
    assert not report["journal_current"]
    assert all(issue["remedy"] for issue in report["issues"])
    folding.drain()
    assert kinds(examined(folding)) == set()


def test_a_slot_that_is_gone_and_the_gap_that_it_leaves(journaled: Folding) -> None:
    """Told once each: the gap until every tenant has been backed up."""
    folding = journaled
    folding.drop_slot()
    assert kinds(examined(folding)) == {"journal_slot"}
    folding.database.run("UPDATE docs SET body = 'untold'")
    folding.drain()
    found = examined(folding)
    assert kinds(found) == {"journal_gap"}
    assert {finding.key for finding in found.findings} == {finding.key for finding in examined(folding).findings}
    folding.back_up(BOTH)
    folding.drain()
    found = examined(folding)
    assert kinds(found) == set()
    assert set(found.journal.behind) == set(BOTH)
    assert found.journal.regions["eu-west-1"].gaps == 1


def test_several_gaps_are_one_issue_and_an_alert_each(journaled: Folding) -> None:
    """One backup of the tenants mends them all; that there is a new one is told nevertheless."""
    folding = journaled
    journal = Site(folding.settings, utc_now).journal("eu-west-1")
    (incarnation,), now = journal.incarnations(), int(utc_now().timestamp() * 1_000_000)
    for number in range(3):
        journal.record_gap(Gap(incarnation, "slot_lost", None, None, 2, now + number * 1_000_000, f"loss {number}"))
    found = examined(folding)
    assert len({finding.key for finding in found.findings if finding.kind == "journal_gap"}) == 3
    (issue,) = [one for one in later(folding, 0).health.check(ADMIN).issues if one.kind == "journal_gap"]
    assert issue.on == f"eu-west-1, {moment_text(now + 2_000_000)}"
    assert issue.why.startswith("loss 2; 2 tenants")
    assert issue.why.endswith(f"and 2 more since that of eu-west-1, {moment_text(now)}")


def test_a_journal_that_led_to_something_else(journaled: Folding) -> None:
    """Told while it is on record, of that table: it is not over with the next backup."""
    folding = journaled
    journal = Site(folding.settings, utc_now).journal("eu-west-1")
    (incarnation,), now = journal.incarnations(), int(utc_now().timestamp() * 1_000_000)
    journal.record_gap(Gap(incarnation, PREDICTION_FAILED, "public.docs", "1", 2, now, "400 rows, not 401", 1))
    folding.back_up(BOTH)
    folding.drain()
    (finding,) = examined(folding).findings
    assert finding.kind == "journal_differs"
    assert finding.key.endswith("/1/public.docs")
    assert "400 rows, not 401" in str(finding.error)


def test_a_slot_that_holds_much(journaled: Folding) -> None:
    folding = journaled
    folding.database.run("SELECT pg_logical_emit_message(true, 'noise', repeat('x', 3000000))")
    settings = folding.settings
    held = settings.journal.model_copy(update={"max_lag_gib": 5 / 1024})
    folding.settings = settings.model_copy(update={"journal": held})
    found = examined(folding)
    assert kinds(found) == {"journal_held"}
    for _ in range(20):  # the server lets go of what was decoded up to a checkpoint
        folding.database.run("CHECKPOINT")
        folding.drain()
        if kinds(examined(folding)) == set():
            return
    raise AssertionError("it is still held")


def test_a_slot_that_was_left_behind(journaled: Folding) -> None:
    """Turned off alone it stays; it can be dropped while the journal is off."""
    folding = journaled
    slot = folding.settings.journal.slot
    off = folding.settings.journal.model_copy(update={"enabled": False})
    folding.settings = folding.settings.model_copy(update={"journal": off})
    (finding,) = [one for one in examined(folding).findings if one.kind.startswith("journal_")]
    assert (finding.kind, finding.key) == ("journal_left", f"journal_left/{slot}")
    assert f"sbh journal drop --confirm {slot}" in str(finding.error)
    assert f"--confirm {slot}" in folding.service.journal.status(ADMIN).trouble
    other = off.model_copy(update={"slot": "nobodys"})
    elsewhere = Folding(folding.database, folding.directory, folding.settings.model_copy(update={"journal": other}))
    assert kinds(examined(elsewhere)) == set()
    assert folding.service.journal.drop(ADMIN, confirm=slot).slot is not None
    assert kinds(examined(folding)) == set()
    assert folding.service.journal.status(ADMIN).trouble == ""


def test_a_change_of_a_table_interrupts(journaled: Folding) -> None:
    """Until the next backup of the tenants; the table and the reason are named."""
    folding = journaled
    folding.database.run("ALTER TABLE docs ALTER COLUMN body TYPE varchar(500)", "UPDATE docs SET body = 'typed'")
    folding.drain()
    found = examined(folding)
    assert kinds(found) == {"journal_interrupted"}
    (finding,) = [one for one in found.findings if one.kind == "journal_interrupted"]
    assert finding.subject == "public.docs"
    folding.back_up(BOTH)
    folding.drain()
    assert kinds(examined(folding)) == set()


def test_a_server_that_does_not_answer_ends_no_finding(journaled: Folding) -> None:
    folding = journaled
    journal = folding.settings.journal.model_copy(update={"dsn": "host=127.0.0.1 port=1"})
    folding.settings = folding.settings.model_copy(update={"journal": journal})
    found = examined(folding)
    assert not found.journal.seen
    assert kinds(found) == {"journal_unreadable"}


def test_one_tenant_is_told_of_itself_alone(journaled: Folding) -> None:
    own = UserContext("u", "acme", Role.VIEWER)
    service = later(journaled, 30)
    found = service.health.examine(own)
    assert set(found.journal.behind) == {"acme"}
    assert (found.journal.regions, found.journal.outlook) == ({}, None)
    assert kinds(found) == set()
    lines = [line for line in service.health.prometheus_text(own).splitlines() if not line.startswith("#")]
    assert not any(line.startswith("sbh_journal") for line in lines)


def test_metrics(journaled: Folding) -> None:
    text = later(journaled, 5).health.prometheus_text(ADMIN)
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith(("sbh_journal", "sbh_pitr")))
    assert 300 <= float(lines['sbh_journal_lag_seconds{region="eu-west-1"}']) < 400
    assert float(lines['sbh_pitr_seconds_behind{tenant="acme"}']) >= 300
    assert lines['sbh_journal_slot_state{state="reserved"}'] == "1.0"
    assert lines['sbh_journal_gaps_total{region="eu-west-1"}'] == "0.0"
    assert lines["sbh_pitr_tenants"] == "2.0"
    assert lines["sbh_journal_broken"] == "0.0"


def test_a_look_reads_what_is_new_and_says_what_one_from_the_start_says(journaled: Folding) -> None:
    folding = journaled
    site = Site(folding.settings, utc_now)
    journal, kept = site.journal("eu-west-1"), standing_of(site)
    kept.chains(journal, journal.listing(), 0)
    for number in range(3):
        folding.database.run(f"UPDATE docs SET body = 'n{number}'", "TRUNCATE docs" if number == 1 else "SELECT 1")
        folding.drain()
        listing = journal.listing()
        assert kept.chains(journal, listing, 0).chains == Standing().chains(journal, listing, 0).chains


def test_a_base_is_as_late_as_the_tick_that_found_nothing_new(journaled: Folding) -> None:
    """A way to a moment begins where the catalog says that the tenant still was what the backup says."""
    folding = journaled
    drafts = folding.back_up(BOTH)
    assert all(draft.unchanged_since for draft in drafts)
    site = Site(folding.settings, utc_now)
    tenants = {t.id: t for t in folding.service.tenants.all()}
    newest = [
        Newest(tenants[d.tenant.id], d.unchanged_since, site.records("eu-west-1", [d.tenant]).get(d.tenant.id))
        for d in drafts
        if d.unchanged_since is not None
    ]
    for one, draft in zip(newest, drafts, strict=True):
        assert draft.recovery_point is not None
        base = Standing().bases(site, [one])[one.tenant.id]
        assert base.xmin == int(draft.recovery_point.snapshot.partition(":")[0])
        assert base.tables == {"public.tenants", "public.docs"}
