"""Data keys as objects: random bytes, wrapped by the key provider, one object per key epoch below `keys/` of a prefix.

A tenant's repository has them, and so has the catalog of a region (one epoch only). `keys/0001.json` is made once; its
`newest` says in which epoch is written, so that opening a repository costs one request more for a second epoch and none for
the first. A later epoch's payload holds the key that names chunks besides, which is the first epoch's for good.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sbh_pipelines.errors import CorruptObject, KeyServiceError, ObjectExists, ObjectMissing
from sbh_pipelines.repository.bounds import most_bytes
from sbh_pipelines.repository.catalog.owners import OwnerDocument
from sbh_pipelines.repository.documents import prove_stored
from sbh_pipelines.repository.format import FIRST_EPOCH, LAST_EPOCH, Keys, parse_document, pretty
from sbh_pipelines.repository.keys.epoch_marks import EpochMarks, rolled_back
from sbh_pipelines.repository.seal import Sealer, name_key_of
from sbh_pipelines.security.key_provider import DATA_KEY_BYTES, KeyProvider
from sbh_pipelines.stores.base import ObjectStore

EPOCH = FIRST_EPOCH
_PAYLOAD_VERSION = 2
_READS = 3  # how often to look again when an epoch goes away between two requests


@dataclass(frozen=True, slots=True)
class KeyPlace:
    """Where an owner's key objects are, and what unwraps them."""

    store: ObjectStore
    prefix: str
    owner: str
    region: str
    keys: KeyProvider = field(repr=False)
    marks: EpochMarks | None = field(default=None, repr=False)  # none for a catalog, which has one epoch
    home: str = ""  # the name under which a tenant's repository lies

    @property
    def other_home(self) -> str | None:
        """The name, where it is another than the slug: its keys are bound to it, for the slug alone names all of its homes."""
        return self.home if self.home not in ("", self.owner) else None

    def key(self, epoch: int) -> str:
        return self.prefix + Keys.data_key(epoch)

    def url(self, epoch: int) -> str:
        return self.store.url(self.key(epoch))


@dataclass(frozen=True, slots=True)
class KeyObject:
    """A key object as it is stored.

    Attributes:
        epoch: Its key epoch.
        document: All of it, as the key provider wrote it.
        etag: Its version in the store.
    """

    epoch: int
    document: Mapping[str, Any] = field(repr=False)
    etag: str

    @property
    def newest(self) -> int:
        """The epoch in which is written; counts in the first epoch's object only."""
        return int(self.document.get("newest", self.epoch))

    @property
    def destroyed(self) -> bool:
        """Whether it holds no key any more."""
        return "destroyed" in self.document

    @property
    def owner(self) -> OwnerDocument | None:
        """Whose the repository is; counts in the first epoch's object only."""
        return OwnerDocument.read(self.document.get("owner"))

    @property
    def provider(self) -> str:
        return str(self.document.get("provider", ""))

    @property
    def key_id(self) -> str:
        return str(self.document.get("key_id", ""))


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The newest epoch's keys, and how to get those of the others."""

    epoch: int
    data_key: bytes = field(repr=False)
    name_key: bytes = field(repr=False)
    read_key: Callable[[int], bytes] = field(repr=False)
    owner: OwnerDocument | None = None

    def sealer(self, tenant: str, compression_level: int = 1) -> Sealer:
        return Sealer(
            self.data_key,
            tenant,
            compression_level,
            epoch=self.epoch,
            name_key=self.name_key,
            read_key=self.read_key,
        )


def read_key_object(place: KeyPlace, epoch: int) -> KeyObject:
    """Raises ObjectMissing, CorruptObject."""
    data, etag = place.store.get_with_etag(place.key(epoch), most_bytes(Keys.KEYS))
    document = parse_document(data, place.url(epoch))
    found = KeyObject(epoch, document, etag)
    if document.get("tenant_id") != place.owner:
        raise _foreign(place, epoch, f"it is of tenant {document.get('tenant_id')!r}, provider {found.provider!r}")
    if document.get("region", place.region) != place.region:
        raise _foreign(place, epoch, f"it is of region {document['region']!r}, and was found in {place.region}")
    home, binds = document.get("home"), document.get("binds")
    bound = found.destroyed or (isinstance(binds, list) and "home" in binds)
    if home != place.other_home or (home is not None and not bound):
        raise _foreign(place, epoch, "it is of another repository that the slug has had")
    newest = document.get("newest", epoch)
    whole = document.get("epoch") == epoch and type(newest) is int and epoch <= newest <= LAST_EPOCH
    fields = () if found.destroyed and epoch == EPOCH else (document.get("key_id"), document.get("wrapped"))
    if not found.destroyed and not place.keys.reads(found.provider):
        raise _foreign(place, epoch, f"it is of tenant {document.get('tenant_id')!r}, provider {found.provider!r}")
    if not whole or not all(isinstance(field, str) and field for field in fields):
        raise CorruptObject(
            "A key object is damaged", on=place.url(epoch), remedy="restore it from the bucket's older version"
        )
    return found


def _foreign(place: KeyPlace, epoch: int, why: str) -> CorruptObject:
    return CorruptObject(
        "A key object does not belong here",
        on=place.url(epoch),
        why=why,
        remedy="restore its older version, or set keys.provider to the one it was made with",
    )


def unwrap(place: KeyPlace, found: KeyObject) -> bytes:
    """The payload. Raises CorruptObject for an epoch whose key was destroyed, and the key provider's errors."""
    if found.destroyed:
        raise _destroyed(place, found.epoch)
    try:
        return place.keys.unwrap(found.document, place.owner, place.region)
    except KeyServiceError as error:
        on = f"{place.url(found.epoch)}, {error.on}"
        raise type(error)(error.what, on=on, why=error.why, remedy=error.remedy) from None


def _destroyed(place: KeyPlace, epoch: int) -> CorruptObject:
    return CorruptObject(
        "The key of an earlier epoch was destroyed",
        on=place.url(epoch),
        why=f"everything was re-encrypted, so nothing should be of epoch {epoch}: it was put there since",
        remedy="what needs it is not read any more; see who can write to the bucket, and take another backup",
    )


def payload_of(epoch: int, data_key: bytes, name_key: bytes) -> bytes:
    """What is wrapped: the data key alone in the first epoch; later the epoch, the data key and the key of names."""
    return data_key if epoch == EPOCH else bytes([_PAYLOAD_VERSION, epoch]) + data_key + name_key


def split_payload(payload: bytes, epoch: int, on: str) -> tuple[bytes, bytes]:
    """(data key, key of names). Raises CorruptObject: a wrapped key that was moved to another epoch is found out."""
    if epoch == EPOCH and len(payload) == DATA_KEY_BYTES:
        return payload, name_key_of(payload)
    if epoch > EPOCH and len(payload) == 2 + 2 * DATA_KEY_BYTES and payload[:2] == bytes([_PAYLOAD_VERSION, epoch]):
        return payload[2 : 2 + DATA_KEY_BYTES], payload[2 + DATA_KEY_BYTES :]
    raise CorruptObject(
        "A key object holds the key of another epoch", on=on, remedy="restore it from the bucket's older version"
    )


def read_epoch(place: KeyPlace, epoch: int) -> tuple[bytes, bytes]:
    """(data key, key of names) of an epoch. Raises CorruptObject, also where there is no such key; the provider's errors."""
    try:
        found = read_key_object(place, epoch)
    except ObjectMissing:
        raise CorruptObject(
            "The data key of a key epoch is gone",
            on=place.url(epoch),
            why="what is sealed under it cannot be opened",
            remedy="restore the key object from the bucket's older version",
        ) from None
    return split_payload(unwrap(place, found), epoch, place.url(epoch))


def open_key_ring(place: KeyPlace, seen: KeyObject | None = None) -> KeyRing:
    """The keys of a place; `seen` is its first object, if that was read just now. Raises ObjectMissing where there are none,
    KeyEpochRolledBack where they are an earlier epoch's, CorruptObject and the key provider's errors.
    """
    for attempt in range(1, _READS + 1):
        first = seen if seen is not None and attempt == 1 else read_key_object(place, EPOCH)
        try:
            found = first if first.newest == EPOCH else read_key_object(place, first.newest)
            data_key, name_key = split_payload(unwrap(place, found), found.epoch, place.url(found.epoch))
            if place.marks is None or not place.marks.begun(name_key, found.epoch + 1):
                break
            if attempt == _READS:  # before, the epoch may have begun between two requests
                raise rolled_back(place.url(EPOCH), place.owner, found.epoch, found.epoch + 1)
        except KeyServiceError:
            if seen is None or attempt > 1:  # a rotation may have wrapped it anew since it was seen
                raise
        except ObjectMissing:
            if attempt == _READS:
                raise CorruptObject(
                    "The tenant's newest data key is gone",
                    on=place.url(first.newest),
                    remedy="restore the key object from the bucket's older version",
                ) from None
    return KeyRing(
        found.epoch,
        data_key,
        name_key,
        lambda epoch: _read_other(place, found.epoch, epoch, name_key),
        first.owner,
    )


def _read_other(place: KeyPlace, newest: int, epoch: int, name_key: bytes) -> bytes:
    """The data key of another epoch than the ring's newest. Raises CorruptObject where that epoch was ended, KeyEpochRolledBack
    where it is later, and began before the ring was opened.
    """
    if epoch < newest and place.marks is not None and place.marks.ended(name_key, epoch):
        raise _destroyed(place, epoch)
    data_key, _ = read_epoch(place, epoch)
    if epoch > newest and read_key_object(place, EPOCH).newest < epoch:
        raise rolled_back(place.url(EPOCH), place.owner, newest, epoch)
    return data_key


def read_data_key(store: ObjectStore, prefix: str, owner: str, region: str, keys: KeyProvider) -> bytes:
    """The first epoch's key below `prefix`: all that a catalog has. Raises as `open_key_ring` does."""
    place = KeyPlace(store, prefix, owner, region, keys)
    return split_payload(unwrap(place, read_key_object(place, EPOCH)), EPOCH, place.url(EPOCH))[0]


def key_document(place: KeyPlace, epoch: int, payload: bytes, newest: int | None = None) -> dict[str, object]:
    """The object of an epoch, its payload wrapped with the key that is current now and bound to what the object says.

    The first epoch's is bound from the second epoch on: until then earlier releases read it. Where the repository lies under
    another name than the slug it is bound to that always.
    """
    said: dict[str, object] = {"epoch": epoch, **({"newest": newest} if newest is not None else {})}
    bound = {name: str(value) for name, value in said.items()} if epoch > EPOCH or newest is not None else {}
    if place.other_home is not None:
        said["home"] = bound["home"] = place.other_home
    wrapped = place.keys.wrap(payload, place.owner, place.region, bound)
    binds = {"binds": sorted(bound)} if bound else {}
    return {**said, "tenant_id": place.owner, "region": place.region, **binds, **wrapped}


def create_data_key(
    store: ObjectStore,
    prefix: str,
    owner: str,
    region: str,
    keys: KeyProvider,
    belongs_to: OwnerDocument | None = None,
    home: str = "",
) -> tuple[bytes, bool]:
    """The key, and whether it was made just now: where another writer is first, its key is the key."""
    place = KeyPlace(store, prefix, owner, region, keys, home=home)
    data_key = os.urandom(DATA_KEY_BYTES)
    try:
        said = {"owner": belongs_to.as_dict()} if belongs_to else {}
        body = pretty({**key_document(place, EPOCH, data_key), **said})
        store.create(place.key(EPOCH), body)
        prove_stored(store, place.key(EPOCH), body)  # else all that is sealed with it from now on is lost
    except ObjectExists:
        return split_payload(unwrap(place, read_key_object(place, EPOCH)), EPOCH, place.url(EPOCH))[0], False
    return data_key, True
