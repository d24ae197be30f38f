"""Up to when a tenant is safe: its newest backup, or a later tick that found it unchanged, believed only with its backup."""

import json
import re
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest

from sbh_pipelines.backup.create.draft import DraftStatus
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.cli import main
from sbh_pipelines.errors import AccessDenied, CorruptObject, ResidencyError, StoreUnavailable, UnknownBackup
from sbh_pipelines.model import BackupId, RecoveryPoint, TenantId, utc_now
from sbh_pipelines.repository.catalog.records import TenantRecord
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.fault_stores import READS, WRITES, nothing, wrap
from sbh_pipelines_tests.support.site import site_of

REGION = "eu-west-1"


def backed_up(service: BackupService, tenant: str = ACME) -> tuple[BackupId, RecoveryPoint]:
    manifest = service.create_backup(tenant, ADMIN)
    return BackupId(manifest["id"]), RecoveryPoint.from_dict(manifest["recovery_point"])


def later(point: RecoveryPoint, year: str = "2096") -> RecoveryPoint:
    """In a leap year, for the 29th of February."""
    return replace(point, time=year + point.time[4:])


def record(service: BackupService, backup: BackupId, point: RecoveryPoint, tenant: str = ACME) -> None:
    """A tick finds the tenant unchanged since `backup`."""
    site_of(service).catalog(REGION).record([], {TenantId(tenant): backup}, point)


def forget(application: Application, backup: BackupId) -> None:
    (application.repository(ACME) / "manifests" / f"{backup}.json").unlink()


def test_a_backup_is_a_recovery_point(application: Application) -> None:
    service = application.service()
    backup, point = backed_up(service)
    found = service.backups.latest_recovery_point(ACME, ADMIN)
    assert (found.tenant_id, found.backup_id, found.recorded_as) == (ACME, backup, "backup")
    assert found.recovery_point == point
    assert found.age_s is not None
    assert 0 <= found.age_s < 3600


def test_an_unchanged_tick_moves_it_on(application: Application) -> None:
    service = application.service()
    backup, point = backed_up(service)
    record(service, backup, later(point))
    found = service.backups.latest_recovery_point(ACME, ADMIN)
    assert (found.backup_id, found.recorded_as) == (backup, "unchanged")
    assert found.recovery_point == later(point)


def test_a_record_whose_backup_is_gone_is_not_believed(application: Application) -> None:
    """Forgotten by the policy, or named by a replayed object: the newest backup that is there counts."""
    service = application.service()
    backup, point = backed_up(service)
    record(service, BackupId("backup_20990101_0000"), later(point))
    assert service.backups.latest_recovery_point(ACME, ADMIN).backup_id == backup
    record(service, backup, later(point, "2092"))  # an older tick does not win over the one that is not believed
    found = service.backups.latest_recovery_point(ACME, ADMIN)
    assert (found.backup_id, found.recovery_point) == (backup, point)
    forget(application, backup)
    with pytest.raises(UnknownBackup, match=ACME):
        service.backups.latest_recovery_point(ACME, ADMIN)


def test_a_newer_backup_that_the_catalog_has_not_heard_of_counts(application: Application) -> None:
    service = application.service()
    first, point = backed_up(service)
    second, newer = backed_up(service)
    site_of(service).catalog(REGION).record([TenantRecord(TenantId(ACME), first, later(point, "2000"), None)])
    _remove_catalog_objects(application, keep=1)
    found = service.backups.latest_recovery_point(ACME, ADMIN)
    assert (found.backup_id, found.recovery_point) == (second, newer)


def _remove_catalog_objects(application: Application, keep: int) -> None:
    """All but the newest ones."""
    objects = sorted((application.bucket / "_sbh-catalog" / REGION / "records").glob("*"))
    for file in objects[: len(objects) - keep]:
        file.unlink()


def test_an_unchanged_record_that_is_later_than_a_newer_backup_counts(application: Application) -> None:
    """Two processes crossed: whichever recovery point is later is the tenant's."""
    service = application.service()
    first, point = backed_up(service)
    backed_up(service)
    record(service, first, later(point))
    found = service.backups.latest_recovery_point(ACME, ADMIN)
    assert (found.backup_id, found.recorded_as) == (first, "unchanged")


def test_without_any_catalog_the_manifests_answer(application: Application) -> None:
    service = application.service()
    backup, point = backed_up(service)
    record(service, backup, later(point))
    _remove_catalog_objects(application, keep=0)
    found = service.backups.latest_recovery_point(ACME, ADMIN)
    assert (found.backup_id, found.recovery_point) == (backup, point)


def test_a_damaged_newest_manifest_does_not_count_and_is_shown(application: Application) -> None:
    service = application.service()
    first, _ = backed_up(service)
    second, _ = backed_up(service)
    _remove_catalog_objects(application, keep=0)
    (application.repository(ACME) / "manifests" / f"{second}.json").write_bytes(b"{}")
    assert service.backups.latest_recovery_point(ACME, ADMIN).backup_id == first
    (issue,) = service.backups.recovery_points([ACME], ADMIN).issues
    assert second in issue.on
    forget(application, first)
    with pytest.raises(CorruptObject):
        service.backups.latest_recovery_point(ACME, ADMIN)


def test_damage_of_the_catalog_is_shown(application: Application) -> None:
    service = application.service()
    backup, point = backed_up(service)
    record(service, backup, later(point))
    _remove_catalog_objects(application, keep=1)
    (file,) = (application.bucket / "_sbh-catalog" / REGION / "records").iterdir()
    file.write_bytes(b"damaged")
    found = service.backups.recovery_points([], ADMIN)
    assert [(p.tenant_id, p.backup_id) for p in found.recovery_points] == [(ACME, backup), (BOLT, None)]
    (issue,) = found.issues
    assert file.name in issue.on


def test_for_all_tenants_the_requests_are_one_listing_each(application: Application) -> None:
    """No manifest is read and no tenant's key unwrapped, for tenants the catalog knows."""
    service = application.service()
    backups = {tenant: backed_up(service, tenant) for tenant in (ACME, BOLT)}
    for tenant, (backup, point) in backups.items():
        record(service, backup, later(point), tenant)
    site_of(service).catalog(REGION).compact()
    other = application.service()
    found = other.backups.recovery_points([], ADMIN)
    assert [p.recorded_as for p in found.recovery_points] == ["unchanged", "unchanged"]
    # The catalog's two, who moved to another site, the tenants'; its key, its object.
    assert other.request_counts() == {"list": 2 + 1 + 2, "get": 1 + 1}


def test_only_the_callers_tenants_are_shown(application: Application) -> None:
    service = application.service()
    backed_up(service)
    viewer = UserContext("someone", BOLT, Role.VIEWER)
    assert [p.tenant_id for p in service.backups.recovery_points([], viewer).recovery_points] == [BOLT]
    for ask in (service.backups.latest_recovery_point, lambda t, user: service.backups.recovery_points([t], user)):
        with pytest.raises(AccessDenied):
            ask(ACME, viewer)


def test_regions_are_apart(application: Application) -> None:
    """A record in one region's catalog says nothing of tenants in another; a region that is not allowed has none."""
    service = application.service()
    backup, point = backed_up(service)
    site_of(service).catalog("us-east-1").record([], {TenantId(ACME): backup}, later(point))
    assert service.backups.latest_recovery_point(ACME, ADMIN).recorded_as == "backup"
    with pytest.raises(ResidencyError):
        site_of(service).catalog("ap-south-1")
    elsewhere = application.service(storage={"regions": ["us-east-1"]})
    found = elsewhere.backups.recovery_points([], ADMIN)
    assert [p.backup_id for p in found.recovery_points] == [None, None]
    assert [type(issue) for issue in found.issues] == [ResidencyError, ResidencyError]


def test_a_catalog_that_does_not_answer_fails_the_backups_of_its_region(application: Application) -> None:
    """And of no other; from when on the leases are held."""
    application.database.run("UPDATE tenants SET region = 'us-east-1' WHERE id = 2")

    held = list[str]()

    def silent(verb: str, key: str) -> None:
        if verb in WRITES and key.endswith(f"/{BOLT}/backups/lease.json"):
            held.append(key)
        if held and verb == "list" and key.startswith(f"{application.settings.storage.catalog_prefix}us-east-1/"):
            raise StoreUnavailable("no answer", on=key)

    made = wrap(application.service(), silent, nothing).backups.create_all([ACME, BOLT], ADMIN)
    assert [draft.status for draft in made] == [DraftStatus.COMPLETED, DraftStatus.FAILED]
    assert made[1].error is not None
    assert made[1].error.code == StoreUnavailable.code


@pytest.mark.parametrize("verbs", [READS, WRITES], ids=["read", "written"])
def test_a_tick_goes_on_where_one_catalog_does_not_answer(application: Application, verbs: frozenset[str]) -> None:
    """From the beginning on: tenants of the other region are found unchanged."""
    application.database.run("UPDATE tenants SET region = 'us-east-1' WHERE id = 2")
    service, catalog = application.service(), f"{application.settings.storage.catalog_prefix}us-east-1/"
    service.backups.create_all([ACME, BOLT], ADMIN)

    def silent(verb: str, key: str) -> None:
        if verb in verbs and key.startswith(catalog):
            raise StoreUnavailable("no answer", on=key)

    acme, bolt = wrap(service, silent, nothing).backups.create_all([ACME, BOLT], ADMIN, "incremental")
    assert acme.status is DraftStatus.UNCHANGED
    assert bolt.error is not None
    assert bolt.error.code == StoreUnavailable.code


@pytest.mark.parametrize("kind", ["full", "incremental"])
def test_backups_go_on_where_the_key_of_one_catalog_is_damaged(application: Application, kind: str) -> None:
    application.database.run("UPDATE tenants SET region = 'us-east-1' WHERE id = 2")
    application.service().backups.create_all([ACME, BOLT], ADMIN)
    catalog = f"{application.settings.storage.catalog_prefix}us-east-1/"
    (application.bucket.parent / "sbh-files-us-east-1" / catalog / Keys.data_key(1)).write_text("{}")
    application.database.run("UPDATE projects SET body = 'changed'")
    acme, bolt = application.service().backups.create_all([ACME, BOLT], ADMIN, kind)
    assert acme.status is DraftStatus.COMPLETED
    assert bolt.error is not None
    assert bolt.error.code == CorruptObject.code


def test_backups_of_a_silent_region_fail_side_by_side(application: Application) -> None:
    """The snapshot is open meanwhile: each waits here for another, in vain if they came one after another."""
    met, held = Barrier(2), list[str]()

    def silent(verb: str, key: str) -> None:
        if verb in WRITES and key.endswith("/lease.json"):
            held.append(key)
        if held and verb == "list" and key.startswith(f"{application.settings.storage.catalog_prefix}{REGION}/"):
            raise StoreUnavailable("no answer", on=key)
        if verb == "put" and "/failures/" in key:
            met.wait(timeout=60)

    made = wrap(application.service(), silent, nothing).backups.create_all([ACME, BOLT], ADMIN)
    assert [draft.error and draft.error.code for draft in made] == [StoreUnavailable.code] * 2
    assert not met.broken


def test_the_command_line_shows_it(
    sample_service: BackupService, settings_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On an S3 server: the list of backups says since when nothing changed, and a table has all tenants."""
    backup, point = backed_up(sample_service, "tenant-5")
    moment = replace(point, time=utc_now().strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
    region = sample_service.tenants.find("tenant-5").region
    site_of(sample_service).catalog(region).record([], {TenantId("tenant-5"): backup}, moment)
    capsys.readouterr()
    assert main(["backup", "list", "tenant-5"]) == 0
    assert f"unchanged since {backup} as of {moment.time[:10]}" in capsys.readouterr().out
    assert main(["backup", "list", "tenant-5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["id"] == backup
    assert main(["tenants", "recovery-points"]) == 0
    shown = capsys.readouterr().out
    assert "tenant-1" in shown
    assert re.search(rf"tenant-5 .*UTC +0 h \d+ min +{backup} +unchanged", shown)
    assert main(["tenants", "recovery-points", "tenant-5", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [(p["backup_id"], p["recorded_as"]) for p in document["recovery_points"]] == [(backup, "unchanged")]
    assert document["issues"] == []
    assert main(["tenants", "recovery-points", "nobody", "--json"]) == 2
