"""Keys for a copy: each key object once more, its data key wrapped by the copy's own KMS key or key file.

An object there says what the source's says, the source region's name included, for everything in the copy is sealed to that. It
says in `copied_from` besides which wrapping its key came from, so that a run in which nothing changed asks no key service.

The order, and what a run that is killed after each write leaves; the next run goes on:

    1. later epochs      each created once, and read back; nothing names them yet
    2. the first epoch   created or replaced; its `newest` names what is there already

Nothing is brought that does not unwrap, that is another data key than the copy has, or that is of an earlier state of the source
than the copy knows. No key is destroyed here: what the copy still has of an ended epoch would not open any more.
"""

import hashlib
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from sbh_pipelines.backup.copies.copier.transfer import WHICH_IS_RIGHT
from sbh_pipelines.backup.copies.erased import is_proven_erased
from sbh_pipelines.backup.copies.place import CopyPlace
from sbh_pipelines.backup.site.owners import is_bound
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import (
    CopyDiverged,
    CopyError,
    CorruptObject,
    KeyServiceError,
    KeyUnopened,
    ObjectChanged,
    ObjectExists,
    ObjectMissing,
    StoreDenied,
    TenantErased,
)
from sbh_pipelines.model import HousedTenant, Tenant
from sbh_pipelines.placement import platform_tenant
from sbh_pipelines.repository.bounds import all_below
from sbh_pipelines.repository.catalog.catalog import OWNER
from sbh_pipelines.repository.catalog.erased import is_readmitted, read_erased, refuse_erased
from sbh_pipelines.repository.format import Keys, pretty
from sbh_pipelines.repository.keys.data_key import (
    EPOCH,
    KeyObject,
    KeyPlace,
    key_document,
    read_key_object,
    split_payload,
    unwrap,
)
from sbh_pipelines.repository.keys.epoch_marks import rolled_back
from sbh_pipelines.repository.keys.epochs import epochs

COPIED_FROM = "copied_from"


@dataclass(frozen=True, slots=True)
class KeyEnds:
    """Where one owner's key objects are at both ends.

    Attributes:
        source: Read only.
        target: At the copy.
    """

    source: KeyPlace
    target: KeyPlace


def bring_keys(place: CopyPlace, tenant: Tenant, there: Collection[int] | None = None, *, anew: bool = False) -> int:
    """Bring a tenant's key objects to the copy; how many were written. 0 where the source has none, or nothing changed.

    `there`: the epochs whose key objects a listing of the copy showed a moment ago; None: it is listed. What is damaged there is
    written again. `anew`: whether each opens there is asked, which costs a call of its key service.

    Raises TenantErased where the tenant was erased and not admitted again, KeyEpochRolledBack where an older key object was put
    back at the source, CopyDiverged where the copy has another data key, CorruptObject for a key object that does not belong
    there, ResidencyError, and the stores' and key providers' errors. Nothing of what a failed call was to write is half there.
    """
    housed = place.source.owners.housed(tenant)
    ends = key_ends(place, housed)
    if not is_bound(housed):
        return _bring(ends, there, anew)
    admit(place, housed)
    written = _bring(ends, there, anew)
    if written:
        try:  # an erasure says so at the copy before it destroys the keys there: what was written after it did must go
            _refuse_erased_there(place, housed)
        except TenantErased:
            destroy_keys(place, housed)
            raise
    return written


def bring_platform_keys(place: CopyPlace) -> int:
    """Those of the platform backup, as `bring_keys`; 0 where its region is not copied."""
    tenant = platform_tenant(place.source.settings)
    return bring_keys(place, tenant) if tenant.region in place.regions else 0


def bring_catalog_key(place: CopyPlace, region: str) -> int:
    """That of a region's catalog, which is also what signs marks and audit trails, as `bring_keys`.

    It comes before anything else of the region: a catalog without a key makes one, and would be another's then.
    """
    source, target = place.source.catalog(region), place.target.catalog(region)
    return _bring(
        KeyEnds(
            KeyPlace(source.store, source.prefix, OWNER, region, place.source.keys),
            KeyPlace(target.store, target.prefix, OWNER, region, place.target.keys),
        ),
        anew=True,
    )


def key_ends(place: CopyPlace, housed: HousedTenant) -> KeyEnds:
    """Raises ResidencyError where the region is none of the copy's."""

    def end(site: Site) -> KeyPlace:
        store, prefix = site.backup_store(housed)
        return KeyPlace(
            store, prefix, housed.id, housed.region, site.keys, site.epoch_marks(housed.region), housed.home
        )

    return KeyEnds(end(place.source), end(place.target))


def admit(place: CopyPlace, housed: HousedTenant) -> None:
    """Asked before anything of a tenant is brought. Raises TenantErased where either end says that it was erased."""
    place.source.admit(housed)
    _refuse_erased_there(place, housed)


def _refuse_erased_there(place: CopyPlace, housed: HousedTenant) -> None:
    source, target = place.source.catalog(housed.region), place.target.catalog(housed.region)
    with suppress(CorruptObject):
        record = read_erased(target, housed.home)
        if record is None or is_readmitted(source, housed.home, record.erasure_id):
            return
    store, prefix = place.target.backup_store(housed)
    refuse_erased(target, housed.home, lambda: next(all_below(store, prefix + Keys.KEYS), None) is not None)


def destroy_keys(place: CopyPlace, housed: HousedTenant) -> None:
    """Delete its keys at the copy, in all versions, where its erasure is proven: what nobody signed destroys nothing."""
    if not is_proven_erased(place, housed.region, housed.home):
        return
    where = place.target.backup_place(housed)
    place.target.purger(where).purge(where.prefix + Keys.KEYS)


def digest_of(found: KeyObject) -> str | None:
    """What `copied_from` says of a wrapping: the SHA-256 of its text, in hex; None of an object without a key."""
    return None if found.destroyed else hashlib.sha256(str(found.document["wrapped"]).encode()).hexdigest()


def _bring(ends: KeyEnds, listed: Collection[int] | None = None, anew: bool = False) -> int:
    source, target = ends.source, ends.target
    try:
        first = read_key_object(source, EPOCH)
    except ObjectMissing:
        return 0
    there, broken = dict[int, KeyObject](), dict[int, str]()
    for epoch in epochs(target) if listed is None else sorted(listed):
        try:
            there[epoch] = read_key_object(target, epoch)
            if anew and not there[epoch].destroyed:
                split_payload(unwrap(target, there[epoch]), epoch, target.url(epoch))
        except (CorruptObject, KeyUnopened):
            there.pop(epoch, None)
            broken[epoch] = target.store.head(target.key(epoch)).etag
    known = there.get(EPOCH)
    if known is not None and known.newest > first.newest:
        raise rolled_back(source.url(EPOCH), source.owner, first.newest, known.newest)
    bringing = _Bringing(ends, first, there, broken)
    for epoch in epochs(source) if first.newest > EPOCH else ():
        if EPOCH < epoch <= first.newest:
            bringing.later(epoch)
    if first.newest > EPOCH and first.newest not in bringing.there:
        raise CorruptObject(
            "The tenant's newest data key is gone",
            on=source.url(first.newest),
            remedy="restore the key object from the bucket's older version",
        )
    bringing.first_epoch()
    return bringing.written


@dataclass(slots=True)
class _Bringing:
    """One owner's keys on their way."""

    ends: KeyEnds
    first: KeyObject
    there: dict[int, KeyObject]
    broken: dict[int, str]  # ETags of objects at the copy that are damaged, or do not open
    written: int = 0
    _name_key: bytes | None = field(default=None, repr=False)

    def later(self, epoch: int) -> None:
        known, found = self.there.get(epoch), read_key_object(self.ends.source, epoch)
        if known is not None and known.document.get(COPIED_FROM) == digest_of(found):
            return
        payload = self._payload(found)
        if known is None and self._ended(epoch):
            return  # put there since: nothing is of that epoch any more
        self._write(epoch, known, payload, {})

    def first_epoch(self) -> None:
        known, first = self.there.get(EPOCH), self.first
        said = {name: first.document[name] for name in ("owner",) if name in first.document}
        if known is not None and (known.destroyed or known.document.get(COPIED_FROM) == digest_of(first)):
            if _says(known) == _says(first):
                return
            if known.destroyed:
                self._check_newest()
                self._put(EPOCH, known, {**known.document, **_said(first), **said})
                return
        if not first.destroyed:
            self._write(EPOCH, known, self._payload(first), said)
        elif known is None:  # ended before there was a copy
            self._read_name_key()
            self._put(EPOCH, None, {name: value for name, value in first.document.items() if name != COPIED_FROM})
        elif _says(known) != _says(
            first
        ):  # ended at the source only: the copy's key stays until nothing there needs it
            self._check_newest()
            self._write(EPOCH, known, unwrap(self.ends.target, known), said, str(known.document.get(COPIED_FROM, "")))

    def _payload(self, found: KeyObject) -> bytes:
        """What the source's object wraps, once it is known to be of this repository and not of an earlier state of it."""
        payload = unwrap(self.ends.source, found)
        _, name_key = split_payload(payload, found.epoch, self.ends.source.url(found.epoch))
        if name_key != self._read_name_key(name_key):
            raise self._diverged(found.epoch)
        self._check_newest()
        return payload

    def _read_name_key(self, first_seen: bytes | None = None) -> bytes:
        """The key that names chunks, the same in all epochs: the copy's, where it has any key."""
        if self._name_key is None:
            target = self.ends.target
            for epoch, known in sorted(self.there.items(), reverse=True):
                if not known.destroyed:
                    self._name_key = split_payload(unwrap(target, known), epoch, target.url(epoch))[1]
                    return self._name_key
            if first_seen is None:
                found = read_key_object(self.ends.source, self.first.newest)
                first_seen = split_payload(unwrap(self.ends.source, found), found.epoch, "")[1]
            self._name_key = first_seen
        return self._name_key

    def _check_newest(self) -> None:
        marks, newest = self.ends.source.marks, self.first.newest
        if marks is not None and marks.begun(self._read_name_key(), newest + 1):
            raise rolled_back(self.ends.source.url(EPOCH), self.ends.source.owner, newest, newest + 1)

    def _ended(self, epoch: int) -> bool:
        name_key, all_marks = self._read_name_key(), (self.ends.source.marks, self.ends.target.marks)
        return epoch < self.first.newest and any(marks.ended(name_key, epoch) for marks in all_marks if marks)

    def _write(
        self, epoch: int, known: KeyObject | None, payload: bytes, said: Mapping[str, object], came: str | None = None
    ) -> None:
        """Wrap for the copy, prove that it unwraps, store. `came`: what `copied_from` says; None: that of the source's object."""
        target = self.ends.target
        if known is not None and unwrap(target, known) != payload:
            raise self._diverged(epoch)
        newest = self.first.newest if epoch == EPOCH and "newest" in self.first.document else None
        found = self.first if epoch == EPOCH else read_key_object(self.ends.source, epoch)
        wrapped = key_document(target, epoch, payload, newest)
        document = {**wrapped, **said, COPIED_FROM: came if came is not None else digest_of(found)}
        if target.keys.unwrap(document, target.owner, target.region) != payload:
            raise KeyServiceError(
                "A data key that was wrapped for a copy comes back as another",
                on=target.url(epoch),
                remedy="nothing was changed; do not use the copy's key service",
            )
        self._put(epoch, known, document)

    def _put(self, epoch: int, known: KeyObject | None, document: Mapping[str, object]) -> None:
        target = self.ends.target
        body = pretty(dict(document))
        try:
            if epoch in self.broken:
                self._put_over(epoch, body)
            elif known is None:
                target.store.create(target.key(epoch), body)
            else:
                target.store.replace(target.key(epoch), body, known.etag)
            self.written += 1
        except (ObjectExists, ObjectChanged):  # another run was first, or the answer to our own write was lost
            pass
        self.there[epoch] = self._read_back(epoch, document)

    def _put_over(self, epoch: int, body: bytes) -> None:
        target = self.ends.target
        try:
            target.store.replace(target.key(epoch), body, self.broken[epoch])
        except StoreDenied as error:
            raise StoreDenied(
                "A damaged key object at the copy was not written again",
                on=target.url(epoch),
                why=f"the role may not overwrite it, or the bucket locks it: {error.why or error.what}",
                remedy="delete the object with credentials that may, then run the copy again",
            ) from None
        del self.broken[epoch]

    def _read_back(self, epoch: int, document: Mapping[str, object]) -> KeyObject:
        """What the copy has now: ours, or what another run of the same copy wrote. Raises CopyError for anything else."""
        target = self.ends.target
        found = read_key_object(target, epoch)
        if found.document == document:
            return found
        if found.newest < KeyObject(epoch, document, "").newest:
            raise CopyError(
                "A key object at the copy was changed while it was written",
                on=target.url(epoch),
                why=f"it names epoch {found.newest} as the newest, and {document.get('newest')} was to be",
                remedy="run the copy again; if it stays, see who else writes to the copy's bucket",
            )
        if not found.destroyed:
            payload = unwrap(target, found)
            if split_payload(payload, epoch, target.url(epoch))[1] != self._read_name_key():
                raise self._diverged(epoch)
        return found

    def _diverged(self, epoch: int) -> CopyDiverged:
        return CopyDiverged(
            "The copy has another data key than the source",
            on=self.ends.target.url(epoch),
            why=f"what {self.ends.source.url(epoch)} wraps is of another repository: one of the two was replaced",
            remedy=WHICH_IS_RIGHT,
        )


def _says(found: KeyObject) -> tuple[object, ...]:
    return found.newest, found.document.get("owner"), "newest" in found.document


def _said(found: KeyObject) -> dict[str, object]:
    return {"newest": found.newest} if "newest" in found.document else {}
