"""Object lock on what a copy holds, object by object: nobody deletes a locked version before its time, whoever asks.

Locked are packs, index objects, component documents and manifests of repositories, and events of audit trails, the platform's too.
Never locked are

* `keys/`: a wrapped key that cannot be deleted would make an erasure impossible. So a bucket with a default period is refused;
* the lease, the listing, `copy.json`, holds: they are replaced, or deleted when they are over;
* the catalog and the journal: compaction replaces their objects.

The mode is COMPLIANCE: no right lifts such a lock, and none shortens it. It comes with the put, and lasts `lock_days`; what kept
backups need is locked anew when half of that is over (`retention.py`), so that what disappears from the listings by a delete
marker stays for at least half of it. Events are
not: the next event says what went before it. Times are the store's: a copy is not begun where this machine's clock is another.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sbh_pipelines.backup.copies.copier.kinds import Kind, repository_kind
from sbh_pipelines.backup.copies.place import CopyPlace
from sbh_pipelines.concurrency import streamed
from sbh_pipelines.errors import CopyError
from sbh_pipelines.model import Clock, timestamp
from sbh_pipelines.placement import catalog_place
from sbh_pipelines.stores.object_lock import LockedBucket, LockMode, lock_attributes
from sbh_pipelines.stores.open_store import open_control, open_locked
from sbh_pipelines.stores.s3_client import url_of

MODE: LockMode = "compliance"
_LOCKED = frozenset({Kind.PACK, Kind.INDEX, Kind.DOCUMENT, Kind.EVENT, Kind.MANIFEST})
_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Locks:
    """The locks of one copy in one bucket. Thread-safe.

    Attributes:
        period: How long an object is locked from its put or its last renewal on.
        bucket: Where they are set.
        clock: Tells from when on; it was compared with the store's.
    """

    period: timedelta
    bucket: LockedBucket
    clock: Clock

    @staticmethod
    def wants(name: str) -> bool:
        """Whether an object is locked; `name` is its key below the prefix of a repository."""
        return repository_kind(name) in _LOCKED

    def attributes(self) -> Mapping[str, str]:
        """What `put_stream` is given besides, so that the object is locked from its put on."""
        return lock_attributes(MODE, self.clock() + self.period)

    def lock(self, key: str) -> bool:
        """Lock the object that is there, where its put could not. False where there is none.

        Raises StoreDenied, StoreUnavailable.
        """
        return self.bucket.extend(key, self.clock() + self.period)

    def extend(self, keys: Iterable[str], until: datetime) -> int:
        """Lock these objects until then, but for those that are locked for longer; how many are there.

        `keys` may be any number. A lock is never made shorter. Raises StoreDenied, StoreUnavailable.
        """
        done = streamed(lambda key: self.bucket.extend(key, until), keys, name="locks", threads=_AT_ONCE, ahead=64)
        return sum(done)


def open_locks(place: CopyPlace, region: str) -> Locks | None:
    """The locks of the copy of a region's backups; None where `lock_days` is not set.

    Asks the bucket. Raises CopyError where it has no object lock, where it locks all objects by default, and where this machine's
    clock is not the store's.
    """
    days = place.settings.lock_days
    if days is None:
        return None
    settings = place.target.settings
    at = catalog_place(settings, region)
    control = open_control(settings.storage, region)
    found = control.object_lock(at.bucket)
    if not found:
        raise _refused(at.bucket, "it has no object lock", "make the bucket with object lock, or leave lock_days empty")
    if found != "no default period":
        raise _refused(
            at.bucket,
            f"it locks every object by default ({found}), keys as well: no tenant could be erased",
            "remove the default period from the bucket; its object lock stays",
        )
    time, ours = control.check_bucket(at.bucket), place.target.clock()
    off = (datetime.now(UTC) - ours).total_seconds() + time.offset_s
    allowed = settings.prune.max_clock_skew_s
    if abs(off) - time.error_s > allowed:
        raise _refused(
            at.bucket,
            f"it is {timestamp(ours)} here, which is {off:+.0f} s from the store's time, and {allowed:.0f} s are allowed",
            "correct the clock of this machine, or of the store",
        )
    return Locks(timedelta(days=days), open_locked(settings.storage, at, MODE), place.target.clock)


def _refused(bucket: str, why: str, remedy: str) -> CopyError:
    return CopyError("The copy cannot be put under object lock", on=url_of(bucket), why=why, remedy=remedy)
