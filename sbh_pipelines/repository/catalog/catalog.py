"""The catalog of a region: which backup describes each tenant, at which recovery point, and what the next tick compares with.

A small set of sealed objects that are only ever added (`record`) or merged (`compact`). It is a cache, plus the record of
the ticks that found a tenant unchanged and wrote no backup: deleting all of it costs time and those records, nothing
else. It refuses to believe anything that its own key did not seal under that very name.
"""

import re
import secrets
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC

from sbh_pipelines.concurrency import streamed
from sbh_pipelines.errors import (
    CorruptObject,
    FormatUnsupported,
    KeyServiceError,
    ObjectExists,
    ObjectMissing,
    RepositoryError,
    SbhError,
)
from sbh_pipelines.model import BackupId, Clock, RecoveryPoint, TenantId, utc_now
from sbh_pipelines.repository.bounds import MOST_RECORDS, RECORDS_BYTES, all_below, too_many
from sbh_pipelines.repository.catalog.erased import erased_slug, is_erased
from sbh_pipelines.repository.catalog.moves import MOVES, MoveMarks
from sbh_pipelines.repository.catalog.owners import OwnerKey
from sbh_pipelines.repository.catalog.records import (
    Block,
    MergedRecords,
    TenantRecord,
    blocks_of,
    pack_blocks,
    unpack_blocks,
)
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.repository.keys.data_key import EPOCH, create_data_key, read_data_key
from sbh_pipelines.repository.keys.epoch_marks import FOLDER as EPOCHS
from sbh_pipelines.repository.keys.epoch_marks import MOST_LISTED, MarkList
from sbh_pipelines.repository.repository import Damage
from sbh_pipelines.repository.seal import CATALOG, Sealer, derive
from sbh_pipelines.repository.trail.event import AuditKey
from sbh_pipelines.security.keys import KeyProvider
from sbh_pipelines.stores.base import ObjectInfo, ObjectStore

OWNER = "_catalog"  # stands where a tenant's slug does, in key objects and in seals; no slug begins so
RECORDS = "records/"
_NAME = re.compile(r"\d{8}T\d{12}Z-[0-9a-f]{16}")
_AHEAD = 9  # objects asked for and not yet merged
_LISTINGS = 5  # how often to list anew when a compaction takes away what was listed
_DISCARD = "delete the object; the tenants it spoke of are then compared with their own repositories"
_DISCARD_ALL = (
    "put the key object back from the bucket's older version, or delete `keys/` and `records/` below the catalog's prefix,"
    " and nothing else there"
)


@dataclass(frozen=True, slots=True)
class Compaction:
    """Objects merged away, and objects written in their place."""

    merged: int
    written: int


@dataclass(frozen=True, slots=True)
class _Secrets:
    sealer: Sealer
    hash_seed: int = field(repr=False)
    seed_id: str
    audit_key: AuditKey
    certificate_key: bytes = field(repr=False)
    mark_key: bytes = field(repr=False)
    owner_key: OwnerKey


class _Vanished(Exception):
    """An object that was listed is gone: another process merged it."""


class Catalog:
    """Use `open_catalog`. Thread-safe. `damages`: what the last `read` or `compact` did not believe; show them."""

    def __init__(
        self, store: ObjectStore, prefix: str, region: str, keys: KeyProvider, clock: Clock, *, create: bool = True
    ) -> None:
        self.store, self.prefix, self.region = store, prefix, region
        self._create = create
        self.damages: list[Damage] = []
        self._keys, self._clock = keys, clock
        self._lock = threading.Lock()
        self._opened: _Secrets | None = None
        self._key_seen: str | None = None  # the key object's ETag in the last listing
        self._reading = threading.Lock()
        self._merged, self._names = MergedRecords(), set[str]()  # what was read so far: objects never change
        self._erased: set[str] = set()  # tenants of whom nothing may be said any more
        self.epoch_marks, self.moves_listed = MarkList(), MarkList()  # what the last listing showed of them
        self.moves = MoveMarks()

    @property
    def hash_seed(self) -> int:
        """Signed 64 bits, secret: what hashes of keys are seeded with, so that they say nothing about the keys.

        Only writers ask for it: where the catalog has no key yet, one is made.
        """
        return self._secrets().hash_seed

    @property
    def seed_id(self) -> str:
        """8 hex digits that tell one seed from another and reveal neither: hashes of different seeds do not compare."""
        return self._secrets().seed_id

    @property
    def audit_key(self) -> AuditKey:
        """What signs the audit trails of the region; where the catalog has no key yet, one is made."""
        return self._secrets().audit_key

    @property
    def certificate_key(self) -> bytes:
        """32 bytes, secret: the seed of the Ed25519 key that signs certificates of erasure in this region."""
        return self._secrets().certificate_key

    @property
    def sealer(self) -> Sealer:
        """What seals the directories of the journal, and what lies beside them; where the catalog has no key yet, one is made."""
        return self._secrets().sealer

    @property
    def mark_key(self) -> bytes:
        """32 bytes, secret: what signs marks beside the catalog."""
        return self._secrets().mark_key

    @property
    def owner_key(self) -> OwnerKey:
        """What makes the tags of repositories' owners; where the catalog has no key yet, one is made."""
        return self._secrets().owner_key

    def known_owner_key(self) -> OwnerKey | None:
        """The same; None where the catalog has no key, or none that opens. Raises the key provider's transient errors."""
        opened = self._open_for_reading(False, [])
        return None if opened is None else opened.owner_key

    @property
    def has_key(self) -> bool:
        """Whether the catalog has a key already; none is made."""
        try:
            with self._lock:
                if self._opened is None:
                    self._opened = _derived(read_data_key(self.store, self.prefix, OWNER, self.region, self._keys))
        except ObjectMissing:
            return False
        return True

    def read(self, only: Collection[TenantId] | None = None, *, brief: bool = False) -> dict[TenantId, TenantRecord]:
        """The latest record of each tenant, or of each of `only`. Writes nothing.

        `brief`: of a state no more than whose it is, which is little memory for very many.

        A record's backup may have been forgotten since: a caller that relies on it looks whether its manifest is there. What
        cannot be believed is in `damages`, and its tenants may be missing. Raises the store's errors, and the key
        provider's transient ones.
        """
        with self._reading:
            self._catch_up()
            return self._merged.records(only, brief=brief)

    @property
    def erased(self) -> frozenset[str]:
        """The tenants of which a mark says that they were erased, as of the last `read`; `is_erased` knows whether it is true."""
        with self._reading:
            return frozenset(self._erased)

    def record(
        self,
        made: Iterable[TenantRecord],
        unchanged: Mapping[TenantId, BackupId] | None = None,
        point: RecoveryPoint | None = None,
    ) -> int:
        """Add backups just made, and the tenants found unchanged at `point` with the backup that describes each.

        The number of objects written, each by one create-only put: 1, unless there is very much (or nothing) to say.
        The unchanged inherit the state that is known of their backup.
        """
        return self._write(blocks_of(made, unchanged or {}, point))

    def compact(self, *, always: bool = False, stays: Collection[str] = ()) -> Compaction:
        """MergedRecords all objects into as few as possible; needs the right to delete. `always`: also where that saves nothing, so
        that what is no longer to be said goes. `stays`: keys, below the prefix, that are neither counted nor deleted: of a copy,
        what its source has, and would send again.

        Safe at any moment: the merged objects are written before those that were read are deleted, and no others are.
        What a kill leaves twice merges to the same. Objects in `damages` stay.
        """
        with self._reading:
            self._catch_up()
            merge, names = self._merged, sorted(name for name in self._names if RECORDS + name not in stays)
            enough = len(names) < 2 or sum(1 for _ in pack_blocks(merge.blocks(), self.region)) >= len(names)
            if not names or (enough and not always):
                return Compaction(0, 0)
            written = self._write(merge.blocks())
            self.store.delete([self._key(name) for name in names])
            return Compaction(len(names), written)

    def _write(self, blocks: Iterable[Block]) -> int:
        written = 0
        for plain in pack_blocks(blocks, self.region):
            stamp = self._clock().astimezone(UTC).strftime("%Y%m%dT%H%M%S%fZ")
            name = f"{stamp}-{secrets.token_hex(8)}"
            sealed = self._secrets().sealer.seal(plain, self._bound(name), CATALOG)
            try:
                self.store.create(self._key(name), sealed)
            except (
                ObjectExists
            ):  # no other writer uses this name: the answer to our own put was lost, and it was repeated
                if self.store.get(self._key(name), RECORDS_BYTES) != sealed:
                    raise
            written += 1
        return written

    def _catch_up(self) -> None:
        """Read the objects that this process has not read yet; all of them, where some that it has read are gone."""
        for attempt in range(1, _LISTINGS + 1):
            damages = list[Damage]()
            names = self._listed(damages)
            opened = self._open_for_reading(bool(names), damages)
            if opened is None or not self._names.issubset(names):
                self._merged, self._names = MergedRecords(), set()
            try:
                if opened is not None:
                    new = [name for name in names if name not in self._names]
                    self._read_all(opened.sealer, new, damages, believe_listing=attempt == _LISTINGS)
            except _Vanished:
                continue
            told = {slug for slug in self._erased if self._merged.knows(slug)}  # none, unless a mark is forged or new
            self._merged.drop({slug for slug in told if is_erased(self, slug, lambda: True)})
            self.damages = damages
            return

    def _read_all(self, sealer: Sealer, names: list[str], damages: list[Damage], *, believe_listing: bool) -> None:
        def read(name: str) -> list[Block] | RepositoryError | ObjectMissing:
            try:
                return self._read_object(sealer, name)
            except (RepositoryError, ObjectMissing) as error:
                return error

        for name, found in zip(names, streamed(read, names, name="catalog", ahead=_AHEAD), strict=True):
            if isinstance(found, list):
                self._merged.add(found)
                self._names.add(name)
            elif isinstance(found, ObjectMissing) and not believe_listing:
                raise _Vanished
            else:
                damages.append(self._damage(RECORDS + name, found))

    def _listed(self, damages: list[Damage]) -> list[str]:
        """Names of objects, oldest first; whatever else is among them goes to the damages."""
        found, key, marks, moves, begun = [], None, list[str](), list[str](), time.monotonic()
        self._erased = set()
        for info in all_below(self.store, self.prefix):
            below = info.key[len(self.prefix) :]
            if below.startswith(EPOCHS) and len(marks) <= MOST_LISTED:
                marks.append(below)
            if below.startswith(MOVES) and len(moves) <= MOST_LISTED:
                moves.append(below)
            if below == Keys.data_key(EPOCH):
                key = info.etag
            elif (erased := erased_slug(below)) is not None:
                self._erased.add(erased)
            if not below.startswith(RECORDS):
                continue
            name = below.removeprefix(RECORDS)
            if why := _not_ours(name, info):
                damages.append(self._damage(below, CorruptObject("Not a catalog object", why=why)))
            else:
                found.append(name)
        self.epoch_marks.take(begun, marks)
        self.moves_listed.take(begun, moves)
        self._check_key(key)
        found.sort()
        if (
            len(found) > MOST_RECORDS
        ):  # the catalog is a cache: what is left out costs a look into the tenants' own repositories
            error = too_many(self.store.url(self.prefix + RECORDS), MOST_RECORDS)
            damages.append(Damage(RECORDS, error))
            del found[:-MOST_RECORDS]
        return found

    def _check_key(self, etag: str | None) -> None:
        """A process that lives long must not go on with a key that was deleted: no other process could read its records."""
        with self._lock:
            if etag is None or self._key_seen not in (None, etag):
                self._opened = None
                self._merged, self._names = MergedRecords(), set()
            self._key_seen = etag

    def _read_object(self, sealer: Sealer, name: str) -> list[Block]:
        place = self.store.url(self._key(name))
        plain = sealer.open(self.store.get(self._key(name), RECORDS_BYTES), self._bound(name), CATALOG, on=place)
        return unpack_blocks(plain, self.region, place)

    def _damage(self, key: str, error: SbhError) -> Damage:
        remedy = "read it with a newer release" if isinstance(error, FormatUnsupported) else _DISCARD
        told = type(error)(error.what, on=self.store.url(self.prefix + key), why=error.why, remedy=remedy)
        return Damage(key, told)

    def _key(self, name: str) -> str:
        return self.prefix + RECORDS + name

    def _bound(self, name: str) -> bytes:
        """What a seal is bound to: an object of another name, or of another region's catalog, does not open."""
        return f"{self.region}/{name}".encode()

    # the key

    def begin_where_empty(self) -> None:
        """Of a copy that becomes the primary: let it make a key where nothing that one sealed was ever brought.

        Raises the store's errors.
        """
        sealed = (RECORDS, Keys.KEYS)
        if not any(next(all_below(self.store, self.prefix + below), None) for below in sealed):
            self._create = True

    def _secrets(self) -> _Secrets:
        """The catalog's key, made where there is none and that is allowed. Raises CorruptObject and the key provider's errors."""
        with self._lock:
            if self._opened is None:
                where = (self.store, self.prefix, OWNER, self.region, self._keys)
                try:
                    data_key = read_data_key(*where)
                except ObjectMissing:
                    if not self._create:
                        raise _without_key(self) from None
                    data_key, _ = create_data_key(*where)
                self._opened = _derived(data_key)
            return self._opened

    def _open_for_reading(self, any_objects: bool, damages: list[Damage]) -> _Secrets | None:
        """None where nothing can be read: there is no key, or it does not open, which goes to the damages."""
        key = Keys.data_key(EPOCH)
        try:
            with self._lock:
                if self._opened is None:
                    data_key = read_data_key(self.store, self.prefix, OWNER, self.region, self._keys)
                    self._opened = _derived(data_key)
                return self._opened
        except ObjectMissing:
            if not any_objects:
                return None
            error: SbhError = CorruptObject("The catalog's data key is gone, but its objects are there")
        except (CorruptObject, KeyServiceError) as found:
            if found.transient:
                raise
            error = found
        told = type(error)(error.what, on=self.store.url(self.prefix + key), why=error.why, remedy=_DISCARD_ALL)
        damages.append(Damage(key, told))
        return None


def open_catalog(
    store: ObjectStore,
    prefix: str,
    region: str,
    keys: KeyProvider,
    clock: Clock = utc_now,
    *,
    create: bool = True,
) -> Catalog:
    """The catalog below `prefix` (ends with `/`). Does no I/O; the key is unwrapped at the first use.

    `create`: False where its key is brought from elsewhere; what needs one that is not there raises CorruptObject then.
    """
    return Catalog(store, prefix, region, keys, clock, create=create)


def _without_key(catalog: Catalog) -> CorruptObject:
    return CorruptObject(
        "The catalog has no data key",
        on=catalog.store.url(catalog.prefix + Keys.data_key(EPOCH)),
        why="it is the catalog of a copy, and its key was not brought there yet, or is gone",
        remedy="bring it with `sbh copies run NAME`; a key object that was deleted comes back from the bucket's older version",
    )


def _derived(data_key: bytes) -> _Secrets:
    seed = int.from_bytes(derive(data_key, b"sbh key hash")[:8], "big", signed=True)
    seed_id = derive(data_key, b"sbh key hash id")[:4].hex()
    return _Secrets(
        Sealer(data_key, OWNER),
        seed,
        seed_id,
        AuditKey.of(data_key),
        derive(data_key, b"sbh erasure"),
        derive(data_key, b"sbh mark"),
        OwnerKey.of(data_key),
    )


def _not_ours(name: str, info: ObjectInfo) -> str:
    if not _NAME.fullmatch(name):
        return "its name is not that of one"
    return f"{info.size:,} bytes are too many" if info.size > RECORDS_BYTES else ""
