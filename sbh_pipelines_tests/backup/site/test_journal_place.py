"""The journal beside a region's catalog: it is kept apart from everything else, and everything else goes on beside it."""

from pathlib import Path

import pytest

from sbh_pipelines.errors import CorruptObject, ResidencyError, TenantErased, UnknownBackup
from sbh_pipelines.repository.journal.gaps import Gap
from sbh_pipelines.repository.journal.reading import read_transactions
from sbh_pipelines.repository.journal.segments.block import BlockBuffer
from sbh_pipelines.repository.journal.segments.changes import Change, Op
from sbh_pipelines.repository.journal.segments.public_key import PublicKey
from sbh_pipelines.repository.journal.segments.segment import SegmentWriter
from sbh_pipelines.repository.lease import acquire
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines_tests.repository.journal.journals import INCARNATION, facts_of
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.site import site_of

EU = "eu-west-1"


def _key_of(repository: Repository, tenant_key: str) -> PublicKey:
    return PublicKey(repository.tenant, tenant_key, repository.sealer.epoch, repository.sealer.journal_public())


def _fill(application: Application) -> None:
    """A segment, a gap, the lease and the tenants' public keys, as a drain leaves them."""
    site = site_of(application.service())
    journal = site.journal(EU)
    with SegmentWriter(EU, INCARNATION, 0, 100) as writer:
        for tenant, tenant_key in ((ACME, "1"), (BOLT, "2")):
            with site.repository(application.tenant(tenant)) as repository:
                public = _key_of(repository, tenant_key)
            journal.public_keys.register([public])
            buffer = BlockBuffer()
            buffer.add(10, 0, 7, Change(0, Op.INSERT, b"", b"1\trow of " + tenant.encode()))
            found = buffer.take()
            assert found is not None
            writer.add_block(public, *found)
        journal.write(writer, facts_of(0, 100))
    journal.record_gap(Gap(INCARNATION, "test", None, None, 100, 0, ""))
    acquire(journal.store, journal.prefix, "drain", "drain", 60, site.clock).release()


def _stored(application: Application) -> dict[Path, bytes]:
    folder = application.bucket / "_sbh-journal"
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_tenant_is_read_in_another_process(application: Application) -> None:
    """With the keys of its own repository, and with nobody else's."""
    application.service().create_backup(ACME, ADMIN)
    application.service().create_backup(BOLT, ADMIN)
    _fill(application)
    site = site_of(application.service())
    journal = site.journal(EU)
    assert journal is site.journal(EU)
    assert {key.home for key in journal.public_keys.read().values()} == {ACME, BOLT}
    (name,) = journal.segments(INCARNATION)
    directory = journal.directory(name)
    with (
        site.repository(application.tenant(ACME)) as own,
        site.repository(application.tenant(BOLT)) as other,
    ):
        ((_, one),) = read_transactions(journal, directory, "1", lambda _: own.sealer, 0, 100)
        assert one.changes[0].row == b"1\trow of acme"
        with pytest.raises(CorruptObject, match="does not open"):
            list(read_transactions(journal, directory, "1", lambda _: other.sealer, 0, 100))
    assert not any(b"row of" in body for body in _stored(application).values())


def test_what_walks_through_the_bucket_leaves_the_journal_alone(application: Application) -> None:
    """Backups, validation, retention, prune, compaction of catalogs, and the other tenant's erasure."""
    service = application.service()
    backup = service.create_backup(ACME, ADMIN)
    service.create_backup(BOLT, ADMIN)
    _fill(application)
    (application.bucket / "_sbh-journal" / EU / "notes.txt").write_text("of somebody")
    before = _stored(application)
    application.wreck(ACME)
    service.create_backup(ACME, ADMIN)
    service.validate_backup(backup["id"], ACME, ADMIN)
    service.retention.prune(ACME, ADMIN)
    service.retention.compact_catalogs(ADMIN)
    service.restore_backup(backup["id"], ACME, ADMIN)
    assert _stored(application) == before
    service.keys.erase(ACME, ADMIN, confirm=ACME, reason="asked for")
    assert site_of(service).catalog(EU).damages == []
    after = _stored(application)
    assert {path: body for path, body in before.items() if path.parent.name != "keys"} == {
        path: body for path, body in after.items() if path.parent.name != "keys"
    }
    journal = site_of(service).journal(EU)
    assert journal.public_keys.damages == []
    assert {key.home for key in journal.public_keys.read().values()} == {BOLT}


def test_an_erased_tenants_blocks_do_not_open(application: Application) -> None:
    """Its data key is gone, from which the private key was derived; those of the others are as they were."""
    service = application.service()
    service.create_backup(ACME, ADMIN)
    service.create_backup(BOLT, ADMIN)
    _fill(application)
    service.keys.erase(ACME, ADMIN, confirm=ACME, reason="asked for")
    site = site_of(service)
    journal = site.journal(EU)
    (name,) = journal.segments(INCARNATION)
    with pytest.raises((TenantErased, UnknownBackup)):
        site.repository(application.tenant(ACME))
    with site.repository(application.tenant(BOLT)) as repository:
        ((_, one),) = read_transactions(journal, journal.directory(name), "2", lambda _: repository.sealer, 0, 100)
    assert one.changes[0].row == b"1\trow of bolt"


def test_a_region_that_is_not_allowed_has_no_journal(application: Application) -> None:
    """And a region's journal writes nowhere else in its bucket."""
    site = site_of(application.service())
    with pytest.raises(ResidencyError):
        site.journal("ap-south-1")
    with pytest.raises(ResidencyError, match="outside of its place"):
        site.journal(EU).store.put("_sbh-catalog/eu-west-1/records/x", b"")


def test_an_erased_tenants_public_key_leaves_with_the_next_upkeep(application: Application) -> None:
    """A mark that somebody put there takes nobody's key away."""
    service = application.service(journal={"enabled": True})
    for tenant in (ACME, BOLT):
        service.create_backup(tenant, ADMIN)
    _fill(application)
    forged = application.bucket / "_sbh-catalog" / EU / "erased" / f"{BOLT}.json"
    forged.parent.mkdir(parents=True, exist_ok=True)
    forged.write_text('{"state": "erased"}')
    service.retention.keep_journals(ADMIN)
    assert {key.home for key in site_of(service).journal(EU).public_keys.read().values()} == {ACME, BOLT}
    forged.unlink()
    service.keys.erase(ACME, ADMIN, confirm=ACME, reason="asked for")
    service.retention.keep_journals(ADMIN)
    assert {key.home for key in site_of(service).journal(EU).public_keys.read().values()} == {BOLT}
