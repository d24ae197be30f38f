"""Prune of a tenant: after any sequence of backups, forgets, prunes and crashes, every backup that is left restores."""

import json
import random
import shutil
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sbh_pipelines.backup.create.draft import Draft, DraftStatus
from sbh_pipelines.backup.retain.prune import NothingToPrune, PruneReport
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.errors import AccessDenied, LeaseHeld, LeaseLost, PruneRefused
from sbh_pipelines.model import Progress
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines_tests.backup.create.test_crash import STEPS, Clock, Death, Killed, _killed_process, struck
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application, State
from sbh_pipelines_tests.support.effort import examples
from sbh_pipelines_tests.support.store_time import store_time

DAY = timedelta(days=1)
KEEP_ALL = {"keep_within_hours": 1_000_000}
SMALL = {"repack_below": 0.9, "small_packs": 3, "index_objects": 2}


@pytest.fixture
def clock() -> Iterator[Clock]:
    """Everybody's clock, the store's too."""
    made = Clock()
    with store_time(made):
        yield made


def service(application: Application, clock: Clock) -> BackupService:
    return application.service(clock=clock, retention=KEEP_ALL, prune=SMALL)


def change(application: Application, seed: int) -> None:
    """Other rows and another file."""
    chance = random.Random(seed)
    application.database.run(
        f"UPDATE projects SET body = '{chance.randbytes(200).hex()}' WHERE id % {chance.randint(2, 5)} = 0"
    )
    application.write_file(ACME, f"docs/changed {seed % 3}.bin", chance.randbytes(chance.randint(1, 40_000)))


def forget(application: Application, backup: str) -> None:
    (application.repository(ACME) / "manifests" / f"{backup}.json").unlink()


def check(made: BackupService, backup: str) -> None:
    assert made.validate_backup(backup, ACME, ADMIN, deep=True)["issues"] == []


def restores(application: Application, made: BackupService, backup: str, state: State) -> None:
    application.wreck(ACME)
    made.restore_backup(backup, ACME, ADMIN)
    assert application.state(ACME) == state


def stored(application: Application) -> int:
    return sum(file.stat().st_size for file in application.repository(ACME).rglob("*") if file.is_file())


def history(application: Application, clock: Clock, backups: int = 4) -> dict[str, State]:
    """Backups of a tenant that changes, an hour apart; what each is of."""
    made, states = service(application, clock), {}
    for seed in range(backups):
        change(application, seed)
        states[made.create_backup(ACME, ADMIN)["id"]] = application.state(ACME)
        clock.now += timedelta(hours=1)
    return states


def test_space_comes_back_a_day_after_it_was_found_to_be_free(application: Application, clock: Clock) -> None:
    states = history(application, clock)
    made, last = service(application, clock), max(states)
    for backup in states:
        if backup != last:
            forget(application, backup)
    clock.now += DAY
    full = stored(application)
    first = made.retention.prune(ACME, ADMIN)
    assert first.packs_retired + first.packs_rewritten > 0
    assert first.packs_deleted == 0
    check(made, last)
    clock.now += DAY
    second = made.retention.prune(ACME, ADMIN)
    assert second.packs_deleted == first.packs_retired + first.packs_rewritten
    assert stored(application) < full - first.bytes_retired + first.bytes_rewritten
    assert {
        kind.name: len(list(kind.iterdir()))
        for kind in application.repository(ACME).iterdir()
        if kind.is_dir() and kind.name != "audit"  # the trail only ever grows
    } == {
        "config": 1,
        "database": 1,
        "files": 1,
        "index": 1,
        "keys": 1,
        "manifests": 1,
        "packs": 1,
    }
    assert sum(second.requests.values()) <= 42
    clock.now += DAY
    third = made.retention.prune(ACME, ADMIN)
    assert (third.objects_deleted, third.packs_written, third.decisions) == (0, 0, [])
    check(made, last)
    restores(application, made, last, states[last])
    again = made.create_backup(ACME, ADMIN)
    assert again["stats"]["chunks_new"] == 0 or again["stats"]["bytes_stored"] < 20_000
    assert made.validate_backup(again["id"], ACME, ADMIN)["valid"]


def test_a_forgotten_backup_whose_manifest_is_put_back_within_a_day_is_whole(
    application: Application, clock: Clock
) -> None:
    """From the bucket's older versions: what it needs was retired, and is taken into use again by the next prune."""
    states = history(application, clock, 3)
    made, first = service(application, clock), min(states)
    manifest = application.repository(ACME) / "manifests" / f"{first}.json"
    body = manifest.read_bytes()
    clock.now += DAY
    manifest.unlink()
    assert made.retention.prune(ACME, ADMIN).bytes_retired > 0
    clock.now += DAY - timedelta(minutes=1)
    made.retention.prune(ACME, ADMIN)
    manifest.write_bytes(body)
    check(made, first)
    for _ in range(3):
        clock.now += DAY
        made.retention.prune(ACME, ADMIN)
        check(made, first)
    restores(application, made, first, states[first])


def test_a_dry_run_changes_nothing_and_needs_no_lease(application: Application, clock: Clock) -> None:
    states = history(application, clock)
    forget(application, min(states))
    clock.now += DAY
    made = service(application, clock)
    before = {file: file.read_bytes() for file in application.repository(ACME).rglob("*") if file.is_file()}
    drafts = application.service(clock=clock).backups.begin([ACME], ADMIN)
    plan = made.retention.prune(ACME, ADMIN, dry_run=True)
    application.service(clock=clock).backups.abandon(drafts)
    assert plan.packs_to_retire + plan.packs_to_rewrite > 0
    assert (plan.packs_retired, plan.objects_deleted) == (0, 0)
    after = {file: file.read_bytes() for file in application.repository(ACME).rglob("*") if file.is_file()}
    assert {f: b for f, b in after.items() if f.name != "lease.json"} == {
        f: b for f, b in before.items() if f.name != "lease.json"
    }


@pytest.mark.parametrize("day", [1, 2])
def test_a_prune_killed_at_any_write(application: Application, clock: Clock, day: int) -> None:
    """Every backup stays valid to the last byte, the next backup and the next prunes work, and the space comes back."""
    states = history(application, clock, 3)
    forget(application, sorted(states)[1])
    left = [backup for backup in states if backup != sorted(states)[1]]
    begun = clock.now
    for nth in range(1, 100):
        clock.now = begun + DAY
        made = service(application, clock)
        death = Death(nth, "before")
        if day == 2:
            made.retention.prune(ACME, ADMIN)
            clock.now += DAY
        try:
            with struck(death):
                service(application, clock).retention.prune(ACME, ADMIN)
        except Killed:
            assert death.dead
        clock.now += timedelta(minutes=10)
        made = service(application, clock)
        for backup in left:
            check(made, backup)
        if not death.dead:
            break
        change(application, 1000 + nth)
        states[newest := made.create_backup(ACME, ADMIN)["id"]] = application.state(ACME)
        check(made, newest)
        if len(left) == 3:
            forget(application, left.pop(1))
        left.append(newest)
        begun = clock.now + 2 * DAY
    assert nth > 4
    for _ in range(3):
        clock.now += DAY
        report = service(application, clock).retention.prune(ACME, ADMIN)
    assert report.decisions == []
    for backup in left:
        check(made, backup)
        restores(application, made, backup, states[backup])


@pytest.mark.parametrize("nth", [3, 5])
def test_a_prune_process_killed_for_real(application: Application, monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
    monkeypatch.setenv("SBH_PRUNE__MIN_AGE_HOURS", "0")
    monkeypatch.setenv("SBH_PRUNE__REPACK_BELOW", "1")
    made = application.service(retention=KEEP_ALL)
    backups = []
    for seed in range(3):
        change(application, seed)
        backups.append(made.create_backup(ACME, ADMIN)["id"])
    state = application.state(ACME)
    forget(application, backups[0])
    _killed_process(application, nth, "retention.prune", ACME)
    later = application.service(
        clock=lambda: datetime.now(UTC) + timedelta(minutes=4), retention=KEEP_ALL, prune={"min_age_hours": 0}
    )
    check(later, backups[1])
    assert sum(later.retention.prune(ACME, ADMIN).objects_deleted for _ in range(3)) > 0
    check(later, backups[1])
    restores(application, later, backups[2], state)


KINDS = ("full", "incremental", "differential")
ACTIONS = st.one_of(
    st.tuples(st.just("backup"), st.integers(0, 5)),
    st.tuples(st.just("crashed backup"), st.integers(1, 15)),
    st.tuples(st.just("forget"), st.integers(0, 5)),
    st.tuples(st.just("prune"), st.just(0)),
    st.tuples(st.just("crashed prune"), st.integers(1, 12)),
    st.tuples(st.just("wait"), st.integers(1, 30)),
)


@settings(
    max_examples=examples(3),
    phases=[Phase.explicit, Phase.generate],  # each run takes seconds: shrinking would take minutes
)
@given(actions=st.lists(ACTIONS, min_size=4, max_size=12))
def test_any_sequence_leaves_every_backup_whole(application: Application, actions: list[tuple[str, int]]) -> None:
    """Backups of all types, forgets, prunes and crashes, hours apart: what is left verifies deep, the newest restores."""
    clock = Clock()
    root = application.repository(ACME)
    with store_time(clock):
        if root.exists():
            shutil.rmtree(root)
        states: dict[str, State] = {}
        for number, (action, value) in enumerate([("backup", 0), *actions, ("prune", 0)]):
            clock.now += timedelta(minutes=15)
            made = service(application, clock)
            death = Death(value, "after" if value % 2 else "before") if "crashed" in action else Death(10_000, "before")
            try:
                with struck(death):
                    if "backup" in action:
                        change(application, value)
                        state = application.state(ACME)
                        made.create_backup(ACME, ADMIN, KINDS[number % 3])
                    elif "prune" in action:
                        made.retention.prune(ACME, ADMIN)
            except (Killed, RuntimeError):
                assert death.dead
            clock.now += timedelta(minutes=15)
            listed = {manifest["id"] for manifest in made.list_backups(ACME, ADMIN)}
            if "backup" in action:
                states |= dict.fromkeys(listed - states.keys(), state)
            assert listed == states.keys()
            if action == "forget" and len(states) > 1:
                backup = sorted(states)[value % len(states)]
                forget(application, backup)
                del states[backup]
            elif action == "wait":
                clock.now += timedelta(hours=value)
            for backup in states:
                if "prune" in action or number == len(actions) + 1:
                    check(made, backup)
        newest = max(states)
        restores(application, made, newest, states[newest])


def test_a_prune_and_a_backup_keep_each_other_out(
    application: Application, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = service(application, clock)
    made.create_backup(ACME, ADMIN)
    drafts = made.backups.begin([ACME], ADMIN)
    for step in STEPS:
        with pytest.raises(LeaseHeld):
            application.service(clock=clock).retention.prune(ACME, ADMIN)
        drafts = getattr(made.backups, step)(drafts)
    assert drafts[0].status is DraftStatus.COMPLETED
    refusals = []

    def intrude(notice: Progress) -> None:
        (draft,) = application.service(clock=clock).backups.create_all([ACME], ADMIN)
        assert draft.error
        refusals.append(draft.error.code)

    made.retention.prune(ACME, ADMIN, progress=intrude)
    assert set(refusals) == {"SBH-603"}
    made.create_backup(ACME, ADMIN)


def test_a_prune_in_one_thread_and_backups_in_another(application: Application) -> None:
    """By real clocks, over and over: whoever comes second is told, and every backup is whole."""
    made = application.service(retention=KEEP_ALL, prune={**SMALL, "min_age_hours": 0})
    made.create_backup(ACME, ADMIN)
    ended, unexpected = threading.Event(), list[BaseException]()

    def prune() -> None:
        while not ended.is_set():
            try:
                application.service(retention=KEEP_ALL, prune={**SMALL, "min_age_hours": 0}).retention.prune(
                    ACME, ADMIN
                )
            except LeaseHeld:
                continue
            except BaseException as error:
                unexpected.append(error)
                return

    thread = threading.Thread(target=prune)
    thread.start()
    completed = 0
    deadline = time.monotonic() + 240
    for seed in count():
        if seed >= 12 and (completed > 1 or time.monotonic() > deadline):
            break
        change(application, seed)
        (draft,) = made.backups.create_all([ACME], ADMIN)
        completed += draft.status is DraftStatus.COMPLETED
        if draft.error:
            assert draft.error.code == "SBH-603"
        listed = sorted(manifest["id"] for manifest in made.list_backups(ACME, ADMIN))
        if len(listed) > 2:
            forget(application, listed[0])
            # A prune that had listed it says that it was forgotten, and removes nothing.
            unexpected[:] = [e for e in unexpected if not isinstance(e, PruneRefused)]
            if not thread.is_alive():
                thread = threading.Thread(target=prune)
                thread.start()
    ended.set()
    thread.join()
    assert [e for e in unexpected if not isinstance(e, PruneRefused)] == []
    assert completed > 1
    for manifest in made.list_backups(ACME, ADMIN):
        check(made, manifest["id"])


def handed_on(draft: Draft) -> Draft:
    return Draft.from_dict(json.loads(json.dumps(draft.as_dict())))


@pytest.mark.parametrize("after", range(1, 5))
def test_a_writer_that_slept_through_a_prune_does_not_commit(
    application: Application, clock: Clock, after: int
) -> None:
    """Its lease expired, a prune took it, removed what the writer relied on, and released it: the lease is free, and lost."""
    states = history(application, clock, 1)
    old = max(states)
    application.wipe(ACME)
    made = service(application, clock)
    made.create_backup(ACME, ADMIN)
    forget(application, old)
    clock.now += DAY
    made.restore_backup(max(m["id"] for m in made.list_backups(ACME, ADMIN)), ACME, ADMIN)
    slow = application.service(clock=clock, retention=KEEP_ALL)
    drafts = slow.backups.begin([ACME], ADMIN)
    for number, step in enumerate(STEPS[:4], 1):
        slow, drafts = application.service(clock=clock, retention=KEEP_ALL), [handed_on(d) for d in drafts]
        if number == after:
            clock.now += DAY
            service(application, clock).retention.prune(ACME, ADMIN)
            clock.now += DAY
            service(application, clock).retention.prune(ACME, ADMIN)
        drafts = getattr(slow.backups, step)(drafts)
    assert drafts[0].error
    assert drafts[0].error.code == LeaseLost.code
    for manifest in made.list_backups(ACME, ADMIN):
        check(made, manifest["id"])


def test_a_writer_that_nobody_disturbed_goes_on_after_its_lease_expired(application: Application, clock: Clock) -> None:
    made = service(application, clock)
    drafts = made.backups.begin([ACME], ADMIN)
    for step in STEPS:
        clock.move()
        made, drafts = service(application, clock), [handed_on(draft) for draft in drafts]
        drafts = getattr(made.backups, step)(drafts)
    assert drafts[0].status is DraftStatus.COMPLETED


def refused(application: Application, clock: Clock, match: str) -> None:
    root = application.repository(ACME)
    before = {file: file.read_bytes() for file in root.rglob("*") if file.is_file()}
    with pytest.raises(PruneRefused, match=match) as error:
        service(application, clock).retention.prune(ACME, ADMIN)
    assert error.value.remedy
    assert error.value.code == "SBH-605"
    after = {file: file.read_bytes() for file in root.rglob("*") if file.is_file()}
    assert {f for f in before if before[f] != after.get(f)} == {root / "lease.json"}
    service(application, clock).create_backup(ACME, ADMIN)  # at once: the lease was released


def flip(file: Path) -> None:
    body = bytearray(file.read_bytes())
    body[len(body) // 2] ^= 1
    file.write_bytes(body)


@pytest.mark.parametrize("victim", ["manifests", "database", "files", "config"])
@pytest.mark.parametrize("how", ["flipped", "emptied", "gone"])
def test_refuses_when_a_backup_cannot_be_read(application: Application, clock: Clock, victim: str, how: str) -> None:
    """What such a backup needs is not known; the error names it."""
    states = history(application, clock, 2)
    old = min(states)
    file = application.repository(ACME) / victim / f"{old}.json"
    if how == "flipped":
        file.write_text(file.read_text().replace("acme", "acmf", 1))
    elif how == "emptied":
        file.write_text("{}")
    elif victim != "manifests":
        file.unlink()
    clock.now += DAY
    if (victim, how) == ("manifests", "gone"):
        return
    refused(application, clock, old)


def test_refuses_when_a_pack_is_gone(application: Application, clock: Clock) -> None:
    """And names the backups that needed it; once they are forgotten it works."""
    states = history(application, clock, 2)
    old, new = sorted(states)
    packs = application.repository(ACME) / "packs"
    known = {pack.name for pack in packs.iterdir()}
    change(application, 7)
    made = service(application, clock)
    third = made.create_backup(ACME, ADMIN)["id"]
    for pack in packs.iterdir():
        if pack.name not in known:
            pack.unlink()
    clock.now += DAY
    refused(application, clock, f"damaged: {third}")
    fourth = max(manifest["id"] for manifest in made.list_backups(ACME, ADMIN))
    forget(application, third)
    service(application, clock).retention.prune(ACME, ADMIN)
    for backup in (old, new, fourth):
        check(made, backup)


@pytest.mark.parametrize("minutes", [-6, 6])
def test_refuses_when_clocks_differ(application: Application, minutes: int) -> None:
    ours = timedelta(minutes=minutes)
    made = application.service(clock=lambda: datetime.now(UTC) + ours)
    made.create_backup(ACME, ADMIN)
    before = {file for file in application.repository(ACME).rglob("*") if file.is_file()}
    with pytest.raises(PruneRefused, match="leases and ages cannot be trusted"):
        made.retention.prune(ACME, ADMIN)
    assert {file for file in application.repository(ACME).rglob("*") if file.is_file()} == before


def test_without_any_backup_nothing_is_done(application: Application, clock: Clock) -> None:
    """All manifests gone is no reason to remove what could still be restored from the bucket's older versions."""
    made = service(application, clock)
    assert made.retention.prune(ACME, ADMIN).backups == 0
    states = history(application, clock, 1)
    forget(application, max(states))
    clock.now += 100 * DAY
    before = {file for file in application.repository(ACME).rglob("*") if file.is_file()}
    assert "nothing was done" in made.retention.prune(ACME, ADMIN).note
    assert {file for file in application.repository(ACME).rglob("*") if file.is_file()} == before


def test_only_an_admin_may(application: Application, clock: Clock) -> None:
    made = service(application, clock)
    for user in (UserContext("o", ACME, Role.OPERATOR), UserContext("a", BOLT, Role.ADMIN)):
        with pytest.raises(AccessDenied):
            made.retention.prune(ACME, user)


def test_a_validation_under_way_does_not_mind(
    application: Application, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes no lease: what it relies on stays for a day, and what was rewritten meanwhile is no damage."""
    states = history(application, clock, 3)
    first, second, third = sorted(states)
    forget(application, second)
    clock.now += DAY
    pruned: list[PruneReport | NothingToPrune] = []

    def meanwhile(notice: Progress) -> None:
        if not pruned:
            pruned.append(service(application, clock).retention.prune(ACME, ADMIN))

    made = service(application, clock)
    assert made.validate_backup(third, ACME, ADMIN, deep=True, progress=meanwhile)["issues"] == []
    assert pruned[0].packs_rewritten > 0
    check(made, first)


def test_after_a_prune_a_lost_pack_is_the_only_thing_that_is_reported(application: Application, clock: Clock) -> None:
    """Not the index objects that the manifest names: their content is in others now."""
    states = history(application, clock, 2)
    made, backup = service(application, clock), max(states)
    for _ in range(3):
        clock.now += DAY
        made.retention.prune(ACME, ADMIN)
    for pack in (application.repository(ACME) / "packs").iterdir():
        pack.unlink()
    issues = made.validate_backup(backup, ACME, ADMIN)["issues"]
    assert issues
    assert all("/packs/" in issue["on"] for issue in issues)


def test_a_mark_of_damage_goes_when_the_pack_is_restored(application: Application, clock: Clock) -> None:
    """An operator put back the object's older version: deep validation believes in it again."""
    backup = max(history(application, clock, 1))
    made = service(application, clock)
    pack = max((application.repository(ACME) / "packs").iterdir(), key=lambda file: file.stat().st_size)
    sound = pack.read_bytes()
    flip(pack)
    assert not made.validate_backup(backup, ACME, ADMIN, deep=True)["valid"]
    assert not made.validate_backup(backup, ACME, ADMIN, deep=True)["valid"]
    assert list((application.repository(ACME) / "index").glob("damaged-*"))
    pack.write_bytes(sound)
    check(made, backup)
    assert not list((application.repository(ACME) / "index").glob("damaged-*"))
    assert made.validate_backup(backup, ACME, ADMIN)["valid"]
