"""An insider with the credentials that write to a copy, and every right on its bucket besides, wants its backups gone.

The bucket was made with object lock and the copy has `lock_days`. What they reach is what the listings show: deletes and puts come
before the locked versions, and never in their place. The keys, which nothing locks, they do destroy.
"""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from sbh_pipelines.backup.copies.locks import Locks, open_locks
from sbh_pipelines.backup.copies.upkeep import keep_copy
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import CopyError, PruneRefused, SbhError
from sbh_pipelines.model import utc_now
from sbh_pipelines_tests.support.application import ACME, ADMIN, Application
from sbh_pipelines_tests.support.copied import COPY, DAY, REGION, Copied

LOCKED = 2 * DAY


@pytest.fixture
def copied(application: Application, embedded_stack: Stack) -> Copied:
    """Two backups at a copy that locks for two days."""
    made = Copied(application, embedded_stack, copy={"lock_days": LOCKED.days})
    for seed in (1, 2):
        made.change(seed)
        made.back_up()
        made.bring()
    assert list(made.enforce().issues) == []
    return made


def refused(call: Any, **arguments: Any) -> int:
    """The status with which the server refuses a call."""
    with pytest.raises(ClientError) as error:
        call(**arguments)
    status: int = error.value.response["ResponseMetadata"]["HTTPStatusCode"]
    return status


def locked(copied: Copied) -> list[tuple[str, str]]:
    """(key, version) of each object that is locked."""
    _, _, prefix = copied.ends()
    found = copied.client.list_object_versions(Bucket=copied.copy_bucket, Prefix=prefix)
    assert not found["IsTruncated"]
    return [
        (version["Key"], version["VersionId"])
        for version in found["Versions"]
        if version["IsLatest"] and Locks.wants(version["Key"][len(prefix) :])
    ]


def until(copied: Copied, key: str, version: str) -> datetime:
    answer = copied.client.get_object_retention(Bucket=copied.copy_bucket, Key=key, VersionId=version)
    assert answer["Retention"]["Mode"] == "COMPLIANCE"
    ends: datetime = answer["Retention"]["RetainUntilDate"]
    return ends


def is_whole(copied: Copied) -> bool:
    """Whether a reader that has the copy alone finds its backups, and each whole to the last byte."""
    alone = BackupService(copied.place().target.settings)
    try:
        listed = [backup["id"] for backup in alone.list_backups(ACME, ADMIN)]
        return len(listed) == 2 and all(
            alone.validate_backup(backup, ACME, ADMIN, deep=True)["issues"] == [] for backup in listed
        )
    except SbhError:
        return False


def put_back(copied: Copied, versions: list[tuple[str, str]]) -> None:
    """What docs/operations.md tells an operator to do: the locked version becomes the newest again."""
    for key, version in versions:
        source = {"Bucket": copied.copy_bucket, "Key": key, "VersionId": version}
        copied.client.copy_object(Bucket=copied.copy_bucket, Key=key, CopySource=source)


def test_deleting(copied: Copied) -> None:
    """No version goes, one by one, many at once or with the right to bypass; markers hide them, and are taken away again."""
    versions = locked(copied)
    assert len(versions) > 10
    for key, version in versions:
        which = {"Bucket": copied.copy_bucket, "Key": key, "VersionId": version}
        assert refused(copied.client.delete_object, **which) == 403
        assert refused(copied.client.delete_object, **which, BypassGovernanceRetention=True) == 403
    objects = [{"Key": key, "VersionId": version} for key, version in versions]
    answer = copied.client.delete_objects(
        Bucket=copied.copy_bucket, Delete={"Objects": objects}, BypassGovernanceRetention=True
    )
    assert len(answer["Errors"]) == len(versions)
    assert is_whole(copied)
    markers = [
        (key, copied.client.delete_object(Bucket=copied.copy_bucket, Key=key)["VersionId"]) for key, _ in versions
    ]
    assert not is_whole(copied)
    for key, version in versions:
        # However long the attacker waited for it: renewal keeps at least half of the period.
        assert until(copied, key, version) - datetime.now(UTC) > LOCKED / 2
    for key, marker in markers:
        copied.client.delete_object(Bucket=copied.copy_bucket, Key=key, VersionId=marker)
    assert is_whole(copied)


def test_overwriting(copied: Copied) -> None:
    """The locked version stays under the other one, and put back it is what it was."""
    versions = locked(copied)
    content = {
        (key, version): copied.client.get_object(Bucket=copied.copy_bucket, Key=key, VersionId=version)["Body"].read()
        for key, version in versions
    }
    for key, _ in versions:
        copied.client.put_object(Bucket=copied.copy_bucket, Key=key, Body=b"x" * 100)
    assert not is_whole(copied)
    for (key, version), body in content.items():
        assert copied.client.get_object(Bucket=copied.copy_bucket, Key=key, VersionId=version)["Body"].read() == body
    put_back(copied, versions)
    assert is_whole(copied)


def test_shortening_the_lock(copied: Copied) -> None:
    """Nor another mode, nor none."""
    now = datetime.now(UTC)
    for key, version in locked(copied):
        before = until(copied, key, version)
        which = {"Bucket": copied.copy_bucket, "Key": key, "VersionId": version}
        for retention in (
            {"Mode": "COMPLIANCE", "RetainUntilDate": now + timedelta(minutes=1)},
            {"Mode": "GOVERNANCE", "RetainUntilDate": before + DAY},
            {},
        ):
            for bypass in (False, True):
                call = copied.client.put_object_retention
                assert refused(call, **which, Retention=retention, BypassGovernanceRetention=bypass) in (400, 403)
        assert until(copied, key, version) == before


def test_taking_the_lock_off_the_bucket(copied: Copied) -> None:
    """Versioning cannot be suspended, the lock not switched off, the bucket not deleted. A lifecycle rule can be written, and
    takes nothing away at once; that locked versions outlast it is the promise of S3.
    """
    s3, name = copied.client, copied.copy_bucket
    assert refused(s3.put_bucket_versioning, Bucket=name, VersioningConfiguration={"Status": "Suspended"}) == 409
    assert refused(s3.put_object_lock_configuration, Bucket=name, ObjectLockConfiguration={}) == 400
    assert refused(s3.delete_bucket, Bucket=name) == 409
    rule = {
        "ID": "all",
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "Expiration": {"Days": 1},
        "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
    }
    s3.put_bucket_lifecycle_configuration(Bucket=name, LifecycleConfiguration={"Rules": [rule]})
    for key, version in locked(copied):
        assert refused(s3.delete_object, Bucket=name, Key=key, VersionId=version) == 403
    s3.delete_bucket_lifecycle(Bucket=name)
    assert is_whole(copied)


def test_forged_newer_backups(copied: Copied) -> None:
    """Without the tenant's key no manifest counts: none pushes another out, and prune takes nothing beside them."""
    _, there, prefix = copied.ends()
    honest = copied.there()
    genuine = json.loads(there.get(f"{prefix}manifests/{honest[-1]}.json"))
    for day in range(1, 29):
        name = f"backup_203001{day:02d}_0000"
        forged = {**genuine, "id": name, "created_at": f"2030-01-{day:02d}T00:00:00+00:00"}
        there.put(f"{prefix}manifests/{name}.json", json.dumps(forged).encode())
    kept = copied.enforce(verified=honest[-1])
    assert set(honest) < set(copied.there())
    assert (kept.forgotten, kept.objects) == ((), 0)
    assert PruneRefused in {type(issue) for issue in kept.issues}
    # Nor where a forged one is named as the verified one.
    kept = copied.enforce(verified="backup_20300128_0000")
    assert (kept.forgotten, kept.objects) == ((), 0)
    there.delete([info.key for info in there.list(f"{prefix}manifests/backup_2030")])
    assert is_whole(copied)


def test_a_process_with_a_wrong_clock(copied: Copied) -> None:
    """Years ahead everything would be old; years behind every lock would be over before it begins."""
    real = copied.clock
    for off in (-4000 * DAY, 4000 * DAY):
        copied.clock = lambda off=off: utc_now() + off  # type: ignore[misc]
        kept = copied.enforce()
        assert PruneRefused in {type(issue) for issue in kept.issues}
        assert (kept.forgotten, kept.objects) == ((), 0)
        with pytest.raises(CopyError):
            open_locks(copied.place(), "eu-west-1")
    copied.clock = real
    assert is_whole(copied)


def test_forged_notes_of_the_copy(copied: Copied) -> None:
    """`copy.json` with any content: locks are renewed at once, and nothing is forgotten for it."""
    _, there, prefix = copied.ends()
    honest = copied.there()
    for body in (b"x", json.dumps({"renewed_at": "2099-01-01T00:00:00+00:00", "forgotten": honest}).encode()):
        there.put(f"{prefix}copy.json", body)
        kept = copied.enforce()
        assert kept.locked > 10
        assert (list(kept.issues), kept.forgotten) == ([], ())
    assert copied.there() == honest


def test_destroying_the_keys(copied: Copied) -> None:
    """That works, and then nobody opens the copy; until the keys are brought again from the source, where they are as well."""
    _, _, prefix = copied.ends()
    found = copied.client.list_object_versions(Bucket=copied.copy_bucket, Prefix=f"{prefix}keys/")
    for version in found["Versions"]:
        copied.client.delete_object(Bucket=copied.copy_bucket, Key=version["Key"], VersionId=version["VersionId"])
    assert not is_whole(copied)
    assert all(copied.client.head_object(Bucket=copied.copy_bucket, Key=key) for key, _ in locked(copied))
    copied.bring()
    assert is_whole(copied)


def erased_at_the_source(copied: Copied, *, key: str, body: bytes) -> None:
    """An outsider at the source: no key of the tenant is left there, and a tombstone says that it was erased."""
    here, _, prefix = copied.ends()
    here.delete([info.key for info in here.list(f"{prefix}keys/")])
    copied.client.put_object(Bucket=copied.bucket, Key=key, Body=body)


@pytest.mark.parametrize("body", [b"{}", b"no document", b'{"erasure_id": "erase_20260101_000000_aaaaaa"}'])
def test_a_tombstone_at_the_source_that_nobody_signed(copied: Copied, body: bytes) -> None:
    """Who may put and delete at the source, and nothing at the copy, has the copy's own upkeep destroy nothing, and leave no locks
    to end: also of a tenant whose row is gone.
    """
    erased_at_the_source(copied, key=f"_sbh-catalog/{REGION}/erased/{ACME}.json", body=body)
    before = set(copied.versions(copied.copy_bucket, copied.ends()[2]))
    kept = keep_copy(copied.site(), COPY, [], everyone=True)
    assert (list(kept.erased), [str(one.tenant_id) for one in kept.tenants]) == ([], [ACME])
    copied.service().copies.run(ADMIN, COPY)
    assert before <= set(copied.versions(copied.copy_bucket, copied.ends()[2]))
    assert is_whole(copied)


def test_the_tombstone_of_an_erasure_before_a_readmission(application: Application, embedded_stack: Stack) -> None:
    """It was genuine once. The copy's own readmission says that it is over, also where the source's was deleted."""
    copied = Copied(application, embedded_stack)
    copied.back_up()
    copied.service().copies.run(ADMIN, COPY)
    copied.service().keys.erase(ACME, ADMIN, confirm=ACME, reason="the customer left")
    tombstone = f"_sbh-catalog/{REGION}/erased/{ACME}.json"
    old = copied.client.get_object(Bucket=copied.bucket, Key=tombstone)["Body"].read()
    copied.service().keys.readmit(ACME, ADMIN)
    copied.back_up()
    assert list(copied.service().copies.run(ADMIN, COPY).issues) == []
    (backup,) = copied.there()
    erased_at_the_source(copied, key=tombstone, body=old)
    for key in copied.objects(copied.bucket, f"_sbh-catalog/{REGION}/readmitted/"):
        copied.client.delete_object(Bucket=copied.bucket, Key=key)
    kept = keep_copy(copied.site(), COPY, [], everyone=True)
    assert list(kept.erased) == []
    copied.check(backup)


def test_a_legal_hold_at_the_copy_outlasts_an_erasure_that_did_not_see_it(copied: Copied) -> None:
    """What came after the erasure stays while it is held there, and is named."""
    hold = copied.service().retention.hold(ACME, ADMIN, reason="case 1")
    copied.bring()
    _, there, prefix = copied.ends()
    held = there.get(f"{prefix}holds/{hold.id}.json")
    copied.service().retention.release(hold.id, ACME, ADMIN)
    copied.service().keys.erase(ACME, ADMIN, confirm=ACME, reason="the customer left")
    there.put(f"{prefix}holds/{hold.id}.json", held)
    there.put(f"{prefix}packs/{'0' * 64}", b"of a copier that had lost its lease")
    kept = keep_copy(copied.site(), COPY, [], everyone=True)
    assert list(kept.erased) == []
    assert [hold.id in issue.why for issue in kept.issues] == [True]
    there.delete([f"{prefix}holds/{hold.id}.json"])
    assert list(keep_copy(copied.site(), COPY, [], everyone=True).erased) == [ACME]
    assert f"{prefix}packs/{'0' * 64}" not in {info.key for info in there.list(prefix)}
