"""A moment is asked for on the command line, and is restored like any backup."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sbh_pipelines.backup.create.drafts import OpenDrafts
from sbh_pipelines.backup.create.moment.materialise import materialise
from sbh_pipelines.backup.create.moment.way.choice import MomentChoice
from sbh_pipelines.backup.create.moment.way.target import Target
from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import AccessDenied, MomentOutOfReach, NotJournaled
from sbh_pipelines.model import TenantId, utc_now
from sbh_pipelines.repository.journal.gaps import PREDICTION_FAILED, Gap
from sbh_pipelines.repository.journal.segments.changes import microseconds_of, parse_lsn
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines_tests.backup.create.moment.recovered import ADMIN, Recovered, recovered_application
from sbh_pipelines_tests.support.journal import logical_server
from sbh_pipelines_tests.support.own_server import OwnServer


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    with logical_server() as running:
        yield running


@pytest.fixture
def application(server: OwnServer, tmp_path: Path) -> Iterator[Recovered]:
    with recovered_application(server, tmp_path) as made:
        yield made


def test_a_bad_statement_is_undone_by_naming_the_moment_before_it(application: Recovered) -> None:
    good = application.do("UPDATE items SET title = 'good' WHERE id < 9")
    bad = application.do("UPDATE projects SET title = 'bad'; DELETE FROM comments WHERE id < 40")
    restores = application.service.restores
    plan = restores.plan(f"@{good.at.isoformat()}", "acme", ADMIN)
    assert plan.moment is not None
    assert plan.moment.first_out is not None
    assert not plan.problems
    result = restores.run(f"@{good.at.isoformat()}", "acme", ADMIN)
    assert result.backup_id == plan.backup_id  # put together once
    assert application.rows(1) == good.rows[1]
    assert application.rows(2) == bad.rows[2]
    restores.undo(result.restore_id, "acme", ADMIN)
    assert application.rows(1) == bad.rows[1]


def test_the_moment_before_a_transaction_is_named_by_its_id_as_logs_have_it(application: Recovered) -> None:
    good = application.keep()
    xid = _xid_of(application, "UPDATE projects SET title = 'bad' WHERE tenant_id = 1")
    application.do("UPDATE items SET title = 'later'")
    manifest = application.recover(1, Target(before=xid))
    assert application.stored(1, manifest) == good.rows[1]
    assert manifest.moment is not None
    assert manifest.moment.first_out is not None
    assert manifest.moment.first_out.xid & 0xFFFFFFFF == xid
    at = Target.at_position(manifest.moment.first_out.lsn)
    with_it = application.recover(1, at)
    assert application.stored(1, with_it) != good.rows[1]
    assert with_it.moment is not None
    assert with_it.moment.last_in == manifest.moment.first_out


def _xid_of(application: Recovered, statement: str) -> int:
    application.run(
        f"CREATE TABLE xids (xid text); INSERT INTO xids SELECT pg_current_xact_id()::xid::text; {statement}"
    )
    return int(application.database.copy("SELECT xid FROM xids"))


def test_a_moment_to_come_is_out_of_reach_and_the_latest_is_named(application: Recovered) -> None:
    with pytest.raises(MomentOutOfReach) as caught:
        application.recover(1, Target.parse("2099-01-01T00:00:00"))
    assert "--at 20" in caught.value.remedy


def test_one_put_together_is_not_found_again_once_the_journal_turned_out_to_be_wrong(application: Recovered) -> None:
    """Of its table between its base and its moment; of another tenant's, or another stretch of the log, it does not matter."""
    good = application.do("UPDATE items SET title = 'good' WHERE id < 9")
    made = application.recover(1, good.at)
    part = application.recover(1, good.at, tables=("projects",))
    assert made.moment is not None
    edge = parse_lsn(made.recovery_point.lsn)
    journal = application.site().journal("eu-west-1")

    def record(tenant: str, begin: int, position: int) -> None:
        now = microseconds_of(utc_now())
        assert made.moment is not None
        of = made.moment.incarnation
        journal.record_gap(Gap(of, PREDICTION_FAILED, "public.items", tenant, position, now, "other rows", begin))

    record("2", 1, edge)
    record("1", edge, edge + 100)
    assert application.recover(1, good.at).id == made.id
    record("1", 1, edge)
    with pytest.raises(NotJournaled):
        application.recover(1, good.at)
    assert application.recover(1, good.at, tables=("projects",)).id == part.id
    again = application.recover(1, good.at, as_of_backup=("items",))
    assert again.id != made.id
    assert application.recover(1, good.at, as_of_backup=("items",)).id == again.id


def test_nothing_before_the_only_backup_is_offered_where_the_journal_ended_before_it(application: Recovered) -> None:
    """Its chain ends in a gap, before the backup was made: another drain leads nowhere."""
    application.do("UPDATE items SET title = 'then'")
    only = application.back_up("full", 1)[0]
    application.run(f"SELECT pg_drop_replication_slot('{application.settings.journal.slot}')")
    with pytest.raises(MomentOutOfReach) as caught:
        application.recover(1, Target.parse("2099-01-01T00:00:00"))
    assert "has a gap" in caught.value.why
    assert "--at" not in caught.value.remedy
    assert "drain" not in caught.value.remedy
    assert f"restore diff {only} -t acme" in caught.value.remedy
    assert "`sbh backup create acme`" in caught.value.remedy


def test_where_the_journal_was_told_beyond_the_backup_that_is_offered_and_a_new_one(application: Recovered) -> None:
    good = application.do("UPDATE items SET title = 'then'")
    application.drain()
    application.drain()
    application.run(f"SELECT pg_drop_replication_slot('{application.settings.journal.slot}')")
    with pytest.raises(MomentOutOfReach) as caught:
        application.recover(1, Target.parse("2099-01-01T00:00:00"))
    assert "drain" not in caught.value.remedy
    offered = caught.value.remedy.split("--at ")[1].split("`")[0]
    assert application.stored(1, application.recover(1, Target.parse(offered))) == good.rows[1]


def test_a_moment_before_the_journal_is_out_of_reach_and_the_backup_before_it_is_named(application: Recovered) -> None:
    first = min(m.id for m in application.service.backups.of("acme", ADMIN))
    moment = application.service.backups.get(first, "acme", ADMIN).recovery_point.time
    with pytest.raises(MomentOutOfReach) as caught:
        application.recover(1, Target.parse(moment))
    assert first in caught.value.remedy


def test_a_truncated_table_is_refused_or_left_out_or_taken_as_it_was(application: Recovered) -> None:
    start = application.keep()
    before = application.do("UPDATE comments SET title = 'last words' WHERE id < 30")
    application.do("TRUNCATE comments")
    after = application.do("UPDATE projects SET title = 'after'")
    manifest = application.recover(1, before.at)
    assert application.stored(1, manifest) == before.rows[1]
    with pytest.raises(NotJournaled) as caught:
        application.recover(1, after.at)
    assert "public.comments" in caught.value.why
    part = application.recover(1, after.at, tables=("projects", "public.items"))
    assert application.stored(1, part) == {name: after.rows[1][name] for name in ("public.projects", "public.items")}
    mixed = application.recover(1, after.at, as_of_backup=("all",))
    assert mixed.moment is not None
    assert list(mixed.moment.as_of_backup) == ["public.comments"]
    assert application.stored(1, mixed) == {**after.rows[1], "public.comments": start.rows[1]["public.comments"]}


def test_rows_that_were_written_anew_before_a_table_was_emptied_are_not_told(application: Recovered) -> None:
    """The statement that rewrote them left the definition as it was, and the table's file is another for two reasons."""
    before = application.keep()
    application.do("ALTER TABLE comments ALTER COLUMN title TYPE text USING title || '!'")
    altered = application.do("UPDATE items SET title = 'then'")
    application.do("TRUNCATE comments")
    for kept in (before, altered):
        with pytest.raises(NotJournaled):
            application.recover(1, kept.at)


def test_putting_one_together_needs_the_right_to_back_up_and_finding_it_does_not(application: Recovered) -> None:
    good = application.do("UPDATE items SET title = 'good' WHERE id < 9")
    viewer = UserContext("eve", "acme", Role.VIEWER)
    operator = UserContext("olga", "acme", Role.OPERATOR)
    moment = f"@{good.at.isoformat()}"
    with pytest.raises(AccessDenied):
        application.service.restores.plan(moment, "acme", viewer)
    made = application.service.restores.plan(moment, "acme", ADMIN)
    assert application.service.restores.plan(moment, "acme", operator).backup_id == made.backup_id


def test_one_put_together_is_no_parent_and_not_the_latest(application: Recovered) -> None:
    good = application.do("UPDATE items SET title = 'good' WHERE id < 9")
    manifest = application.recover(1, good.at)
    assert application.service.backups.get("latest", "acme", ADMIN).id < manifest.id
    assert application.service.backups.latest_recovery_point("acme", ADMIN).backup_id != manifest.id
    application.do("UPDATE items SET title = 'next' WHERE id < 9")
    made = application.service.backups.create("acme", ADMIN, "incremental")
    assert made.parent is not None
    assert made.parent < manifest.id
    assert application.stored(1, made) == application.rows(1)
    holds = application.service.retention.holds("acme", ADMIN)
    assert [hold.backup_id for hold in holds if hold.kind.startswith("kept until")] == [manifest.id]


def test_it_works_with_the_server_gone(server: OwnServer, tmp_path: Path) -> None:
    with recovered_application(server, tmp_path) as application:
        good = application.do("UPDATE items SET title = 'good' WHERE id < 9; DELETE FROM comments WHERE id > 30")
        application.drain()
        application.drain()
        tenant = application.service.tenants.find(TenantId("acme"))
        unreachable = application.settings.model_copy(
            update={"database": application.settings.database.model_copy(update={"dsn": "host=127.0.0.1 port=1"})}
        )
        drafts = OpenDrafts(Site(unreachable, utc_now))
        draft = materialise(drafts, tenant, MomentChoice(Target(time=good.at)), "tester")
        drafts.end(draft)
        assert draft.error is None
        assert draft.manifest is not None
        assert application.stored(1, draft.manifest) == good.rows[1]


def test_a_part_is_restored_where_the_journal_tells_of_that_part_alone(application: Recovered) -> None:
    application.do("TRUNCATE comments")
    good = application.do("UPDATE items SET title = 'good' WHERE id < 9")
    bad = application.do("UPDATE items SET title = 'bad'; UPDATE projects SET title = 'bad'")
    moment = f"@{good.at.isoformat()}"
    with pytest.raises(NotJournaled):
        application.service.restores.plan(moment, "acme", ADMIN)
    request = RestoreRequest.of(tables=("items",))
    plan = application.service.restores.plan(moment, "acme", ADMIN, request)
    assert plan.moment is not None
    assert plan.moment.tables == ("public.items",)
    application.service.restores.run(moment, "acme", ADMIN, request)
    assert application.rows(1) == {**bad.rows[1], "public.items": good.rows[1]["public.items"]}
    whole = application.service.restores.plan(plan.backup_id, "acme", ADMIN)
    assert not any(table.delete for table in whole.tables), [(t.table, t.delete) for t in whole.tables]
