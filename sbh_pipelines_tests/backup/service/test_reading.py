"""What a process remembers between two listings, and what it never takes from memory."""

import os
import threading

import pytest

from sbh_pipelines.backup.contents.manifest import Manifest
from sbh_pipelines.backup.contents.manifests import ManifestCache
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.errors import CorruptObject, LeaseHeld
from sbh_pipelines.model import utc_now
from sbh_pipelines.repository import lease as leases
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.site import site_of


@pytest.fixture
def service(application: Application) -> BackupService:
    made = BackupService(application.settings)
    for tenant in (ACME, ACME, BOLT):
        made.create_backup(tenant, ADMIN)
    return made


def gets(service: BackupService) -> int:
    return service.request_counts().get("get", 0)


def test_a_second_listing_reads_no_manifest(service: BackupService) -> None:
    """And gives the same, whole or brief."""
    first = service.list_backups(ACME, ADMIN)
    before = service.backups.manifest_cache.misses
    assert service.list_backups(ACME, ADMIN) == first
    brief, damaged = service.backups.overview(ACME, ADMIN)
    assert damaged == []
    assert [m.id for m in brief] == [m["id"] for m in first]
    assert all(
        short.document[name] == whole[name]
        for short, whole in zip(brief, first, strict=True)
        for name in short.document
    )
    assert service.backups.manifest_cache.misses == before


def test_another_tenant_hits_nothing(service: BackupService) -> None:
    service.list_backups(ACME, ADMIN)
    hits = service.backups.manifest_cache.hits
    assert [m["tenant_id"] for m in service.list_backups(BOLT, ADMIN)] == [BOLT]
    assert service.backups.manifest_cache.hits == hits


def test_a_manifest_copied_to_another_tenant_is_not_believed(service: BackupService, application: Application) -> None:
    """Although the same bytes were believed where they belong."""
    (backup,) = service.list_backups(BOLT, ADMIN)
    folder = application.bucket / "files"
    source = folder / BOLT / "backups/manifests" / f"{backup['id']}.json"
    target = folder / ACME / "backups/manifests" / "backup_20200101_0000.json"
    target.write_bytes(source.read_bytes())
    sound, damaged = service.backups.overview(ACME, ADMIN)
    assert (len(sound), [type(error) for error in damaged]) == (2, [CorruptObject])


def test_one_that_was_overwritten_is_read_again(service: BackupService, application: Application) -> None:
    newest = service.list_backups(ACME, ADMIN)[0]["id"]
    file = application.bucket / "files" / ACME / "backups/manifests" / f"{newest}.json"
    file.write_bytes(file.read_bytes().replace(b'"full"', b'"Full"'))
    sound, damaged = service.backups.overview(ACME, ADMIN)
    assert newest not in [m.id for m in sound]
    assert len(damaged) == 1


def test_without_the_tenants_key_memory_gives_nothing(service: BackupService, application: Application) -> None:
    """Whoever takes the key away takes the list away as well."""
    service.list_backups(ACME, ADMIN)
    for key in (application.bucket / "files" / ACME / "backups/keys").iterdir():
        os.remove(key)
    with pytest.raises(CorruptObject):
        service.backups.overview(ACME, ADMIN)


def test_one_that_is_gone_is_not_listed(service: BackupService, application: Application) -> None:
    oldest = service.list_backups(ACME, ADMIN)[-1]["id"]
    (application.bucket / "files" / ACME / "backups/manifests" / f"{oldest}.json").unlink()
    assert oldest not in [m.id for m in service.backups.overview(ACME, ADMIN)[0]]


def test_memory_is_bounded() -> None:
    cache = ManifestCache(10_000)
    for nth in range(200):
        cache.put(nth.to_bytes(32, "big"), Manifest({"id": str(nth), "components": os.urandom(100).hex()}))
    assert 5_000 < cache.bytes <= 10_000
    assert cache.get((0).to_bytes(32, "big")) is None
    assert cache.get((199).to_bytes(32, "big"), brief=True) == Manifest({"id": "199"})
    cache.put(b"large", Manifest({"id": "x", "components": os.urandom(20_000).hex()}))
    assert cache.get(b"large") is None


def test_two_that_launch_at_once_come_one_after_the_other(service: BackupService) -> None:
    """Also in two processes: the claim is an object in the store. One that is left behind expires."""
    tenant, inside, most = service.tenants.find(ACME), 0, 0
    other = BackupService(service.settings)
    lock = threading.Lock()

    def launch(by: BackupService) -> None:
        nonlocal inside, most
        for _ in range(3):
            with by.launches.claim(tenant, "a test"):
                with lock:
                    inside += 1
                    most = max(most, inside)
                threading.Event().wait(0.02)
                with lock:
                    inside -= 1

    threads = [threading.Thread(target=launch, args=(by,)) for by in (service, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert service.launches.writer_at_work(tenant) is None
    store, prefix = site_of(service).backup_store(tenant)
    held = leases.acquire(store, prefix, leases.new_owner("x"), "x", 60, utc_now)
    writer = service.launches.writer_at_work(tenant)
    assert writer is not None
    assert writer.purpose == "x"
    held.release()


def test_a_claim_that_does_not_come_free_is_an_error(service: BackupService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sbh_pipelines.backup.service.gate._WAIT_S", 0.2)
    tenant = service.tenants.find(ACME)
    with (
        service.launches.claim(tenant, "one"),
        pytest.raises(LeaseHeld),
        BackupService(service.settings).launches.claim(tenant, "two"),
    ):
        raise AssertionError("two launch at once")


def test_tenants_are_remembered_only_by_who_asks_for_it(service: BackupService, application: Application) -> None:
    reader = BackupService(application.settings)
    reader.tenants.remember(60)
    assert reader.tenants.find(BOLT).tier == service.tenants.find(BOLT).tier == "important"
    application.database.run("UPDATE tenants SET tier = 'archive' WHERE slug = 'bolt'")
    assert reader.tenants.find(BOLT).tier == "important"
    assert service.tenants.find(BOLT).tier == "archive"
