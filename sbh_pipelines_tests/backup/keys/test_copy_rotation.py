"""Rotation where there are copies: wrapped anew in each, and a key that ended here ends there once nothing needs it."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sbh_pipelines.backup.contents.manifests import read_manifest
from sbh_pipelines.backup.contents.verification import verify_backup
from sbh_pipelines.backup.keys.copy_rotation import _end
from sbh_pipelines.backup.keys.rotation import RotationReport
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import CopyError
from sbh_pipelines.model import BackupId, no_progress
from sbh_pipelines_tests.support.application import ACME, ADMIN, Application
from sbh_pipelines_tests.support.copied import COPY, REGION, Copied
from sbh_pipelines_tests.support.servers import free_port

FIRST, SECOND = (f"files/{ACME}/backups/keys/000{epoch}.json" for epoch in (1, 2))
AT_ONCE = {"prune": {"min_age_hours": 0}, "retention": {"keep_within_hours": 1_000_000}}
TENANT = Application.tenant()


@pytest.fixture
def copied(application: Application, embedded_stack: Stack) -> Copied:
    made = Copied(application, embedded_stack)
    made.sections = AT_ONCE
    return made


def later() -> datetime:
    return datetime.now(UTC) + timedelta(minutes=4)


def rotate(copied: Copied, clock: Callable[[], datetime] | None = None, **how: Any) -> RotationReport:
    made = copied.service(clock) if clock else copied.service()
    return made.keys.rotate([ACME], ADMIN, **how)


def there(copied: Copied, key: str = FIRST) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(copied.client.get_object(Bucket=copied.copy_bucket, Key=key)["Body"].read())
    return found


def opens(copied: Copied, backup: str) -> None:
    site = Site(copied.place().target.settings, copied.site().clock)
    with site.repository(TENANT) as repository:
        repository.load_index()
        found = verify_backup(repository, read_manifest(repository, BackupId(backup)), deep=True)
    assert found.issues == []
    assert found.chunks > 0


def test_a_new_key_of_the_copy_s_wraps_what_lies_there(copied: Copied) -> None:
    """The old one is needed no more; and the source's key objects are not what this is about."""
    backup = copied.service().create_backup(ACME, ADMIN)["id"]
    copied.bring()
    before, old = there(copied), copied.copy_key_file
    copied.copy_key_file = copied.new_key_file("copy-2")
    copied.keys = {**copied.keys, "previous_key_files": [old]}
    report = copied.service().keys.rotate([], ADMIN, everyone=True)
    copies = {done.tenant_id: [(copy.copy, copy.keys) for copy in done.copies or ()] for done in report.rotated}
    assert copies == {ACME: [(COPY, 1)], f"_catalog/{REGION}": [(COPY, 1)]}
    after = there(copied)
    assert after["key_id"] != before["key_id"]
    assert {**after, "key_id": "", "wrapped": ""} == {**before, "key_id": "", "wrapped": ""}
    old.unlink()
    copied.key_file.rename(copied.key_file.with_suffix(".gone"))
    opens(copied, backup)


def test_a_copy_that_nothing_was_brought_to_is_in_nobody_s_way(copied: Copied) -> None:
    copied.service().create_backup(ACME, ADMIN)
    (done,) = rotate(copied).rotated
    assert done.copies is None


def test_a_copy_that_does_not_answer_fails_the_rotation_after_it_was_done_here(copied: Copied) -> None:
    copied.service().create_backup(ACME, ADMIN)
    copied.bring()
    copied.copy = {**copied.copy, "endpoint_url": f"http://127.0.0.1:{free_port()}"}
    key = copied.objects(copied.bucket, FIRST)
    with pytest.raises(CopyError, match="not in every copy") as refused:
        rotate(copied)
    assert f"copy {COPY}" in refused.value.on
    assert copied.objects(copied.bucket, FIRST) != key


def test_an_ended_epoch_s_key_ends_at_the_copy_when_nothing_there_needs_it(
    copied: Copied, application: Application
) -> None:
    """All versions of it; and a backup that only the copy keeps is sealed anew before."""
    made = copied.service()
    only_there = made.create_backup(ACME, ADMIN, "full")["id"]
    copied.bring()
    application.database.run("UPDATE projects SET body = 'another ' || id")
    kept = copied.service().create_backup(ACME, ADMIN, "full")["id"]
    manifest = f"files/{ACME}/backups/manifests/{only_there}.json"
    assert manifest in copied.objects(copied.bucket)
    copied.client.delete_object(Bucket=copied.bucket, Key=manifest)
    (begun,) = rotate(copied, new_data_key=True, re_encrypt=True).rotated
    assert begun.epoch == 2
    copied.bring()
    (ended,) = rotate(copied, later, re_encrypt=True).rotated
    assert list(ended.epochs_destroyed or ()) == [1]
    assert "wrapped" in there(copied) or (ended.copies or ())[0].epochs_destroyed
    copied.bring()
    for backup in (only_there, kept):
        opens(copied, backup)
    for _ in range(2):  # what the first retires, the second removes
        rotate(copied, later, re_encrypt=True)
    assert "wrapped" not in there(copied)
    assert "destroyed" in there(copied)
    listed = copied.client.list_object_versions(Bucket=copied.copy_bucket, Prefix=FIRST).get("Versions", ())
    for version in listed:
        body = copied.client.get_object(Bucket=copied.copy_bucket, Key=FIRST, VersionId=version["VersionId"])["Body"]
        assert b"wrapped" not in body.read()
    for backup in (only_there, kept):
        opens(copied, backup)
    copied.bring()  # and nothing brings it back
    assert "wrapped" not in there(copied)
    assert [copy.epochs_destroyed for copy in rotate(copied, later, re_encrypt=True).rotated[0].copies or ()] == [()]


def test_what_the_source_has_is_not_repacked_at_the_copy(copied: Copied, application: Application) -> None:
    """It would be brought once more, run after run: small packs of the source are merged by its own prune alone."""
    copied.sections = {**AT_ONCE, "prune": {"min_age_hours": 0, "small_packs": 2}}
    for seed in range(3):
        application.database.run(f"UPDATE projects SET body = '{seed} ' || id WHERE tenant_id = 1")
        copied.service().create_backup(ACME, ADMIN, "full")
    copied.bring()
    packs = f"files/{ACME}/backups/packs/"
    here = set(copied.objects(copied.bucket, packs))
    rotate(copied, new_data_key=True)
    copied.bring()
    place = copied.place()
    _end(place, TENANT, place.target.owners.key_place(TENANT), [], no_progress)
    copied.bring()
    assert set(copied.objects(copied.bucket, packs)) == here == set(copied.objects(copied.copy_bucket, packs))


def test_keys_of_a_region_that_is_copied_no_more_end_as_well(copied: Copied) -> None:
    backup = copied.service().create_backup(ACME, ADMIN)["id"]
    rotate(copied, new_data_key=True, re_encrypt=True)
    copied.bring()
    copied.copy = {"from": ["us-east-1"]}
    copied.beside = ["us-east-1"]
    for _ in range(3):  # what the first retires, the second removes
        (copy,) = rotate(copied, later, re_encrypt=True).rotated[0].copies or ()
        assert "remove it" not in copy.note
    assert "destroyed" in there(copied)
    assert "wrapped" not in there(copied)
    copied.copy, copied.beside = {}, ()
    opens(copied, backup)


def test_a_key_that_only_the_bucket_says_is_gone_stays_at_the_copy(copied: Copied) -> None:
    """Who may delete at the source destroys none there: no signed mark says that the epoch ended."""
    backup = copied.service().create_backup(ACME, ADMIN)["id"]
    rotate(copied, new_data_key=True)
    copied.bring()
    forged = {
        name: value
        for name, value in json.loads(copied.objects(copied.bucket, FIRST)[FIRST]).items()
        if name not in ("wrapped", "binds", "key_id", "provider")
    }
    body = json.dumps({**forged, "destroyed": "2026-01-01T00:00:00Z"}).encode()
    copied.client.put_object(Bucket=copied.bucket, Key=FIRST, Body=body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sbh_pipelines.backup.keys.rotation._re_encrypted", lambda site, tenant, done, *_: done)
        (done,) = rotate(copied, re_encrypt=True).rotated
    assert [copy.epochs_destroyed for copy in done.copies or ()] == [()]
    assert "no mark says" in (done.copies or ())[0].note
    assert "wrapped" in there(copied)
    opens(copied, backup)
