"""The jobs on backups that exist, with a service that only answers."""

import dagster as dg

from sbh_pipelines.backup.contents.manifest import Manifest
from sbh_pipelines.errors import CorruptObject
from sbh_pipelines_tests.orchestration.conftest import Run
from sbh_pipelines_tests.support.fakes import FakeService

FULL = dg.AssetKey(["tenant_backup", "full"])
DAMAGED = CorruptObject("A pack | is damaged", on="packs/x", why="short", remedy="back up again")


def test_a_valid_backup_is_observed_and_checked(run: Run, instance: dg.DagsterInstance) -> None:
    """The checks are about the tenant's latest materialization, so that the asset's page counts it."""
    run("full_backup_job", partition_key="tenant-1")
    made = instance.fetch_materializations(FULL, limit=1).records[0]
    config = {"ops": {"validate_backups": {"config": {"deep": True}}}}
    result = run("validate_backup_job", partition_key="tenant-1", run_config=config)
    assert result.success
    whole, source = result.get_asset_check_evaluations()
    assert (whole.check_name, source.check_name) == ("backup_valid", "source_files_present")
    for evaluation in (whole, source):
        assert (evaluation.passed, evaluation.partition) == (True, "tenant-1")
        assert evaluation.target_materialization_data.storage_id == made.storage_id
    assert whole.metadata["deep"].value is True
    assert len(instance.fetch_observations(FULL, limit=5).records) == 1


def test_a_damaged_backup_fails_the_run_with_a_table_of_issues(run: Run, fake: FakeService) -> None:
    fake.issues["tenant-2"] = [DAMAGED]
    result = run("validate_backup_job")
    assert not result.success
    whole = [e for e in result.get_asset_check_evaluations() if e.check_name == "backup_valid"]
    assert {e.partition: e.passed for e in whole} == {
        "tenant-1": True, "tenant-2": False, "tenant-3": True,
    }  # fmt: skip
    metadata = result.failure_data_for_node("validate_backups").user_failure_data.metadata
    assert "| tenant-2 | backup_20260102_0304 | SBH-601 | A pack \\| is damaged | packs/x |" in metadata["issues"].value


def test_a_backup_made_before_a_restore_is_not_the_latest(run: Run, fake: FakeService) -> None:
    """Nor the newest of an asset: none shows it. By its id it is validated all the same."""
    (newest,) = fake.of("tenant-1", None)
    other = {"id": "backup_20260109_0000", "type": "incremental", "purpose": "safety"}
    safety = Manifest({**newest.document, **other})
    fake.of = lambda tenant_id, user_ctx: [safety, newest]  # type: ignore[method-assign]
    for backup_id, checked in (("latest", [newest.id]), (safety.id, [])):
        config = {"ops": {"validate_backups": {"config": {"backup_id": backup_id}}}}
        result = run("validate_backup_job", partition_key="tenant-1", run_config=config)
        assert result.success
        assert [e.metadata["backup_id"].value for e in result.get_asset_check_evaluations()] == 2 * checked
