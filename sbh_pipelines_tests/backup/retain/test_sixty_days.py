"""Sixty days of backups by a fake clock: ticks, changes, crashes, retention, prune.

In `make test` the first 36 days, which reach into a second month. One tick of incremental backups a day, at different hours; in
`make soak` 24. One tenant has daily
fulls and prunes, the other weekly ones. The clock is ours and the store's; the server's stands beside it and moves by seconds, so
recovery points are told by the server's time and backups by ours.
"""

import random
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from sbh_pipelines.backup.create.draft import DraftStatus
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.model import parse_timestamp
from sbh_pipelines_tests.backup.create.test_crash import Clock, Death, Killed, struck
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application, State
from sbh_pipelines_tests.support.effort import either
from sbh_pipelines_tests.support.store_time import store_time

DAYS = either(36, 60)
TICKS = either(1, 24)
LOOKS = either((DAYS,), (25, DAYS))  # days after which everything that is kept is looked at
_CHANGE = """
UPDATE items SET score = {1} WHERE project_id % 2 = {0} % 2 AND project_id IN (SELECT id FROM projects WHERE tenant_id = {0}) AND id % 17 = {1} % 17;
DELETE FROM items WHERE id % 61 = {1} % 61 AND project_id IN (SELECT id FROM projects WHERE tenant_id = {0});
INSERT INTO items (project_id, title) SELECT min(id), 'made ' || {1} FROM projects WHERE tenant_id = {0};
UPDATE projects SET body = repeat(md5({1}::text), 40) WHERE tenant_id = {0} AND id % 7 = {1} % 7;
"""

GOLDEN = either((9, 6), (11, 7))  # full backups that are left of each tenant

Made = dict[str, tuple[str, datetime]]  # by id: type, time


@pytest.fixture
def clock() -> Iterator[Clock]:
    made = Clock()
    made.now = made.now.replace(hour=0)
    with store_time(made):
        yield made


def _newest_of_each(times: dict[str, datetime], count: int, period: Callable[[datetime], object]) -> set[str]:
    """The newest of each of the last `count` periods that have any."""
    newest: dict[object, str] = {}
    for backup in sorted(times, key=lambda b: times[b], reverse=True):
        newest.setdefault(period(times[backup]), backup)
    return set(list(newest.values())[:count])


def expected(made: Made) -> set[str]:
    """What the specification's retention_config keeps of all that was ever made: written down a second time, from its text."""
    fulls = {backup: at for backup, (kind, at) in made.items() if kind == "full"}
    others = {backup: at for backup, (kind, at) in made.items() if kind == "incremental"}
    newest = max(made, key=lambda b: made[b][1])
    kept = {newest} | {b for b, at in fulls.items() if made[newest][1] - at < timedelta(hours=24)}
    kept |= _newest_of_each(fulls, 7, lambda at: at.date())
    kept |= _newest_of_each(fulls, 4, lambda at: at.isocalendar()[:2])
    kept |= _newest_of_each(fulls, 12, lambda at: (at.year, at.month))
    kept |= _newest_of_each(others, 24, lambda at: (at.date(), at.hour))
    kept |= _newest_of_each(others, 7, lambda at: at.date())
    return kept


class _SixtyDays:
    def __init__(self, application: Application, clock: Clock) -> None:
        self.application, self.clock = application, clock
        self.chance = random.Random(60)
        self.made: dict[str, Made] = {ACME: {}, BOLT: {}}
        self.states: dict[tuple[str, str], State] = {}
        self.crashes = self.unchanged = 0
        self.bytes: list[int] = []
        self.objects: list[int] = []

    @property
    def service(self) -> BackupService:
        return self.application.service(clock=self.clock)

    def manifests(self, tenant: str) -> set[str]:
        return {file.stem for file in (self.application.repository(tenant) / "manifests").glob("*.json")}

    def change(self, tenant: str) -> None:
        number = self.chance.randrange(10_000)
        self.application.database.run(_CHANGE.format({ACME: 1, BOLT: 2}[tenant], number))
        if self.chance.random() < 0.2:
            self.application.write_file(tenant, f"docs/{number % 4}.bin", self.chance.randbytes(5_000))

    def back_up(self, tenants: list[str], kind: str) -> None:
        """Every 25th or so is killed at one of its writes; a crash of the writer loses nothing that was committed."""
        before = {tenant: self.manifests(tenant) for tenant in tenants}
        death = Death(self.chance.randrange(1, 14), self.chance.choice(["before", "after"]))
        if self.chance.random() < 0.04:
            try:
                with struck(death):
                    self.service.backups.create_all(tenants, ADMIN, kind)
            except (Killed, RuntimeError):
                self.crashes += 1
        else:
            for draft in self.service.backups.create_all(tenants, ADMIN, kind):
                assert draft.error is None, draft.error
                assert not draft.retention or draft.retention.error is None, draft.retention
                self.unchanged += draft.status is DraftStatus.UNCHANGED
        for tenant in tenants:
            for backup in self.manifests(tenant) - before[tenant]:
                manifest = self.service.get_backup(backup, tenant, ADMIN)
                self.made[tenant][backup] = (manifest["type"], parse_timestamp(manifest["created_at"]))
                self.states[tenant, backup] = self.application.state(tenant)
            if not death.dead:
                assert self.manifests(tenant) == expected(self.made[tenant])

    def day(self, number: int) -> None:
        begin = self.clock.now
        hours = sorted({(tick * 24 // TICKS + number % max(24 // TICKS, 1)) % 24 for tick in range(TICKS)})
        for hour in sorted({*hours, 2, 3, 4}):
            self.clock.now = begin + timedelta(hours=hour)
            if hour in hours:
                for tenant, often in ((ACME, 0.6), (BOLT, 0.3)):
                    if self.chance.random() < often:
                        self.change(tenant)
                self.back_up([ACME, BOLT], "incremental")
            self.clock.now += timedelta(minutes=30)
            if hour == 2:
                self.back_up([ACME], "full")
            if hour == 3 and begin.isoweekday() == 7:
                self.back_up([BOLT], "full")
            if hour == 4:
                for tenant in (ACME, BOLT) if begin.isoweekday() == 7 else (ACME,):
                    self.service.retention.prune(tenant, ADMIN)
        packs = [f for tenant in (ACME, BOLT) for f in _files(self.application.repository(tenant))]
        self.bytes.append(sum(file.stat().st_size for file in packs))
        self.objects.append(len(packs))
        self.clock.now = begin + timedelta(days=1)

    def look(self, restored: int) -> None:
        """Everything that is kept is valid; some of it is restored, and then the newest, so that the days go on as before."""
        for tenant in (ACME, BOLT):
            kept = sorted(self.manifests(tenant))
            for backup in kept:
                assert self.service.validate_backup(backup, tenant, ADMIN, deep=True)["issues"] == []
            for backup in [*self.chance.sample(kept, restored), kept[-1]]:
                self.service.restore_backup(backup, tenant, ADMIN)
                assert self.application.state(tenant) == self.states[tenant, backup]


def _files(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]


@pytest.mark.soak
def test_sixty_days(application: Application, clock: Clock) -> None:
    """What is kept is what the policy says, storage stays bounded, and every kept backup restores."""
    sixty = _SixtyDays(application, clock)
    sixty.back_up([ACME, BOLT], "full")
    for number in range(1, DAYS + 1):
        sixty.day(number)
        if number in LOOKS:
            sixty.look(3)
    kinds = {
        tenant: {
            kind: sum(k == kind for b, (k, _) in made.items() if b in sixty.manifests(tenant))
            for kind in ("full", "incremental")
        }
        for tenant, made in sixty.made.items()
    }
    # Daily fulls: seven days, three weeks before (the newest of the fourth is one of the days), and January. Weekly fulls: four
    # weeks, and the months before.
    assert (kinds[ACME]["full"], kinds[BOLT]["full"]) == GOLDEN
    assert kinds[ACME]["incremental"] >= either(20, 24)
    assert sixty.crashes
    assert sixty.unchanged > DAYS // 3
    last, before = slice(DAYS * 2 // 3, None), slice(DAYS // 3, DAYS * 2 // 3)
    assert max(sixty.bytes[last]) < 1.5 * max(sixty.bytes[before])
    assert max(sixty.objects[last]) < 1.5 * max(sixty.objects[before])
