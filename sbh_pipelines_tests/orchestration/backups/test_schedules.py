"""Who is due at a tick, and the sensor that knows the tenants."""

from datetime import UTC, datetime

import dagster as dg
import pytest

from sbh_pipelines.definitions import defs
from sbh_pipelines.errors import SettingsError, SourceUnavailable
from sbh_pipelines.model import BackupType
from sbh_pipelines.orchestration.alerting.sensors import tenants_sync
from sbh_pipelines.orchestration.backups.schedules import backup_schedules, batches, fleet_config
from sbh_pipelines.orchestration.common.assets import TENANTS
from sbh_pipelines.orchestration.upkeep.retention import daily_prune
from sbh_pipelines.settings import ScheduleSettings, Settings, TenantsSettings
from sbh_pipelines_tests.support.fakes import FakeService, draft

SCHEDULES = {schedule.name: schedule for schedule in (*backup_schedules, daily_prune)}
SUNDAY_2, SUNDAY_3 = datetime(2026, 3, 1, 2, tzinfo=UTC), datetime(2026, 3, 1, 3, tzinfo=UTC)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
TIERS = {"tenant-1": "critical", "tenant-2": "important", "tenant-3": "archive"}


@pytest.fixture
def instance(dagster_home: dg.DagsterInstance) -> dg.DagsterInstance:
    """On disk, as schedules need it."""
    return dagster_home


def evaluate(
    instance: dg.DagsterInstance, fake: FakeService, name: str, at: datetime
) -> tuple[list[dg.RunRequest], str]:
    """The runs that a tick asks for, or why it asks for none."""
    with dg.build_schedule_context(
        instance, scheduled_execution_time=at, resources={"backups": fake.resource}  # type: ignore[attr-defined]
    ) as context:  # fmt: skip
        data = SCHEDULES[name].evaluate_tick(context)
    return list(data.run_requests or []), data.skip_message or ""


def tenants_due(instance: dg.DagsterInstance, fake: FakeService, name: str, at: datetime) -> list[str]:
    requests, _ = evaluate(instance, fake, name, at)
    return [tenant for r in requests for tenant in r.run_config["ops"]["snapshot_tables"]["config"]["tenants"]]


def at_work(
    instance: dg.DagsterInstance, tenants: list[str], kind: BackupType, tags: dict[str, str] | None = None
) -> None:
    """A run of the fleet job that has started and not ended."""
    instance.create_run_for_job(
        defs.resolve_job_def("fleet_backup_job"),
        run_config=fleet_config(tenants, kind),
        tags={"sbh/operation": "backup", **(tags or {})},
        status=dg.DagsterRunStatus.STARTED,
    )


@pytest.mark.parametrize(
    ("name", "at", "due"),
    [
        ("hourly_incremental", NOON, ["tenant-1"]),
        ("daily_full", SUNDAY_2, ["tenant-1", "tenant-2"]),
        ("weekly_full", SUNDAY_3, ["tenant-3"]),
        ("differential", NOON, []),
    ],
)
def test_tenants_follow_the_schedules_of_their_tier(
    instance: dg.DagsterInstance, fake: FakeService, name: str, at: datetime, due: list[str]
) -> None:
    fake.tiers = TIERS
    assert tenants_due(instance, fake, name, at) == due


def test_a_tenant_may_have_schedules_of_its_own(instance: dg.DagsterInstance, fake: FakeService) -> None:
    """They replace those of its tier; an empty list is a tenant that nothing backs up."""
    fake.tiers = TIERS
    own = {"tenant-1": [], "tenant-3": ["hourly_incremental", "differential"]}
    fake.settings = Settings(schedules=ScheduleSettings(tenants=own))
    assert tenants_due(instance, fake, "hourly_incremental", NOON) == ["tenant-3"]
    assert tenants_due(instance, fake, "differential", NOON) == ["tenant-3"]
    assert tenants_due(instance, fake, "weekly_full", SUNDAY_3) == []


def test_a_tier_in_the_settings_leaves_the_others_as_they_are(instance: dg.DagsterInstance, fake: FakeService) -> None:
    fake.tiers = TIERS
    fake.settings = Settings(schedules=ScheduleSettings(tiers={"important": ["weekly_full"]}))
    assert tenants_due(instance, fake, "daily_full", SUNDAY_2) == ["tenant-1"]
    assert tenants_due(instance, fake, "weekly_full", SUNDAY_3) == ["tenant-2", "tenant-3"]


def test_an_unknown_tier_follows_the_default_tier(
    instance: dg.DagsterInstance, fake: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the tick says so; without a policy for the default tier either, it fails rather than leave tenants out."""
    fake.tiers = {**TIERS, "tenant-1": "gold"}
    assert tenants_due(instance, fake, "daily_full", SUNDAY_2) == ["tenant-1", "tenant-2"]
    assert "1 tenants have the tier 'gold'" in capsys.readouterr().err
    fake.settings = Settings(tenants=TenantsSettings(default_tier="silver"))
    with pytest.raises(dg.DagsterError) as failed:
        tenants_due(instance, fake, "daily_full", SUNDAY_2)
    assert isinstance(failed.value.__cause__, SettingsError)
    assert "silver" in str(failed.value.__cause__)


def test_a_tenant_due_for_a_full_backup_gets_no_incremental_one(
    instance: dg.DagsterInstance, fake: FakeService
) -> None:
    """At 02:00 the daily full and the hourly incremental fall together."""
    fake.tiers = TIERS
    requests, said = evaluate(instance, fake, "hourly_incremental", SUNDAY_2)
    assert requests == []
    assert said == "No tenant is due: 1 are left to daily_full; 2 do not follow this schedule"
    fake.settings = Settings(schedules=ScheduleSettings(tenants={"tenant-2": ["hourly_incremental"]}))
    assert tenants_due(instance, fake, "hourly_incremental", SUNDAY_2) == ["tenant-2"]


@pytest.mark.parametrize(
    ("under_way", "due"),
    [
        ([(["tenant-1"], BackupType.INCREMENTAL)], ["tenant-2"]),
        ([(["tenant-1"], BackupType.FULL), (["tenant-2"], BackupType.DIFFERENTIAL)], []),
        ([([], BackupType.FULL)], []),
    ],
    ids=["the slot before", "fuller ones", "a run for all tenants"],
)
def test_a_tenant_still_being_backed_up_is_left_out(
    instance: dg.DagsterInstance,
    fake: FakeService,
    under_way: list[tuple[list[str], BackupType]],
    due: list[str],
) -> None:
    """However many slots go by meanwhile, it has one run waiting."""
    fake.tiers = dict.fromkeys(TIERS, "archive") | dict.fromkeys(("tenant-1", "tenant-2"), "critical")
    for tenants, kind in under_way:
        at_work(instance, tenants, kind)
    assert tenants_due(instance, fake, "hourly_incremental", NOON) == due


def test_a_full_backup_does_not_wait_for_an_incremental_one(instance: dg.DagsterInstance, fake: FakeService) -> None:
    """Or an incremental that is late every day at two would cost the tenant its fulls."""
    at_work(instance, ["tenant-1", "tenant-2", "tenant-3"], BackupType.INCREMENTAL)
    assert len(tenants_due(instance, fake, "daily_full", SUNDAY_2)) == 3


def test_a_tick_asks_for_every_tenant_once(instance: dg.DagsterInstance, fake: FakeService) -> None:
    (request,), _ = evaluate(instance, fake, "daily_full", SUNDAY_2)
    assert request.run_key == "daily_full/2026-03-01T02:00:00Z/eu-west-1/tenant-1"
    config = request.run_config["ops"]["snapshot_tables"]["config"]
    assert (config["tenants"], config["backup_type"]) == (["tenant-1", "tenant-2", "tenant-3"], "full")
    assert evaluate(instance, fake, "daily_full", SUNDAY_2)[0][0].run_key == request.run_key  # launched once


def test_a_tick_that_broke_off_asks_for_the_rest(instance: dg.DagsterInstance, fake: FakeService) -> None:
    """Not again for tenants that have their run for this slot, nor under a key that another run has."""
    (request,), _ = evaluate(instance, fake, "daily_full", SUNDAY_2)
    at_work(instance, ["tenant-1", "tenant-2"], BackupType.FULL, dict(request.tags))
    (rest,), _ = evaluate(instance, fake, "daily_full", SUNDAY_2)
    assert rest.run_config["ops"]["snapshot_tables"]["config"]["tenants"] == ["tenant-3"]
    assert rest.run_key != request.run_key


def test_batches_are_bounded_and_of_one_region() -> None:
    tenants = [draft(f"t{n}", "us-east-1" if n % 2 else "eu-west-1").tenant for n in range(9)]
    requests = list(batches("daily_full", BackupType.FULL, "slot", tenants, 2))
    sizes = [(r.tags["sbh/region"], len(r.run_config["ops"]["snapshot_tables"]["config"]["tenants"])) for r in requests]
    assert sizes == [*[("eu-west-1", 2)] * 2, ("eu-west-1", 1), *[("us-east-1", 2)] * 2]
    assert len({r.run_key for r in requests}) == len(requests)
    assert [r.tags["dagster-celery/queue"] for r in requests] == [r.tags["sbh/region"] for r in requests]
    assert defs.resolve_job_def("fleet_backup_job").tags["dagster/retry_strategy"] == "ALL_STEPS"


def test_runs_of_incrementals_take_more_tenants(instance: dg.DagsterInstance, fake: FakeService) -> None:
    fake.names = [f"t-{n}" for n in range(450)]
    fake.tiers = dict.fromkeys(fake.names, "critical")
    assert [len(evaluate(instance, fake, name, at)[0]) for name, at in (
        ("hourly_incremental", NOON), ("daily_full", SUNDAY_2),
    )] == [1, 3]  # fmt: skip


def test_a_tick_without_tenants_says_so(instance: dg.DagsterInstance, fake: FakeService) -> None:
    fake.names = ()
    assert evaluate(instance, fake, "daily_full", SUNDAY_2) == ([], "The tenants table is empty")


def test_a_cron_line_in_the_settings_file_is_told_to_change_nothing(
    instance: dg.DagsterInstance, fake: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.settings = Settings(schedules=ScheduleSettings(daily_full="0 5 * * *"))
    evaluate(instance, fake, "daily_full", SUNDAY_2)
    assert "Set SBH_SCHEDULES__DAILY_FULL" in capsys.readouterr().err


def test_prune_waits_for_the_last_prune(instance: dg.DagsterInstance, fake: FakeService) -> None:
    at = datetime(2026, 3, 1, 4, 30, tzinfo=UTC)
    (request,), _ = evaluate(instance, fake, "daily_prune", at)
    assert request.run_key == "daily_prune/2026-03-01T04:30:00Z"
    run = instance.create_run_for_job(defs.resolve_job_def("prune_job"), tags={"sbh/operation": "prune"})
    assert evaluate(instance, fake, "daily_prune", at) == ([], f"Run {run.run_id} is still at it")


def sync(instance: dg.DagsterInstance, fake: FakeService) -> tuple[list[str], list[str]]:
    """The partitions that a tick adds and removes."""
    with dg.build_sensor_context(instance, resources={"backups": fake.resource}) as context:  # type: ignore[attr-defined]
        requests = tenants_sync.evaluate_tick(context).dynamic_partitions_requests or []
    added = [key for r in requests if isinstance(r, dg.AddDynamicPartitionsRequest) for key in r.partition_keys]
    removed = [key for r in requests if isinstance(r, dg.DeleteDynamicPartitionsRequest) for key in r.partition_keys]
    return added, removed


def test_partitions_follow_the_tenants_table(instance: dg.DagsterInstance, fake: FakeService) -> None:
    fake.names = ("tenant-1", "tenant-3", "tenant-4")
    assert sync(instance, fake) == (["tenant-4"], ["tenant-2"])


def test_partitions_in_step_are_left_alone(instance: dg.DagsterInstance, fake: FakeService) -> None:
    assert sync(instance, fake) == ([], [])


@pytest.mark.parametrize("listing", [(), ("tenant-9",)])
def test_a_listing_that_lost_most_tenants_removes_none(
    instance: dg.DagsterInstance, fake: FakeService, listing: tuple[str, ...]
) -> None:
    """An empty table, or the table of another database: what it does list is added all the same."""
    fake.names = listing
    assert sync(instance, fake) == (list(listing), [])


def test_a_listing_that_fails_removes_none(instance: dg.DagsterInstance, fake: FakeService) -> None:
    fake.raises["tenants"] = SourceUnavailable("Cannot connect", on="db", why="refused", remedy="start it")
    with pytest.raises(SourceUnavailable):
        sync(instance, fake)
    assert len(instance.get_dynamic_partitions(TENANTS)) == 3
