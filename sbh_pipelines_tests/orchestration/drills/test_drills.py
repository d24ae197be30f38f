"""Drills in Dagster: who is drilled, what is recorded where, and when a run fails."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import dagster as dg
import pytest

from sbh_pipelines.backup.drill.records import DrillRecord, ScenarioResult
from sbh_pipelines.backup.drill.recovery_report import RecoveryObjectives, RecoveryPointAge, RecoveryTime
from sbh_pipelines.backup.drill.scenarios import BACKUP_TYPES, SCENARIOS
from sbh_pipelines.definitions import defs
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.embedded.servers.layout import Layout
from sbh_pipelines.errors import CorruptObject, SbhError, SourceUnavailable, UnknownBackup
from sbh_pipelines.orchestration.common.timetable import Timetable
from sbh_pipelines.orchestration.drills.jobs import drill_timetable, tenant_drill, weekly_drill
from sbh_pipelines.orchestration.drills.report import DRILL_ASSET, REPORT_ASSET
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines_tests.orchestration.conftest import Run
from sbh_pipelines_tests.support.drills import drill_record
from sbh_pipelines_tests.support.fakes import FakeService
from sbh_pipelines_tests.support.fix_stack import RealRun, Site

DAMAGE = CorruptObject("A pack | is damaged", on="packs/x", why="short", remedy="back up again")


class FakeDrills:
    """What the fake service does when it is asked for drills: `found` and `raises` by tenant."""

    def __init__(self) -> None:
        self.found: dict[str, SbhError] = {}
        self.raises: dict[str, SbhError] = {}
        self.slow: set[str] = set()
        self.noted: set[str] = set()
        self.sampled = ["tenant-2"]
        self.asked: list[tuple[str, str, list[str]]] = []
        self.report_error: SbhError | None = None

    def candidates(self, user_ctx: Any) -> list[str]:
        return self.sampled

    def run(self, tenant_id: str, user_ctx: Any, *, backup_id: str, scenarios: list[str], progress: Any) -> DrillRecord:
        self.asked.append((tenant_id, backup_id, list(scenarios)))
        if tenant_id in self.raises:
            raise self.raises[tenant_id]
        error, slow = self.found.get(tenant_id), tenant_id in self.slow
        status = "failed" if error else "passed"
        result = partial(
            ScenarioResult,
            status=status,
            error=error,
            seconds=1.5,
            objective_s=1.0 if slow else 60.0,
            margin_s=None if error else -0.5 if slow else 58.5,
            met=not error and not slow,
            rows=10,
            bytes=1 << 20,
            files=2,
            proof={"tables": 1},
        )
        issues = (DAMAGE,) if tenant_id in self.noted else ()
        return drill_record(
            "drill_20260301_050000_abcdef", tenant_id, error, [result(s) for s in SCENARIOS], issues=issues
        )

    def report(self, user_ctx: Any, tenant_ids: Any = ()) -> RecoveryObjectives:
        if self.report_error:
            raise self.report_error
        never = RecoveryTime("", "", 60.0, None, None, None, None, None, None, None, None, None, 0, [], 0, [], 0)
        rows = [replace(never, scenario=s, backup_type=BACKUP_TYPES[s]) for s in SCENARIOS]
        measured = {"last_measured_s": 1.5, "margin_s": 58.5, "met": True, "trend": 0.25, "tenants_drilled": 1}
        rows[1] = replace(rows[1], **measured, measured_at="2026-03-01T05:00:00Z", tenant_id="tenant-1")
        point = RecoveryPointAge(
            "critical",
            ["daily_full"],
            3600.0,
            4000.0,
            0,
            4000.0,
            "tenant-1",
            -400.0,
            None,
            None,
            False,
            3,
            ["tenant-1"],
            1,
            0,
        )
        return RecoveryObjectives("2026-03-01T05:00:00Z", 3, rows, [point], [], [DAMAGE])


@pytest.fixture
def drills(fake: FakeService, monkeypatch: pytest.MonkeyPatch) -> FakeDrills:
    made = FakeDrills()
    monkeypatch.setattr(type(fake), "drills", made)
    return made


def told(instance: dg.DagsterInstance, asset: dg.AssetKey) -> list[dict[str, Any]]:
    """The metadata of an asset's materializations, newest first."""
    found = []
    for record in instance.fetch_materializations(asset, limit=10).records:
        assert record.asset_materialization is not None
        found.append({name: value.value for name, value in record.asset_materialization.metadata.items()})
    return found


def test_the_tenant_of_the_partition_is_drilled(run: Run, instance: dg.DagsterInstance, drills: FakeDrills) -> None:
    """The drill is a materialization with numbers to plot, its check is green, and the report is made after it."""
    result = run("drill_job", partition_key="tenant-3")
    assert result.success
    assert drills.asked == [("tenant-3", "latest", [])]
    (drill,) = told(instance, DRILL_ASSET)
    assert (drill["tenant"], drill["database_corruption_s"], drill["recovery_point_age_s"]) == ("tenant-3", 1.5, 60.0)
    assert "| file system loss | passed |" in drill["scenarios"]
    (check,) = result.get_asset_check_evaluations()
    assert (check.asset_key, check.check_name, check.passed, check.partition) == (
        DRILL_ASSET, "restore_drill", True, "tenant-3",
    )  # fmt: skip
    (report,) = told(instance, REPORT_ASSET)
    assert (report["database_corruption_s"], report["database_corruption_margin_s"]) == (1.5, 58.5)
    assert "complete_failure_s" not in report  # a zero would be plotted
    assert (report["critical_age_s"], report["critical_age_margin_s"], report["critical_tenants_missing"]) == (
        4000.0, -400.0, 1,
    )  # fmt: skip
    assert "| complete failure |  | never drilled | 60 s |" in report["recovery_time_objectives"]
    assert (
        "| critical | no | 1 h 7 min | 1 h |  | 1: tenant-1 | 3 | 0 | 1 h 7 min |"
        in report["recovery_point_objectives"]
    )
    assert "A pack \\| is damaged" in report["issues"]


def test_without_a_partition_those_drilled_longest_ago_are(run: Run, drills: FakeDrills) -> None:
    assert run("drill_job").success
    config = {
        "tenants": ["tenant-1", "tenant-3"],
        "scenarios": ["file system loss"],
        "backup_id": "backup_20260102_0304",
    }
    assert run("drill_job", run_config={"ops": {"drill_tenants": {"config": config}}}).success
    files = ["file system loss"]
    assert drills.asked == [
        ("tenant-2", "latest", []),
        ("tenant-1", "backup_20260102_0304", files),
        ("tenant-3", "backup_20260102_0304", files),
    ]


def test_without_any_backup_there_is_nothing_to_drill_and_no_failure(run: Run, drills: FakeDrills) -> None:
    drills.sampled = []
    assert run("drill_job").success
    assert drills.asked == []


def test_a_failed_drill_fails_the_run_after_the_others_and_the_report(
    run: Run, instance: dg.DagsterInstance, drills: FakeDrills
) -> None:
    """Its check is red, its partition is not materialized, and the failure names the tenant for the alert."""
    drills.sampled = ["tenant-1", "tenant-2", "tenant-3"]
    drills.found["tenant-1"] = DAMAGE
    drills.raises["tenant-2"] = UnknownBackup("There is no platform backup")
    result = run("drill_job")
    assert not result.success
    failure = result.failure_data_for_node("drill_tenants").user_failure_data
    assert [(f["tenant"], f["code"]) for f in failure.metadata["failed_tenants"].value] == [
        ("tenant-1", "SBH-601"), ("tenant-2", "SBH-203"),
    ]  # fmt: skip
    checks = {check.partition: check for check in result.get_asset_check_evaluations()}
    assert {tenant: check.passed for tenant, check in checks.items()} == {"tenant-1": False, "tenant-3": True}
    assert checks["tenant-1"].severity is dg.AssetCheckSeverity.ERROR
    assert "packs/x" in str(checks["tenant-1"].metadata["issues"].value)
    assert [drill["tenant"] for drill in told(instance, DRILL_ASSET)] == ["tenant-3"]
    assert len(told(instance, REPORT_ASSET)) == 1


def test_a_report_that_cannot_be_made_fails_the_run_and_hides_no_failed_drill(run: Run, drills: FakeDrills) -> None:
    drills.report_error = SourceUnavailable("Cannot connect")
    result = run("drill_job", partition_key="tenant-1")
    assert "SBH-301" in result.failure_data_for_node("drill_tenants").user_failure_data.description
    drills.found["tenant-1"] = DAMAGE
    result = run("drill_job", partition_key="tenant-1")
    assert "SBH-601" in result.failure_data_for_node("drill_tenants").user_failure_data.description


def test_a_missed_objective_is_a_warning(run: Run, drills: FakeDrills) -> None:
    drills.slow.add("tenant-1")
    result = run("drill_job", partition_key="tenant-1")
    assert result.success
    (check,) = result.get_asset_check_evaluations()
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "too slow" in str(check.description)


def test_what_a_drill_got_over_is_a_warning(run: Run, drills: FakeDrills) -> None:
    drills.noted.add("tenant-1")
    (check,) = run("drill_job", partition_key="tenant-1").get_asset_check_evaluations()
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "packs/x" in str(check.metadata["issues"].value)


def test_the_asset_can_be_materialized_and_makes_no_report(
    instance: dg.DagsterInstance, fake: FakeService, drills: FakeDrills
) -> None:
    """A backfill over many tenants would make as many reports."""
    resources = {"backups": fake.resource}  # type: ignore[attr-defined]
    result = dg.materialize([tenant_drill], instance=instance, partition_key="tenant-2", resources=resources)
    assert result.success
    assert drills.asked == [("tenant-2", "latest", [])]
    assert [m.partition for m in result.asset_materializations_for_node("tenant_backup__drill")] == ["tenant-2"]
    assert [check.partition for check in result.get_asset_check_evaluations()] == ["tenant-2"]
    assert told(instance, REPORT_ASSET) == []


def test_a_backup_does_not_plan_a_drill(run: Run, drills: FakeDrills) -> None:
    assert run("full_backup_job", partition_key="tenant-1").success
    assert drills.asked == []


def test_the_schedule_waits_for_the_last_drill(dagster_home: dg.DagsterInstance, fake: FakeService) -> None:
    def tick() -> tuple[list[str | None], str | None]:
        slot = datetime(2026, 3, 7, 5, tzinfo=UTC)
        resources = {"backups": fake.resource}  # type: ignore[attr-defined]
        with dg.build_schedule_context(dagster_home, scheduled_execution_time=slot, resources=resources) as context:
            data = weekly_drill.evaluate_tick(context)
        return [request.run_key for request in data.run_requests or []], data.skip_message

    assert tick() == (["weekly_drill/2026-03-07T05:00:00Z"], None)
    last = dagster_home.create_run_for_job(defs.resolve_job_def("drill_job"), tags={"sbh/operation": "drill"})
    assert tick() == ([], f"Run {last.run_id} is still at it")


def test_the_environment_sets_when_drills_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    variable = "SBH_DRILL__SCHEDULE"
    monkeypatch.setenv(variable, "0 6 1 * *")
    monkeypatch.setenv("SBH_SCHEDULES__TIME_ZONE", "Europe/Berlin")
    assert drill_timetable() == Timetable("weekly_drill", "0 6 1 * *", "Europe/Berlin", on=True, variable=variable)
    monkeypatch.setenv(variable, "")
    assert drill_timetable() == Timetable("weekly_drill", "0 5 * * 6", "Europe/Berlin", on=False, variable=variable)


@pytest.fixture
def on_the_server(site: Site, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Drills may create databases; calling it sets what they assert."""
    monkeypatch.setenv("SBH_DRILL__DSN", site.stack.dsn(postgres.ADMIN))
    monkeypatch.setenv("SBH_DRILL__PASSWORD_FILE", str(Layout(site.stack.dir).password_file(postgres.ADMIN)))
    return lambda assertion: monkeypatch.setenv("SBH_DRILL__ASSERTIONS", f'["{assertion}"]')


def test_a_real_drill(
    on_the_server: Callable[[str], None],
    real_run: RealRun,
    real_resource: Any,
    instance: dg.DagsterInstance,
    site: Site,
) -> None:
    """Proved against the live database; a second with an assertion that does not hold fails, and its check is red."""
    on_the_server("SELECT count(*) > 0 FROM tasks WHERE tenant_id = :tenant")
    admin = UserContext("tester", "*", Role.ADMIN)
    real_resource.service.platform.create(admin)
    assert real_run("full_backup_job", partition_key="tenant-3").success
    before = site.fingerprint("tenant-3")
    result = real_run("drill_job", partition_key="tenant-3")
    assert result.success
    (drill,), (report,) = told(instance, DRILL_ASSET), told(instance, REPORT_ASSET)
    assert 0 < drill["database_corruption_s"] < 60
    assert report["complete_failure_s"] == drill["complete_failure_s"]
    assert site.fingerprint("tenant-3") == before
    on_the_server("SELECT false")
    real_resource._service = None  # reads the settings afresh
    failed = real_run("drill_job", partition_key="tenant-3")
    assert not failed.success
    (check,) = failed.get_asset_check_evaluations()
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "SBH-705" in str(check.metadata["issues"].value)
    assert "tenant-3 failed: SBH-705" in told(instance, REPORT_ASSET)[0]["recovery_time_objectives"]
    assert site.sql("SELECT count(*) FROM pg_database WHERE datname LIKE 'sbh\\_drill%%'") == [(0,)]
