"""The catalog's records at a copy: merged there by its own upkeep, while the source has what it has."""

from dataclasses import replace
from datetime import timedelta

import pytest

from sbh_pipelines.backup.copies.place import open_copy
from sbh_pipelines.backup.copies.run import run_copy
from sbh_pipelines.backup.copies.upkeep import keep_copy
from sbh_pipelines.backup.site.moves import move_of, say_move
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.model import BackupId, TenantId, utc_now
from sbh_pipelines.repository.catalog.moves import Move, MoveState
from sbh_pipelines.repository.catalog.records import TenantRecord
from sbh_pipelines_tests.backup.conftest import application, database
from sbh_pipelines_tests.backup.create.test_crash import Death, Killed, struck
from sbh_pipelines_tests.support.application import ACME, ADMIN, Application
from sbh_pipelines_tests.support.copied import COPY, REGION, Copied

__all__ = ["application", "database"]

TENANTS = [Application.tenant(ACME)]
RECORDS = f"_sbh-catalog/{REGION}/records/"


@pytest.fixture
def copied(application: Application, embedded_stack: Stack) -> Copied:
    made = Copied(application, embedded_stack)
    made.service().create_backup(ACME, ADMIN)
    return made


def tick(copied: Copied, number: int = 3) -> None:
    """As ticks that find the tenant unchanged: each an object."""
    site = copied.site()
    catalog = site.catalog(REGION)
    for _ in range(number):
        record = catalog.read()[TenantId(ACME)]
        now = utc_now().isoformat()
        point = replace(record.point, time=now)
        catalog.record((), {TenantId(ACME): BackupId(record.backup_id)}, point)


def run(copied: Copied) -> None:
    done = run_copy(copied.site(), COPY, TENANTS)
    assert [str(one.error) for one in done.tenants if one.error] == []
    assert list(done.issues) == []


def names(copied: Copied, bucket: str) -> set[str]:
    return set(copied.objects(bucket, RECORDS))


def known(site: Site) -> TenantRecord:
    catalog = site.catalog(REGION)
    found = catalog.read()[TenantId(ACME)]
    assert catalog.damages == []
    return found


def there(copied: Copied) -> Site:
    return open_copy(copied.site(), COPY).target


def test_what_was_merged_at_the_source_is_merged_there_and_does_not_come_again(copied: Copied) -> None:
    """Day after day: as many objects as the source has, and one more."""
    for day in range(3):
        tick(copied)
        run(copied)
        before = known(there(copied))
        copied.site().catalog(REGION).compact()
        done = keep_copy(copied.site(), COPY, TENANTS)
        assert [str(issue) for issue in done.issues] == []
        assert done.records > 0
        assert known(there(copied)) == before == known(copied.site())
        run(copied)
        here = names(copied, copied.bucket)
        assert len(names(copied, copied.copy_bucket) - here) == 1, day
        assert here <= names(copied, copied.copy_bucket)
        run(copied)
        assert len(names(copied, copied.copy_bucket)) == len(here) + 1


def test_what_the_source_still_has_stays(copied: Copied) -> None:
    tick(copied)
    run(copied)
    before = names(copied, copied.copy_bucket)
    assert keep_copy(copied.site(), COPY, TENANTS).records == 0
    assert names(copied, copied.copy_bucket) == before == names(copied, copied.bucket)


def test_records_deleted_at_the_source_stay_known(copied: Copied) -> None:
    tick(copied)
    run(copied)
    before = known(there(copied))
    for key in names(copied, copied.bucket):
        copied.client.delete_object(Bucket=copied.bucket, Key=key)
    for _ in range(2):
        keep_copy(copied.site(), COPY, TENANTS)
        assert known(there(copied)) == before
    assert len(names(copied, copied.copy_bucket)) == 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_any_write_what_was_known_is_known(copied: Copied, when: str) -> None:
    def after(hours: int) -> Site:
        """When the lease of an upkeep that was killed has expired."""
        return copied.site(lambda: utc_now() + timedelta(hours=hours))

    for nth in range(1, 6):
        tick(copied)
        run(copied)
        copied.site().catalog(REGION).compact()
        before = known(there(copied))
        counting = Death(nth, when)
        try:
            with struck(
                lambda *asked, death=counting: death(*asked) if "/records/" in asked[1] or death.dead else None
            ):
                keep_copy(after(nth), COPY, TENANTS)
        except Killed:
            assert counting.dead
        assert known(there(copied)) == before
        if not counting.dead:
            break
    else:
        pytest.fail("it never came to its end")
    keep_copy(after(9), COPY, TENANTS)
    assert len(names(copied, copied.copy_bucket) - names(copied, copied.bucket)) <= 1


def test_a_copy_knows_who_moved_and_who_arrived(copied: Copied) -> None:
    """Else a tenant that arrived long ago would not be backed up once the copy takes over."""
    for state in (MoveState.ON_ITS_WAY, MoveState.HERE, MoveState.WENT):
        said = Move(state, "eu_1", "s3://there/acme/", "backup_20260101_0000", "2026-01-01T00:00:00Z")
        say_move(copied.site(), TENANTS[0], said, "ann")
        run(copied)
        assert move_of(there(copied), TENANTS[0]) == (None if state is MoveState.HERE else said)
