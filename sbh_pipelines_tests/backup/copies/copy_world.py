"""A tenant's backups and a copy of them under everything that happens to both, and what must be so after each step.

Rows are read beside the engine. `check` says what holds at any time, `settle` what holds after a run that nothing disturbs.
"""

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sbh_pipelines.backup.contents.manifests import read_manifest
from sbh_pipelines.backup.contents.verification import chunks_of
from sbh_pipelines.backup.copies.results import CopyLine, CopyRun
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import (
    CopyDiverged,
    CopyUnverified,
    CorruptObject,
    EraseRefused,
    ForgetRefused,
    SbhError,
    StoreUnavailable,
)
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.settings.places.copies import copy_named
from sbh_pipelines_tests.backup.copies.test_tenant_copy import PREFIX, TENANT, alone, check
from sbh_pipelines_tests.backup.create.test_crash import Clock
from sbh_pipelines_tests.support.application import ACME, ADMIN
from sbh_pipelines_tests.support.copied import COPY, Copied
from sbh_pipelines_tests.support.fault_stores import READS, WRITES, DiesAtWrite, Killed, Wrapped
from sbh_pipelines_tests.support.site import with_stores

_KEPT = 2
_CLASS = {"keep_last": _KEPT, "keep_hourly": 0, "keep_daily": 0, "keep_weekly": 0, "keep_monthly": 0}
POLICY = {"full_backups": _CLASS, "incremental_backups": _CLASS, "keep_within_hours": 0}
_DAMAGED = ("packs/", "index/", "database/", "manifests/")
Before = Callable[[str, str], None]


@dataclass
class CopyWorld:
    """Both ends of one tenant.

    Attributes:
        copied: The application, the buckets and the key files.
        chance: Of what no step says.
        clock: Everybody's.
        rows: The tenant's rows when a backup was made, by its id; of all that were ever made.
        there: The backups at the copy, as they were after the last step.
        erased: Whether the tenant is erased, and not admitted again.
        gone: Backups of before an erasure.
        unseen: Damage that no verification can have seen: of what only older backups need.
        mended: Damage that the next run mended.
    """

    copied: Copied
    chance: random.Random
    clock: Clock = field(default_factory=Clock)
    rows: dict[str, Any] = field(default_factory=dict)
    there: set[str] = field(default_factory=set)
    erased: bool = False
    gone: set[str] = field(default_factory=set)
    unseen: int = 0
    mended: int = 0

    @property
    def service(self) -> BackupService:
        return self.copied.service(
            self.clock,
            retention={"keep_within_hours": 1_000_000},
            prune={"repack_below": 0.9, "small_packs": 3, "index_objects": 2},
        )

    def manifests(self, bucket: str) -> set[str]:
        keys = self.copied.objects(bucket, PREFIX + Keys.MANIFESTS)
        return {key.rsplit("/", 1)[1].removesuffix(".json") for key in keys}

    @property
    def here(self) -> set[str]:
        return self.manifests(self.copied.bucket)

    def _any_here(self, nth: int) -> str:
        found = sorted(self.here)
        return found[nth % len(found)]

    # what happens at the source

    def backup(self, seed: int) -> None:
        """Full or incremental, of changed rows or of the same."""
        if self.erased:
            return
        if seed % 4:
            self.copied.application.database.run(
                f"UPDATE projects SET body = repeat(md5((id * {seed + 3})::text), 40) WHERE id % {2 + seed % 3} = 0"
            )
        self.clock.now += timedelta(minutes=2)
        before = self.here
        self.service.create_backup(ACME, ADMIN, backup_type="incremental" if seed % 3 else "full")
        for made in self.here - before:
            self.rows[made] = self.copied.application.state(ACME).rows

    def forget(self, nth: int) -> None:
        if not self.erased:
            with suppress(ForgetRefused):
                self.service.retention.forget(ACME, ADMIN, backup_id=self._any_here(nth))

    def prune(self, hours: int) -> None:
        self.clock.now += timedelta(hours=hours)
        if not self.erased:
            self.service.retention.prune(ACME, ADMIN)

    def rotate(self, seed: int) -> None:
        """Wrapped anew, or a new epoch, or one that is to end."""
        if self.erased:
            return
        self.clock.now += timedelta(hours=seed % 30)
        self.service.keys.rotate([ACME], ADMIN, new_data_key=seed % 3 > 0, re_encrypt=seed % 3 == 2)

    def hold(self, nth: int) -> None:
        """A pin, or a hold on all; what is there is released by the next one."""
        if self.erased:
            return
        retention = self.service.retention
        held = retention.holds(ACME, ADMIN)
        if held and nth % 2:
            one = held[nth % len(held)]
            if one.id.startswith("pin-"):
                retention.unpin(str(one.backup_id), ACME, ADMIN)
            else:
                retention.release(one.id, ACME, ADMIN)
        elif nth % 3:
            retention.pin(self._any_here(nth), ACME, ADMIN, "a reason")
        else:
            retention.hold(ACME, ADMIN, reason="a suit")

    def erase(self, seed: int) -> None:
        """And, half of the time, the same slug's tenant is admitted again; or, where it is erased, it is admitted."""
        if not self.erased:
            try:
                self.service.keys.erase(ACME, ADMIN, confirm=ACME, reason="Article 17")
            except EraseRefused:  # held
                return
            self.erased = True
            self.gone = set(self.rows)
            self.there = set()
            self.check_erased()
        if seed % 2 or not self.here:
            self.service.keys.readmit(ACME, ADMIN)
            self.erased = False
            self.backup(1)

    def leave_out(self, _: int) -> None:
        """For one run the copy is of other tiers; what is there stays."""
        self.copied.copy = {**self.copied.copy, "tiers": ["gold"]}
        done = self.service.copies.run(ADMIN, COPY, [ACME])
        assert [(one.left_out is None, one.objects) for one in done.tenants] == [(False, 0)]
        assert self.line().standing == "left_out"
        self.copied.copy = {**self.copied.copy, "tiers": []}

    # what happens to the copy

    def run(self, _: int = 0) -> None:
        """Undisturbed."""
        done = self.service.copies.run(ADMIN, COPY, [ACME])
        assert errors(done) == []
        assert self.erased or self.here - self.forgotten() <= self.manifests(self.copied.copy_bucket)

    def kill(self, nth: int) -> None:
        """A copier dies at any write, at either end."""
        self._killed(nth, lambda service: service.copies.run(ADMIN, COPY, [ACME]))

    def kill_prune(self, nth: int) -> None:
        """The copy's own upkeep dies at any write, weeks later."""
        self.clock.now += timedelta(days=nth % 20)
        self._killed(nth, lambda service: service.copies.prune(ADMIN, COPY, [ACME]))

    def keep(self, days: int) -> None:
        """The copy's own upkeep, undisturbed."""
        self.clock.now += timedelta(days=days)
        done = self.service.copies.prune(ADMIN, COPY, [ACME])
        found = [*done.issues, *(issue for one in done.tenants for issue in one.issues)]
        unverified = self.line().backup_id is None or self.line().standing == "failed"
        assert self.erased or unverified or found == []

    def verify(self, seed: int) -> None:
        """What is whole is said to be."""
        found = self.service.copies.verify(ADMIN, COPY, [ACME], bool(seed % 2))
        assert self.erased or not self.there or found.valid, [one.error for one in found.tenants]

    def fail(self, nth: int) -> None:
        """A store does not answer at the nth call, or from then on; nobody is accused because of that."""
        bucket = self.copied.bucket if nth % 3 else self.copied.copy_bucket
        count, for_good = [0], nth % 2

        def before(verb: str, key: str) -> None:
            count[0] += 1
            if count[0] == nth or (for_good and count[0] > nth):
                raise StoreUnavailable(f"Cannot {verb} an object", on=key, why="it was to be")

        with suppress(StoreUnavailable):
            done = self._at(bucket, before).copies.run(ADMIN, COPY, [ACME])
            accused = (CopyUnverified, CopyDiverged, CorruptObject)
            assert [error for error in errors(done) if isinstance(error, accused)] == []
        self.clock.now += timedelta(minutes=10)

    def meanwhile(self, nth: int) -> None:
        """Something else happens before the nth write of a run at the copy."""
        acts = (self.backup, self.prune, self.rotate, self.keep, self.erase, self.forget, self.hold)
        waiting = [acts[nth % len(acts)]]
        count = [0]

        def before(verb: str, _: str) -> None:
            count[0] += verb in WRITES
            if count[0] == 1 + nth // 3 and waiting:
                self.there |= self.manifests(self.copied.copy_bucket) - self.gone
                waiting.pop()(1 + nth % 29)

        self._at(self.copied.copy_bucket, before).copies.run(ADMIN, COPY, [ACME])

    def damage(self, seed: int) -> None:
        """An object at the copy is deleted, shortened or changed; where that is seen, the next run mends it."""
        bucket, client = self.copied.copy_bucket, self.copied.client
        here, folder = self.copied.objects(self.copied.bucket, PREFIX), PREFIX + _DAMAGED[seed % len(_DAMAGED)]
        there = self.copied.objects(bucket, folder)
        keys = [key for key in there if key in here and len(there[key]) > 1]
        if self.erased or not keys:
            return
        key = self.chance.choice(sorted(keys))
        how, body = seed % 3, there[key]
        if how == 0:
            client.delete_object(Bucket=bucket, Key=key)
        else:
            at = self.chance.randrange(len(body))
            other = body[:at] if how == 1 else body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
            client.put_object(Bucket=bucket, Key=key, Body=other)
        found = self.service.copies.verify(ADMIN, COPY, [ACME], True)
        if found.valid and how == 2:
            client.put_object(Bucket=bucket, Key=key, Body=body)
            self.unseen += 1
            return
        if found.valid:  # nothing needs it yet: it is looked at once a day
            self.clock.now += timedelta(hours=25)
        self.run()
        assert self.copied.objects(bucket, key).get(key) == here[key], f"{key} was not mended"
        self.mended += 1

    def _at(self, bucket: str, before: Before) -> BackupService:
        """A service whose requests to a bucket, or to any, pass `before`."""

        def wrap(store: Any, place: Any) -> Any:
            return Wrapped(store, before, lambda *_: None) if place.bucket == bucket or not bucket else store

        return with_stores(self.service, wrap, self.clock)

    def _killed(self, nth: int, work: Callable[[BackupService], object]) -> None:
        death = DiesAtWrite(nth)
        with suppress(Killed, SbhError):
            work(with_stores(self.service, lambda store, _: Wrapped(store, death.before, death.after), self.clock))
        self.clock.now += timedelta(minutes=10)  # its leases end

    # what must be so

    def line(self) -> CopyLine:
        (status,) = self.service.copies.status(ADMIN)
        assert list(status.issues) == []
        return next(line for line in status.tenants if line.tenant_id == ACME)

    def forgotten(self) -> set[str]:
        """What the copy's policy dropped while the source has it, as it is written there."""
        found = self.copied.objects(self.copied.copy_bucket, PREFIX + Keys.COPY)
        return {str(name) for body in found.values() for name in json.loads(body)["forgotten"]}

    def step(self, name: str, number: int) -> None:
        getattr(self, name)(number)
        self.check(may_drop=name in ("keep", "kill_prune", "erase", "meanwhile"))

    def check(self, *, may_drop: bool) -> None:
        """After any step."""
        there = self.manifests(self.copied.copy_bucket)
        assert there <= set(self.rows) - self.gone, "what was erased came back"
        assert may_drop or there >= self.there, f"{self.there - there} went"
        self.there = there
        assert set(check(self.copied)) == there  # each to the last byte, with the copy's keys alone
        if self.erased:
            self.check_erased()
            return
        line = self.line()
        if line.backup_id is not None and line.standing != "failed":
            assert line.backup_id in there, f"{line} is not there"

    def check_erased(self) -> None:
        """No key of the tenant is left at the copy, in any version: so nothing opens."""
        left = self.copied.versions(self.copied.copy_bucket, PREFIX + Keys.KEYS)
        assert left == []

    def settle(self) -> None:
        """After a run that nothing disturbs the newest is there and said to be; and weeks later what the policy says, no more."""
        if self.erased:
            self.erase(1)
        self.run()
        self.check(may_drop=False)
        line = self.line()
        assert (line.backup_id, line.standing in ("current", "behind")) == (max(self.here), True), line
        self.restore(self.chance.choice(sorted(self.there)))
        self.clock.now += timedelta(days=20)
        self.backup(1)
        self.run()
        self.keep(15)
        for days in (2, 2, 2):  # what one retires the next removes, at the source and then at the copy
            self.prune(1)
            self.run()
            self.keep(days)
        self.check(may_drop=True)
        self.check_policy()
        self.check_space()
        self.restore(self.chance.choice(sorted(self.there)))

    def restore(self, backup_id: str) -> None:
        """With the copy and its keys alone: every row as it was."""
        self.copied.application.database.run("UPDATE projects SET body = 'ruined'; DELETE FROM items WHERE id % 3 = 0")
        settings = alone(self.copied).settings
        site = Site(settings, self.clock, copy_of=copy_named(self.copied.settings(), COPY))
        BackupService(settings, site=site).restore_backup(backup_id, ACME, ADMIN)
        assert self.copied.application.state(ACME).rows == self.rows[backup_id]

    def check_policy(self) -> None:
        """The last of each kind, and what is held."""
        kinds: dict[str, list[str]] = {}
        for body in self.copied.objects(self.copied.copy_bucket, PREFIX + Keys.MANIFESTS).values():
            document = json.loads(body)
            kinds.setdefault(document["type"], []).append(document["id"])
        holds = self.service.retention.holds(ACME, ADMIN)
        held = {str(hold.backup_id) for hold in holds if hold.backup_id is not None}
        if not any(hold.backup_id is None for hold in holds):
            for kind, ids in kinds.items():
                assert len(set(ids) - held) <= _KEPT, f"{kind}: {sorted(ids)}, held {held}"
        assert max(self.rows) in self.there

    def check_space(self) -> None:
        """A pack that the source does not have any more is one that a kept backup reads."""
        ends = (self.copied.copy_bucket, self.copied.bucket)
        there, here = (
            {key.rsplit("/", 1)[1] for key in self.copied.objects(bucket, PREFIX + Keys.PACKS)} for bucket in ends
        )
        with alone(self.copied).repository(TENANT) as repository:
            repository.load_index()
            read = set()
            for backup_id in repository.manifest_ids():
                for chunk in chunks_of(repository, read_manifest(repository, backup_id)):
                    location = repository.index.find(chunk)
                    assert location is not None
                    read.add(location.pack.hex())
        assert there - here <= read, f"{len(there - here - read)} packs are for nothing"


def errors(done: CopyRun) -> list[SbhError]:
    return [*(one.error for one in done.tenants if one.error is not None), *done.issues]


@contextmanager
def told(world: CopyWorld, steps: object) -> Iterator[None]:
    """What fails says by which steps."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"steps: {steps}; unseen damage: {world.unseen}, mended: {world.mended}")
        raise


__all__ = ["POLICY", "READS", "CopyWorld", "errors", "told"]
