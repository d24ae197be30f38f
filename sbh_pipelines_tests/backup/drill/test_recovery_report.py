"""The report of recovery objectives, from records and recovery points whose times the test chose."""

import base64
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sbh_pipelines.backup.drill.records import ScenarioResult, keep_record
from sbh_pipelines.backup.drill.recovery_report import RecoveryPointAge, RecoveryTime, recovery_report
from sbh_pipelines.backup.drill.scenarios import SCENARIOS
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import CorruptObject
from sbh_pipelines.model import BackupId, DrillId, RecoveryPoint, Tenant, TenantId, timestamp
from sbh_pipelines.repository.catalog.records import TenantRecord
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.support.drills import drill_record

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
REGION = "eu-west-1"
ERROR = CorruptObject("A pack is damaged", on="packs/x")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    key = tmp_path / "key"
    key.write_bytes(base64.b64encode(bytes(32)))
    settings: dict[str, Any] = {
        "storage": {"kind": "local", "path": tmp_path, "regions": [REGION]},
        "keys": {"provider": "local", "key_file": key},
    }
    return Site(Settings(**settings), lambda: NOW)


def tenant(name: str, tier: str = "critical") -> Tenant:
    return Tenant(TenantId(name), "1", REGION, tier)


def drilled(site: Site, of: Tenant, days_ago: float, seconds: float | None, scenario: str = SCENARIOS[1]) -> str:
    """A record; None: the drill failed."""
    at = NOW - timedelta(days=days_ago)
    drill = DrillId.at(at, "abcdef")
    status, error = ("failed", ERROR) if seconds is None else ("passed", None)
    one = ScenarioResult(scenario, status, error, seconds or 1.0, None, None, None, 1, 100, 0, {})
    more = {"tier": of.tier, "recovery_point_age_s": 60.0 * days_ago, "finished_at": timestamp(at)}
    record = drill_record(drill, of.id, error, [one], **more)
    repository = site.repository(of, create=True)
    keep_record(repository, record)
    repository.close()
    return drill


def backed_up(site: Site, of: Tenant, age: timedelta) -> None:
    """A recovery point of this age."""
    backup = BackupId("backup_20260101_0000")
    repository = site.repository(of, create=True)
    repository.put_document(Keys.manifest(backup), {})
    repository.close()
    point = RecoveryPoint(timestamp(NOW - age), "1:1:", "0/1", "1", 1, 180000, "app")
    site.catalog(REGION).record([TenantRecord(of.id, backup, point, None)])


def times(site: Site, *tenants: Tenant) -> dict[str, RecoveryTime]:
    return {row.scenario: row for row in recovery_report(site, tenants).recovery_time}


def points(site: Site, *tenants: Tenant) -> dict[str, RecoveryPointAge]:
    return {row.data_type: row for row in recovery_report(site, tenants).recovery_point}


def test_what_was_never_drilled_has_no_number(site: Site) -> None:
    report = recovery_report(site, [tenant("a")])
    assert [row.scenario for row in report.recovery_time] == list(SCENARIOS)
    for row in report.recovery_time:
        assert (row.last_measured_s, row.margin_s, row.trend, row.met, row.tenants_drilled) == (
            None, None, None, None, 0,
        )  # fmt: skip
    assert [row.objective_s for row in report.recovery_time] == [14400, 3600, 7200, 1800]


def test_the_newest_measurement_counts_and_the_five_before_are_its_trend(site: Site) -> None:
    """The seventh back is too old to matter."""
    acme = tenant("acme")
    for days, seconds in enumerate((12.0, 8.0, 9.0, 10.0, 11.0, 12.0, 1000.0)):
        newest = drilled(site, acme, days, seconds)
        if days == 0:
            last = newest
    row = times(site, acme)["database corruption"]
    assert (row.drill_id, row.last_measured_s, row.margin_s, row.met) == (last, 12.0, 3588.0, True)
    assert (row.trend, row.trend_over) == (0.2, "same tenant")
    assert (row.measured_at, row.tenant_id, row.tenants_drilled) == (timestamp(NOW), "acme", 1)
    assert times(site, acme)["file system loss"].met is None


def test_a_tenant_is_compared_with_itself_where_it_can_be(site: Site) -> None:
    large, small, new = tenant("large"), tenant("small"), tenant("new")
    drilled(site, large, 4, 100.0)
    drilled(site, small, 3, 1.0)
    drilled(site, large, 2, 110.0)
    assert times(site, large, small)["database corruption"].trend == 0.1
    drilled(site, new, 1, 211.0)
    row = times(site, large, small, new)["database corruption"]
    assert (row.trend, row.trend_over, row.tenants_drilled) == (2.0, "all tenants", 3)
    assert times(site, small)["database corruption"].last_measured_s == 1.0


def test_one_tenant_that_failed_or_took_too_long_is_not_hidden_by_the_next(site: Site) -> None:
    fine, slow, broken = tenant("fine"), tenant("slow"), tenant("broken")
    drilled(site, broken, 9, 5.0)
    failed = drilled(site, broken, 3, None)
    drilled(site, slow, 2, 3601.0)
    drilled(site, fine, 1, 5.0)
    row = times(site, fine, slow, broken)["database corruption"]
    assert (row.last_measured_s, row.margin_s, row.met) == (5.0, 3595.0, False)
    assert (row.over, [(f.tenant_id, f.drill_id) for f in row.failed]) == (["slow"], [("broken", failed)])
    drilled(site, broken, 0.5, 5.0)
    drilled(site, slow, 0.25, 3599.0)
    row = times(site, fine, slow, broken)["database corruption"]
    assert (row.met, row.over, row.failed, row.margin_s) == (True, [], [], 1.0)


def test_of_each_data_type_the_tenant_that_would_lose_most(site: Site) -> None:
    """A tier without an objective counts as the default tier; whoever has no backup misses every objective."""
    fresh, stale, staler, odd = tenant("fresh"), tenant("stale"), tenant("staler"), tenant("odd", "gold")
    for one, age in ((fresh, 600), (stale, 3700), (staler, 7200), (odd, 86399)):
        backed_up(site, one, timedelta(seconds=age))
    none = tenant("none", "archive")
    found = points(site, fresh, stale, staler, odd, none)
    critical = found["critical"]
    assert (critical.worst_age_s, critical.tenant_id, critical.margin_s) == (7200, "staler", -3600)
    assert (critical.met, critical.missing, critical.tenants) == (False, ["staler", "stale"], 3)
    assert critical.backup_frequency == ["hourly_incremental", "daily_full"]
    important = found["important"]
    assert (important.tenant_id, important.margin_s, important.met) == ("odd", 1, True)
    archive = found["archive"]
    assert (archive.worst_age_s, archive.met, archive.missing) == (None, False, ["none"])
    assert points(site, fresh)["critical"].met is True
    assert points(site, fresh)["archive"].met is None


def test_the_trend_of_a_recovery_point_is_that_of_the_drills(site: Site) -> None:
    acme = tenant("acme")
    for days in (1, 2, 4):
        drilled(site, acme, days, 1.0)
    assert points(site, acme)["critical"].trend == pytest.approx(60 / 180 - 1, abs=1e-4)


def test_drills_of_one_scenario_do_not_hide_an_older_one_of_another(site: Site) -> None:
    acme = tenant("acme")
    drilled(site, acme, 40, 7.0, "file system loss")
    for days in range(1, 9):
        drilled(site, acme, days, 1.0)
    assert times(site, acme)["file system loss"].last_measured_s == 7.0


def test_a_report_lists_twice_for_each_tenant_and_reads_few_records(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many drills there were."""
    monkeypatch.setattr("sbh_pipelines.backup.drill.recovery_report._MOST", 12)
    tenants = [tenant(f"t{n}") for n in range(5)]
    for days in range(30):
        drilled(site, tenants[0], days, 1.0)
    before = site.request_counts()
    recovery_report(site, tenants)
    spent = {verb: count - before.get(verb, 0) for verb, count in site.request_counts().items()}
    assert spent["list"] <= 2 * len(tenants) + 2  # and the catalog's
    # And the tenants' keys, which say whose the repositories are, the catalog's objects, and whether a newer key was begun.
    assert spent["get"] <= 12 + 8
