"""The lease: one writer per tenant, whoever dies, and however long its process was asleep."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sbh_pipelines.errors import LeaseHeld, LeaseLost, SbhError, StoreUnavailable
from sbh_pipelines.model import utc_now
from sbh_pipelines.repository import lease
from sbh_pipelines.stores.base import MOST_BYTES
from sbh_pipelines.stores.local import open_local
from sbh_pipelines_tests.support.memory_store import MemoryStore
from sbh_pipelines_tests.support.servers import until

PREFIX = "files/acme/backups/"
KEY = PREFIX + "lease.json"
SECONDS = 60.0


class FakeClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def acquire(store: MemoryStore, clock: FakeClock) -> Callable[[str], lease.Lease]:
    return lambda owner: lease.acquire(store, PREFIX, owner, "backup_1", SECONDS, clock)


Acquire = Callable[[str], lease.Lease]


def at_once(owners: int, work: Callable[[str], object]) -> tuple[list[str], list[SbhError]]:
    """(owners whose call succeeded, errors of the others), all called at the same moment."""
    barrier, won, lost = threading.Barrier(owners), list[str](), list[SbhError]()

    def run(owner: str) -> None:
        barrier.wait()
        try:
            work(owner)
            won.append(owner)
        except SbhError as error:
            lost.append(error)

    threads = [threading.Thread(target=run, args=(f"owner {n}",)) for n in range(owners)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return won, lost


@pytest.mark.parametrize("state", ["never taken", "released", "expired", "damaged"])
def test_exactly_one_of_many_gets_a_free_lease(
    store: MemoryStore, clock: FakeClock, acquire: Acquire, state: str
) -> None:
    if state != "never taken":
        held = acquire("the one before")
        if state == "released":
            held.release()
        elif state == "expired":
            clock.move(SECONDS + 10)
        else:
            store.put(KEY, b"{")
    won, lost = at_once(12, acquire)
    assert len(won) == 1
    assert {type(error) for error in lost} == {LeaseHeld}
    assert all(error.transient for error in lost)


class AllReadFirst(MemoryStore):
    """Nobody writes before everybody has read: the moment in which a lease could be taken twice."""

    def __init__(self, readers: int) -> None:
        super().__init__()
        self._readers = threading.Barrier(readers, action=self._part)
        self.together = False

    def _part(self) -> None:
        """All have read once: from now on each goes its way."""
        self.together = False

    def get_with_etag(self, key: str, most: int = MOST_BYTES) -> tuple[bytes, str]:
        try:
            return super().get_with_etag(key, most)
        finally:
            if self.together and threading.current_thread() is not threading.main_thread():
                with suppress(threading.BrokenBarrierError):
                    self._readers.wait(60)


@pytest.mark.parametrize("state", ["never taken", "expired"])
def test_of_writers_that_read_at_the_same_moment_one_wins(clock: FakeClock, state: str) -> None:
    store = AllReadFirst(4)
    if state == "expired":
        lease.acquire(store, PREFIX, "the one before", "x", SECONDS, clock)
        clock.move(SECONDS + 10)
    store.together = True
    won, lost = at_once(4, lambda owner: lease.acquire(store, PREFIX, owner, "x", SECONDS, clock))
    assert (len(won), {type(error) for error in lost}) == (1, {LeaseHeld})


def test_the_error_tells_who_holds_it(acquire: Acquire) -> None:
    acquire("host-7:123:backup")
    with pytest.raises(LeaseHeld, match=r"host-7:123:backup.*2026-01-01T00:01:00"):
        acquire("other")


def test_a_lease_expires_and_its_holder_finds_out(clock: FakeClock, acquire: Acquire) -> None:
    """Not a moment early: the clocks of two machines may differ."""
    first = acquire("first")
    clock.move(SECONDS + lease.CLOCK_MARGIN.total_seconds() - 0.1)
    with pytest.raises(LeaseHeld):
        acquire("second")
    clock.move(0.2)
    second = acquire("second")
    for call in (first.renew, first.renew_if_due, first.release):
        with pytest.raises(LeaseLost):
            call()
    second.renew()
    with pytest.raises(LeaseHeld):
        acquire("third")


def test_an_expired_lease_that_nobody_took_can_be_renewed(clock: FakeClock, acquire: Acquire) -> None:
    held = acquire("first")
    clock.move(SECONDS * 5)
    held.renew()
    with pytest.raises(LeaseHeld):
        acquire("second")


def test_renewing_moves_the_expiry_on(clock: FakeClock, acquire: Acquire) -> None:
    held = acquire("first")
    for _ in range(5):
        clock.move(SECONDS * 0.9)
        held.renew()
    with pytest.raises(LeaseHeld):
        acquire("second")


def test_a_renewal_is_due_after_a_third_of_the_time(store: MemoryStore, clock: FakeClock, acquire: Acquire) -> None:
    held = acquire("first")
    before = store.objects[KEY]
    clock.move(SECONDS / 3 - 1)
    held.renew_if_due()
    assert store.objects[KEY] == before
    clock.move(2)
    held.renew_if_due()
    assert store.objects[KEY] != before


def test_a_lease_is_taken_unread_while_it_is_as_its_holder_said_that_it_would_leave_it(
    store: MemoryStore, clock: FakeClock, acquire: Acquire
) -> None:
    """By no more than one conditional write; held, renewed, resumed or taken by others since, it is read as ever."""
    looked: list[str] = []

    def take(owner: str) -> lease.Lease:
        return lease.acquire(
            store, PREFIX, owner, "backup_2", SECONDS, clock, look=lambda: looked.append(owner), released=left
        )

    first = acquire("first")
    clock.move(SECONDS / 2)
    left = first.released
    with pytest.raises(LeaseHeld):  # it is not released yet
        take("second")
    assert looked == ["second"]
    first.renew()
    assert first.released == left
    first.release()
    assert left is not None
    assert store.get_with_etag(KEY)[1] == left.etag
    unread = store.get_with_etag
    store.get_with_etag = None  # type: ignore[method-assign, assignment]
    try:
        store.replace = lambda key, data, etag: store.put(key, data) if etag == left.etag else ""  # type: ignore[method-assign]
        held = take("third")
    finally:
        store.get_with_etag = unread  # type: ignore[method-assign]
        del store.replace
    assert (held.last_purpose, looked) == ("backup_1", ["second", "third"])
    with pytest.raises(LeaseHeld):  # what was left is long gone
        take("fourth")
    held.release()
    assert take("fifth").last_purpose == "backup_2"


def test_whether_a_store_looks_at_the_condition_of_a_write_is_tried_without_changing_anything(
    store: MemoryStore, acquire: Acquire, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, before = acquire("first"), store.get_with_etag(KEY)
    assert held.is_guarded()
    monkeypatch.setattr(store, "replace", lambda key, data, etag: store.put(key, data))
    assert not held.is_guarded()
    assert store.get_with_etag(KEY) == before
    monkeypatch.undo()
    held.renew()
    held.release()
    with pytest.raises(LeaseLost, match="released"):
        held.is_guarded()


def test_nothing_is_foretold_where_etags_are_not_of_the_bytes(tmp_path: Path, clock: FakeClock) -> None:
    assert lease.acquire(open_local(tmp_path), PREFIX, "first", "b", SECONDS, clock).released is None


def test_a_released_lease_is_free_and_its_object_stays(store: MemoryStore, acquire: Acquire) -> None:
    """A writer needs no right to delete."""
    acquire("first").release()
    assert KEY in store.objects
    acquire("second")


def test_a_released_lease_is_not_renewed(store: MemoryStore, clock: FakeClock, acquire: Acquire) -> None:
    """Nor by a keeper that had it in hand when it was released, and whose renewal was due."""
    held = acquire("first")
    clock.move(SECONDS / 2)
    held.release()
    left = store.get_with_etag(KEY)
    held.renew_if_due()
    for renew in (held.renew, lambda: held.rename("backup_2")):
        with pytest.raises(LeaseLost, match="released"):
            renew()
    assert store.get_with_etag(KEY) == left
    assert not held.is_proved(left[1])
    acquire("second")


def test_the_next_step_of_the_same_work_resumes_its_lease(clock: FakeClock, acquire: Acquire) -> None:
    """Another process of the same owner takes it over; the one before can no longer write."""
    first = acquire("owner")
    clock.move(1)
    again = acquire("owner")
    again.renew()
    clock.move(1)
    with pytest.raises(LeaseLost):
        first.renew()


def test_who_holds_it_now(store: MemoryStore, clock: FakeClock, acquire: Acquire) -> None:
    assert lease.running(store, PREFIX, clock) is None
    held = acquire("first")
    found = lease.running(store, PREFIX, clock)
    assert found is not None
    assert (found.owner, found.purpose) == ("first", "backup_1")
    held.release()
    assert lease.running(store, PREFIX, clock) is None


@pytest.fixture
def resume(store: MemoryStore, clock: FakeClock) -> Callable[[str], lease.Lease]:
    return lambda owner: lease.resume(store, PREFIX, owner, "backup_1", SECONDS, clock)


def test_work_that_goes_on_in_another_process_keeps_its_lease(
    clock: FakeClock, acquire: Acquire, resume: Acquire
) -> None:
    """Also after it expired, or was released by its own owner, as long as nobody else held it."""
    first = acquire("owner")
    clock.move(SECONDS * 10)
    again = resume("owner")
    clock.move(1)
    with pytest.raises(LeaseLost):
        first.renew()
    again.renew()
    with pytest.raises(LeaseHeld):
        acquire("another")
    again.release()
    resume("owner").renew()


@pytest.mark.parametrize("other_is", ["working", "done", "dead"])
def test_a_lease_that_another_held_in_between_is_lost_for_good(
    clock: FakeClock, acquire: Acquire, resume: Acquire, other_is: str
) -> None:
    """Though it is free again: a prune may have removed what the first owner once read."""
    acquire("first")
    clock.move(SECONDS + 10)
    other = acquire("prune on host-7")
    if other_is == "done":
        other.release()
    elif other_is == "dead":
        clock.move(SECONDS + 10)
    for _ in range(2):
        with pytest.raises(LeaseLost, match="prune on host-7") as error:
            resume("first")
        assert not error.value.transient
    if other_is != "working":
        acquire("third")


@pytest.mark.parametrize("body", [None, b"", b"{}", b'{"owner": "", "purpose": "", "expires_at": ""}'])
def test_a_lease_whose_object_is_gone_or_damaged_cannot_be_resumed(
    store: MemoryStore, acquire: Acquire, resume: Acquire, body: bytes | None
) -> None:
    acquire("first")
    if body is None:
        store.delete([KEY])
    else:
        store.put(KEY, body)
    with pytest.raises(LeaseLost):
        resume("first")


def test_a_lease_of_an_older_release_can_be_resumed(store: MemoryStore, resume: Acquire) -> None:
    store.put(KEY, b'{"owner": "first", "purpose": "backup_1", "expires_at": "2025-12-31T23:59:00+00:00"}')
    resume("first").renew()


def test_of_one_that_resumes_and_one_that_takes_at_the_same_moment_one_wins(clock: FakeClock) -> None:
    """Both have read the expired lease before either writes."""
    for _ in range(10):
        store = AllReadFirst(2)
        lease.acquire(store, PREFIX, "owner 0", "x", SECONDS, clock)
        clock.move(SECONDS + 10)
        store.together = True
        held: list[lease.Lease] = []

        def go(owner: str, store: MemoryStore = store, held: list[lease.Lease] = held) -> None:
            get = lease.resume if owner == "owner 0" else lease.acquire
            held.append(get(store, PREFIX, owner, "x", SECONDS, clock))

        won, lost = at_once(2, go)
        assert len(won) == 1
        assert {type(error) for error in lost} == {LeaseLost if won == ["owner 1"] else LeaseHeld}
        held[0].renew()


def test_a_resumption_whose_answer_was_lost_took_place(clock: FakeClock) -> None:
    store = LostAnswers()
    lease.acquire(store, PREFIX, "first", "backup_1", SECONDS, clock)
    clock.move(1)
    store.lose = True
    lease.resume(store, PREFIX, "first", "backup_1", SECONDS, clock).renew()


DAMAGED = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"{}",
    b'{"owner": "a", "purpose": "b"}',
    b'{"owner": "a", "purpose": "b", "expires_at": "soon"}',
    b'{"owner": "a", "purpose": "b", "expires_at": 7}',
    b'{"owner": null, "purpose": null, "expires_at": null}',
    b'{"owner": "a", "purpose": "b", "expires_at": "9999-12-31T23:59:59-23:59"}',
    b"\xff\x00",
]


@pytest.mark.parametrize("body", DAMAGED)
def test_a_damaged_lease_keeps_nobody_out_for_ever(
    store: MemoryStore, clock: FakeClock, acquire: Acquire, body: bytes
) -> None:
    """It reads as free; whoever held it finds that it is gone."""
    first = acquire("first")
    store.put(KEY, body)
    assert lease.running(store, PREFIX, clock) is None
    second = acquire("second")
    with pytest.raises(LeaseLost):
        first.renew()
    second.renew()


def test_an_expiry_without_a_time_zone_is_read_as_a_time(
    store: MemoryStore, clock: FakeClock, acquire: Acquire
) -> None:
    store.put(KEY, b'{"owner": "a", "purpose": "b", "expires_at": "2020-01-01T00:00:00"}')
    assert lease.running(store, PREFIX, clock) is None
    acquire("second")


class LostAnswers(MemoryStore):
    """Conditional writes take effect, but the answer does not arrive."""

    lose = False

    def create(self, key: str, data: bytes) -> str:
        return self._lost(super().create(key, data))

    def replace(self, key: str, data: bytes, expected: str) -> str:
        return self._lost(super().replace(key, data, expected))

    def _lost(self, answer: str) -> str:
        if self.lose:
            raise StoreUnavailable("Cannot put an object")
        return answer


def test_a_write_whose_answer_was_lost_took_place(clock: FakeClock) -> None:
    """It is not taken for another writer's, and the lease can be renewed and released."""
    store = LostAnswers()
    store.lose = True
    held = lease.acquire(store, PREFIX, "first", "backup_1", SECONDS, clock)
    clock.move(1)
    held.renew()
    held.release()
    lease.acquire(store, PREFIX, "second", "backup_1", SECONDS, clock)


def pass_time(store: MemoryStore, prefix: str, clock: FakeClock) -> None:
    """More than a third of a lease's time; until its keeper has pushed its end on."""
    before = store.get(f"{prefix}lease.json", MOST_BYTES)
    clock.move(SECONDS / 2)
    until(lambda: store.get(f"{prefix}lease.json", MOST_BYTES) != before)


def test_a_keeper_renews_while_work_is_done(store: MemoryStore, clock: FakeClock) -> None:
    """A table that takes longer than the lease does not lose it."""
    held = lease.acquire(store, PREFIX, "first", "backup_1", SECONDS, clock)
    with lease.LeaseKeeper(lambda: [held], 0.01):
        for _ in range(4):
            pass_time(store, PREFIX, clock)
            assert lease.running(store, PREFIX, clock) is not None
    held.renew()


def test_a_keeper_lives_on_when_a_lease_is_lost(store: MemoryStore, clock: FakeClock) -> None:
    """One tenant's lost lease must not end the renewals of the others."""
    lost = lease.acquire(store, "a/", "first", "x", SECONDS, clock)
    kept = lease.acquire(store, "b/", "first", "x", SECONDS, clock)
    store.put("a/lease.json", b"{}")
    with lease.LeaseKeeper(lambda: [lost, kept], 0.01):
        for _ in range(4):
            pass_time(store, "b/", clock)
            assert lease.running(store, "b/", clock) is not None
    with pytest.raises(LeaseLost):
        lost.renew()


def test_owners_are_unique() -> None:
    assert len({lease.new_owner("backup") for _ in range(100)}) == 100


@pytest.mark.parametrize("begin", [lease.acquire, lease.resume])
def test_time_counts_from_before_the_write(
    store: MemoryStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, begin: Callable[..., lease.Lease]
) -> None:
    """An answer that comes late does not make the lease longer: another may have taken it before a third of that is over."""
    if begin is lease.resume:
        lease.acquire(store, PREFIX, "a", "backup_1", SECONDS, clock)
    for name in ("create", "replace"):
        real = getattr(MemoryStore, name)
        monkeypatch.setattr(
            MemoryStore, name, lambda self, *what, real=real: (real(self, *what), clock.move(SECONDS * 0.9))[0]
        )
    held = begin(store, PREFIX, "a", "backup_1", SECONDS, clock)
    etag = store.get_with_etag(KEY, MOST_BYTES)[1]
    assert not held.is_proved(etag)
    held.renew()
    assert not held.is_proved(store.get_with_etag(KEY, MOST_BYTES)[1])


_HOLDS = """
import sys, time
from pathlib import Path
from sbh_pipelines.model import utc_now
from sbh_pipelines.repository import lease
from sbh_pipelines.stores.local import open_local
held = lease.acquire(
    open_local(Path(sys.argv[1])), "files/acme/backups/", "killed", "backup_1", 600.0, utc_now, in_one_process=sys.argv[2] == "whole"
)
print("held", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(("work", "free"), [("whole", True), ("step", False)])
def test_a_lease_of_a_process_that_is_dead_here(tmp_path: Path, work: str, free: bool) -> None:
    """A backup that one process does from beginning to end is nobody's any more; the next step of another may come yet."""
    store = open_local(tmp_path / "bucket")
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDS, str(tmp_path / "bucket"), work], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(LeaseHeld):
            lease.acquire(store, PREFIX, "next", "backup_2", SECONDS, utc_now, orphans=True)
        assert lease.running(store, PREFIX, utc_now) is not None
        process.kill()  # and it is a zombie until the block ends
        if free:
            until(lambda: (found := lease.running(store, PREFIX, utc_now)) is not None and found.is_orphan)
            with pytest.raises(LeaseHeld):  # a prune, say
                lease.acquire(store, PREFIX, "next", "prune", SECONDS, utc_now)
            taken = lease.acquire(store, PREFIX, "next", "backup_2", SECONDS, utc_now, orphans=True)
            assert (taken.last_purpose, taken.of_orphan) == ("backup_1", True)
            taken.release()
            assert not lease.acquire(store, PREFIX, "third", "backup_3", SECONDS, utc_now, orphans=True).of_orphan
            return
    with pytest.raises(LeaseHeld):
        lease.acquire(store, PREFIX, "next", "backup_2", SECONDS, utc_now, orphans=True)


def test_a_process_of_elsewhere_is_not_known_to_be_dead(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another boot, another namespace of ids, an id that was given to another process, or nothing that can be read."""
    lease.acquire(store, PREFIX, "mine", "backup_1", SECONDS, utc_now, in_one_process=True)
    document = json.loads(store.get(KEY, MOST_BYTES))
    boot, ids, times, pid, started = document["process"].split(" ")
    for process, dead in (
        (document["process"], False),
        (f"{'0' * 36} {ids} {times} 999999999 1", False),
        (f"{boot} pid:[1] {times} 999999999 1", False),
        (f"{boot} {ids} time:[1] 999999999 1", False),
        (f"{boot} {ids} {times} {pid} {int(started) + 1}", True),
        (f"{boot} {ids} {times} 999999999 1", True),
        (f"{boot} {ids} {times} ../1 1", False),
        (f"{boot} {ids} {times} 0 1", False),
        (f"{boot} {ids} {times} {'9' * 30} 1", False),
        (f"{boot} {ids} 999999999 1", False),
        ("x", False),
    ):
        store.put(KEY, json.dumps({**document, "process": process}).encode())
        found = lease.read(store, PREFIX)
        assert found is not None
        assert found[0].is_orphan is dead, process
        assert lease.running(store, PREFIX, utc_now) is not None
    monkeypatch.setattr(lease, "_state", lambda _: ("", ""))  # /proc hides it: that it lives is known all the same
    store.put(KEY, json.dumps(document).encode())
    found = lease.read(store, PREFIX)
    assert found is not None
    assert not found[0].is_orphan
