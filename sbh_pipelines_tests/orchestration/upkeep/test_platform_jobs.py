"""The platform backup as a job, on the real engine; and when its schedule launches it."""

from datetime import UTC, datetime

import dagster as dg
import pytest

from sbh_pipelines.orchestration.common.timetable import Timetable
from sbh_pipelines.orchestration.upkeep.platform import daily_platform_backup, platform_timetable
from sbh_pipelines_tests.support.fix_stack import RealRun, Site


def test_the_job_makes_one(real_run: RealRun, site: Site) -> None:
    result = real_run("platform_backup_job")
    assert result.success
    (made,) = result.asset_materializations_for_node("platform_backup")
    told = {name: value.value for name, value in made.metadata.items()}
    assert str(told["summary"]).startswith("Holds the definitions of ")
    assert (told["tenants"], told["forgotten"]) == (6, "0")
    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("platform_backup_valid", True)
    ((plans,),) = site.sql("SELECT count(*) FROM plans")
    assert told["shared_rows"] == plans
    listed = site.stack.s3_client().list_objects_v2(Bucket="sbh-files-eu-west-1", Prefix="_sbh-platform/manifests/")
    assert f"_sbh-platform/manifests/{told['backup_id']}.json" in [entry["Key"] for entry in listed["Contents"]]


def test_what_keeps_it_from_being_made_is_told(real_run: RealRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBH_PLATFORM__PG_DUMP", "/nowhere/pg_dump")
    result = real_run("platform_backup_job")
    assert not result.success
    failure = result.failure_data_for_node("platform_backup")
    assert failure is not None
    assert "pg_dump cannot be run" in str(failure.user_failure_data or failure.error)


def test_the_environment_sets_its_cron_line(monkeypatch: pytest.MonkeyPatch) -> None:
    variable = "SBH_PLATFORM__SCHEDULE"
    monkeypatch.setenv(variable, "5 4 * * *")
    assert platform_timetable() == Timetable("daily_platform_backup", "5 4 * * *", "UTC", on=True, variable=variable)
    monkeypatch.setenv(variable, "")
    assert platform_timetable() == Timetable("daily_platform_backup", "30 1 * * *", "UTC", on=False, variable=variable)


def test_one_run_per_slot(dagster_home: dg.DagsterInstance, real_resource: object) -> None:
    at = datetime(2026, 1, 2, 1, 30, tzinfo=UTC)
    resources = {"backups": real_resource}
    with dg.build_schedule_context(dagster_home, scheduled_execution_time=at, resources=resources) as context:
        (request,) = daily_platform_backup.evaluate_tick(context).run_requests or []
    assert request.run_key == "daily_platform_backup/2026-01-02T01:30:00Z"
