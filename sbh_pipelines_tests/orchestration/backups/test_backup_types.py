"""What Dagster records of incremental and differential backups, with a service that only answers."""

import dagster as dg
import pytest

from sbh_pipelines.errors import ResidencyError, StoreUnavailable
from sbh_pipelines.orchestration.alerting.sensors import alert_of, retry_failed_tenants
from sbh_pipelines.orchestration.backups.record import RETENTION_TAG
from sbh_pipelines.orchestration.common.runs import TYPE_TAG
from sbh_pipelines_tests.orchestration.conftest import Run
from sbh_pipelines_tests.support.fakes import FakeService

FULL = dg.AssetKey(["tenant_backup", "full"])
INCREMENTAL = dg.AssetKey(["tenant_backup", "incremental"])
RANGE = {"dagster/asset_partition_range_start": "tenant-1", "dagster/asset_partition_range_end": "tenant-3"}
FORBIDDEN = ResidencyError("The tenant's region is not allowed", on="tenant-2", why="mars-1", remedy="correct it")
DOWN = StoreUnavailable("No answer", on="s3", why="", remedy="")


def fleet(*tenants: str, kind: str = "incremental") -> dict[str, object]:
    return {"ops": {"snapshot_tables": {"config": {"tenants": list(tenants), "backup_type": kind}}}}


def made(instance: dg.DagsterInstance, asset: dg.AssetKey) -> dict[str, dg.AssetMaterialization]:
    records = instance.fetch_materializations(asset, limit=100).records
    return {str(r.partition_key): r.asset_materialization for r in records if r.asset_materialization}


def told(materialization: dg.AssetMaterialization) -> dict[str, object]:
    return {name: value.value for name, value in materialization.metadata.items()}


def messages(instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult) -> str:
    return "\n".join(entry.user_message for entry in instance.all_logs(result.run_id))


@pytest.mark.parametrize("kind", ["incremental", "differential"])
def test_each_type_has_an_asset_and_a_job(run: Run, instance: dg.DagsterInstance, fake: FakeService, kind: str) -> None:
    result = run(f"{kind}_backup_job", partition_key="tenant-2")
    assert result.success
    assert [asked["type"] for asked in fake.asked] == [kind]
    assert list(made(instance, dg.AssetKey(["tenant_backup", kind]))) == ["tenant-2"]
    assert made(instance, FULL) == {}
    found = [(e.asset_key.path[-1], e.partition, e.passed) for e in result.get_asset_check_evaluations()]
    assert found == 2 * [(kind, "tenant-2", True)]


def test_the_metadata_say_what_it_builds_on(run: Run, instance: dg.DagsterInstance) -> None:
    """And how much is new, and which tables were read whole, and why."""
    assert run("incremental_backup_job", partition_key="tenant-1").success
    metadata = told(made(instance, INCREMENTAL)["tenant-1"])
    assert (metadata["backup_type"], metadata["parent"]) == ("incremental", "backup_20260101_0000")
    assert (metadata["rows"], metadata["rows_changed"], metadata["files_read"]) == (1000, 12, 2)
    assert "| public.a\\|b | its definition changed |" in str(metadata["read_whole"])
    assert "1 MiB new" in str(metadata["summary"])
    assert "Before it: backup_20260101_0000" in str(metadata["links"])


def test_a_full_made_instead_is_shown_as_both(run: Run, instance: dg.DagsterInstance, fake: FakeService) -> None:
    fake.orphans = {"tenant-1"}
    result = run("incremental_backup_job", tags=RANGE)
    assert result.success
    assert set(made(instance, INCREMENTAL)) == {"tenant-1", "tenant-2", "tenant-3"}
    assert set(made(instance, FULL)) == {"tenant-1"}
    metadata = told(made(instance, INCREMENTAL)["tenant-1"])
    assert (metadata["backup_type"], metadata["requested_type"]) == ("full", "incremental")
    assert metadata["reason"] == "the tenant has no backup to build on"
    assert "A full backup instead of incremental: the tenant has no backup to build on." in str(metadata["summary"])
    evaluations = [e for e in result.get_asset_check_evaluations() if e.check_name == "backup_valid"]
    checked = sorted((e.asset_key.path[-1], e.partition) for e in evaluations)
    assert checked == [("full", "tenant-1"), *[("incremental", f"tenant-{n}") for n in (1, 2, 3)]]


def test_unchanged_tenants_of_a_tick_get_no_materialization(
    run: Run, instance: dg.DagsterInstance, fake: FakeService
) -> None:
    """An observation each while they are few, and numbers for all."""
    fake.unchanged = {"tenant-1", "tenant-3"}
    result = run("fleet_backup_job", run_config=fleet("tenant-1", "tenant-2", "tenant-3"))
    assert result.success
    assert set(made(instance, INCREMENTAL)) == {"tenant-2"}
    observed = [r.asset_observation for r in instance.fetch_observations(INCREMENTAL, limit=10).records]
    assert {o.partition: o.description for o in observed if o} == dict.fromkeys(
        ("tenant-1", "tenant-3"), "Unchanged since backup_20260101_0000"
    )
    assert {e.partition for e in result.get_asset_check_evaluations()} == {"tenant-2"}
    assert "2 unchanged, 1 backed up, 0 failed, of 3 tenants" in messages(instance, result)
    assert "Requests to the store by this process: 3 (2 get, 1 put)" in messages(instance, result)
    (output,) = [e for e in result.get_step_success_events() if e.step_key == "verify_checksums"] and [
        e.step_output_data.metadata
        for e in result.all_events
        if e.is_successful_output and e.step_key == "verify_checksums" and e.step_output_data.output_name == "drafts"
    ]
    assert {name: value.value for name, value in output.items()} == {"unchanged": 2, "backed_up": 1, "failed": 0}


def test_a_tick_in_which_nothing_changed_succeeds(run: Run, instance: dg.DagsterInstance, fake: FakeService) -> None:
    """No step after the first has anything to do; many unchanged tenants leave no event each."""
    fake.names = [f"t-{n}" for n in range(30)]
    fake.unchanged = set(fake.names)
    result = run("fleet_backup_job", run_config=fleet())
    assert result.success
    assert fake.calls == ["begin", "snapshot_tables"]
    assert (made(instance, INCREMENTAL), instance.fetch_observations(INCREMENTAL, limit=1).records) == ({}, [])
    assert "30 unchanged, 0 backed up, 0 failed, of 30 tenants" in messages(instance, result)
    assert fake.leases == set()


def test_an_unchanged_tenant_whose_partition_was_asked_for_is_materialized(
    run: Run, instance: dg.DagsterInstance, fake: FakeService
) -> None:
    """By the backup that describes it: a backfill takes a partition without a materialization for failed."""
    fake.unchanged = {"tenant-1"}
    result = run("incremental_backup_job", tags=RANGE)
    assert result.success
    assert made(instance, INCREMENTAL)["tenant-1"].description == "Unchanged since backup_20260101_0000"
    assert set(made(instance, INCREMENTAL)) == {"tenant-1", "tenant-2", "tenant-3"}


def test_a_failing_tenant_beside_unchanged_ones(run: Run, instance: dg.DagsterInstance, fake: FakeService) -> None:
    """The run tells of the failure, and repeats no step for it: the others have what they need."""
    fake.unchanged = {"tenant-1", "tenant-3"}
    fake.errors["snapshot_tables"] = {"tenant-2": DOWN}
    result = run("fleet_backup_job", run_config=fleet("tenant-1", "tenant-2", "tenant-3"))
    assert not result.success
    assert fake.calls == ["begin", "snapshot_tables"]
    failure = result.failure_data_for_node("apply_retention")
    assert failure is not None
    assert failure.user_failure_data is not None
    (record,) = failure.user_failure_data.metadata["failed_tenants"].value  # type: ignore[misc]
    assert (record["tenant"], record["type"]) == ("tenant-2", "incremental")
    assert "2 unchanged, 0 backed up, 1 failed, of 3 tenants" in messages(instance, result)


def sensor_context(
    result: dg.ExecuteInProcessResult, instance: dg.DagsterInstance, sensor: str
) -> dg.RunStatusSensorContext:
    event = result.get_run_success_event() if result.success else result.get_run_failure_event()
    return dg.build_run_status_sensor_context(sensor, event, instance, instance.get_run_by_id(result.run_id))  # type: ignore[arg-type]


@pytest.mark.parametrize("job", ["fleet_backup_job", "incremental_backup_job"])
def test_a_tenant_is_tried_again_with_the_same_type(
    run: Run, instance: dg.DagsterInstance, fake: FakeService, job: str
) -> None:
    fake.errors["snapshot_tables"] = {"tenant-1": DOWN, "tenant-2": FORBIDDEN}
    given = {"run_config": fleet()} if job == "fleet_backup_job" else {"tags": RANGE}
    context = sensor_context(run(job, **given), instance, "retry_failed_tenants").for_run_failure()
    (request,) = retry_failed_tenants(context)  # type: ignore[misc]
    config = request.run_config["ops"]["snapshot_tables"]["config"]
    assert (config["tenants"], config["backup_type"]) == (["tenant-1"], "incremental")
    assert request.tags[TYPE_TAG] == "incremental"


def test_an_alert_names_the_type(run: Run, instance: dg.DagsterInstance, fake: FakeService) -> None:
    fake.errors["begin"] = {"tenant-2": FORBIDDEN}
    result = run("fleet_backup_job", run_config=fleet("tenant-1", "tenant-2", kind="differential"))
    alert = alert_of(sensor_context(result, instance, "failure_alerts").for_run_failure())
    assert (alert.subject, alert.backup_type) == ("fleet_backup_job (differential) failed: tenant-2", "differential")


def test_retention_that_failed_is_told_and_fails_no_tenant(
    run: Run, instance: dg.DagsterInstance, fake: FakeService
) -> None:
    """In the log and on the backup; `backup_watch` finds the backups that are still there."""
    fake.retention_error = FORBIDDEN
    result = run("incremental_backup_job", tags=RANGE)
    assert result.success
    assert "3 of 3 tenants keep backups that were to be forgotten" in messages(instance, result)
    assert "SBH-120" in str(told(made(instance, INCREMENTAL)["tenant-1"])["retention_errors"])
    assert instance.get_run_by_id(result.run_id).tags[RETENTION_TAG] == "3"  # type: ignore[union-attr]
