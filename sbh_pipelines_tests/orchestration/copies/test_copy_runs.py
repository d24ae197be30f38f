"""Copies in Dagster: one run for all copies and tenants, and what it leaves on the page of each copy."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from sbh_pipelines.backup.copies.results import CopyRun, TenantCopied
from sbh_pipelines.errors import CopyUnverified
from sbh_pipelines.model import TenantId
from sbh_pipelines.orchestration.common.assets import tenants_partitions
from sbh_pipelines.orchestration.common.resources import BackupServiceResource
from sbh_pipelines.orchestration.copies.copy_runs import (
    COPIES_ASSET,
    copies_schedule,
    copy_asset,
    copy_assets,
    copy_run_job,
)
from sbh_pipelines.orchestration.copies.metadata import copied_metadata, copied_text, copies_metadata
from sbh_pipelines.security.policy import ALL_TENANTS, Role, UserContext
from sbh_pipelines.settings import CopySettings
from sbh_pipelines_tests.support.buckets import fresh_bucket
from sbh_pipelines_tests.support.fix_stack import RealRun, Site

ADMIN = UserContext("admin", ALL_TENANTS, Role.ADMIN)


@pytest.fixture
def copied(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A copy `dr` of eu-west-1 in a bucket of its own; its bucket."""
    with fresh_bucket(site.stack) as bucket:
        copy = {"name": "dr", "from": ["eu-west-1"], "to": "eu-central-1", "bucket": bucket}
        monkeypatch.setenv("SBH_COPIES", json.dumps([copy]))
        yield bucket


def test_each_tenant_that_is_there_is_a_partition_with_numbers(
    copied: str, real_resource: BackupServiceResource, real_run: RealRun
) -> None:
    service = real_resource.service
    tenant = str(next(one.id for one in service.tenants.all() if one.region == "eu-west-1"))
    service.create_backup(tenant, ADMIN)
    result = real_run("copy_run_job")
    assert result.success
    *each, of_all = result.asset_materializations_for_node("run_copies")
    told = {event.partition: event for event in each}
    assert {event.asset_key for event in each} == {copy_asset("dr")}
    numbers = {name: value.value for name, value in told[tenant].metadata.items()}
    assert numbers["objects"] > 3  # type: ignore[operator]
    assert numbers["bytes"] > 1000  # type: ignore[operator]
    assert 0 <= numbers["lag_s"] < 600  # type: ignore[operator]
    where = f"latest --tenant {tenant} --from-copy dr"
    assert numbers["restore_from_it"] == f"sbh restore run {where} --no-safety-backup --confirm"
    assert f"{tenant} can be brought back from the copy dr as of 20" in str(told[tenant].description)
    assert "the objective is 2 h" in str(told[tenant].description)
    assert of_all.asset_key == COPIES_ASSET
    numbers = {name: value.value for name, value in of_all.metadata.items()}
    lags = [event.metadata["lag_s"].value for event in each]
    assert 0 <= numbers["dr_worst_lag_s"] - max(lags) < 60  # type: ignore[operator,type-var]  # told a little later
    assert (numbers["dr_late"], numbers["dr_failed"]) == (0, 0)
    assert numbers["dr_bytes"] > 1000  # type: ignore[operator]
    assert "| dr | " in str(numbers["copies"])
    assert " of 2 h |" in str(numbers["copies"])
    assert f"| {tenant} | " in str(numbers["dr_tenants"])


def test_each_copy_is_an_asset_with_a_tenant_as_its_partition(copied: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the settings as they are now; those that cannot be read leave the asset of all copies."""
    of_dr, of_all = copy_assets()
    assert (of_dr.key, of_dr.partitions_def) == (copy_asset("dr"), tenants_partitions)
    assert "The backups in eu-central-1, brought there and verified" in str(of_dr.description)
    assert "the objective of 2 h" in str(of_dr.description)
    assert [dep.asset_key for dep in of_all.deps] == [copy_asset("dr")]
    monkeypatch.setenv("SBH_COPIES", "[{")
    (alone,) = copy_assets()
    assert alone.key == COPIES_ASSET


def test_a_tenant_that_is_late_or_failed_says_so(settings_of_dr: CopySettings) -> None:
    """In words, with the code and what mends it, and before the others in the table of all."""
    now = datetime(2026, 1, 2, 12, tzinfo=UTC)
    error = CopyUnverified("It is not whole", on="packs/1", why="it is gone", remedy="`sbh copies run dr`")
    late = TenantCopied(TenantId("late"), "eu-west-1", 1, 2**21, "b", now - timedelta(hours=3), error)
    fresh = TenantCopied(TenantId("fresh"), "eu-west-1", 2, 2**21, "b", now - timedelta(seconds=9))
    away = TenantCopied(TenantId("away"), "us-east-1", left_out="its tier is free")
    said = copied_text(settings_of_dr, late, now)
    assert "LATE, 3 h old, the objective is 2 h" in said
    assert f"[{error.code}] It is not whole" in said
    assert "LATE" not in copied_text(settings_of_dr, fresh, now)
    metadata = copied_metadata(settings_of_dr, late, now)
    assert (metadata["lag_s"].value, metadata["objective"].value) == (10800.0, "2 h")
    assert metadata["error_code"].value == error.code
    assert "`sbh copies run dr`" in str(metadata["error"].value)
    assert "error" not in copied_metadata(settings_of_dr, fresh, now)
    done = CopyRun("dr", (fresh, away, late), {}, (), 3, 2**22, 4.2)
    of_all = copies_metadata([(settings_of_dr, done)], now)
    assert (of_all["dr_worst_lag_s"].value, of_all["dr_late"].value, of_all["dr_failed"].value) == (10800.0, 1, 1)
    rows = [line.split("|")[1].strip() for line in str(of_all["dr_tenants"].value).splitlines()[2:]]
    assert rows == ["late", "fresh", "away"]
    assert "left out: its tier is free" in str(of_all["dr_tenants"].value)
    assert error.code in str(of_all["dr_errors"].value)


@pytest.fixture
def settings_of_dr() -> CopySettings:
    return CopySettings.model_validate({"name": "dr", "to": "eu-central-1"})


def test_the_daily_prune_sees_to_copies(copied: str, real_resource: BackupServiceResource, real_run: RealRun) -> None:
    service = real_resource.service
    tenant = str(next(one.id for one in service.tenants.all() if one.region == "eu-west-1"))
    service.create_backup(tenant, ADMIN)
    assert real_run("copy_run_job").success
    result = real_run("prune_job", partition_key=tenant)
    assert result.success
    (output,) = [event for event in result.all_node_events if event.is_successful_output]
    kept = output.step_output_data.metadata["copy dr"].value
    assert kept["tenants"] >= 1  # type: ignore[index]
    assert kept["backups forgotten"] == 0  # type: ignore[index]


def test_without_copies_a_run_does_nothing(real_resource: BackupServiceResource, real_run: RealRun) -> None:
    result = real_run("copy_run_job")
    assert result.success
    assert result.asset_materializations_for_node("run_copies") == []


def test_each_copy_has_a_run_of_its_own_and_one_that_takes_long_holds_up_no_other(
    dagster_home: dg.DagsterInstance, real_resource: BackupServiceResource, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = [{"name": name, "to": "eu-central-1", "bucket": f"{name}-{{region}}"} for name in ("dr", "vault")]
    monkeypatch.setenv("SBH_COPIES", json.dumps(named))

    def asked(slot: datetime) -> list[dg.RunRequest]:
        resources = {"backups": real_resource}
        with dg.build_schedule_context(dagster_home, scheduled_execution_time=slot, resources=resources) as context:
            return list(copies_schedule.evaluate_tick(context).run_requests or [])

    def names(requests: list[dg.RunRequest]) -> list[str]:
        return [one.run_config["ops"]["run_copies"]["config"]["copy_name"] for one in requests]

    first = asked(datetime(2026, 1, 2, 1, 20, tzinfo=UTC))
    assert names(first) == ["dr", "vault"]
    assert len({one.run_key for one in first}) == 2
    dagster_home.create_run_for_job(
        copy_run_job,
        run_config=first[0].run_config,
        tags={**copy_run_job.tags, **first[0].tags},
        status=dg.DagsterRunStatus.STARTED,
    )
    assert names(asked(datetime(2026, 1, 2, 2, 20, tzinfo=UTC))) == ["vault"]


def test_the_schedule_is_skipped_without_copies(
    dagster_home: dg.DagsterInstance,
    real_resource: BackupServiceResource,
) -> None:
    slot, resources = datetime(2026, 1, 2, 1, 20, tzinfo=UTC), {"backups": real_resource}
    with dg.build_schedule_context(dagster_home, scheduled_execution_time=slot, resources=resources) as context:
        tick = copies_schedule.evaluate_tick(context)
    assert not tick.run_requests
    assert "no copy" in str(tick.skip_message)
