"""The change journal in Dagster: what a drain and a look at a tenant leave on its pages, and when the schedule launches."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest

from sbh_pipelines.backup.journal.guard import home_region
from sbh_pipelines.backup.site.site import Site as Engine
from sbh_pipelines.model import utc_now
from sbh_pipelines.orchestration.common.resources import BackupServiceResource
from sbh_pipelines.orchestration.common.timetable import Timetable
from sbh_pipelines.orchestration.journal.drains import journal_drain, journal_timetable
from sbh_pipelines.repository.lease import acquire
from sbh_pipelines.security.policy import ALL_TENANTS, Role, UserContext
from sbh_pipelines.settings import load_settings
from sbh_pipelines_tests.support.fix_stack import RealRun, Site

SLOT = datetime(2026, 1, 2, 1, 30, tzinfo=UTC)
ADMIN = UserContext("admin", ALL_TENANTS, Role.ADMIN)


@pytest.fixture
def set_up(real_resource: BackupServiceResource) -> BackupServiceResource:
    """The slot is there. Tenant 2 has a backup, and with it a key that its changes are sealed with."""
    real_resource.service.create_backup("tenant-2", ADMIN)
    real_resource.service.journal.setup(ADMIN)
    return real_resource


@pytest.fixture
def lease_of_another(site: Site) -> Iterator[None]:
    engine = Engine(load_settings(str(site.stack.settings)), utc_now)
    journal = engine.journal(home_region(engine))
    lease = acquire(journal.store, journal.prefix, "another", "drain", 60.0, utc_now)
    yield
    lease.release()


def drained(result: dg.ExecuteInProcessResult) -> list[Mapping[str, Any]]:
    """The numbers and texts of each materialization."""
    events = result.asset_materializations_for_node("change_journal")
    return [{name: value.value for name, value in event.metadata.items()} for event in events]


def test_a_drain_materializes_the_journal(set_up: BackupServiceResource, site: Site, real_run: RealRun) -> None:
    """Its numbers can be plotted; what it does not cover is said with the reason."""
    site.sql("UPDATE tasks SET title = title || '!' WHERE id IN (SELECT min(id) FROM tasks GROUP BY tenant_id)")
    result = real_run("journal_drain_job")
    assert result.success
    (told,) = drained(result)
    assert told["changes"] >= 1
    assert told["tenants"] >= 1
    assert told["changes"] + told["changes_dropped"] == 6
    assert told["lag_s"] > 0
    assert told["stored_bytes"] > 0
    assert told["tables_covered"] > 3
    assert sum(value for name, value in told.items() if name.startswith("changes_eu-")) <= told["changes"]
    assert told["gap"] == "none: the chain goes on"
    assert "| public.tasks | told up to now |" in told["coverage"]
    assert "eu-west-1" in told["regions"]


def test_one_that_finds_another_at_work_leaves_it_to_that(
    set_up: BackupServiceResource, lease_of_another: None, real_run: RealRun
) -> None:
    result = real_run("journal_drain_job")
    assert result.success
    assert drained(result) == []


def test_a_drain_that_fails_says_why(site: Site, real_run: RealRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBH_JOURNAL__DSN", "host=127.0.0.1 port=1 user=nobody")
    result = real_run("journal_drain_job")
    assert not result.success
    failure = result.failure_data_for_node("change_journal")
    assert failure is not None
    assert failure.user_failure_data is not None
    assert failure.user_failure_data.metadata["remedy"].value


def test_a_tenants_moments_and_transactions_are_shown(
    set_up: BackupServiceResource, site: Site, real_run: RealRun
) -> None:
    """On the run's page, and of its moments on the page of the tenant's backups as well: from the backup after the first drain."""
    set_up.service.create_backup("tenant-2", ADMIN)
    site.sql(
        "DELETE FROM attachments WHERE id = (SELECT min(a.id) FROM attachments a JOIN comments c ON c.id = a.comment_id"
        " JOIN tasks t ON t.id = c.task_id JOIN tenants o ON o.id = t.tenant_id WHERE o.slug = 'tenant-2')"
    )
    assert real_run("journal_drain_job").success
    result = real_run("journal_show_job", partition_key="tenant-2")
    assert result.success
    told: dict[str, Any] = {
        event.step_key: {name: value.value for name, value in event.step_output_data.metadata.items()}
        for event in result.all_events
        if event.is_successful_output
    }
    moments, transactions = told["show_moments"], told["show_transactions"]
    assert "▒" in moments["moments"]
    assert "| all | 20" in moments["windows"]
    assert "up to where the journal was drained" in moments["windows"]
    assert transactions["transactions"] >= 1
    assert "| public.attachments |" in transactions["transactions_by_table"]
    assert "`@20" in transactions["transactions_by_table"]
    (observed,) = [e for e in result.all_events if e.event_type is dg.DagsterEventType.ASSET_OBSERVATION]
    assert observed.partition == "tenant-2"


def test_a_tenant_is_brought_to_a_moment(set_up: BackupServiceResource, site: Site, real_run: RealRun) -> None:
    """A backup of the moment is put together, and restored from: by the moment itself, and by its id."""
    set_up.service.create_backup("tenant-2", ADMIN)
    ((before,),) = site.sql("SELECT sum(hashtext(t::text)) FROM tasks t WHERE tenant_id = 2")
    ((now,),) = site.sql("SELECT clock_timestamp() AT TIME ZONE 'UTC'")
    site.sql("UPDATE tasks SET title = 'spoilt' WHERE tenant_id = 2")
    assert real_run("journal_drain_job").success
    at = now.isoformat()
    config = {"put_moment_together": {"config": {"at": at}}}
    made = real_run("moment_backup_job", partition_key="tenant-2", run_config={"ops": config})
    assert made.success
    (observed,) = made.asset_observations_for_node("put_moment_together")
    assert (observed.asset_key, observed.partition) == (dg.AssetKey("tenant_restore"), "tenant-2")
    config = {"restore_tenant": {"config": {"at": at, "confirm": True, "tables": ["tasks"]}}}
    restored = real_run("restore_job", partition_key="tenant-2", run_config={"ops": config})
    assert restored.success
    (done,) = restored.asset_materializations_for_node("restore_tenant")
    assert done.metadata["backup_id"] == observed.metadata["backup_id"]
    assert site.sql("SELECT sum(hashtext(t::text)) FROM tasks t WHERE tenant_id = 2") == [(before,)]


def test_a_moment_and_a_backup_are_not_both_meant(real_run: RealRun) -> None:
    config = {
        "restore_tenant": {"config": {"at": "2026-01-02T00:00", "backup_id": "backup_20260101_0000", "confirm": True}}
    }
    result = real_run("restore_job", partition_key="tenant-2", run_config={"ops": config})
    assert not result.success
    assert "give one of them" in str(result.failure_data_for_node("restore_tenant"))


def test_a_time_that_cannot_be_read_is_refused(set_up: BackupServiceResource, real_run: RealRun) -> None:
    config = {"ops": {"show_transactions": {"config": {"since": "yesterday"}}}}
    result = real_run("journal_show_job", partition_key="tenant-2", run_config=config)
    assert not result.success
    assert "yesterday" in str(result.failure_data_for_node("show_transactions"))


def test_one_run_per_slot_and_none_while_the_last_is_at_it(
    dagster_home: dg.DagsterInstance, real_resource: BackupServiceResource
) -> None:
    resources = {"backups": real_resource}
    with dg.build_schedule_context(dagster_home, scheduled_execution_time=SLOT, resources=resources) as context:
        (request,) = journal_drain.evaluate_tick(context).run_requests or []
    assert request.run_key == "journal_drain/2026-01-02T01:30:00Z"
    dagster_home.add_run(
        dg.DagsterRun(
            job_name="journal_drain_job",
            tags={"sbh/operation": "journal_drain", "sbh/slot": "2026-01-02T01:25:00Z"},
            status=dg.DagsterRunStatus.STARTED,
        )
    )
    with dg.build_schedule_context(dagster_home, scheduled_execution_time=SLOT, resources=resources) as context:
        tick = journal_drain.evaluate_tick(context)
    assert not tick.run_requests
    assert "is still at it" in str(tick.skip_message)


def test_no_run_where_the_journal_is_off(
    dagster_home: dg.DagsterInstance, real_resource: BackupServiceResource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBH_JOURNAL__ENABLED", "false")
    resources = {"backups": real_resource}
    with dg.build_schedule_context(dagster_home, scheduled_execution_time=SLOT, resources=resources) as context:
        tick = journal_drain.evaluate_tick(context)
    assert not tick.run_requests
    assert "journal.enabled" in str(tick.skip_message)


def test_the_environment_sets_the_cron_line(monkeypatch: pytest.MonkeyPatch) -> None:
    variable = "SBH_SCHEDULES__JOURNAL_DRAIN"
    monkeypatch.setenv(variable, "*/2 * * * *")
    assert journal_timetable() == Timetable("journal_drain", "*/2 * * * *", "UTC", on=True, variable=variable)
    monkeypatch.setenv(variable, "")
    assert not journal_timetable().on
