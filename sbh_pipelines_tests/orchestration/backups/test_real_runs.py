"""Runs against the real engine, database and object store."""

import json
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest

from sbh_pipelines.orchestration.alerting.sensors import tenants_sync
from sbh_pipelines.orchestration.backups.schedules import backup_schedules
from sbh_pipelines.orchestration.common.assets import TENANTS
from sbh_pipelines.orchestration.common.resources import BackupServiceResource
from sbh_pipelines_tests.support.fix_stack import NAMES, RealRun, Site

FULL = dg.AssetKey(["tenant_backup", "full"])
ALL = {"dagster/asset_partition_range_start": NAMES[0], "dagster/asset_partition_range_end": NAMES[-1]}


def materialized(instance: dg.DagsterInstance) -> list[str | None]:
    return sorted(r.partition_key or "" for r in instance.fetch_materializations(FULL, limit=100).records)


def failure(result: dg.ExecuteInProcessResult, node: str) -> Any:
    data = result.failure_data_for_node(node)
    assert data is not None
    assert data.user_failure_data is not None
    return data.user_failure_data


def test_a_materialization_says_what_is_in_the_repository(
    real_run: RealRun, instance: dg.DagsterInstance, site: Site
) -> None:
    assert real_run("full_backup_job", partition_key="tenant-2").success
    (record,) = instance.fetch_materializations(FULL, limit=5).records
    assert record.asset_materialization is not None
    told = {name: value.value for name, value in record.asset_materialization.metadata.items()}
    manifest = json.loads(site.get("tenant-2", str(told["manifest"]).removeprefix(f"s3://{site.bucket('tenant-2')}/")))
    assert told["backup_id"] == manifest["id"]
    assert told["checksum"] == manifest["checksum"]
    assert told["recovery_point_lsn"] == manifest["recovery_point"]["lsn"]
    assert told["files"] == len(site.keys("tenant-2", "uploads/")) == manifest["components"]["files"]["file_count"]
    ((tasks,),) = site.sql("SELECT count(*) FROM tasks WHERE tenant_id = 2")
    assert f"| public.tasks | {tasks:,} |" in str(told["table_details"])
    stored = sum(len(site.get("tenant-2", key)) for key in site.keys("tenant-2", "backups/packs/"))
    assert 0 <= int(str(told["stored_bytes"])) <= stored  # 0 where an earlier backup had stored it all
    assert "| config | 2 tables," in str(told["components"])


def test_one_bad_tenant_of_a_batch_fails_alone(
    real_run: RealRun, instance: dg.DagsterInstance, site: Site, elsewhere: str
) -> None:
    """And leaves no lease behind: the next run gets every other tenant at once."""
    for _ in range(2):
        result = real_run("full_backup_job", tags=ALL)
        assert not result.success
    assert materialized(instance) == sorted(2 * [name for name in NAMES if name != elsewhere])
    (record,) = failure(result, "tenant_backup__full.apply_retention").metadata["failed_tenants"].value
    assert (record["tenant"], record["code"], record["step"]) == (elsewhere, "SBH-120", "begin")
    assert "mars-1" in record["on"]


def test_a_tenant_whose_keys_are_damaged_fails_alone(
    real_run: RealRun, instance: dg.DagsterInstance, site: Site
) -> None:
    assert real_run("full_backup_job", partition_key="tenant-3").success
    (key,) = site.keys("tenant-3", "backups/keys/")
    whole = site.get("tenant-3", key)
    site.put("tenant-3", key, whole[: len(whole) // 2])
    config = {"ops": {"snapshot_tables": {"config": {"tenants": ["tenant-3", "tenant-4"]}}}}
    try:
        result = real_run("fleet_backup_job", run_config=config)
    finally:
        site.put("tenant-3", key, whole)
    assert not result.success
    (record,) = failure(result, "apply_retention").metadata["failed_tenants"].value
    assert record["tenant"] == "tenant-3"
    assert materialized(instance) == ["tenant-3", "tenant-4"]
    assert real_run("full_backup_job", partition_key="tenant-3").success


def test_an_unknown_tenant_is_named(real_run: RealRun) -> None:
    config = {"ops": {"snapshot_tables": {"config": {"tenants": ["tenant-1", "nobody"]}}}}
    result = real_run("fleet_backup_job", run_config=config)
    (record,) = failure(result, "apply_retention").metadata["failed_tenants"].value
    assert (record["tenant"], record["code"]) == ("nobody", "SBH-202")


def test_a_damaged_repository_fails_the_validation(real_run: RealRun, instance: dg.DagsterInstance, site: Site) -> None:
    """The run shows a table of issues; the asset's check, green before, is red."""
    assert real_run("full_backup_job", partition_key="tenant-6").success
    assert real_run("validate_backup_job", partition_key="tenant-6").success
    packs = {key: site.get("tenant-6", key) for key in site.keys("tenant-6", "backups/packs/")}
    for key in packs:
        site.delete("tenant-6", key)
    try:
        result = real_run("validate_backup_job", partition_key="tenant-6")
    finally:
        for key, body in packs.items():
            site.put("tenant-6", key, body)
    assert not result.success
    assert "packs/" in failure(result, "validate_backups").metadata["issues"].value
    red, source = result.get_asset_check_evaluations()
    assert (red.passed, red.partition, red.severity) == (False, "tenant-6", dg.AssetCheckSeverity.ERROR)
    assert (source.check_name, source.passed) == ("source_files_present", True)
    deep = {"ops": {"validate_backups": {"config": {"deep": True}}}}
    assert real_run("validate_backup_job", partition_key="tenant-6", run_config=deep).success


def test_a_restore_without_confirmation_touches_nothing(real_run: RealRun, site: Site) -> None:
    assert real_run("full_backup_job", partition_key="tenant-2").success
    site.sql("UPDATE users SET name = name || '!' WHERE tenant_id = 2")
    before = site.fingerprint("tenant-2")
    refused = real_run("restore_job", partition_key="tenant-2")
    assert not refused.success
    assert "[SBH-205]" in failure(refused, "restore_tenant").description
    assert site.fingerprint("tenant-2") == before
    site.sql("UPDATE users SET name = left(name, -1) WHERE tenant_id = 2")


def test_a_restore_brings_rows_and_files_back(real_run: RealRun, instance: dg.DagsterInstance, site: Site) -> None:
    """Bit for bit; what was done is in the metadata of the run and on the tenant's page of `tenant_restore`, not of its backup."""
    assert real_run("full_backup_job", partition_key="tenant-1").success
    before, other = site.fingerprint("tenant-1"), site.fingerprint("tenant-3")
    mine = "comment_id IN (SELECT c.id FROM comments c JOIN tasks t ON t.id = c.task_id WHERE t.tenant_id = 1)"
    site.sql(f"DELETE FROM attachments WHERE {mine}")
    site.sql("DELETE FROM comments WHERE task_id IN (SELECT id FROM tasks WHERE tenant_id = 1)")
    site.sql("UPDATE tasks SET title = 'wrong' WHERE tenant_id = 1")
    site.delete("tenant-1", site.keys("tenant-1", "uploads/")[0])
    assert site.fingerprint("tenant-1") != before
    config = {"ops": {"restore_tenant": {"config": {"confirm": True}}}}
    result = real_run("restore_job", partition_key="tenant-1", run_config=config)
    assert result.success
    assert site.fingerprint("tenant-1") == before
    assert site.fingerprint("tenant-3") == other
    assert instance.fetch_observations(FULL, limit=5).records == []
    restores = dg.AssetKey("tenant_restore")
    (restored,) = (r.asset_materialization for r in instance.fetch_materializations(restores, limit=5).records)
    assert restored is not None
    assert restored.partition == "tenant-1"
    assert "comments |" in str(restored.metadata["tables"].value)
    assert restored.metadata["files_restored"].value == 1


def test_a_backup_that_is_not_there_is_named(real_run: RealRun) -> None:
    config = {"ops": {"validate_backups": {"config": {"backup_id": "backup_19990101_0000"}}}}
    result = real_run("validate_backup_job", partition_key="tenant-2", run_config=config)
    assert "[SBH-203]" in failure(result, "validate_backups").description


def told(instance: dg.DagsterInstance, kind: str) -> dict[str, Any]:
    """The metadata of the newest materialization of `tenant_backup/<kind>`."""
    (record,) = instance.fetch_materializations(dg.AssetKey(["tenant_backup", kind]), limit=1).records
    assert record.asset_materialization is not None
    return {name: value.value for name, value in record.asset_materialization.metadata.items()}


@pytest.mark.parametrize("kind", ["incremental", "differential"])
def test_a_backup_of_what_changed(real_run: RealRun, instance: dg.DagsterInstance, site: Site, kind: str) -> None:
    """It says how little it read and stored, validates, and brings the tenant back by itself."""
    assert real_run("full_backup_job", partition_key="tenant-2").success
    full = told(instance, "full")
    site.sql("UPDATE tasks SET title = title || '!' WHERE id IN (SELECT min(id) FROM tasks WHERE tenant_id = 2)")
    key = site.keys("tenant-2", "uploads/")[0]
    site.put("tenant-2", key, site.get("tenant-2", key) + kind.encode())
    before = site.fingerprint("tenant-2")
    assert real_run(f"{kind}_backup_job", partition_key="tenant-2").success
    made = told(instance, kind)
    assert (made["backup_type"], made["parent"]) == (kind, full["backup_id"])
    assert (made["rows"], made["files"]) == (full["rows"], full["files"])
    assert made["files_read"] == 1
    assert 0 < made["rows_changed"] < made["rows"]
    site.sql("DELETE FROM payments WHERE tenant_id = 2")
    site.delete("tenant-2", key)
    assert real_run("validate_backup_job", partition_key="tenant-2").success
    restore = {"ops": {"restore_tenant": {"config": {"confirm": True, "backup_id": made["backup_id"]}}}}
    assert real_run("restore_job", partition_key="tenant-2", run_config=restore).success
    assert site.fingerprint("tenant-2") == before


def test_a_tick_over_unchanged_tenants(real_run: RealRun, instance: dg.DagsterInstance, site: Site) -> None:
    """Only the tenant that changed gets a backup; a first backup is a full one, and says why."""
    site.sql("UPDATE users SET name = name WHERE tenant_id = 3")
    config = {"tenants": ["tenant-1", "tenant-3"], "backup_type": "incremental"}
    run_config = {"ops": {"snapshot_tables": {"config": config}}}
    assert real_run("fleet_backup_job", run_config=run_config).success
    site.sql("UPDATE users SET name = name || '.' WHERE tenant_id = 3")
    second = real_run("fleet_backup_job", run_config=run_config)
    assert second.success
    key = dg.AssetKey(["tenant_backup", "incremental"])
    made = [r for r in instance.fetch_materializations(key, limit=10).records if r.run_id == second.run_id]
    assert [r.partition_key for r in made] == ["tenant-3"]
    (seen,) = [r for r in instance.fetch_observations(key, limit=10).records if r.run_id == second.run_id]
    assert seen.partition_key == "tenant-1"


def test_prune_and_retention_of_real_repositories(real_run: RealRun, instance: dg.DagsterInstance) -> None:
    """A fresh repository has nothing to give back."""
    assert real_run("full_backup_job", partition_key="tenant-6").success
    pruned = real_run("prune_job", partition_key="tenant-6")
    assert pruned.success
    assert "1 tenants done, 0 failed" in " ".join(e.user_message for e in instance.all_logs(pruned.run_id))
    dry = {"ops": {"forget_backups": {"config": {"dry_run": True}}}}
    assert real_run("retention_job", partition_key="tenant-6", run_config=dry).success


def test_a_tick_of_the_schedule_and_the_sensor_know_the_real_tenants(
    dagster_home: dg.DagsterInstance, real_resource: BackupServiceResource
) -> None:
    instance, resources = dagster_home, {"backups": real_resource}
    slot = datetime(2026, 3, 1, 2, tzinfo=UTC)
    (daily,) = [schedule for schedule in backup_schedules if schedule.name == "daily_full"]
    with dg.build_schedule_context(instance, scheduled_execution_time=slot, resources=resources) as context:
        requests = daily.evaluate_tick(context).run_requests or []
    tenants = {r.tags["sbh/region"]: r.run_config["ops"]["snapshot_tables"]["config"]["tenants"] for r in requests}
    assert tenants == {"eu-west-1": [n for n in NAMES if n != "tenant-4"]}  # tenant-4 is of the tier archive
    instance.add_dynamic_partitions(TENANTS, ["tenant-1", "left"])
    with dg.build_sensor_context(instance, resources=resources) as context:
        requests = tenants_sync.evaluate_tick(context).dynamic_partitions_requests or []
    assert sorted(key for request in requests for key in request.partition_keys) == ["left", *NAMES[1:]]
