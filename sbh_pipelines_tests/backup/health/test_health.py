"""Health that is true: each check is made false by really breaking what it is about, and true again by mending it."""

import base64
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sbh_pipelines.backup.drill.records import keep_record
from sbh_pipelines.backup.health.findings import ALL_CHECKS, CHECKS
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.backup.service import service as services
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import AccessDenied, DrillFailed, SbhError, UnknownTenant
from sbh_pipelines.model import BackupId, Clock, RecoveryPoint, TenantId, timestamp, utc_now
from sbh_pipelines.repository.catalog.records import TenantRecord
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.drills import drill_record
from sbh_pipelines_tests.support.kms_proxy import kms_proxy
from sbh_pipelines_tests.support.site import site_of

SPECIFIED = {"backup_service", *CHECKS}
FRESH = {"health": {"refresh_s": 0, "size_floor_rows": 10}}


def wrong(found: dict[str, Any]) -> set[str]:
    """The checks that do not hold; each must have an issue that says so, and no issue may be without its check."""
    false = {check for check in ALL_CHECKS if not found[check]}
    assert {issue["check"] for issue in found["issues"]} == false
    for issue in found["issues"]:
        assert issue["code"].startswith("SBH-")
        assert issue["what"]
        assert issue["remedy"], issue
    return false


def healthy(service: BackupService, tenant: str | None = None) -> bool:
    found = service.check_backup_health(ADMIN, tenant)
    assert (found["backup_service"] == "healthy") == (not wrong(found)), found["issues"]
    return bool(found["backup_service"] == "healthy")


@pytest.fixture
def service(application: Application) -> BackupService:
    """Both tenants have a backup."""
    made = application.service(**FRESH)
    assert not any(draft.error for draft in made.backups.create_all([ACME, BOLT], ADMIN))
    return made


def test_all_is_well_and_the_keys_are_the_specifications(service: BackupService) -> None:
    for tenant in (None, ACME):
        found = service.check_backup_health(ADMIN, tenant)
        assert set(found) >= SPECIFIED
        assert found["backup_service"] == "healthy"
        assert all(found[check] is True for check in ALL_CHECKS)
        assert found["issues"] == []
        assert found["tenant_id"] == tenant


def test_the_function_of_the_specification(service: BackupService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without arguments, as the specification shows it."""
    monkeypatch.setattr(services, "load_service", lambda: service)
    assert services.check_backup_health()["backup_service"] == "healthy"


def test_a_bucket_that_is_gone(application: Application, service: BackupService) -> None:
    away = application.bucket.with_name("away")
    application.bucket.rename(away)
    for asked in (service, application.service(**FRESH)):
        for tenant in (None, ACME):
            found = asked.check_backup_health(ADMIN, tenant)
            assert found["backup_service"] == "unhealthy"
            assert "storage_accessible" in wrong(found)
            assert not application.bucket.exists()  # looking for it did not make an empty one
    shutil.rmtree(application.bucket, ignore_errors=True)
    away.rename(application.bucket)
    assert healthy(service)


def test_a_bucket_of_s3_that_is_gone(embedded_stack: Stack, application: Application) -> None:
    """Asked over HTTP, of a server that has no such bucket."""
    credentials = embedded_stack.s3_client()._request_signer._credentials
    access = {"access_key_id": credentials.access_key, "secret_access_key": credentials.secret_key, "retries": 0}
    place = {"kind": "s3", "endpoint_url": embedded_stack.s3_endpoint, "bucket": "sbh-not-there", **access}
    found = application.service(storage=place, **FRESH).check_backup_health(ADMIN)
    assert found["backup_service"] == "unhealthy"
    assert "storage_accessible" in wrong(found)


def test_a_store_that_cannot_be_reached(application: Application) -> None:
    place = {"kind": "s3", "endpoint_url": "http://127.0.0.1:9", "retries": 0, "timeout_s": 1}
    access = {"access_key_id": "a", "secret_access_key": "hunter2-of-the-bucket"}
    found = application.service(storage={**place, **access}, **FRESH).check_backup_health(ADMIN)
    assert (found["backup_service"], wrong(found)) == ("unhealthy", {"storage_accessible"})
    assert "hunter2" not in str(found)
    assert found["tenants_not_looked_at"] == 2


def test_a_backup_that_failed(application: Application, service: BackupService) -> None:
    """Until the next one succeeds, or a run finds the tenant unchanged."""
    broken = application.service(files={"prefix": "files/{tenant}/", "connections": 4}, **FRESH)
    application.database.run("ALTER TABLE notes ADD COLUMN other int", "CREATE TABLE stray (id int PRIMARY KEY)")
    with pytest.raises(SbhError):
        broken.create_backup(ACME, ADMIN)
    found = service.check_backup_health(ADMIN, ACME)
    assert (found["backup_service"], wrong(found)) == ("degraded", {"last_backup_successful"})
    assert service.health.metrics(ADMIN, ACME).backups_failed == 1
    assert not healthy(service)
    assert healthy(service, BOLT)
    application.database.run("DROP TABLE stray")
    service.create_backup(ACME, ADMIN, "incremental")
    assert healthy(service)


def test_a_tenant_without_a_backup(application: Application) -> None:
    service = application.service(**FRESH)
    service.create_backup(ACME, ADMIN)
    found = service.check_backup_health(ADMIN)
    assert wrong(found) == {"last_backup_successful", "recovery_point_objectives_met"}
    assert {issue["tenant_id"] for issue in found["issues"]} == {BOLT}


def test_a_tenant_that_lost_nine_tenths_of_its_rows(application: Application, service: BackupService) -> None:
    for _ in range(3):
        application.database.run("UPDATE projects SET body = md5(random()::text) WHERE tenant_id = 1")
        service.create_backup(ACME, ADMIN)
    assert healthy(service, ACME)
    application.database.run(
        "DELETE FROM items WHERE project_id IN (SELECT id FROM projects WHERE tenant_id = 1) AND id % 10 > 0",
        "DELETE FROM notes WHERE tenant_id = 1 AND ctid NOT IN (SELECT ctid FROM notes WHERE tenant_id = 1 LIMIT 3)",
    )
    service.create_backup(ACME, ADMIN)
    found = service.check_backup_health(ADMIN, ACME)
    assert wrong(found) == {"backup_size_reasonable"}
    (issue,) = found["issues"]
    assert "unusually small" in issue["what"]
    assert "rows" in issue["why"]
    assert healthy(service, BOLT)
    for _ in range(5):  # it has really become smaller: usual again, once most backups are
        application.database.run("UPDATE projects SET body = md5(random()::text) WHERE tenant_id = 1")
        service.create_backup(ACME, ADMIN)
    assert healthy(service, ACME)


def test_a_tenant_that_grew_tenfold(application: Application, service: BackupService) -> None:
    for _ in range(3):
        application.database.run("UPDATE projects SET body = md5(random()::text) WHERE tenant_id = 1")
        service.create_backup(ACME, ADMIN)
    application.database.run("INSERT INTO notes SELECT 1, 'more' FROM generate_series(1, 2000)")
    service.create_backup(ACME, ADMIN)
    found = service.check_backup_health(ADMIN)
    assert wrong(found) == {"backup_size_reasonable"}
    assert (found["issues"][0]["tenant_id"], found["issues"][0]["severity"]) == (ACME, "warning")


def test_a_policy_that_is_not_enforced(application: Application, service: BackupService) -> None:
    """The policy keeps less than it did, and nobody has forgotten anything since: until somebody does."""
    for _ in range(3):
        application.database.run("UPDATE projects SET body = md5(random()::text) WHERE tenant_id = 1")
        service.create_backup(ACME, ADMIN)
    policy = {
        "keep_within_hours": 0,
        "full_backups": {"keep_daily": 0, "keep_weekly": 0, "keep_monthly": 0, "keep_last": 1},
    }
    strict = application.service(retention=policy, health={**FRESH["health"], "retention_grace_s": 0})
    found = strict.check_backup_health(ADMIN)
    assert (found["backup_service"], wrong(found)) == ("degraded", {"retention_policy_enforced"})
    assert found["issues"][0]["tenant_id"] == ACME
    gentle = application.service(retention=policy, **FRESH)  # just after a backup there is still time for it
    assert healthy(gentle)
    strict.retention.forget(ACME, ADMIN)
    assert healthy(strict)


def test_a_policy_that_cannot_be_applied(application: Application, service: BackupService) -> None:
    found = application.service(retention={"time_zone": "Mars/Olympus"}, **FRESH).check_backup_health(ADMIN, ACME)
    assert wrong(found) == {"retention_policy_enforced"}
    assert "time_zone" in found["issues"][0]["on"]


def test_the_key_file_is_gone(application: Application, service: BackupService) -> None:
    key = application.directory / "backup.key"
    body = key.read_bytes()
    key.unlink()
    found = service.check_backup_health(ADMIN)
    assert (found["backup_service"], wrong(found)) == ("unhealthy", {"keys_usable"})
    key.write_bytes(base64.b64encode(os.urandom(32)))
    found = application.service(**FRESH).check_backup_health(ADMIN)
    assert (found["backup_service"], wrong(found)) == ("unhealthy", {"keys_usable"})
    key.write_bytes(body)
    assert healthy(service)


@pytest.fixture
def later(application: Application) -> Callable[..., BackupService]:
    """A service some time from now."""

    def make(clock: Clock = utc_now, **by: float) -> BackupService:
        return application.service(clock=lambda: clock() + timedelta(**by), **FRESH)

    return make


def test_a_recovery_point_that_is_too_old(service: BackupService, later: Callable[..., BackupService]) -> None:
    """An hour for the critical tier, and a quarter of it as grace; a day for the other tenant."""
    assert healthy(later(minutes=70))
    found = later(minutes=80).check_backup_health(ADMIN)
    assert wrong(found) == {"recovery_point_objectives_met"}
    assert [(i["tenant_id"], i["severity"]) for i in found["issues"]] == [(ACME, "critical")]
    assert later(days=2).health.metrics(ADMIN).recovery_points_missed == 2


def test_a_run_that_found_the_tenant_unchanged_is_a_recovery_point(
    service: BackupService, later: Callable[..., BackupService]
) -> None:
    manifest = service.get_backup("latest", ACME, ADMIN)
    point = RecoveryPoint.from_dict(manifest["recovery_point"])
    after = (utc_now() + timedelta(minutes=60)).isoformat()
    unchanged = RecoveryPoint(**{**manifest["recovery_point"], "time": after})
    site_of(service).catalog("eu-west-1").record([], {TenantId(ACME): BackupId(manifest["id"])}, unchanged)
    assert healthy(later(minutes=80))
    # A record that names a backup older than the newest that is there says nothing.
    old = TenantRecord(TenantId(ACME), BackupId("backup_20200101_0000"), RecoveryPoint(**{**manifest["recovery_point"], "time": (utc_now() + timedelta(minutes=90)).isoformat()}), None)  # fmt: skip
    site_of(service).catalog("eu-west-1").record([old])
    assert not healthy(later(minutes=120))
    assert datetime.fromisoformat(point.time.replace("Z", "+00:00")) < utc_now()


def test_a_tenant_that_is_backed_up_by_hand_only_misses_nothing(
    application: Application, service: BackupService
) -> None:
    by_hand = application.service(clock=lambda: utc_now() + timedelta(days=9), schedules={"tenants": {ACME: [], BOLT: []}}, **FRESH)  # fmt: skip
    assert wrong(by_hand.check_backup_health(ADMIN)) <= {"drills_passed"}


def test_an_erased_tenant_is_no_trouble(application: Application, service: BackupService) -> None:
    service.keys.erase(ACME, ADMIN, confirm=ACME, reason="the contract ended")
    for asked in (service, application.service(**FRESH)):
        found = asked.check_backup_health(ADMIN)
        assert (found["backup_service"], found["tenants_not_looked_at"]) == ("healthy", 0), found["issues"]
    assert service.health.metrics(ADMIN).tenants_without_backup == 0


def test_a_damaged_manifest(application: Application, service: BackupService) -> None:
    (manifest,) = (application.repository(ACME) / "manifests").iterdir()
    body = manifest.read_bytes()
    manifest.write_bytes(body.replace(b'"full"', b'"fall"'))
    (application.repository(ACME) / "listing.json").unlink()
    found = service.check_backup_health(ADMIN)
    assert "backups_intact" in wrong(found)
    assert manifest.name in str(found["issues"])
    manifest.write_bytes(body)
    assert healthy(application.service(**FRESH), ACME)


def test_a_drill_that_failed_and_drills_that_are_overdue(
    application: Application, service: BackupService, later: Callable[..., BackupService]
) -> None:
    assert "drills_passed" not in wrong(later(days=9).check_backup_health(ADMIN))
    overdue = later(days=11).check_backup_health(ADMIN)
    assert "drill_overdue" in {issue["kind"] for issue in overdue["issues"]}
    with_repository = site_of(service).repository(application.tenant())
    error = DrillFailed("A drill failed", on=ACME, why="rows differ", remedy="look")
    for name, failure in (("drill_20260101_000000_aaaaaa", None), ("drill_20260102_000000_aaaaaa", error)):
        keep_record(with_repository, drill_record(name, ACME, failure, finished_at=utc_now().isoformat()))
    with_repository.close()
    found = service.check_backup_health(ADMIN)
    assert wrong(found) == {"drills_passed"}
    assert found["issues"][0]["code"] == "SBH-705"
    assert service.health.metrics(ADMIN).drills == 2


def test_a_database_that_is_down(application: Application, service: BackupService) -> None:
    dsn = application.database.dsn.replace("dbname=", "dbname=no_such_")
    found = application.service(database={"dsn": dsn, "connections": 2}, **FRESH).check_backup_health(ADMIN)
    assert (found["backup_service"], wrong(found)) == ("unhealthy", {"source_readable"})


def test_a_tenant_of_no_region_that_is_allowed(application: Application, service: BackupService) -> None:
    application.database.run("UPDATE tenants SET region = 'mars-1' WHERE id = 2")
    found = service.check_backup_health(ADMIN)
    assert found["backup_service"] == "degraded"
    assert {(i["tenant_id"], i["code"]) for i in found["issues"]} == {(BOLT, "SBH-120")}


def test_who_may_ask(service: BackupService) -> None:
    """A viewer of one tenant learns of that tenant only; of another not even whether it is there."""
    viewer = UserContext("v", BOLT, Role.VIEWER)
    assert service.check_backup_health(viewer)["tenants"] == 1
    assert service.health.metrics(viewer).backups_total == 1
    assert ACME not in service.health.prometheus_text(viewer)
    for tenant in (ACME, "nobody"):
        with pytest.raises(AccessDenied):
            service.check_backup_health(viewer, tenant)
        with pytest.raises(AccessDenied):
            service.health.metrics(viewer, tenant)
    with pytest.raises(UnknownTenant):
        service.check_backup_health(ADMIN, "nobody")


@pytest.mark.parametrize("name", ["../acme", "a\x00b", "x" * 10_000, "ac me", "ácme", "'; drop table tenants; --"])
def test_hostile_names_are_refused(service: BackupService, name: str) -> None:
    for call in (service.check_backup_health, service.health.metrics):
        with pytest.raises(SbhError) as caught:
            call(ADMIN, name)
        assert len(str(caught.value)) < 1000


def test_a_kms_key_that_is_disabled_denied_lost_or_out_of_reach(application: Application) -> None:
    """Over HTTP, with keys unwrapped before and by a process that has unwrapped none. Enabled again, all is well."""
    stack = application.database.stack
    client = stack.kms_client("eu-west-1")
    key_id = client.create_key()["KeyMetadata"]["KeyId"]
    sections = {
        "storage": {"access_key_id": "moto", "secret_access_key": "moto", "regions": ["eu-west-1"]},
        "health": FRESH["health"],
    }
    with kms_proxy(stack.kms_endpoint, client) as proxy:
        keys = {"provider": "aws-kms", "key_file": None, "kms_key_id": key_id, "kms_endpoint_url": proxy.url}
        sections["keys"] = {**keys, "kms_timeout_s": 30}
        lived = application.service(**sections)
        lived.backups.create_all([ACME, BOLT], ADMIN)
        assert healthy(lived)

        def broken(remedy: str) -> None:
            for service in (lived, application.service(**sections)):
                found = service.check_backup_health(ADMIN)
                assert (found["backup_service"], wrong(found)) == ("unhealthy", {"keys_usable"})
                assert remedy in str(found["issues"])

        client.disable_key(KeyId=key_id)
        broken("enable")
        client.enable_key(KeyId=key_id)
        proxy.denied.add("Decrypt")
        broken("kms:Decrypt")
        proxy.denied.clear()
        proxy.gone = True
        broken("")
        proxy.gone = False
        assert healthy(lived)


def test_looks_are_bounded_by_a_budget(application: Application, service: BackupService) -> None:
    """Without any time nothing new is learned, and it is said of whom."""
    other = application.service(health={"refresh_s": 3600, "most_tenants": 77})  # a set of looks of its own
    seen = other.health.examine(ADMIN, budget_s=0.0)
    assert seen.unseen == {ACME, BOLT}
    assert seen.findings == []


def test_what_a_look_costs(application: Application, service: BackupService) -> None:
    """Requests for each tenant: fifteen for a first look with its region's, three where nothing changed, none meanwhile."""
    for _ in range(4):
        application.database.run("UPDATE projects SET body = md5(random()::text)")
        service.backups.create_all([ACME, BOLT], ADMIN)

    def cost(asked: BackupService) -> int:
        before = sum(asked.request_counts().values())
        asked.health.metrics(ADMIN)
        return sum(asked.request_counts().values()) - before

    counted = application.service(health={"refresh_s": 0, "most_tenants": 11})
    of_region = 20
    assert cost(counted) <= of_region + 2 * 7
    again = cost(counted)
    lazy = application.service(health={"refresh_s": 3600, "most_tenants": 12})
    cost(lazy)
    alone = cost(lazy)
    assert again - alone == 2 * 3
    application.database.run("UPDATE projects SET body = md5(random()::text) WHERE tenant_id = 1")
    service.create_backup(ACME, ADMIN)
    assert 0 < cost(lazy) - alone <= 7 + 2  # the catalog told of a new backup, and of one tenant only


def test_old_manifests_without_a_duration_are_left_out_of_the_mean(
    application: Application, service: BackupService
) -> None:
    """As an earlier release wrote them, signed."""
    first = service.health.metrics(ADMIN, ACME).backup_duration_avg
    assert 0 < first < 60
    repository = site_of(service).repository(application.tenant())
    manifest = repository.manifest(repository.manifest_ids()[0])
    assert manifest["duration_s"] == pytest.approx(first, abs=0.001)
    old = {k: v for k, v in manifest.items() if k not in ("duration_s", "checksum", "signature")}
    repository.publish_manifest(repository.sign({**old, "id": "backup_20200101_0000"}))
    repository.close()
    found = service.health.metrics(ADMIN, ACME)
    assert (found.backups_total, found.backups_successful) == (2, 2)
    assert found.backup_duration_avg == first
    assert found.backup_size_total == 2 * manifest["size"]


def test_the_metrics_are_those_of_the_manifests(application: Application, service: BackupService) -> None:
    application.database.run("UPDATE projects SET body = 'other' WHERE tenant_id = 1")
    service.create_backup(ACME, ADMIN, "incremental")
    manifests = [m for t in (ACME, BOLT) for m in service.list_backups(t, ADMIN)]
    found = service.health.metrics(ADMIN)
    assert found.backups_total == found.backups_successful == len(manifests) == 3
    assert found.backups_failed == 0
    assert found.backup_size_total == sum(m["size"] for m in manifests)
    assert found.stored_bytes_total == sum(m["stats"]["bytes_stored"] for m in manifests)
    durations = [m["duration_s"] for m in manifests]
    assert found.backup_duration_avg == pytest.approx(sum(durations) / 3, abs=0.001)
    assert found.last_backup_at is not None
    assert timestamp(found.last_backup_at) == max(m["created_at"] for m in manifests)
    assert found.by_type["incremental"].successful == 1
    files = sum(m["components"]["files"]["total_size"] - m["components"]["files"]["size"] for m in manifests)
    assert found.logical_bytes_total - found.backup_size_total == files


def test_a_listing_without_figures_is_read_anew(application: Application, service: BackupService) -> None:
    """As an earlier release left it: the manifests say what it lacks, and the next backup writes it with them."""
    before = service.health.metrics(ADMIN, ACME)
    listing = application.repository(ACME) / "listing.json"
    assert b'"figures"' in listing.read_bytes()
    Path(listing).unlink()
    after = service.health.metrics(ADMIN, ACME)
    assert after == replace(before, as_of=after.as_of, recovery_point_age_s=after.recovery_point_age_s)


def test_what_is_stored_is_listed_also_in_a_directory(service: BackupService) -> None:
    """Of one class, `local`; a tenant's own user sees its own line and nothing that is shared."""
    report = service.health.storage(ADMIN)
    assert set(report.by_class) == {"local"}
    assert {line.tenant_id: line.backups for line in report.tenants} == {ACME: 1, BOLT: 1}
    assert all(0 < line.stored.new == line.stored.bytes < report.total.bytes for line in report.tenants)
    assert report.total.cost is None
    own = service.health.storage(UserContext("ann", ACME, Role.VIEWER))
    assert ([line.tenant_id for line in own.tenants], own.shared) == ([ACME], [])
    with pytest.raises(AccessDenied):
        service.health.storage(UserContext("ann", ACME, Role.VIEWER), [BOLT])
