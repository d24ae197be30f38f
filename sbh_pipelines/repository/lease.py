"""The lease that keeps two writers of one tenant apart.

One object, `lease.json`, changed only by create-only and compare-and-swap puts: the writer whose put succeeds holds it until it
expires, renews or releases it. Releasing writes a released lease and deletes nothing, so a writer needs no delete right.
An expired lease is free: its holder was killed. So is a damaged one: its holder finds the object changed. A holder
that finds its lease taken stops before it commits anything.

The object always names its last holder, and a name is never used for two pieces of work. So a process that goes on
with work that another one began (`resume`) can tell from the name alone that the lease was not held by others in between:
what was read under it, such as which chunks are stored, still holds. Otherwise a prune may have run, and the lease is lost
for good, also where it is free again.

What a released lease says depends on nothing but its last holder and what that did. So whoever knows the two knows the ETag of the
object, where the store makes it of the bytes, and takes the lease with one conditional write: if that succeeds, what was there
was the released lease. Of a store that does not look at the condition this would take the lease from whoever holds it, so it is for
those that are known to refuse such a write (`is_guarded`).

Work that one process does from its beginning to its end may say so: the object then names the process. Who only adds to the
repository, a backup or a restore, may take the lease of a process that is dead on the same machine before its time. Who deletes
waits for that, whatever is known: of machines that were resumed from one image, each takes the other's processes for its own. A
process is named by the machine's boot, its namespaces of process ids and of times, its id and when it started.
"""

import hashlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sbh_pipelines.errors import (
    CorruptObject,
    LeaseHeld,
    LeaseLost,
    ObjectChanged,
    ObjectExists,
    ObjectMissing,
    SbhError,
    StoreError,
)
from sbh_pipelines.model import Clock, parse_timestamp
from sbh_pipelines.repository.bounds import most_bytes
from sbh_pipelines.repository.format import Keys, parse_document
from sbh_pipelines.stores.base import ObjectStore

# Clocks of two machines may differ by this much; an expired lease is taken only after it.
CLOCK_MARGIN = timedelta(seconds=2)
_BYTES = most_bytes(Keys.LEASE)
LONGEST = timedelta(days=1)  # the longest lease that can be set
_LAST_WORDS_S = 1.0  # what a process had sent when it was killed has arrived by then
_NO_OBJECTS = f'"{"0" * 32}"'  # an ETag
ERASE = "erase"  # the purpose of an erasure's lease


@dataclass(frozen=True, slots=True)
class LeaseDocument:
    """What the lease object says.

    Attributes:
        owner: Its last holder; a name is never used for two pieces of work. Empty where the object is damaged.
        purpose: What the holder does, e.g. the id of a backup.
        expires_at: When it is free again, UTC, ISO 8601.
        process: The process that does all of the work; empty where others may go on with it, or it cannot be named.
    """

    owner: str
    purpose: str
    expires_at: str
    process: str = ""

    @property
    def expires(self) -> datetime:
        return parse_timestamp(self.expires_at)

    @property
    def is_orphan(self) -> bool:
        """Whether its holder was a process of this machine that is dead."""
        return _is_dead(self.process)


_RELEASED_AT = "2000-01-01T00:00:00+00:00"  # of every released lease: the object is known before it is written
_DAMAGED = LeaseDocument("", "", _RELEASED_AT)


@dataclass(frozen=True, slots=True)
class ReleasedLease:
    """What the lease's object will be, or is, once it is released.

    Attributes:
        purpose: What it was held for last.
        etag: Of the object.
    """

    purpose: str
    etag: str


class Lease:
    """A held lease. Made by `acquire` or, by the next step of the same work, `resume`."""

    def __init__(
        self,
        store: ObjectStore,
        key: str,
        owner: str,
        purpose: str,
        seconds: float,
        clock: Clock,
        etag: str,
        begun: datetime,
        process: str = "",
    ) -> None:
        """`begun`: from when on its time counts, which is before it was written."""
        self._process = process
        self.key = key
        self._store, self._seconds, self._clock = store, seconds, clock
        self._is_digest = _is_digest(etag, _document(owner, purpose, begun + timedelta(seconds=seconds), process))
        self.owner, self.purpose = owner, purpose
        self.last_purpose = ""  # of its holder before
        self.first = False  # whether there was no holder before
        self.of_orphan = False  # whether it was taken, before its time, from a process that was found dead
        self._etag = etag
        self._lock = threading.Lock()
        self._renewed = begun
        self._over = False  # released, or about to be: from then on nothing is written

    @property
    def names_process(self) -> bool:
        """Whether another writer may take it before its time, if this process seems dead to it."""
        return bool(self._process)

    def renew(self) -> None:
        """Push the expiry on. Raises LeaseLost when another writer took the lease after it had expired, or it was released."""
        with self._lock:
            if self._over:
                raise _lost(self._store.url(self.key), "it was released")
            self._renew()

    def _renew(self) -> None:
        begun = self._clock()
        self._put(_document(self.owner, self.purpose, begun + timedelta(seconds=self._seconds), self._process))
        self._renewed = begun  # not when the answer came, which may have been long after

    def rename(self, purpose: str) -> None:
        """Say that it is held for something else. Raises LeaseLost."""
        self.purpose = purpose
        self.renew()

    def renew_if_due(self) -> None:
        """Renew once a third of the time is gone: cheap to call often. Nothing once it was released: a keeper may know it still."""
        with self._lock:
            if not self._over and self._is_due():
                self._renew()

    def _is_due(self) -> bool:
        return self._clock() - self._renewed > timedelta(seconds=self._seconds / 3)

    def is_proved(self, etag: str | None) -> bool:
        """Whether an ETag that was listed a moment ago proves that it is held still.

        The object was as it was written here, so nobody had taken it; and no third of its time is gone, so nobody may have since,
        unless clocks differ by more than the rest.
        """
        with self._lock:
            return etag == self._etag and not self._over and not self._is_due()

    def is_guarded(self) -> bool:
        """Whether the store refuses writes whose condition does not hold: tried with two that would change nothing.

        Raises LeaseLost where it was released, and the store's errors.
        """
        with self._lock:
            if self._over:
                raise _lost(self._store.url(self.key), "it was released")
            expires = self._renewed + timedelta(seconds=self._seconds)
            body = _document(self.owner, self.purpose, expires, self._process)
            with suppress(ObjectChanged):
                self._etag = self._store.replace(self.key, body, _NO_OBJECTS)
                return False
            with suppress(ObjectExists):
                self._etag = self._store.create(self.key, body)
                return False
            return True

    def release(self) -> None:
        """Let others have it. Where that fails it expires by itself. Raises LeaseLost, and the store's errors."""
        with self._lock:
            self._over = True
            self._put(_released(self.owner, self.purpose))

    @property
    def released(self) -> ReleasedLease | None:
        """What its object will be after `release`; None where the store makes its ETags of anything but the bytes."""
        if not self._is_digest:
            return None
        digest = hashlib.md5(_released(self.owner, self.purpose), usedforsecurity=False).hexdigest()
        quote = '"' if self._etag.startswith('"') else ""
        return ReleasedLease(self.purpose, f"{quote}{digest}{quote}")

    def _put(self, document: bytes) -> None:
        try:
            self._etag = _written(
                self._store, self.key, document, lambda: self._store.replace(self.key, document, self._etag)
            )
        except (ObjectChanged, ObjectMissing):
            raise _lost(self._store.url(self.key), "it expired and another writer took it") from None


def acquire(
    store: ObjectStore,
    prefix: str,
    owner: str,
    purpose: str,
    seconds: float,
    clock: Clock,
    admit: Callable[[], None] = lambda: None,
    look: Callable[[], None] = lambda: None,
    in_one_process: bool = False,
    orphans: bool = False,
    released: ReleasedLease | None = None,
) -> Lease:
    """Take the tenant's lease for `seconds`. Raises LeaseHeld while another owner's is running.

    `released`: how its last holder is known to have left it, from a place that nobody can forge. If it still is so, nothing is
    read: an object with this ETag is a released lease. Only for a store that refuses a write whose condition does not hold.

    `in_one_process`: this process does all of the work, so that the lease need not outlive it. `orphans`: whether the lease of a
    dead process of this machine is taken before it expires: only for work that deletes nothing of the repository.

    `admit` is asked where it was never held, so that a repository is about to be begun, and where an erasure held it last:
    it raises for an erased tenant. `look` is called once the lease was found to be free and before it is taken, and may raise. What
    it reads counts as read under the lease: whoever held it in between has changed the object, and then it is not taken.
    """
    key, process = prefix + Keys.LEASE, _this_process() if in_one_process else ""

    def written(write: Callable[[bytes], str]) -> Lease:
        begun = clock()
        document = _document(owner, purpose, begun + timedelta(seconds=seconds), process)
        etag = _written(store, key, document, lambda: write(document))
        return Lease(store, key, owner, purpose, seconds, clock, etag, begun, process)

    if released is not None:
        look()
        try:
            taken = written(lambda document: store.replace(key, document, released.etag))
            taken.last_purpose = released.purpose
            return taken
        except (ObjectChanged, ObjectMissing):
            pass  # somebody held it since
    try:
        found = read(store, prefix)
        if found is None:
            look()
            admit()  # last: an erasure leaves its tombstone before it looks for a lease
            taken = written(lambda document: store.create(key, document))
            taken.first = True
            return taken
        held, before = found
        if _is_longer_than_any(held, clock):
            held = _DAMAGED
        of_orphan = held.owner != owner and held.expires + CLOCK_MARGIN > clock()
        if of_orphan:
            if not (orphans and held.is_orphan):
                raise _held(store.url(key), held)
            time.sleep(_LAST_WORDS_S)
        look()
        if held.purpose == ERASE:
            admit()
        taken = written(lambda document: store.replace(key, document, before))
        taken.last_purpose, taken.of_orphan = held.purpose, of_orphan
        return taken
    except (ObjectExists, ObjectChanged):
        raise _held(store.url(key), LeaseDocument("another writer, just now", "", "")) from None


def acquire_within(
    wait_s: float,
    store: ObjectStore,
    prefix: str,
    owner: str,
    purpose: str,
    seconds: float,
    clock: Clock,
    *,
    orphans: bool = False,
) -> Lease:
    """Take the lease as `acquire` does, waiting for up to `wait_s` seconds while another owner's is running. Raises LeaseHeld."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return acquire(store, prefix, owner, purpose, seconds, clock, orphans=orphans)
        except LeaseHeld:
            if time.monotonic() >= deadline:
                raise
            time.sleep(min(1.0, max(0.05, wait_s / 20)))


def resume(store: ObjectStore, prefix: str, owner: str, purpose: str, seconds: float, clock: Clock) -> Lease:
    """The lease that this owner took before and no other has held since, expired or not, for `seconds` more.

    Raises LeaseLost when another owner took it, whether it still holds it or not.
    """
    key = prefix + Keys.LEASE
    found = read(store, prefix)
    if found is None or found[0].owner != owner:
        by = f"{found[0].purpose or 'it'} by {found[0].owner}" if found and found[0].owner else ""
        raise _lost(store.url(key), f"it expired and another writer took it: {by}" if by else "its object is gone")
    begun = clock()
    document = _document(owner, purpose, begun + timedelta(seconds=seconds))
    try:
        etag = _written(store, key, document, lambda: store.replace(key, document, found[1]))
    except (ObjectChanged, ObjectMissing):
        raise _lost(store.url(key), "another writer took it just now") from None
    return Lease(store, key, owner, purpose, seconds, clock, etag, begun)


def _written(store: ObjectStore, key: str, document: bytes, write: Callable[[], str]) -> str:
    """The ETag of a conditional write, also of one that took effect although it was reported as failed.

    An answer that was lost on its way makes the retry of the same write fail by its own condition.
    """
    try:
        return write()
    except StoreError:
        try:
            data, etag = store.get_with_etag(key, _BYTES)
        except SbhError:
            data = b""
        if data != document:
            raise
        return etag


def read(store: ObjectStore, prefix: str) -> tuple[LeaseDocument, str] | None:
    """The lease object and its ETag, or None where none was ever taken. A damaged one reads as expired."""
    try:
        data, etag = store.get_with_etag(prefix + Keys.LEASE, _BYTES)
    except ObjectMissing:
        return None
    try:
        document = parse_document(data, store.url(prefix + Keys.LEASE))
        expires_at = parse_timestamp(str(document["expires_at"])).astimezone(UTC).isoformat()
        process = str(document.get("process", ""))
        return LeaseDocument(str(document["owner"]), str(document["purpose"]), expires_at, process), etag
    except (CorruptObject, KeyError, ValueError, OverflowError):
        return _DAMAGED, etag


def _is_longer_than_any(lease: LeaseDocument, clock: Clock) -> bool:
    """Whether no writer of ours has written it: it would keep everybody from the tenant for years."""
    return lease.expires > clock() + LONGEST + timedelta(hours=1)  # clocks differ


def running(store: ObjectStore, prefix: str, clock: Clock) -> LeaseDocument | None:
    """The lease, if one is held right now; also that of a process that is dead, see `LeaseDocument.is_orphan`."""
    found = read(store, prefix)
    if found and found[0].expires > clock() and not _is_longer_than_any(found[0], clock):
        return found[0]
    return None


def new_owner(purpose: str) -> str:
    """A unique owner that tells an operator where to look."""
    return f"{socket.gethostname()}:{os.getpid()}:{purpose}:{os.urandom(6).hex()}"


def _document(owner: str, purpose: str, expires: datetime, process: str = "") -> bytes:
    fields = {"owner": owner, "purpose": purpose, "expires_at": expires.isoformat()}
    return json.dumps({**fields, **({"process": process} if process else {})}).encode()


def _released(owner: str, purpose: str) -> bytes:
    return _document(owner, purpose, parse_timestamp(_RELEASED_AT))


def _is_digest(etag: str, body: bytes) -> bool:
    return etag.strip('"') == hashlib.md5(body, usedforsecurity=False).hexdigest()


def _this_process() -> str:
    """This process among all that this and other machines run; empty where the system does not tell."""
    state, started = _state(os.getpid())
    return _named(os.getpid(), started) if state else ""


def _named(pid: int, started: str) -> str:
    """Empty where /proc is of other processes than the ids that this one has, as in a namespace without a /proc of its own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        ids, times = (os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "time"))
        own = os.readlink("/proc/self")
    except (OSError, ValueError):
        return ""
    return f"{boot} {ids} {times} {pid} {started}" if own == str(os.getpid()) else ""


def _state(pid: int) -> tuple[str, str]:
    """What the system says of a process: its state, and when it started in ticks since the boot; empty where it does not say."""
    try:
        # After the program's name, which may hold anything: the state, and nineteen fields later the time.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return fields[0].decode("ascii"), fields[19].decode("ascii")
    except (OSError, ValueError, IndexError):
        return "", ""


def _is_dead(process: str) -> bool:
    """Whether it is one of this machine, and of the same namespaces, that surely does not live any more."""
    parts = process.split(" ")
    if len(parts) != 5 or not re.fullmatch(r"[1-9][0-9]{0,9}", parts[3]):
        return False
    pid, started = int(parts[3]), parts[4]
    if _named(pid, started) != process:
        return False
    try:
        os.kill(pid, 0)  # asks only; where /proc hides other users' processes this still tells
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # it lives, and is another user's; or nobody can tell
        pass
    state, since = _state(pid)
    return bool(state) and (state in "ZX" or since != started)


def _held(on: str, held: LeaseDocument) -> LeaseHeld:
    return LeaseHeld(
        "Another writer works on this tenant",
        on=on,
        why=f"{held.purpose or 'it'} by {held.owner}, until {held.expires_at or 'it ends'}",
        remedy="wait for it to end; a killed writer's lease expires by itself",
    )


def _lost(on: str, why: str) -> LeaseLost:
    return LeaseLost(
        "The lease on the tenant was lost",
        on=on,
        why=why,
        remedy="run again; raise backup.lease_s if steps, or the time between them, take longer than it",
    )


class LeaseKeeper:
    """Renews leases from a thread while a step works, so that a long table does not outlive its lease."""

    def __init__(self, leases: Callable[[], list[Lease]], every_s: float) -> None:
        self._leases, self._every_s = leases, every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease-keeper", daemon=True)

    def __enter__(self) -> "LeaseKeeper":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            for lease in self._leases():
                try:
                    lease.renew_if_due()
                except Exception:  # noqa: S112  # nosec B112  # the step itself renews before it commits, and raises there
                    continue


@contextmanager
def kept(held: Lease, seconds: float) -> Iterator[Lease]:
    """Renews a lease of `seconds` until the end of the block, and then releases it."""
    try:
        with LeaseKeeper(lambda: [held], seconds / 6):
            yield held
    finally:
        with suppress(SbhError):  # it expires by itself; what was done under it stands
            held.release()
