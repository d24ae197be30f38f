"""An erasure in the copies: the tombstone, the keys, then everything else of the tenant, in every version.

The tombstone comes first: a copier that looks afterwards brings nothing of the tenant any more, and one that looked before has the
tenant's lease for copying, which is waited for: nothing is certified while it is held. What a copy had is in the erasure's record
before anything of it goes, so that the certificate tells of it whichever run destroyed it.

A copy that does not answer keeps nothing else from being destroyed, and the erasure from being finished. One that was taken out of
the settings does not: the certificate says that it was not reached.
"""

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace

from sbh_pipelines.backup.copies.place import open_copy
from sbh_pipelines.backup.copies.state import CopyStates
from sbh_pipelines.backup.keys.certificate import DestroyedKmsKey, ErasureCertificate, describe_keys
from sbh_pipelines.backup.keys.erased_owner import Erased, is_shared
from sbh_pipelines.backup.keys.erasure_places import ErasurePlace, is_there, places_of, purge_in
from sbh_pipelines.backup.keys.journal_keys import ERASED_AT_COPIES_AFTER
from sbh_pipelines.backup.retain.journal_retention import has_journal
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.document import as_document
from sbh_pipelines.errors import CopyError, ObjectExists, SbhError
from sbh_pipelines.model import timestamp
from sbh_pipelines.placement import catalog_place
from sbh_pipelines.repository import lease as leases
from sbh_pipelines.repository.catalog.catalog import RECORDS, Catalog
from sbh_pipelines.repository.catalog.erased import (
    ErasedCopy,
    ErasureCounts,
    ErasureRecord,
    certificate_key,
    write_erased,
)
from sbh_pipelines.repository.format import Keys, pretty
from sbh_pipelines.settings import CopySettings
from sbh_pipelines.stores.purge import PurgeResult, every

_TAKEN_OUT = "it was taken out of the settings before it was reached"
_NO_BUCKET = "there is no bucket of this name"
_PATIENCE_S = 10.0  # for a copier that is at the tenant just now
Keep = Callable[[ErasureRecord], None]  # stores the record


@dataclass(slots=True)
class ErasureInCopies:
    """The copies of one erasure, in one run.

    Attributes:
        site: The source.
        whose: Whose backups go.
        kms_keys: KMS keys of the tenant's own whose deletion was scheduled at copies.
        errors: What kept a copy from being reached, by its name.
    """

    site: Site
    whose: Erased
    kms_keys: list[DestroyedKmsKey] = field(default_factory=list)
    errors: dict[str, SbhError] = field(default_factory=dict)

    def lack(self, record: ErasureRecord) -> bool:
        """Whether a copy of the settings was not reached by the erasure, or lies in another bucket now."""
        known = {copy.name: copy for copy in record.copies or ()}
        for copy in self.site.settings.copies:
            one = known.get(copy.name)
            buckets = {copy.bucket.replace("{region}", region) for region in copy.regions(self.site.settings)}
            if one is None or not one.reached or not buckets <= {*one.buckets}:
                return True
        return False

    def erase(self, record: ErasureRecord, keep: Keep) -> ErasureRecord:
        """Erase in every copy that answers; the record, which is kept before and after each."""
        known = {copy.name: copy for copy in record.copies or ()}
        here = self.site.settings.copies
        for name in known.keys() - {copy.name for copy in here}:
            if not known[name].reached:
                known[name] = replace(known[name], why=_TAKEN_OUT)
        for copy in here:  # all of them, before one that hangs keeps the others waiting
            known.setdefault(copy.name, ErasedCopy(copy.name, copy.to))
        if not known:
            return record
        for copy in here:
            record = replace(record, copies=list(known.values()))
            try:
                one = _AtCopy(self.site, copy, self.whose)
                known[copy.name] = one.begin(record, known[copy.name])
                record = replace(record, copies=list(known.values()))
                keep(record)
                self.kms_keys += one.destroy_kms_keys()
                known[copy.name] = one.purge(known[copy.name])
            except SbhError as error:
                self.errors[copy.name] = error
                known[copy.name] = replace(known[copy.name], reached=False, why=f"{error.what}: {error.why}")
        record = replace(record, copies=list(known.values()))
        keep(record)
        return record

    def sweep(self, record: ErasureRecord) -> ErasureRecord:
        """Once nothing of the tenant is left at the source: what a copier that was under way stored since goes as well."""
        done = []
        for copy in record.copies or ():
            settings = next((one for one in self.site.settings.copies if one.name == copy.name), None)
            if settings is None or copy.name in self.errors:
                done.append(copy)
                continue
            try:
                done.append(_AtCopy(self.site, settings, self.whose).purge(copy))
                self._forget_state(copy.name)
            except SbhError as error:
                self.errors[copy.name] = error
                done.append(replace(copy, reached=False, why=f"{error.what}: {error.why}"))
        return replace(record, copies=done or None)

    def _forget_state(self, name: str) -> None:
        """What was found whole there is not: of who is admitted again nothing is, until a copier was there."""
        place = open_copy(self.site, name)
        for region in place.regions:
            for site in (place.target, place.source):
                catalog = site.catalog(region)
                if is_there(catalog.store, catalog.prefix):
                    CopyStates(place).forget(region, self.whose.home, at_copy=site is place.target)

    def refuse_unreached(self) -> None:
        """Raises CopyError where a copy did not answer: the erasure is not finished."""
        if not self.errors:
            return
        slug, (name, first) = self.whose.slug, next(iter(self.errors.items()))
        again = f"sbh tenants erase {slug} --confirm {slug} --reason ..."
        raise CopyError(
            "The erasure is not finished: the tenant's backups may still be in a copy",
            on=f"{slug}, {'copies' if len(self.errors) > 1 else 'copy'} {', '.join(self.errors)}",
            why=f"{name}: {first.what} ({first.on}): {first.why}",
            remedy=f"everything else is destroyed; when the copy answers, run `{again}` again; where it is gone for good, take it"
            " out of [[copies]] first: the certificate says so then",
        )

    def finish(self, record: ErasureRecord, certificate: ErasureCertificate) -> None:
        """Leave the certificate at the copies, too, for the day when the source is gone. The next run of a copy makes up for one
        that does not answer now.
        """
        key, body = certificate_key(self.whose.slug, record.erasure_id), pretty(as_document(certificate))
        for copy in self.site.settings.copies:
            with suppress(SbhError):
                for catalog in _AtCopy(self.site, copy, self.whose).catalogs:
                    with suppress(ObjectExists):
                        catalog.store.create(catalog.prefix + key, body)
                    write_erased(catalog, self.whose.home, record)


class _AtCopy:
    """One copy. Raises the stores' and the key provider's errors, LeaseHeld where the copy's own upkeep is at the tenant."""

    def __init__(self, site: Site, copy: CopySettings, whose: Erased) -> None:
        # Of all regions: one of them may have been copied once.
        self._site, self._whose = site.copy(copy.name, every_region=True), whose
        self._places = list(places_of(self._site, whose.slug, whose.home))
        catalogs = map(self._site.catalog, self._site.settings.storage.regions)
        self.catalogs: list[Catalog] = [one for one in catalogs if is_there(one.store, one.prefix)]

    def begin(self, record: ErasureRecord, known: ErasedCopy) -> ErasedCopy:
        """Leave the tombstone, then count what there is."""
        for catalog in self.catalogs:
            write_erased(catalog, self._whose.home, record)
        found = PurgeResult()
        for place in self._places:
            found.add(place.purger.count(place.prefix, place.all_but_audit()))
        keys = {key.object: key for place in self._places for key in describe_keys(place.store, place.prefix)}
        before = known.found
        return replace(
            known,
            buckets=sorted({*known.buckets, *(place.place.bucket for place in self._places)}),
            found=ErasureCounts(
                max(before.objects, found.objects), max(before.versions, found.versions), max(before.bytes, found.bytes)
            ),
            keys=list({**{key.object: key for key in known.keys}, **keys}.values()),
        )

    def destroy_kms_keys(self) -> list[DestroyedKmsKey]:
        if is_shared(self._site, self._whose):
            return []
        regions, slug = self._site.settings.storage.regions, self._whose.slug
        found = (DestroyedKmsKey(**key) for region in regions for key in self._site.keys.destroy(slug, region))
        return list({key.key_id: key for key in found}.values())  # they lie in one region

    def purge(self, known: ErasedCopy) -> ErasedCopy:
        self._purge_keys(
            PurgeResult()
        )  # before anything is waited for: without them nothing opens what a long copy has brought
        with ExitStack() as stack:
            for place in self._places:
                if not place.is_empty():
                    self._lease(place, stack)
                self._wait_for_copier(place, stack)
            done = PurgeResult()
            self._purge_keys(done)  # those that a copier brought meanwhile
            for place in self._places:
                purge_in(place, place.prefix, place.all_but_audit_and_lease(), done)
            self._forget_records()
        left, locks = PurgeResult(), []
        for place in self._places:
            one = place.purger.purge(place.prefix, place.all_but_audit())
            left.add(one)
            if one.left:
                locks.append(place.purger.locked_until(place.prefix, place.all_but_audit()))
            elif any(
                not info.key.startswith((place.prefix + Keys.AUDIT, place.prefix + Keys.COPYING))
                for info in place.store.list(place.prefix)
            ):
                raise CopyError(
                    "Something of the tenant came back while it was erased", on=place.store.url(place.prefix)
                )
        until = max(filter(None, locks), default=None)
        journal = any(has_journal(self._site, region) for region in self._site.settings.storage.regions)
        return replace(
            known,
            reached=True,
            left=left.left,
            examples=left.left_keys,
            locked_until=None if until is None else timestamp(until),
            why=None if self._places else _NO_BUCKET,
            journal_until=timestamp(self._site.clock() + ERASED_AT_COPIES_AFTER) if journal else None,
        )

    def _purge_keys(self, done: PurgeResult) -> None:
        for place in self._places:
            purge_in(place, place.prefix + Keys.KEYS, every, done)

    def _wait_for_copier(self, place: ErasurePlace, stack: ExitStack) -> None:
        """One that is at the tenant may have looked before the tombstone was there. Raises LeaseHeld where it goes on for longer;
        one that was killed keeps nobody waiting for longer than its lease.
        """
        prefix = place.prefix + Keys.COPYING
        if leases.read(place.store, prefix) is None:
            return  # none ever was: one that begins now finds the tombstone
        seconds, clock = self._site.settings.backup.lease_s, self._site.clock
        owner = leases.new_owner(leases.ERASE)
        held = leases.acquire_within(_PATIENCE_S, place.store, prefix, owner, leases.ERASE, seconds, clock)
        stack.enter_context(leases.kept(held, seconds))

    def _lease(self, place: ErasurePlace, stack: ExitStack) -> None:
        seconds, clock = self._site.settings.backup.lease_s, self._site.clock
        held = leases.acquire(place.store, place.prefix, leases.new_owner(leases.ERASE), leases.ERASE, seconds, clock)
        stack.enter_context(leases.kept(held, seconds))

    def _forget_records(self) -> None:
        for catalog in self.catalogs:
            catalog.compact(always=True)
            place = catalog_place(self._site.settings, catalog.region)
            self._site.purger(place).purge(place.prefix + RECORDS, lambda _, current: not current)
            if has_journal(self._site, catalog.region):
                self._site.journal(catalog.region).public_keys.compact([self._whose.home])
