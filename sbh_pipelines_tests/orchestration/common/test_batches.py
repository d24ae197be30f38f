"""What Dagster records of a batch: each tenant for itself."""

import re
from urllib.parse import parse_qs

import dagster as dg
import pytest

from sbh_pipelines.definitions import defs
from sbh_pipelines.errors import CorruptObject, LeaseHeld, ResidencyError, SourceUnavailable, StoreUnavailable
from sbh_pipelines.orchestration.common.dagster_internals import load_run_config_yaml
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.orchestration.conftest import Run
from sbh_pipelines_tests.support.fakes import FakeService

FULL = dg.AssetKey(["tenant_backup", "full"])
RANGE = {"dagster/asset_partition_range_start": "tenant-1", "dagster/asset_partition_range_end": "tenant-3"}
FORBIDDEN = ResidencyError("The tenant's region is not allowed", on="tenant-2", why="mars-1", remedy="correct it")


def materialized(instance: dg.DagsterInstance) -> dict[str, dg.AssetMaterialization]:
    records = instance.fetch_materializations(FULL, limit=100).records
    return {r.partition_key: r.asset_materialization for r in records}  # type: ignore[misc]


def test_one_tenant_gives_exactly_one_materialization(
    run: Run, instance: dg.DagsterInstance, fake: FakeService
) -> None:
    """Not a second one that Dagster makes for the asset's output by itself."""
    assert run("full_backup_job", partition_key="tenant-2").success
    records = instance.fetch_materializations(FULL, limit=10).records
    assert [r.partition_key for r in records] == ["tenant-2"]
    assert fake.asked == [{"tenants": ["tenant-2"], "user": "dagster", "type": "full", "why": None}]


def test_a_failing_tenant_fails_alone(run: Run, instance: dg.DagsterInstance, fake: FakeService) -> None:
    """The others are materialized; the failed one is not, and the failure names it."""
    fake.errors["enumerate_files"] = {"tenant-2": FORBIDDEN}
    result = run("full_backup_job", tags=RANGE)
    assert not result.success
    assert set(materialized(instance)) == {"tenant-1", "tenant-3"}
    failure = result.failure_data_for_node("tenant_backup__full.apply_retention")
    assert failure.user_failure_data.metadata["failed_tenants"].value[0]["tenant"] == "tenant-2"
    assert fake.leases == set()


def test_the_metadata_say_what_was_backed_up(run: Run, instance: dg.DagsterInstance) -> None:
    run("full_backup_job", partition_key="tenant-1")
    metadata = {name: value.value for name, value in materialized(instance)["tenant-1"].metadata.items()}
    assert metadata["backup_id"] == "backup_20260102_0304"
    assert list(metadata)[:2] == ["summary", "links"]
    assert metadata["summary"] == (
        "**1,000 rows and 7 files** as of 2026-01-02 03:04:05 UTC, 1 MiB new. Kept as newest."
    )
    assert (metadata["source_bytes"], metadata["stored_bytes"]) == (4 << 20, 1 << 20)
    assert (metadata["rows"], metadata["tables"], metadata["files"]) == (1000, "5", 7)
    assert metadata["source_to_stored_ratio"] == "4.00"
    assert metadata["recovery_point_lsn"] == "0/16B3748"
    location = "s3://sbh-files-eu-west-1/files/tenant-1/backups/manifests/backup_20260102_0304.json"
    assert metadata["manifest"] == location
    assert "| public.a\\|b | 1,000 | 3 MiB | database |" in metadata["table_details"]
    assert "| files | 7 files | 1 MiB |" in metadata["components"]
    numbers = dg.IntMetadataValue | dg.FloatMetadataValue
    plotted = [name for name, v in materialized(instance)["tenant-1"].metadata.items() if isinstance(v, numbers)]
    assert plotted == [
        "recovery_point_age_s", "rows", "files", "files_missing", "source_bytes", "stored_bytes", "duration_s",
    ]  # fmt: skip


def test_links_lead_to_a_plan_of_this_very_backup(run: Run, instance: dg.DagsterInstance, fake: FakeService) -> None:
    """On whatever host shows the page, or at the address that the settings name."""
    run("full_backup_job", partition_key="tenant-1")
    links = str(materialized(instance)["tenant-1"].metadata["links"].value)
    (plan,) = re.findall(r"\[See what a restore would do\]\((\S+)\)", links)
    path, _, query = plan.partition("?")
    assert path == "/locations/sbh_pipelines.definitions/jobs/restore_job/playground/setup"
    config = load_run_config_yaml(parse_qs(query)["config"][0])["ops"]["restore_tenant"]["config"]
    assert config == {"tenant": "tenant-1", "backup_id": "backup_20260102_0304", "validate_only": True}
    job = defs.resolve_job_def("restore_job")
    assert dg.validate_run_config(job, {"ops": {"restore_tenant": {"config": config}}})
    fake.settings = Settings(alerts={"dagster_url": "https://dagster.example.com/"})
    run("full_backup_job", partition_key="tenant-2")
    links = str(materialized(instance)["tenant-2"].metadata["links"].value)
    assert "(https://dagster.example.com/locations/" in links
    assert len(links) < 1000, "Dagster hides longer ones behind a button"


def test_the_check_has_a_result_per_tenant(run: Run, instance: dg.DagsterInstance, fake: FakeService) -> None:
    """Damage is an error, and no backup; files that the source has lost are a warning of another check, and a backup."""
    fake.errors["verify_checksums"] = {"tenant-3": CorruptObject("A pack is damaged", on="packs/x", why="", remedy="")}
    fake.missing["tenant-2"] = 4
    result = run("full_backup_job", tags=RANGE)
    found = [(e.check_name, e.partition, e.passed, e.severity.value) for e in result.get_asset_check_evaluations()]
    assert sorted(found) == [
        ("backup_valid", "tenant-1", True, "ERROR"),
        ("backup_valid", "tenant-2", True, "ERROR"),
        ("backup_valid", "tenant-3", False, "ERROR"),
        ("source_files_present", "tenant-1", True, "WARN"),
        ("source_files_present", "tenant-2", False, "WARN"),
    ]
    assert set(materialized(instance)) == {"tenant-1", "tenant-2"}
    stored = instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(FULL, "backup_valid"), limit=10
    )
    assert sorted((r.partition, r.status.value) for r in stored) == [
        ("tenant-1", "SUCCEEDED"), ("tenant-2", "SUCCEEDED"), ("tenant-3", "FAILED"),
    ]  # fmt: skip
    assert fake.leases == set()


def test_the_check_of_a_single_tenant_can_fail(run: Run, fake: FakeService) -> None:
    """The run ends in that step, and the result is recorded all the same."""
    fake.errors["verify_checksums"] = {"tenant-1": CorruptObject("A pack is damaged", on="packs/x", why="", remedy="")}
    result = run("full_backup_job", partition_key="tenant-1")
    assert not result.success
    (evaluation,) = result.get_asset_check_evaluations()
    assert (evaluation.passed, evaluation.description) == (
        False,
        "backup_20260102_0304: 1 issue, first: A pack is damaged",
    )


def test_the_fleet_job_records_the_same(run: Run, instance: dg.DagsterInstance, fake: FakeService) -> None:
    """Its tenants are in the run's configuration; it has no partition."""
    fake.errors["snapshot_tables"] = {"tenant-1": FORBIDDEN}
    config = {"tenants": ["tenant-1", "tenant-3"], "description": "before the move"}
    result = run("fleet_backup_job", run_config={"ops": {"snapshot_tables": {"config": config}}}, tags={"user": "ada"})
    assert not result.success
    tags = instance.get_run_by_id(result.run_id).tags  # type: ignore[union-attr]
    told = [tags[name] for name in ("user", "sbh/operation", "sbh/backup_type", "sbh/tenants")]
    assert told == ["ada", "backup", "full", "2 tenants"]
    assert set(materialized(instance)) == {"tenant-3"}
    assert fake.asked == [
        {"tenants": ["tenant-1", "tenant-3"], "user": "ada", "type": "full", "why": "before the move"}
    ]


def test_the_fleet_job_without_tenants_takes_all(run: Run, instance: dg.DagsterInstance) -> None:
    assert run("fleet_backup_job").success
    assert set(materialized(instance)) == {"tenant-1", "tenant-2", "tenant-3"}


def test_tenants_and_partitions_together_are_refused(run: Run, fake: FakeService) -> None:
    steps = {"snapshot_tables": {"config": {"tenants": ["tenant-3"]}}}
    config = {"ops": {"tenant_backup__full": {"ops": steps}}}
    assert not run("full_backup_job", partition_key="tenant-1", run_config=config).success
    assert fake.asked == []


def test_a_transient_error_of_the_whole_batch_is_repeated(
    run: Run, instance: dg.DagsterInstance, fake: FakeService
) -> None:
    """Four times at most; each repeat of the first step begins anew, and no lease is left behind."""
    down = SourceUnavailable("Cannot connect", on="db", why="refused", remedy="start it")
    fake.errors["snapshot_tables"] = {"tenant-1": down}
    result = run("full_backup_job", partition_key="tenant-1")
    assert not result.success
    assert len(fake.asked) == 5
    assert fake.leases == set()
    assert materialized(instance) == {}


def test_a_tenant_whose_lease_is_held_is_waited_for(run: Run, fake: FakeService) -> None:
    """It failed before any step began; that, too, may pass."""
    fake.errors["begin"] = {"tenant-1": LeaseHeld("Another writer works on this tenant", on="lease.json")}
    assert not run("full_backup_job", partition_key="tenant-1").success
    assert len(fake.asked) == 5


def test_a_permanent_error_is_not_repeated(run: Run, fake: FakeService) -> None:
    fake.errors["begin"] = {"tenant-2": FORBIDDEN}
    assert not run("full_backup_job", partition_key="tenant-2").success
    assert len(fake.asked) == 1


def test_an_error_of_one_tenant_repeats_nothing(run: Run, fake: FakeService) -> None:
    """The other tenants must not wait for it, nor be read twice."""
    fake.errors["enumerate_files"] = {"tenant-1": StoreUnavailable("No answer", on="s3", why="", remedy="")}
    assert not run("full_backup_job", tags=RANGE).success
    assert fake.calls.count("enumerate_files") == 1


@pytest.mark.parametrize("step", ["snapshot_tables", "enumerate_files", "verify_checksums", "apply_retention"])
def test_a_run_that_breaks_releases_its_leases(run: Run, fake: FakeService, step: str) -> None:
    """A bug or a termination in any step: the next run must not wait for leases to expire."""
    fake.raises[step] = RuntimeError("broken")
    assert not run("full_backup_job", partition_key="tenant-1").success
    assert fake.leases == set()


def test_a_backup_counts_though_retention_failed(run: Run, instance: dg.DagsterInstance, fake: FakeService) -> None:
    fake.errors["apply_retention"] = {"tenant-1": FORBIDDEN}
    assert not run("full_backup_job", partition_key="tenant-1").success
    assert set(materialized(instance)) == {"tenant-1"}


def test_materializations_of_a_batch_are_written_together(
    run: Run, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the buffer that production sets, none is lost, though the buffer is larger than the batch."""
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", "500")
    written: list[int] = []
    store = instance.event_log_storage.store_event_batch
    monkeypatch.setattr(
        instance.event_log_storage, "store_event_batch", lambda events: (written.append(len(events)), store(events))
    )
    assert run("full_backup_job", tags=RANGE).success
    assert written[-1] == 3  # before it, what Dagster planned
    assert set(materialized(instance)) == {"tenant-1", "tenant-2", "tenant-3"}
