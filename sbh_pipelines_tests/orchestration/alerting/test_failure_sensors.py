"""What happens after a run failed: people are told, and tenants that may succeed are tried again."""

from typing import Any

import dagster as dg

from sbh_pipelines.definitions import defs
from sbh_pipelines.errors import ResidencyError, SettingsError, SourceUnavailable
from sbh_pipelines.orchestration.alerting.sensors import (
    ATTEMPT_TAG,
    failure_alerts,
    retry_failed_tenants,
    unusable_tenants,
)
from sbh_pipelines.settings import AlertSettings, Settings
from sbh_pipelines_tests.orchestration.conftest import Run
from sbh_pipelines_tests.support.fakes import FakeService
from sbh_pipelines_tests.support.sinks import webhook

RANGE = {"dagster/asset_partition_range_start": "tenant-1", "dagster/asset_partition_range_end": "tenant-3"}
FORBIDDEN = ResidencyError("The tenant's region is not allowed", on="tenant-2", why="mars-1", remedy="correct it")
DOWN = SourceUnavailable("Cannot connect", on="db", why="refused", remedy="start it")


def after(result: dg.ExecuteInProcessResult, sensor: str, instance: dg.DagsterInstance) -> dg.RunFailureSensorContext:
    return dg.build_run_status_sensor_context(
        sensor, result.get_run_failure_event(), instance, result.dagster_run
    ).for_run_failure()


def retry(result: dg.ExecuteInProcessResult, instance: dg.DagsterInstance) -> Any:
    return retry_failed_tenants(after(result, "retry_failed_tenants", instance))


def test_people_are_told_which_tenants_failed_and_why(
    run: Run, instance: dg.DagsterInstance, fake: FakeService
) -> None:
    fake.errors["begin"] = {"tenant-2": FORBIDDEN}
    result = run("full_backup_job", tags=RANGE)
    with webhook() as sink:
        fake.settings = Settings(alerts=AlertSettings(webhook_url=f"http://127.0.0.1:{sink.port}/"))
        failure_alerts(after(result, "failure_alerts", instance), backups=fake.resource)
    (body,) = sink.bodies
    assert body["subject"] == "full_backup_job failed: tenant-2"
    assert body["tenants"] == 3
    assert [(t["tenant"], t["code"], t["remedy"]) for t in body["failed_tenants"]] == [
        ("tenant-2", "SBH-120", "correct it")
    ]
    assert body["message"].startswith("tenant_backup__full.apply_retention: 1 of 3 tenants failed: tenant-2.")


def test_an_unexpected_error_is_told_with_the_tenants_of_the_run(
    run: Run, instance: dg.DagsterInstance, fake: FakeService
) -> None:
    fake.raises["enumerate_files"] = RuntimeError("a bug")
    result = run("full_backup_job", partition_key="tenant-3")
    with webhook() as sink:
        fake.settings = Settings(alerts=AlertSettings(webhook_url=f"http://127.0.0.1:{sink.port}/"))
        failure_alerts(after(result, "failure_alerts", instance), backups=fake.resource)
    assert "a bug" in sink.bodies[0]["message"]
    assert sink.bodies[0]["subject"] == "full_backup_job failed: tenant-3"
    assert isinstance(retry(result, instance), dg.SkipReason)  # a bug needs somebody


def test_only_tenants_that_may_succeed_are_tried_again(
    run: Run, instance: dg.DagsterInstance, fake: FakeService
) -> None:
    fake.errors["snapshot_tables"] = {"tenant-1": DOWN, "tenant-2": FORBIDDEN}
    (request,) = retry(run("full_backup_job", tags=RANGE), instance)
    assert request.run_config["ops"]["snapshot_tables"]["config"]["tenants"] == ["tenant-1"]
    assert request.tags[ATTEMPT_TAG] == "2"


def test_a_permanent_failure_is_not_tried_again(run: Run, instance: dg.DagsterInstance, fake: FakeService) -> None:
    fake.errors["begin"] = {"tenant-2": FORBIDDEN}
    assert isinstance(retry(run("full_backup_job", partition_key="tenant-2"), instance), dg.SkipReason)


def test_attempts_end(run: Run, instance: dg.DagsterInstance, fake: FakeService) -> None:
    fake.errors["snapshot_tables"] = {"tenant-1": DOWN}
    config = {"ops": {"snapshot_tables": {"config": {"tenants": ["tenant-1", "tenant-2"]}}}}
    second = run("fleet_backup_job", run_config=config, tags={ATTEMPT_TAG: "2"})
    assert [request.tags[ATTEMPT_TAG] for request in retry(second, instance)] == ["3"]
    third = run("fleet_backup_job", run_config=config, tags={ATTEMPT_TAG: "3"})
    assert isinstance(retry(third, instance), dg.SkipReason)


def test_all_tenants_of_a_crashed_run_are_tried_again(instance: dg.DagsterInstance, fake: FakeService) -> None:
    """A killed worker leaves no word about any tenant: they are known from the run's configuration."""
    config = {"ops": {"snapshot_tables": {"config": {"tenants": ["tenant-1", "tenant-2"]}}}}
    crashed = instance.create_run_for_job(
        defs.resolve_job_def("fleet_backup_job"),
        run_config=config,
        tags={"sbh/operation": "backup"},
    )
    event = instance.report_run_failed(crashed)
    context = dg.build_run_status_sensor_context("retry_failed_tenants", event, instance, crashed).for_run_failure()
    (request,) = retry_failed_tenants(context)  # type: ignore[misc]
    assert request.run_config["ops"]["snapshot_tables"]["config"]["tenants"] == ["tenant-1", "tenant-2"]


def test_runs_of_others_are_left_alone(instance: dg.DagsterInstance, fake: FakeService) -> None:
    """The sensors watch all code locations, because runs from the command line belong to none."""

    @dg.job
    def theirs() -> None: ...

    result = theirs.execute_in_process(instance=instance, raise_on_error=False)
    event = instance.report_run_failed(result.dagster_run)
    context = dg.build_run_status_sensor_context("x", event, instance, result.dagster_run).for_run_failure()
    with webhook() as sink:
        fake.settings = Settings(alerts=AlertSettings(webhook_url=f"http://127.0.0.1:{sink.port}/"))
        failure_alerts(context, backups=fake.resource)
    assert sink.bodies == []
    assert isinstance(retry_failed_tenants(context), dg.SkipReason)


def test_tenants_that_cannot_be_backed_up_are_told_once_per_change(
    instance: dg.DagsterInstance, fake: FakeService
) -> None:
    """Two sensors' ticks: told once; told that it is over."""
    fake.unusable = [SettingsError("A tenant cannot be told apart", on="slug '../x'")]
    with webhook() as sink:
        fake.settings = Settings(alerts=AlertSettings(webhook_url=f"http://127.0.0.1:{sink.port}/"))
        for _ in range(2):
            told = unusable_tenants(dg.build_sensor_context(instance), backups=fake.resource)
            assert "../x" in str(told.skip_message)
        fake.unusable = []
        told = unusable_tenants(dg.build_sensor_context(instance), backups=fake.resource)
        assert "Every tenant" in str(told.skip_message)
    body, over = sink.bodies
    assert (body["event"], body["state"], over["state"]) == ("tenant_unusable", "new", "recovered")
    assert body["key"] == over["key"]
    assert "../x" in body["message"]
