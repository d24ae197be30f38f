"""Upkeep of a region's journal, next to real backups: what a promised moment needs stays, whoever is erased or rotates keys."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from sbh_pipelines.backup.keys import journal_keys
from sbh_pipelines.backup.retain.journal_retention import LEASE, JournalUpkeep, keep_journal
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.backup.site.erased_homes import without_erased
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import AccessDenied, PruneRefused
from sbh_pipelines.model import RecoveryPoint, Tenant
from sbh_pipelines.repository import lease as leases
from sbh_pipelines.repository.journal.gaps import Gap
from sbh_pipelines.repository.journal.journal import Journal
from sbh_pipelines.repository.journal.segments.changes import Layout
from sbh_pipelines.repository.journal.segments.cover import plan_cover
from sbh_pipelines.repository.journal.segments.directory import Coverage, FencePoint, SegmentFacts
from sbh_pipelines.repository.journal.segments.names import Incarnation, SegmentName
from sbh_pipelines.repository.journal.segments.public_key import PublicKey
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines_tests.backup.create.test_crash import Clock
from sbh_pipelines_tests.backup.retain.test_prune import DAY, KEEP_ALL, SMALL
from sbh_pipelines_tests.repository.journal.journals import written
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, KEYS, Application
from sbh_pipelines_tests.support.site import site_of
from sbh_pipelines_tests.support.store_time import store_time

REGION = "eu-west-1"
HOUR = timedelta(hours=1)
TASKS = Layout("public.tasks", ("id", "title"), ("id",), "d1", "UTF8")


@pytest.fixture
def clock() -> Iterator[Clock]:
    """Everybody's clock, the store's too; backups have the database's time all the same."""
    made = Clock()
    with store_time(made):
        yield made


class Journaled:
    """An application with backups of both tenants, whose changes are journaled: a segment an hour, written by hand."""

    def __init__(self, application: Application, clock: Clock) -> None:
        self.application, self.clock = application, clock
        self.service: BackupService = application.service(
            clock=clock, retention=KEEP_ALL, prune=SMALL, journal={"enabled": True}
        )
        self.made = {tenant: self.service.create_backup(tenant, ADMIN)["id"] for tenant in (ACME, BOLT)}
        self.site: Site = site_of(self.service, clock)
        self.journal: Journal = self.site.journal(REGION)
        with self.site.repository(application.tenant()) as repository:
            document = repository.manifest(self.made[ACME])
        self.point = RecoveryPoint.from_dict(document["recovery_point"])
        self.xmin = int(self.point.snapshot.split(":")[0])
        self.taken = datetime.fromisoformat(self.point.time)
        self.incarnation = self.new_incarnation()
        self.end = 1000
        self.keys = {tenant: self.register(tenant) for tenant in (ACME, BOLT)}

    def tenant(self, name: str) -> Tenant:
        return replace(self.application.tenant(), id=name, key=str(KEYS[name]))  # type: ignore[arg-type]

    def new_incarnation(self) -> str:
        system_id = int(self.point.system_identifier)
        before = [self.incarnation] if hasattr(self, "incarnation") else []
        return Incarnation.new(self.taken, system_id, self.point.timeline, after=before).text

    def register(self, tenant: str) -> PublicKey:
        with self.site.repository(self.application.tenant(tenant)) as repository:
            sealer = repository.sealer
            key = PublicKey(tenant, str(KEYS[tenant]), sealer.epoch, sealer.journal_public())
        self.journal.public_keys.register([key])
        return key

    def tick(self, time: datetime, xid: int, *whose: str) -> SegmentName:
        start, end = self.end, self.end + 100
        self.end = end
        fence = FencePoint(xid, start, end, round(time.timestamp() * 1_000_000))
        facts = SegmentFacts((fence,), (TASKS,), {TASKS.table: (Coverage(start, end, "d1"),)})
        commits = {self.keys[tenant]: [start + 10] for tenant in whose}
        return written(self.journal, start, end, commits, incarnation=self.incarnation, facts=facts)

    def upkeep(self, *, dry_run: bool = False) -> JournalUpkeep:
        (done,) = (one for one in self.service.retention.keep_journals(ADMIN, dry_run=dry_run) if one.region == REGION)
        return done

    def sealed_to(self) -> set[tuple[str, int]]:
        return {one for name in self.journal.listing().segments for one in self.journal.directory(name).sealed_to()}


@pytest.fixture
def journaled(application: Application, clock: Clock) -> Journaled:
    return Journaled(application, clock)


def test_what_lies_before_the_fence_of_the_oldest_needed_backup_goes(journaled: Journaled, clock: Clock) -> None:
    """Nine days after the backup: it is the base of the oldest promised moments, so all after it stays, nothing before it."""
    old = [journaled.tick(journaled.taken - 3 * DAY + n * HOUR, journaled.xmin - 9 + n, ACME) for n in range(3)]
    last = journaled.tick(journaled.taken - HOUR, journaled.xmin - 1, ACME, BOLT)
    young = [journaled.tick(journaled.taken + n * DAY, journaled.xmin + n, ACME) for n in range(1, 9)]
    clock.now = journaled.taken + 9 * DAY
    planned = journaled.upkeep(dry_run=True)
    assert set(journaled.journal.listing().segments) == {*old, last, *young}
    done = journaled.upkeep()
    assert [one.segment for one in done.removed] == [one.segment for one in planned.removed]
    assert [one.segment for one in done.removed] == [one.below for one in old]
    assert journaled.made[ACME] in done.removed[0].why or journaled.made[BOLT] in done.removed[0].why
    assert done.issues == []
    assert set(journaled.journal.listing().segments) >= {last, *young}


def test_a_tenant_without_backups_does_not_hold_the_journal_for_ever(journaled: Journaled, clock: Clock) -> None:
    ticks = [journaled.tick(journaled.taken + n * DAY, journaled.xmin + n, ACME) for n in range(1, 21)]
    clock.now = journaled.taken + 20 * DAY
    done = journaled.upkeep()
    assert [one.segment for one in done.removed] == [one.below for one in ticks[:11]]


def test_a_repository_that_does_not_tell_keeps_the_journal(journaled: Journaled, clock: Clock) -> None:
    """A day more than nothing was promised of: its base may be up to eight days older."""
    ticks = [journaled.tick(journaled.taken + n * DAY, journaled.xmin + n, ACME) for n in range(1, 21)]
    key = journaled.application.repository(BOLT) / "keys" / "0001.json"
    key.write_text("{}")
    clock.now = journaled.taken + 20 * DAY
    done = journaled.upkeep()
    assert len(done.issues) == 1
    assert [one.segment for one in done.removed] == [one.below for one in ticks[:3]]


def test_an_incarnation_goes_with_its_gap_when_all_of_it_is_old(journaled: Journaled, clock: Clock) -> None:
    for n in range(3):
        journaled.tick(journaled.taken + n * HOUR, journaled.xmin + n, ACME)
    former, ended = journaled.incarnation, journaled.end
    at = round((journaled.taken + 4 * HOUR).timestamp() * 1_000_000)
    journaled.journal.record_gap(Gap(former, "slot_lost", None, None, ended, at, "it was dropped"))
    journaled.incarnation = journaled.new_incarnation()
    journaled.end = 50_000
    journaled.tick(journaled.taken + 6 * HOUR, journaled.xmin + 10, ACME)
    clock.now = journaled.taken + 8 * DAY
    assert journaled.upkeep().gaps_removed == 0
    assert journaled.journal.incarnations() == [former, journaled.incarnation]
    clock.now = journaled.taken + 8 * DAY + 5 * HOUR
    assert journaled.upkeep().gaps_removed == 1
    assert journaled.journal.incarnations() == [journaled.incarnation]
    assert journaled.journal.gaps() == []


def test_hours_and_days_are_merged_and_their_sources_go_a_day_later(journaled: Journaled, clock: Clock) -> None:
    day = journaled.taken.replace(hour=0, minute=1) + DAY
    for n in range(48):
        journaled.tick(day + n * HOUR / 2, journaled.xmin + n, ACME, *([BOLT] if n % 7 == 0 else []))
    clock.now = day + 26 * HOUR
    done = journaled.upkeep()
    assert [one.level for one in done.merged] == [1] * 24 + [2]
    assert done.removed == []
    clock.now += DAY
    assert len(journaled.upkeep().removed) == 48 + 24
    (left,) = journaled.journal.listing().segments
    assert (left.level, left.start, left.end) == (2, 1000, journaled.end)
    assert len(journaled.journal.directory(left).tenants["1"].blocks) == 48
    trail = [event.event for event in journaled.service.audit.events(ADMIN).events]
    assert "journal.pruned" in trail


def test_an_erased_tenant_leaves_the_journal(journaled: Journaled, clock: Clock) -> None:
    """Its key at once, also where an old object with it is put back; its blocks by the time that the certificate says."""
    day = journaled.taken.replace(hour=0, minute=1) - DAY
    for n in range(24):
        journaled.tick(day + n * HOUR, journaled.xmin - 100 + n, ACME, BOLT)
    clock.now = day + 26 * HOUR
    journaled.upkeep()
    clock.now += DAY
    journaled.upkeep()
    (before,) = journaled.journal.listing().segments
    store, prefix = journaled.journal.store, journaled.journal.prefix + "keys/"
    objects = {info.key: store.get(info.key) for info in store.list(prefix)}
    certificate = journaled.service.keys.erase(ACME, ADMIN, confirm=ACME, reason="they left")
    assert certificate.journal is not None
    assert REGION in certificate.journal.regions
    known = site_of(journaled.service).journal(REGION).public_keys.read()
    assert set(known) == {str(KEYS[BOLT])}
    for key, body in objects.items():
        store.put(key, body)
    again = site_of(journaled.service).journal(REGION).public_keys.read()
    assert set(again) == {str(KEYS[ACME]), str(KEYS[BOLT])}
    assert set(without_erased(journaled.site, REGION, again)) == {str(KEYS[BOLT])}
    while clock.now < datetime.fromisoformat(certificate.journal.until):
        journaled.upkeep()
        clock.now += DAY
    assert journaled.sealed_to() == {(BOLT, 1)}
    (after,) = journaled.journal.listing().segments
    assert (after.start, after.end) == (before.start, before.end)
    assert set(site_of(journaled.service).journal(REGION).public_keys.read()) == {str(KEYS[BOLT])}


def test_the_key_of_an_epoch_stays_for_what_is_journaled(journaled: Journaled, clock: Clock) -> None:
    journaled.tick(journaled.taken + HOUR, journaled.xmin + 1, ACME, BOLT)
    rotate = journaled.service.keys.rotate
    (done,) = rotate([ACME], ADMIN, new_data_key=True).rotated
    assert done.epoch == 2
    known = site_of(journaled.service).journal(REGION).public_keys.read()
    assert {key.home: key.epoch for key in known.values()} == {ACME: 2, BOLT: 1}
    journaled.keys[ACME] = known[str(KEYS[ACME])]
    journaled.tick(journaled.taken + 2 * HOUR, journaled.xmin + 2, ACME, BOLT)
    rotate([ACME], ADMIN, re_encrypt=True)
    clock.now += DAY + HOUR
    (done,) = rotate([ACME], ADMIN, re_encrypt=True).rotated
    assert (done.epochs_destroyed, done.old_packs, done.epochs_held_back) == ([], 0, 1)
    assert "epoch 1" in (done.note or "")
    clock.now = journaled.taken + 30 * DAY
    for n in range(3):
        journaled.tick(clock.now - 2 * HOUR + n * HOUR, journaled.xmin + 100 + n, ACME)
    journaled.upkeep()
    assert journaled.sealed_to() == {(ACME, 2), (BOLT, 1)}  # the last segment with a fence that is old enough stays
    (done,) = rotate([ACME], ADMIN, re_encrypt=True).rotated
    assert (done.epochs_destroyed, done.epochs_held_back, done.note) == ([1], None, None)


def test_no_key_is_destroyed_beside_a_drain_that_may_not_know_the_new_one(
    journaled: Journaled, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotate = journaled.service.keys.rotate
    rotate([ACME], ADMIN, new_data_key=True)
    rotate([ACME], ADMIN, re_encrypt=True)
    clock.now += DAY + HOUR
    held = leases.acquire(
        journaled.journal.store, journaled.journal.prefix, leases.new_owner("drain"), "drain", 60, clock
    )
    monkeypatch.setattr(journal_keys, "_WAIT_S", 0)
    (done,) = rotate([ACME], ADMIN, re_encrypt=True).rotated
    assert (done.epochs_destroyed, done.epochs_held_back) == ([], 1)
    assert "drained" in (done.note or "")
    held.release()
    (done,) = rotate([ACME], ADMIN, re_encrypt=True).rotated
    assert done.epochs_destroyed == [1]


def test_who_may_and_when(journaled: Journaled, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AccessDenied):
        journaled.service.retention.keep_journals(UserContext("x", ACME, Role.ADMIN))
    prefix = journaled.journal.prefix + LEASE
    held = leases.acquire(journaled.journal.store, prefix, leases.new_owner("x"), "x", 60, clock)
    assert all(one.region != REGION for one in journaled.service.retention.keep_journals(ADMIN))
    held.release()
    monkeypatch.setattr(type(journaled.journal.store), "head", _an_hour_ahead(type(journaled.journal.store)))
    with pytest.raises(PruneRefused, match="ages cannot be trusted"):
        journaled.service.retention.keep_journals(ADMIN)


def _an_hour_ahead(kind: type) -> object:
    real = kind.head  # type: ignore[attr-defined]

    def head(store: object, key: str) -> object:
        info = real(store, key)
        return replace(info, modified=info.modified + HOUR)

    return head


def test_at_a_copy_what_the_source_has_stays_and_nothing_is_merged(journaled: Journaled, clock: Clock) -> None:
    """By the copy's own floor: what was deleted at the source alone is there until then."""
    old = [journaled.tick(journaled.taken - 3 * DAY + n * HOUR, journaled.xmin - 9 + n, ACME) for n in range(3)]
    journaled.tick(journaled.taken - HOUR, journaled.xmin - 1, ACME, BOLT)
    young = [journaled.tick(journaled.taken + n * HOUR / 2, journaled.xmin + n, ACME) for n in range(1, 9)]
    clock.now = journaled.taken + 9 * DAY
    done = keep_journal(journaled.site, REGION, dry_run=False, elsewhere={old[2].below})
    assert [one.segment for one in done.removed] == [old[0].below, old[1].below]
    assert (done.merged, done.key_objects_merged, done.issues) == ([], 0, [])
    left = journaled.journal.listing().segments
    assert set(left) >= {old[2], *young}
    done = keep_journal(journaled.site, REGION, dry_run=False, elsewhere=set())
    assert [one.segment for one in done.removed] == [old[2].below]


def test_at_a_copy_merged_segments_stand_in_for_what_the_source_gave_up(journaled: Journaled, clock: Clock) -> None:
    day = journaled.taken.replace(hour=0, minute=1) + DAY
    for n in range(48):
        journaled.tick(day + n * HOUR / 2, journaled.xmin + n, ACME)
    clock.now = day + 26 * HOUR
    journaled.upkeep()  # as the source did
    names = journaled.journal.listing().segments
    merged = {name.below for name in names if name.level > 0}
    clock.now += DAY
    assert keep_journal(journaled.site, REGION, dry_run=False, elsewhere={name.below for name in names}).removed == []
    done = keep_journal(journaled.site, REGION, dry_run=False, elsewhere=merged)
    assert (len(done.removed), done.issues) == (48, [])
    left = journaled.journal.listing().segments
    assert {name.below for name in left} == merged
    assert plan_cover(left, 1000, journaled.end).stretches[-1].segment.end == journaled.end
