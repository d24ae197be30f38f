"""Erasing a tenant that has copies: nothing of it is left in any of them, and one that does not answer is not forgotten."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sbh_pipelines.backup.copies.copier.tenant_copy import copy_tenant
from sbh_pipelines.backup.copies.copier.transfer import Limiter, Transfers
from sbh_pipelines.backup.copies.state import CopyStates
from sbh_pipelines.backup.copies.wrapping import bring_keys
from sbh_pipelines.backup.keys import erased_copies
from sbh_pipelines.backup.keys.certificate import ErasureCertificate, verify_certificate
from sbh_pipelines.backup.keys.journal_keys import ERASED_AT_COPIES_AFTER
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.document import as_document
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import CopyError, TenantErased, UnknownBackup
from sbh_pipelines.model import no_progress, parse_timestamp
from sbh_pipelines.repository.catalog.erased import read_erased
from sbh_pipelines_tests.backup.create.test_crash import Death, Killed, struck
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.copied import COPY, REGION, THERE, Copied
from sbh_pipelines_tests.support.effort import either
from sbh_pipelines_tests.support.kms_proxy import kms_proxy
from sbh_pipelines_tests.support.servers import free_port

REASON = "Article 17: the customer left"
OURS = f"files/{ACME}/backups/"


@pytest.fixture
def copied(application: Application, embedded_stack: Stack) -> Copied:
    return Copied(application, embedded_stack)


def brought(copied: Copied) -> BackupService:
    """Both tenants have a backup, at both ends."""
    made = copied.service()
    for tenant in (ACME, BOLT):
        made.create_backup(tenant, ADMIN)
    copied.bring_both()
    return copied.service()


def erase(made: BackupService, **other: Any) -> ErasureCertificate:
    return made.keys.erase(ACME, ADMIN, **{"confirm": ACME, "reason": REASON, **other})


def left(copied: Copied) -> list[str]:
    """Versions of the tenant's objects at the copy, but for its audit trail."""
    return [key for key in copied.versions(copied.copy_bucket, OURS) if not key.startswith(f"{OURS}audit/")]


def later() -> datetime:
    """When the lease of one that was killed has expired."""
    return datetime.now(UTC) + timedelta(minutes=10)


def unreachable(copied: Copied) -> None:
    copied.copy = {**copied.copy, "endpoint_url": f"http://127.0.0.1:{free_port()}"}


def test_nothing_is_left_in_any_version_at_either_end(copied: Copied) -> None:
    made = brought(copied)
    held = left(copied)
    copied.transfer(again=True)  # what was there becomes older versions
    others = copied.versions(copied.copy_bucket, f"files/{BOLT}/")
    public = made.keys.public(ADMIN)[REGION]
    assert any("/packs/" in key for key in held)
    certificate = erase(made)
    assert left(copied) == []
    assert copied.versions(copied.copy_bucket, f"files/{BOLT}/") == others
    (copy,) = certificate.copies or ()
    assert (copy.name, copy.to, copy.buckets, copy.reached, copy.left) == (COPY, THERE, [copied.copy_bucket], True, 0)
    assert copy.found.versions > copy.found.objects >= len(held) > 0
    assert [key.epoch for key in copy.keys] == [1]
    here, there = (key.key_id for key in (*certificate.destroyed.keys, *copy.keys))
    assert here != there
    assert str(here) in certificate.copies_made_before
    assert str(there) in certificate.copies_made_before
    verify_certificate(as_document(certificate), public)
    assert copied.service().keys.certificate(ACME, ADMIN) == certificate
    assert copy.journal_until is None
    assert "acme" not in repr(copied.place().target.catalog(REGION).read())
    assert "bolt" in repr(copied.place().target.catalog(REGION).read())


def test_the_certificate_says_until_when_the_copy_s_journal_has_sealed_blocks(copied: Copied) -> None:
    """Also where the journal was turned off since: its segments are there."""
    made = brought(copied)
    copied.client.put_object(Bucket=copied.copy_bucket, Key=f"_sbh-journal/{REGION}/slots/1", Body=b"sealed")
    before = datetime.now(UTC)
    certificate = erase(made)
    (copy,) = certificate.copies or ()
    assert copy.journal_until is not None
    assert abs(parse_timestamp(copy.journal_until) - before - ERASED_AT_COPIES_AFTER) < timedelta(minutes=5)
    verify_certificate(as_document(certificate), copied.service().keys.public(ADMIN)[REGION])


def test_no_copier_begins_the_slug_again(copied: Copied) -> None:
    """Also one that has the source as it was: the copy itself says so."""
    erase(brought(copied))
    there = copied.place().target.catalog(REGION)
    record = read_erased(there, ACME)
    assert record is not None
    assert record.done
    for key in copied.objects(copied.bucket, f"_sbh-catalog/{REGION}/erased/"):
        copied.client.delete_object(Bucket=copied.bucket, Key=key)
    copied.service().create_backup(ACME, ADMIN)
    with pytest.raises(TenantErased):
        bring_keys(copied.place(), Application.tenant())
    assert left(copied) == []
    with pytest.raises((TenantErased, UnknownBackup)):
        copied.place().target.repository(Application.tenant())


def test_a_tenant_that_was_admitted_again_is_copied_again(copied: Copied) -> None:
    made = brought(copied)
    erase(made)
    made.keys.readmit(ACME, ADMIN)
    copied.service().create_backup(ACME, ADMIN)
    assert bring_keys(copied.place(), Application.tenant()) == 1
    copied.transfer()
    copied.key_file.unlink()
    with copied.place().target.repository(Application.tenant()) as repository:
        repository.load_index()


def test_what_was_verified_before_an_erasure_is_not_said_of_who_is_admitted_again(copied: Copied) -> None:
    """Nothing is at the copy until a copier was there, and the other tenant stands as before."""
    made = brought(copied)
    for tenant in (ACME, BOLT):
        made.copies.verify(ADMIN, COPY, [tenant])
    erase(made)
    assert "acme" not in repr(CopyStates(copied.place()).read(REGION))
    made.keys.readmit(ACME, ADMIN)
    copied.service().create_backup(ACME, ADMIN)
    (status,) = copied.service().copies.status(ADMIN)
    assert {line.tenant_id: line.standing for line in status.tenants} == {ACME: "never", BOLT: "current"}


def test_an_unreachable_copy_keeps_the_erasure_open(copied: Copied) -> None:
    """The source's keys are destroyed all the same; the command that the error names finishes it."""
    brought(copied)
    reachable = copied.copy
    unreachable(copied)
    with pytest.raises(CopyError, match="not finished") as refused:
        erase(copied.service())
    assert f"copy {COPY}" in refused.value.on
    assert f"sbh tenants erase {ACME} --confirm {ACME}" in refused.value.remedy
    assert "[[copies]]" in refused.value.remedy
    assert not [key for key in copied.versions(copied.bucket, OURS) if "/audit/" not in key]
    record = read_erased(copied.site().catalog(REGION), ACME)
    assert record is not None
    assert not record.done
    assert left(copied)
    with pytest.raises(TenantErased):
        copied.service().create_backup(ACME, ADMIN)
    copied.copy = reachable
    with pytest.raises(TenantErased):  # nor does a copier go on
        bring_keys(copied.place(), Application.tenant())
    certificate = erase(copied.service())
    assert left(copied) == []
    assert [(copy.name, copy.reached, copy.why) for copy in certificate.copies or ()] == [(COPY, True, None)]
    assert certificate.destroyed.versions > 0  # what the first run destroyed


def test_a_copy_that_is_gone_for_good_is_told_of(copied: Copied) -> None:
    brought(copied)
    unreachable(copied)
    with pytest.raises(CopyError):
        erase(copied.service())
    certificate = erase(copied.service(copies=False))
    (copy,) = certificate.copies or ()
    assert (copy.name, copy.reached) == (COPY, False)
    assert "taken out of the settings" in str(copy.why)


def test_a_copy_that_comes_back_loses_what_it_kept_by_the_same_command(copied: Copied) -> None:
    """It was out of the settings when the tenant was erased."""
    brought(copied)
    certificate = erase(copied.service(copies=False))
    assert left(copied)
    assert erase(copied.service()) == certificate
    assert left(copied) == []
    with pytest.raises(TenantErased):
        bring_keys(copied.place(), Application.tenant())


def test_objects_under_lock_stay_until_a_date_that_the_certificate_says(
    application: Application, embedded_stack: Stack
) -> None:
    """Without their key: no key is ever locked. When the lock ends, the same command takes them."""
    copied = Copied(application, embedded_stack, locks=True)
    brought(copied)
    packs = sorted(key for key in left(copied) if "/packs/" in key)
    ends = [datetime.now(UTC).replace(microsecond=0) + timedelta(hours=h) for h in (1, 2)]

    def lock(pack: str, end: datetime, **more: Any) -> None:
        retention = {"Mode": "GOVERNANCE", "RetainUntilDate": end}
        copied.client.put_object_retention(Bucket=copied.copy_bucket, Key=pack, Retention=retention, **more)

    for pack, end in zip(packs, ends, strict=False):
        lock(pack, end)
    locked = packs[: len(ends)]
    certificate = erase(copied.service())
    (copy,) = certificate.copies or ()
    assert left(copied) == locked
    assert (copy.reached, copy.left) == (True, len(locked))
    assert copy.locked_until == f"{ends[len(locked) - 1]:%Y-%m-%dT%H:%M:%SZ}"
    assert locked[0] in "".join(copy.examples)
    over = datetime.now(UTC) + timedelta(seconds=10)
    for pack in locked:
        lock(pack, over, BypassGovernanceRetention=True)
    time.sleep(max((over - datetime.now(UTC)).total_seconds(), 0) + 1)
    assert erase(copied.service()) == certificate
    assert left(copied) == []


def test_what_a_copier_stores_meanwhile_goes_as_well(copied: Copied, monkeypatch: pytest.MonkeyPatch) -> None:
    """It read the source before the erasure, and puts after the copy was emptied."""
    made, late = brought(copied), list[str]()
    withdraw = "sbh_pipelines.backup.keys.erasure.withdraw_erased"

    def late_put(site: Site, home: str) -> list[str]:
        late.append(f"{OURS}packs/aa/late")
        copied.client.put_object(Bucket=copied.copy_bucket, Key=late[0], Body=b"ciphertext")
        return []

    monkeypatch.setattr(withdraw, late_put)
    erase(made)
    assert late
    assert left(copied) == []


def copier(copied: Copied) -> tuple[int, int]:
    place = copied.place()
    housed = place.source.owners.housed(Application.tenant())
    return copy_tenant(place, housed, Transfers(place, no_progress, Limiter(None)))


@pytest.mark.parametrize("at", ["/packs/", "/index/", "/audit/", "/manifests/"])
def test_nothing_is_certified_while_a_copier_is_at_the_tenant(
    copied: Copied, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """It looked before the tombstone was there, and puts something when all else was erased."""
    monkeypatch.setattr(erased_copies, "_PATIENCE_S", 0.1)
    made, told = brought(copied), list[str]()
    copied.application.database.run("UPDATE projects SET body = 'other' || id WHERE tenant_id = 1")
    made.create_backup(ACME, ADMIN)

    def strike(verb: str, key: str, body: bytes) -> None:
        if at in key and OURS in key and not told:
            told.append(key)
            with pytest.raises(CopyError, match="not finished") as refused:
                erase(copied.service())
            told.append(refused.value.why)
            told.append(repr([key for key in left(copied) if "/keys/" in key]))

    with struck(strike, ("create", "put", "replace", "put_stream")), pytest.raises(TenantErased):
        copier(copied)
    assert f"copy {COPY}" in told[1]
    assert told[2] == "[]"  # what was brought opens no more, however long the copier goes on
    assert erase(copied.service()).copies
    assert left(copied) == []


@pytest.mark.parametrize("nth", [1, 3, 6])
def test_a_copier_that_was_killed_keeps_an_erasure_waiting_for_no_longer_than_its_lease(
    copied: Copied, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    monkeypatch.setattr(erased_copies, "_PATIENCE_S", 0.1)
    made = brought(copied)
    copied.application.database.run("UPDATE projects SET body = 'other' || id WHERE tenant_id = 1")
    made.create_backup(ACME, ADMIN)
    with struck(Death(nth, "after")), pytest.raises(Killed):
        copier(copied)
    with pytest.raises(CopyError, match="not finished"):
        erase(copied.service())
    assert erase(copied.service(later)).copies
    assert left(copied) == []
    with pytest.raises(TenantErased):
        copier(copied)
    assert left(copied) == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_any_write_the_same_command_goes_on(copied: Copied, when: str) -> None:
    """A copier that runs in between brings nothing back."""
    nth, outcomes = (1 if when == "before" else 3) - either(5, 1), set[bool]()
    brought(copied)
    kept = {bucket: copied.objects(bucket) for bucket in (copied.bucket, copied.copy_bucket)}
    while True:
        nth += either(5, 1)
        for bucket, objects in kept.items():
            for key in copied.objects(bucket).keys() - objects.keys():
                copied.client.delete_object(Bucket=bucket, Key=key)
            for key, body in objects.items():
                copied.client.put_object(Bucket=bucket, Key=key, Body=body)
        death = Death(nth, when)
        try:
            with struck(death):
                erase(copied.service())
        except Killed:
            there = read_erased(copied.place().target.catalog(REGION), ACME)
            outcomes.add(there is not None)
            if there is not None:
                with pytest.raises(TenantErased):
                    bring_keys(copied.place(), Application.tenant())
            erase(copied.service(later))
        else:
            break
        assert left(copied) == []
        assert copied.service().keys.certificate(ACME, ADMIN).copies
    assert nth > 8
    assert outcomes == {True, False}


def test_a_kms_key_of_the_tenant_s_own_goes_in_both_regions(application: Application, embedded_stack: Stack) -> None:
    there, here = embedded_stack.kms_client(THERE), embedded_stack.kms_client(REGION)
    with kms_proxy(embedded_stack.kms_endpoint, here) as proxy:
        keys = {"provider": "aws-kms", "key_file": None, "kms_endpoint_url": proxy.url, "kms_timeout_s": 30}
        copied = Copied(application, embedded_stack, keys=keys, copy={"kms_endpoint_url": embedded_stack.kms_endpoint})
        alias = f"alias/erased-{copied.mark}"
        copied.keys = {**keys, "kms_key_id": f"{alias}-{{tenant}}"}
        for client in (here, there):
            for name in (ACME, BOLT, "_catalog"):
                key_id = client.create_key(Description="of a test")["KeyMetadata"]["KeyId"]
                client.create_alias(AliasName=f"{alias}-{name}", TargetKeyId=key_id)
        certificate = erase(brought(copied))
    scheduled = {key.key_id.split(":")[3] for key in certificate.destroyed.kms_keys}
    assert (scheduled, len(certificate.destroyed.kms_keys)) == ({REGION, THERE}, 2)
    for client in (here, there):
        states = {
            name: client.describe_key(KeyId=f"{alias}-{name}")["KeyMetadata"]["KeyState"] for name in (ACME, BOLT)
        }
        assert states == {ACME: "PendingDeletion", BOLT: "Enabled"}
    assert certificate.copies_made_before.startswith("Nothing")


def test_a_site_without_copies_says_nothing_of_them(copied: Copied) -> None:
    made = copied.service(copies=False)
    made.create_backup(ACME, ADMIN)
    certificate = erase(made)
    assert certificate.copies is None
    assert "copies" not in as_document(certificate)
