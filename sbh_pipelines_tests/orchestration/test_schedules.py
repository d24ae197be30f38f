"""The daily backup of the fleet, and the sensor that knows the tenants."""

from datetime import UTC, datetime

import dagster as dg
import pytest

from sbh_pipelines.errors import SourceUnavailable
from sbh_pipelines.orchestration.partitions import TENANTS
from sbh_pipelines.orchestration.schedules import batches, daily_full_backup
from sbh_pipelines.orchestration.sensors import tenants_sync
from sbh_pipelines_tests.orchestration.fakes import FakeService, draft

SLOT = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)


def tick(instance: dg.DagsterInstance, fake: FakeService) -> list[dg.RunRequest]:
    with dg.build_schedule_context(
        instance, scheduled_execution_time=SLOT, resources={"backups": fake.resource}
    ) as context:
        return list(daily_full_backup.evaluate_tick(context).run_requests or [])


def sync(instance: dg.DagsterInstance, fake: FakeService) -> tuple[list[str], list[str]]:
    """The partitions that a tick adds and removes."""
    with dg.build_sensor_context(instance, resources={"backups": fake.resource}) as context:
        requests = tenants_sync.evaluate_tick(context).dynamic_partitions_requests or []
    added = [key for r in requests if isinstance(r, dg.AddDynamicPartitionsRequest) for key in r.partition_keys]
    removed = [key for r in requests if isinstance(r, dg.DeleteDynamicPartitionsRequest) for key in r.partition_keys]
    return added, removed


def test_a_tick_asks_for_every_tenant_once(instance: dg.DagsterInstance, fake: FakeService) -> None:
    (request,) = tick(instance, fake)
    assert request.run_key == "daily_full/2026-03-01T02:00:00Z/eu-west-1/1"
    config = request.run_config["ops"]["snapshot_tables"]["config"]
    assert config["tenants"] == ["tenant-1", "tenant-2", "tenant-3"]
    assert tick(instance, fake)[0].run_key == request.run_key  # Dagster launches a run key once


def test_batches_are_bounded_and_of_one_region() -> None:
    tenants = [draft(f"t{n}", "us-east-1" if n % 2 else "eu-west-1").tenant for n in range(9)]
    requests = list(batches("slot", tenants, 2))
    sizes = [(r.tags["sbh/region"], len(r.run_config["ops"]["snapshot_tables"]["config"]["tenants"])) for r in requests]
    assert sizes == [*[("eu-west-1", 2)] * 2, ("eu-west-1", 1), *[("us-east-1", 2)] * 2]
    assert len({r.run_key for r in requests}) == len(requests)


def test_a_tick_without_tenants_says_so(instance: dg.DagsterInstance, fake: FakeService) -> None:
    fake.names = ()
    assert tick(instance, fake) == []


def test_the_schedule_is_daily_at_two() -> None:
    assert (daily_full_backup.cron_schedule, daily_full_backup.execution_timezone) == ("0 2 * * *", "UTC")


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
