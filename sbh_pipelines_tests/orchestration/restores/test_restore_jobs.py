"""Restores from Dagster on real servers: plan, a part of a tenant, undo; and what is refused."""

from dataclasses import replace
from typing import Any

import dagster as dg
import pytest

from sbh_pipelines.backup.service.results import Scope
from sbh_pipelines.orchestration.common.resources import BackupServiceResource, tags_of
from sbh_pipelines.orchestration.restores.discretion import part_text
from sbh_pipelines.security.policy import ALL_TENANTS, Role, UserContext
from sbh_pipelines_tests.orchestration.conftest import Run
from sbh_pipelines_tests.support.fix_stack import RealRun, Site

FULL, RESTORES = dg.AssetKey(["tenant_backup", "full"]), dg.AssetKey("tenant_restore")
INCREMENTAL = dg.AssetKey(["tenant_backup", "incremental"])
MINE = "tenant_id = (SELECT id FROM tenants WHERE slug = 'tenant-4')"


def config(op: str, **fields: Any) -> dict[str, Any]:
    return {"partition_key": "tenant-4", "run_config": {"ops": {op: {"config": fields}}}}


def told(result: dg.ExecuteInProcessResult, op: str) -> dict[str, Any]:
    """The metadata of what the op says on the page of restores."""
    (event,) = (*result.asset_observations_for_node(op), *result.asset_materializations_for_node(op))
    return {name: value.value for name, value in event.metadata.items()}


def descriptions(instance: dg.DagsterInstance) -> list[str]:
    """Of what is on the page of restores, newest first."""
    planned = instance.fetch_observations(RESTORES, limit=10).records
    restored = instance.fetch_materializations(RESTORES, limit=10).records
    records = sorted([*planned, *restored], key=lambda record: record.storage_id, reverse=True)
    return [str((r.asset_observation or r.asset_materialization).description) for r in records]  # type: ignore[union-attr]


def test_a_part_is_planned_restored_and_undone(
    real_run: RealRun, instance: dg.DagsterInstance, site: Site, real_resource: BackupServiceResource
) -> None:
    """The plan writes nothing; it and each restore say on the page of restores what they did, and which backup undoes it."""
    assert real_run("full_backup_job", partition_key="tenant-4").success
    original = site.fingerprint("tenant-4")
    site.sql(f"DELETE FROM payments WHERE {MINE}")
    site.sql(f"UPDATE users SET name = name || '!' WHERE {MINE}")
    damaged = site.fingerprint("tenant-4")
    part = {"tables": ["users", "payments"], "mode": "missing-only"}
    planned = real_run("restore_job", **config("restore_tenant", **part, validate_only=True))
    assert planned.success
    plan = told(planned, "restore_tenant")
    assert plan["rows_to_insert"] > 0
    assert (plan["rows_to_update"], plan["rows_to_delete"], plan["problem_count"]) == (0, 0, 0)
    assert plan["rows_kept"] > 0
    assert "| public.users |" in plan["tables"]
    changes = f"would insert {plan['rows_to_insert']:,}, update 0, delete 0 rows"
    said = f"{plan['backup_id']} (tables users, payments; missing-only): {changes}; nothing was written"
    assert descriptions(instance) == [f"Plan of {said}"]
    assert f"tenant-4: {said}" in [entry.user_message for entry in instance.all_logs(planned.run_id)]

    done = real_run("restore_job", **config("restore_tenant", **part, confirm=True))
    assert done.success
    result = told(done, "restore_tenant")
    assert result["rows_inserted"] == plan["rows_to_insert"]
    assert result["rows_kept"] == plan["rows_kept"]
    text = descriptions(instance)[0]
    what = f"Restored {result['backup_id']} in place (tables users, payments; missing-only)"
    assert text.startswith(f"{what}: inserted {result['rows_inserted']:,}, updated 0, deleted 0 rows")
    assert text.endswith(f"Safety backup {result['safety_backup']}: undo_restore_job brings it back")
    assert "/jobs/undo_restore_job/playground/setup?config=" in result["links"]
    assert instance.fetch_materializations(INCREMENTAL, limit=1).records == []
    assert [instance.fetch_observations(asset, limit=1).records for asset in (FULL, INCREMENTAL)] == [[], []]

    undo = {"restore_id": result["restore_id"]}
    refused = real_run("undo_restore_job", **config("undo_tenant_restore", **undo))
    assert "[SBH-205]" in refused.failure_data_for_node("undo_tenant_restore").user_failure_data.description
    preview = real_run("undo_restore_job", **config("undo_tenant_restore", **undo, validate_only=True))
    assert told(preview, "undo_tenant_restore")["rows_to_delete"] == result["rows_inserted"]
    assert real_run("undo_restore_job", **config("undo_tenant_restore", **undo, confirm=True)).success
    assert site.fingerprint("tenant-4") == damaged
    assert descriptions(instance)[0].startswith(f"Undid {result['restore_id']} (tables public.payments): inserted 0")

    rosa = UserContext("rosa", ALL_TENANTS, Role.ADMIN)
    whole = real_run("restore_job", **config("restore_tenant", confirm=True, safety_backup=False), tags=tags_of(rosa))
    assert whole.success
    trail = real_resource.service.audit.events(replace(rosa, user_id="auditor"), "tenant-4", user="rosa").events
    assert [event.event for event in trail] == ["restore.completed", "restore.started"]  # and looked at nothing else
    assert told(whole, "restore_tenant")["backup_id"] == result["backup_id"]  # `latest` is no safety backup
    assert told(whole, "restore_tenant")["safety_backup"] == "none"
    assert site.fingerprint("tenant-4") == original


def test_a_plan_with_problems_fails_and_shows_them(real_run: RealRun, site: Site) -> None:
    assert real_run("full_backup_job", partition_key="tenant-4").success
    site.sql(f"UPDATE files SET id = id + 10000000 WHERE id = (SELECT min(id) FROM files WHERE {MINE})")
    try:
        options = {"tables": ["files"], "mode": "missing-only", "validate_only": True}
        result = real_run("restore_job", **config("restore_tenant", **options))
    finally:
        site.sql(f"UPDATE files SET id = id - 10000000 WHERE id > 10000000 AND {MINE}")
    assert not result.success
    failure = result.failure_data_for_node("restore_tenant").user_failure_data
    assert failure.description.startswith("[SBH-703]")
    assert "| SBH-703 |" in failure.metadata["problems"].value
    assert "| public.files |" in failure.metadata["conflicts"].value
    assert failure.metadata["rows_to_insert"].value == 1
    contradiction = real_run("restore_job", **config("restore_tenant", rows="users where id = 1", tables=["users"]))
    assert "[SBH-200]" in contradiction.failure_data_for_node("restore_tenant").user_failure_data.description


@pytest.mark.parametrize(
    ("job", "op", "fields"),
    [("restore_job", "restore_tenant", {}), ("undo_restore_job", "undo_tenant_restore", {"restore_id": "x"})],
)
def test_a_restore_is_for_one_tenant(run: Run, job: str, op: str, fields: dict[str, str]) -> None:
    result = run(job, run_config={"ops": {op: {"config": fields}}})
    failure = result.failure_data_for_node(op).user_failure_data
    assert "Choose one partition" in failure.description
    assert f"ops.{op}.config.tenant" in failure.description


def test_what_was_restored_in_words() -> None:
    assert part_text(Scope("tenant"), "exact") == ""
    assert part_text(Scope("tenant"), "newest-wins") == " (newest-wins)"
    rows = Scope("part", rows="users where id = 1", files=["a/**"])
    assert part_text(rows, "exact") == " (files by 1 pattern; chosen rows of users)"
    assert part_text(Scope("part", config_only=True), "exact") == " (configuration)"
