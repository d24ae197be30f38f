"""A copy keeps what its own policy says: nothing that happens at the source takes a backup away from it."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from botocore.exceptions import ClientError

from sbh_pipelines.backup.copies.copier.tenant_copy import copy_tenant
from sbh_pipelines.backup.copies.copier.transfer import Limiter, Transfers
from sbh_pipelines.backup.copies.place import CopyPlace, open_copy
from sbh_pipelines.backup.copies.retention import enforce
from sbh_pipelines.backup.copies.wrapping import bring_catalog_key
from sbh_pipelines.backup.retain.holds import place_pin
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import CopyError, CopyUnverified, LeaseHeld, PruneRefused, StoreDenied, StoreUnavailable
from sbh_pipelines.model import BackupId, no_progress
from sbh_pipelines.placement import platform_tenant
from sbh_pipelines.repository import lease as leases
from sbh_pipelines_tests.backup.conftest import application, database
from sbh_pipelines_tests.backup.create.test_crash import Clock, Death, Killed, struck
from sbh_pipelines_tests.support.application import ACME, ADMIN, Application
from sbh_pipelines_tests.support.copied import COPY, DAY, REGION, Copied
from sbh_pipelines_tests.support.effort import either
from sbh_pipelines_tests.support.restore.platform import PROGRAMS
from sbh_pipelines_tests.support.store_time import store_time

__all__ = ["application", "database"]

FEW = {"full_backups": {"keep_daily": 3, "keep_weekly": 0, "keep_monthly": 0}, "keep_within_hours": 0}
ONE = {"full_backups": {"keep_daily": 1, "keep_weekly": 0, "keep_monthly": 0}, "keep_within_hours": 0}
ALL = {"keep_within_hours": 1_000_000}


@pytest.fixture
def clock() -> Iterator[Clock]:
    """Everybody's clock, the stores' too."""
    made = Clock()
    with store_time(made):
        yield made


@pytest.fixture
def copied(application: Application, embedded_stack: Stack, clock: Clock) -> Copied:
    """A copy that keeps three daily backups, of a source that keeps all until somebody forgets them."""
    return Copied(
        application,
        embedded_stack,
        clock,
        copy={"retention": FEW},
        sections={"retention": ALL, "prune": {"small_packs": 2}},
    )


def days(copied: Copied, clock: Clock, number: int) -> list[str]:
    """A backup a day, each of other rows, and copied."""
    made = []
    for _ in range(number):
        copied.change(clock.now.toordinal())
        made.append(copied.back_up())
        copied.bring()
        clock.now += DAY
    return made


def twenty_days(copied: Copied, clock: Clock) -> list[str]:
    """A backup of each of the first seven days, of which six are old by the end of the last, and of the last two days."""
    made = days(copied, clock, 7)
    clock.now += 11 * DAY
    return made + days(copied, clock, 2)


def test_what_is_deleted_at_the_source_stays_at_the_copy(copied: Copied, clock: Clock) -> None:
    """Everything but the newest is forgotten and pruned there; here it validates to the last byte, now and after a prune."""
    made = days(copied, clock, 4)
    for backup in made[:-1]:
        copied.service().retention.forget(ACME, ADMIN, backup_id=backup)
    for _ in range(3):
        copied.service().retention.prune(ACME, ADMIN)
        clock.now += 2 * DAY
    here, _, prefix = copied.ends()
    assert len(list(here.list(f"{prefix}manifests/"))) == 1
    for _ in range(3):
        copied.bring()
        kept = copied.enforce()
        assert list(kept.issues) == []
        clock.now += 2 * DAY
    assert copied.there() == made
    for backup in made:
        copied.check(backup)


def test_its_own_policy_is_applied_once_a_backup_has_been_there_for_14_days(copied: Copied, clock: Clock) -> None:
    made = twenty_days(copied, clock)
    kept = copied.enforce()
    # Of those that came up to 14 days ago none counts: of the six before them the policy keeps three days.
    assert list(kept.forgotten) == made[:4]
    assert copied.there() == made[4:] == list(kept.kept)
    assert list(kept.issues) == []
    for backup in (made[4], made[-1]):
        copied.check(backup)
    events = [e.event for e in copied.service().audit.events(ADMIN, ACME, event="copy.*").events]
    assert events == ["copy.backup_deleted"] * 4


def test_what_was_forgotten_here_is_not_copied_again(copied: Copied, clock: Clock) -> None:
    """The source keeps all nine, the copy five: the next copy brings none of the others."""
    made = twenty_days(copied, clock)
    copied.enforce()
    copied.bring()
    assert copied.there() == made[4:]
    assert list(copied.enforce().forgotten) == []


def test_a_flood_of_new_backups_takes_no_others_place(copied: Copied, clock: Clock) -> None:
    """A day's backup has been there for three weeks; then come thirty at once, whose clocks say that they are of thirty days."""
    old = days(copied, clock, 3)
    clock.now += 21 * DAY
    honest = copied.back_up()
    copied.bring()
    real = clock.now
    for ahead in range(1, 11):
        clock.now = real + ahead * DAY  # the source's machine was taken over: its clock says what it likes
        copied.back_up()
    clock.now = real
    copied.bring()
    kept = copied.enforce(verified=honest)
    assert list(kept.forgotten) == []
    assert set(old) < set(copied.there())
    # Nor when a backup from the future was verified.
    kept = copied.enforce()
    assert list(kept.forgotten) == []
    assert set(old) < set(copied.there())


def test_a_flood_of_platform_backups_takes_no_others_place(copied: Copied, clock: Clock) -> None:
    """Of those that came before the last 14 days the two newest stay, and what is held: however many came since."""
    service = copied.service(platform={**PROGRAMS, "keep_last": 30})
    few = copied.settings(platform={**PROGRAMS, "keep_last": 2})
    platform = platform_tenant(few)
    housed = copied.site().owners.housed(platform)

    def made() -> str:
        backup: str = service.platform.create(ADMIN).manifest.id
        clock.now += DAY
        return backup

    def brought() -> CopyPlace:
        place = open_copy(Site(few, clock), COPY)
        bring_catalog_key(place, REGION)
        copy_tenant(place, housed, Transfers(place, no_progress, Limiter(None)))
        return place

    old = [made() for _ in range(3)]
    place = brought()
    clock.now += 20 * DAY
    new = [made() for _ in range(3)]
    brought()
    with place.source.repository(platform) as repository:
        pin = place_pin(repository, BackupId(old[0]), "a case", "tester", clock)
    held = enforce(place, platform, clock(), BackupId(new[-1]))
    assert (list(held.issues), list(held.forgotten), list(held.kept)) == ([], [], [*old, *new])
    with place.target.repository(platform) as repository:
        repository.store.delete([repository.prefix + pin.key])
    with place.source.repository(platform) as repository:
        repository.store.delete([repository.prefix + pin.key])
    kept = enforce(place, platform, clock(), BackupId(new[-1]))
    assert (list(kept.issues), list(kept.forgotten), list(kept.kept)) == ([], old[:1], [*old[1:], *new])


def test_nothing_goes_before_something_was_verified(copied: Copied, clock: Clock) -> None:
    made = twenty_days(copied, clock)
    kept = copied.enforce(verified=None)
    assert [type(issue) for issue in kept.issues] == [CopyUnverified]
    assert copied.there() == made
    # And what is newer than what was verified counts for nothing: of the first six the newest three days stay.
    kept = copied.enforce(verified=made[5])
    assert list(kept.forgotten) == []


def test_after_an_outage_the_days_before_it_stay(copied: Copied, clock: Clock) -> None:
    """Nothing was copied for two months: what is old by the clock is not by the newest verified backup."""
    made = days(copied, clock, 16)
    clock.now += 60 * DAY
    kept = copied.enforce()
    assert copied.there() == made[2:] == list(kept.kept)


def test_repacking_at_the_source_does_not_double_the_copy(copied: Copied, clock: Clock) -> None:
    """The source merges small packs and removes the old ones; the copy gets the new ones and gives up the old."""
    days(copied, clock, 6)
    most, one = 0, copied.stored()
    for _ in range(4):
        copied.service().retention.prune(ACME, ADMIN)
        copied.bring()
        kept = copied.enforce()
        assert list(kept.issues) == []
        most = max(most, copied.stored())
        clock.now += 2 * DAY
    assert most <= 2 * one
    assert copied.stored() < 1.2 * one
    here, there, prefix = copied.ends()
    ours = {info.key for info in here.list(f"{prefix}packs/")}
    assert {info.key for info in there.list(f"{prefix}packs/")} == ours
    before = copied.client.list_object_versions(Bucket=copied.copy_bucket, Prefix=f"{prefix}packs/")
    copied.bring()  # nothing that was given up comes again
    after = copied.client.list_object_versions(Bucket=copied.copy_bucket, Prefix=f"{prefix}packs/")
    assert len(before["Versions"]) == len(after["Versions"])
    for backup in copied.there():
        copied.check(backup)


def test_packs_that_no_manifest_names_yet_stay(copied: Copied, clock: Clock) -> None:
    """The copier was killed after the packs; the copy's own prune runs before it comes again, days later."""
    days(copied, clock, 1)
    copied.change(5)
    made = copied.back_up()
    here, there, prefix = copied.ends()
    for info in here.list(f"{prefix}packs/"):
        there.put(info.key, here.get(info.key))
    for _ in range(3):
        clock.now += 2 * DAY
        assert list(copied.enforce().issues) == []
    packs = {info.key for info in there.list(f"{prefix}packs/")}
    assert packs == {info.key for info in here.list(f"{prefix}packs/")}
    copied.bring()
    copied.check(made)


def test_holds_of_both_ends_keep_what_they_cover(copied: Copied, clock: Clock) -> None:
    made = days(copied, clock, 2)
    placed = copied.service().retention.hold(ACME, ADMIN, reason="case 7", backup_id=made[0])
    copied.bring()
    made += days(copied, clock, 5)
    clock.now += 11 * DAY
    made += days(copied, clock, 2)
    kept = copied.enforce()
    assert made[0] in kept.kept
    assert list(kept.forgotten) == made[1:4]
    # Whoever deletes the hold's object at the source lifts nothing at the copy.
    here, _, prefix = copied.ends()
    key = f"{prefix}holds/{placed.id}.json"
    body = here.get(key)
    here.delete([key])
    kept = copied.enforce()
    assert made[0] in kept.kept
    assert list(kept.released) == []
    # A release that the trail tells does.
    here.put(key, body)
    copied.service().retention.release(placed.id, ACME, ADMIN)
    kept = copied.enforce()
    assert list(kept.released) == [placed.id]
    assert list(kept.forgotten) == [made[0]]


def test_a_hold_that_was_not_copied_yet_keeps_what_it_covers(copied: Copied, clock: Clock) -> None:
    made = twenty_days(copied, clock)
    copied.service().retention.hold(ACME, ADMIN, reason="case 8", backup_id=made[0])
    assert made[0] not in copied.enforce().forgotten
    assert made[0] in copied.there()


def test_a_hold_placed_after_the_copy_forgot_brings_the_backup_again(copied: Copied, clock: Clock) -> None:
    made = twenty_days(copied, clock)
    assert made[0] in copied.enforce().forgotten
    copied.service().retention.hold(ACME, ADMIN, reason="case 9", backup_id=made[0])
    copied.bring()
    assert made[0] in copied.there()
    assert made[1] not in copied.there()
    assert made[0] not in copied.enforce().forgotten


def test_where_the_source_cannot_be_read_nothing_goes(
    copied: Copied, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = twenty_days(copied, clock)

    def gone(*_: object, **__: object) -> None:
        raise StoreUnavailable("Cannot reach the store", on="s3://gone", remedy="none")

    newest, place = made[-1], copied.place()
    monkeypatch.setattr(place.source, "backup_store", gone)
    kept = copied.enforce(newest, place)
    assert {type(issue) for issue in kept.issues} == {StoreUnavailable}
    assert (copied.there(), kept.forgotten, kept.objects) == (made, (), 0)


def test_another_writer_at_the_copy_and_a_wrong_clock_are_left_to_the_next_run(copied: Copied, clock: Clock) -> None:
    made = twenty_days(copied, clock)
    _, there, prefix = copied.ends()
    held = leases.acquire(there, prefix, leases.new_owner("other"), "other", 600, clock)
    kept = copied.enforce()
    assert {type(issue) for issue in kept.issues} == {LeaseHeld}
    held.release()
    real, copied.clock = copied.clock, lambda: clock() + timedelta(days=60)
    kept = copied.enforce()
    assert PruneRefused in {type(issue) for issue in kept.issues}
    assert copied.there() == made
    copied.clock = real
    assert len(copied.enforce().forgotten) == 4


def forget_all_but_the_newest(copied: Copied, made: list[str], clock: Clock) -> None:
    """At the source, so that nothing of them is there any more and the copy may remove what it no longer needs."""
    for backup in made[:-1]:
        copied.service().retention.forget(ACME, ADMIN, backup_id=backup)
    for _ in range(2):
        clock.now += 2 * DAY
        copied.service().retention.prune(ACME, ADMIN)


# What is there after a write is what is there before the next one: in one of the two walks each state is met.
@pytest.mark.parametrize("when", either(["before"], ["before", "after"]))
def test_killed_at_any_write_it_goes_on_where_it_was(copied: Copied, clock: Clock, when: str) -> None:
    """What is listed is whole at all times, and in the end the copy has what its policy says."""
    made = twenty_days(copied, clock)
    forget_all_but_the_newest(copied, made, clock)
    clock.now -= 4 * DAY
    before = copied.stored()
    for nth in range(1, 60):
        death = Death(nth, when)
        try:
            with struck(death):
                copied.enforce()
        except Killed:
            assert death.dead
        if not death.dead:
            break
        clock.now += timedelta(hours=1) if nth % 4 else 26 * timedelta(hours=1)
        listed = copied.there()
        assert set(made[6:]) <= set(listed)
        copied.check(listed[0])
        copied.check(listed[-1])
    else:
        pytest.fail("it never came to its end")
    for _ in range(3):
        clock.now += 26 * timedelta(hours=1)
        assert list(copied.enforce().issues) == []
    assert copied.stored() < before
    for backup in copied.there():
        copied.check(backup)


def test_a_store_that_refuses_to_delete_what_is_locked_stops_nothing(copied: Copied, clock: Clock) -> None:
    """It is told, and done when the lock is over."""
    made = twenty_days(copied, clock)
    denied = StoreDenied("The store refused to delete an object", on="s3://copy", why="AccessDenied", remedy="wait")
    with struck(lambda verb, key, _: (denied, "before") if "/manifests/" in key else None, ("delete",)):
        kept = copied.enforce()
    assert [type(issue) for issue in kept.issues] == [StoreDenied]
    assert (kept.forgotten, copied.there()) == ((), made)
    assert list(copied.enforce().forgotten) == made[:4]


def test_locked_backups_are_forgotten_and_their_versions_stay(
    application: Application, embedded_stack: Stack, clock: Clock
) -> None:
    """Not before `lock_days`, where these are longer than 14; then a delete marker comes before what may still be locked."""
    clock.now = datetime.now(UTC) - 30 * DAY
    copied = Copied(
        application, embedded_stack, clock, copy={"retention": ONE, "lock_days": 20}, sections={"retention": ALL}
    )
    made = []
    for seed in range(2):
        copied.change(seed)
        made.append(copied.back_up())
        clock.now = datetime.now(UTC)  # the server's, which tells until when something is locked
    copied.bring()
    clock.now += 19 * DAY
    assert list(copied.enforce().forgotten) == []
    clock.now += 2 * DAY
    kept = copied.enforce()
    assert list(kept.forgotten) == made[:1]
    assert {type(issue) for issue in kept.issues} == {CopyError}  # nothing is locked by a clock that is not the store's
    key = f"{copied.ends()[2]}manifests/{made[0]}.json"
    (version,) = copied.client.list_object_versions(Bucket=copied.copy_bucket, Prefix=key)["Versions"]
    with pytest.raises(ClientError, match="AccessDenied"):
        copied.client.delete_object(Bucket=copied.copy_bucket, Key=key, VersionId=version["VersionId"])
    copied.check(made[1])


def test_what_was_forgotten_is_told_though_locks_were_renewed_since(
    application: Application, embedded_stack: Stack, clock: Clock
) -> None:
    """The source's trail takes no event while backups go: what is noted of them outlives the note of the renewal."""
    clock.now = datetime.now(UTC)  # a lock ends after the server's own time
    copied = Copied(
        application,
        embedded_stack,
        clock,
        copy={"retention": ONE, "lock_days": 1},
        sections={"retention": ALL, "prune": {"max_clock_skew_s": 100 * 86400}},
    )
    made = days(copied, clock, 3)
    clock.now += 20 * DAY
    made += days(copied, clock, 1)  # what is locked with its put came at the server's own time: all of it long ago
    gone = StoreUnavailable("503", on="s3://source")
    with struck(lambda verb, key, _: (gone, "before") if "/audit/" in key else None, ("put", "create", "replace")):
        kept = copied.enforce()
    assert kept.locked > 0
    assert {type(issue) for issue in kept.issues} == {StoreUnavailable}
    assert copied.there() == made[3:]
    assert copied.service().audit.events(ADMIN, ACME, event="copy.*").events == []
    assert list(copied.enforce().issues) == []
    events = copied.service().audit.events(ADMIN, ACME, event="copy.*").events
    assert sorted(event.props["backup_id"] for event in events) == made[:3]
    copied.bring()
    assert copied.there() == made[3:]
