"""Object lock on a copy, object by object: what is locked, from when on, until when, and what never is."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from sbh_pipelines.backup.copies.copier.region_copy import region_steps
from sbh_pipelines.backup.copies.copier.transfer import Limiter, Transfers
from sbh_pipelines.backup.copies.locks import open_locks
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import CopyError, UnknownTenant
from sbh_pipelines.model import no_progress, utc_now
from sbh_pipelines.repository.documents import read_signed, signed
from sbh_pipelines_tests.backup.conftest import application, database
from sbh_pipelines_tests.support.application import ADMIN, Application
from sbh_pipelines_tests.support.buckets import fresh_bucket
from sbh_pipelines_tests.support.copied import DAY, REGION, Copied

__all__ = ["application", "database"]

MINUTE = timedelta(minutes=1)


@pytest.fixture
def copied(application: Application, embedded_stack: Stack) -> Copied:
    return Copied(application, embedded_stack, copy={"lock_days": 2})


def ends(copied: Copied) -> dict[str, datetime | None]:
    """Until when each object of the tenant is locked, by name."""
    locks = open_locks(copied.place(), "eu-west-1")
    assert locks is not None
    _, there, prefix = copied.ends()
    return {info.key[len(prefix) :]: locks.bucket.until(info.key) for info in there.list(prefix)}


def remember(copied: Copied, renewed_at: datetime) -> None:
    with copied.place().target.repository(copied.tenant) as repository:
        body = signed(repository, "copy", {"renewed_at": renewed_at.isoformat(), "forgotten": []})
        repository.store.put(f"{repository.prefix}copy.json", body)


def test_what_is_locked_and_what_is_not(copied: Copied) -> None:
    """Packs, index, documents, manifests and events are, with their put and for two days; keys, lease and notes never."""
    copied.back_up()
    copied.bring()
    put = ends(copied)
    copied.enforce()
    found = ends(copied)
    for name in ("lease.json", "copying/lease.json", "listing.json", "copy.json", "keys/0001.json"):
        assert found[name] is None, name
    locked = {name: until for name, until in put.items() if not name.startswith(("keys/", "copying/"))}
    folders = {"packs", "index", "database", "files", "config", "manifests", "audit"}
    assert {name.split("/")[0] for name in locked} == folders
    for name, until in locked.items():
        assert until is not None, name
        assert abs(until - datetime.now(UTC) - 2 * DAY) < 5 * MINUTE, name


def test_the_platform_s_events_are_locked_as_well(copied: Copied) -> None:
    """With their put; the head, which every event replaces, is not."""
    copied.back_up()
    with pytest.raises(UnknownTenant):
        copied.service().create_backup("nobody", ADMIN)
    place = copied.place()
    stored, _ = region_steps(place, REGION, Transfers(place, no_progress, Limiter(None)))["audit"]()
    locks = open_locks(place, REGION)
    assert locks is not None
    store, prefix = place.target.audit_store(REGION)
    events = [locks.bucket.until(info.key) for info in store.list(f"{prefix}events/")]
    assert stored == len(events) + 1 > 1
    for until in events:
        assert until is not None
        assert abs(until - datetime.now(UTC) - 2 * DAY) < 5 * MINUTE
    assert locks.bucket.until(f"{prefix}head.json") is None


def test_a_large_object_is_locked_with_its_put_as_well(copied: Copied) -> None:
    """One that goes up in parts."""
    locks = open_locks(copied.place(), "eu-west-1")
    assert locks is not None
    _, there, prefix = copied.ends()
    key, pieces = f"{prefix}packs/{'0' * 64}", [b"x" * (5 << 20)] * 5
    there.put_stream(key, iter(pieces), locks.attributes(), size=25 << 20)
    until = locks.bucket.until(key)
    assert until is not None
    assert abs(until - datetime.now(UTC) - 2 * DAY) < 5 * MINUTE
    assert there.head(key).size == 25 << 20


def test_what_kept_backups_need_is_locked_anew_when_half_is_over(copied: Copied) -> None:
    """All of it, once; not what a forgotten backup alone had. Not before, and never for less long than it is."""
    first = copied.back_up()
    copied.change(1)
    newest = copied.back_up()
    locks = open_locks(copied.place(), "eu-west-1")
    assert locks is not None
    _, there, prefix = copied.ends()
    copied.bring()
    there.delete([f"{prefix}manifests/{first}.json"])
    now = datetime.now(UTC)
    remember(copied, now - DAY + 5 * MINUTE)
    assert copied.enforce().locked == 0
    before = ends(copied)
    time.sleep(1.5)  # locks end at whole seconds
    remember(copied, now - DAY - 5 * MINUTE)
    far = now + 5 * DAY
    longer = f"{prefix}manifests/{newest}.json"
    assert locks.extend([longer], far) == 1
    locked = copied.enforce()
    assert list(locked.issues) == []
    after = ends(copied)
    assert locked.locked >= len([name for name in after if name.startswith("packs/")]) + 3
    assert abs((after[f"manifests/{newest}.json"] or now) - far) < MINUTE
    assert after[f"database/{first}.json"] == before[f"database/{first}.json"]
    assert (after[f"database/{newest}.json"] or now) > (before[f"database/{newest}.json"] or far)
    assert copied.enforce().locked == 0
    with copied.place().target.repository(copied.tenant) as repository:
        renewed = datetime.fromisoformat(read_signed(repository, "copy.json", "copy")["renewed_at"])
    assert abs(renewed - datetime.now(UTC)) < 5 * MINUTE


def test_what_is_not_there_is_passed_over(copied: Copied) -> None:
    locks = open_locks(copied.place(), "eu-west-1")
    assert locks is not None
    _, there, prefix = copied.ends()
    there.put(f"{prefix}packs/there", b"x")
    keys = (f"{prefix}packs/{name}" for name in ("never", "there"))
    assert locks.extend(keys, datetime.now(UTC) + DAY) == 1
    assert not locks.lock(f"{prefix}packs/never")


def test_a_bucket_without_a_lock_and_one_that_locks_all_are_refused(copied: Copied) -> None:
    """A lock by default would be on keys too, and no tenant could be erased."""
    retention = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}
    copied.client.put_object_lock_configuration(
        Bucket=copied.copy_bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": retention}
    )
    with pytest.raises(CopyError, match="by default"):
        open_locks(copied.place(), "eu-west-1")
    place = copied.place()
    with fresh_bucket(copied.stack) as plain:
        place.target.settings.storage.__dict__.update(bucket=plain, catalog_bucket=plain)
        with pytest.raises(CopyError, match="no object lock"):
            open_locks(place, "eu-west-1")


def test_without_lock_days_nothing_is_asked(application: Application, embedded_stack: Stack) -> None:
    made = Copied(application, embedded_stack)
    assert open_locks(made.place(), "eu-west-1") is None


def test_a_wrong_clock_is_refused(application: Application, embedded_stack: Stack) -> None:
    """Behind, locks would end too soon; ahead, what is locked is so for longer than was said."""
    for off in (-2 * DAY, 2 * DAY):
        made = Copied(application, embedded_stack, lambda off=off: utc_now() + off, copy={"lock_days": 2})  # type: ignore[misc]
        with pytest.raises(CopyError, match="from the store's time"):
            open_locks(made.place(), "eu-west-1")
