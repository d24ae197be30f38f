"""Erasing a tenant: its keys first, then everything else of its backups, in every version, bucket and region.

The order, and what a run that is killed after each step leaves; the same command, given again, goes on:

    1. the tenant's lease           nobody backs up, restores or prunes meanwhile; it expires, but says who held it last: a backup
                                    that takes it then looks for the intent
    2. the record of the intent     outside the tenant's prefix: nothing begins for the tenant any more
       and whose it was             so that another tenant who gets the slug is not this one
       the copies                   each as here: the intent, KMS keys, keys/, all other objects, records; one that does not answer
                                    keeps the erasure from being finished, and nothing of the rest from being destroyed
    3. its own KMS keys             scheduled for deletion, where keys.kms_key_id has {tenant}
    4. keys/, in all versions       the crypto-erasure: from here on nothing in the bucket can be opened
    5. all other objects            in all versions, but for audit/, which holds no tenant data
    6. the catalogs' records        merged without the tenant, older versions deleted; its public keys leave the change journals,
                                    whose blocks of it nothing opens any more: compaction leaves them out
    7. the lease; the copies again  what a copier that was under way stored since
    8. event, certificate, record   the certificate is the last to be written but for the record that names it

It refuses under any legal hold, looking again after the intent is there; placing a hold looks for the intent afterwards.
"""

import secrets
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace

from sbh_pipelines.backup.keys.certificate import (
    Destroyed,
    DestroyedKmsKey,
    ErasureCertificate,
    KeptTrail,
    NotDestroyed,
    describe_keys,
    sign_certificate,
    what_copies_open,
)
from sbh_pipelines.backup.keys.erased_copies import ErasureInCopies
from sbh_pipelines.backup.keys.erased_owner import Erased, is_shared, keys_of_home, refuse_others
from sbh_pipelines.backup.keys.erasure_places import ErasurePlace, is_there, places_of, purge_in
from sbh_pipelines.backup.keys.former_wrappings import KEPT_ELSEWHERE, former_wrappings
from sbh_pipelines.backup.keys.journal_keys import journal_remains, withdraw_erased
from sbh_pipelines.backup.keys.owner_change import put_aside
from sbh_pipelines.backup.retain.holds import legal_holds
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.document import as_document
from sbh_pipelines.errors import (
    CorruptObject,
    EraseRefused,
    LeaseHeld,
    ObjectExists,
    ObjectMissing,
    RequestError,
    UnknownTenant,
)
from sbh_pipelines.model import HousedTenant, Progress, ProgressSink, TenantId, timestamp
from sbh_pipelines.placement import catalog_place
from sbh_pipelines.repository import lease as leases
from sbh_pipelines.repository.catalog.catalog import RECORDS
from sbh_pipelines.repository.catalog.erased import (
    DONE,
    ERASING,
    ErasureCounts,
    ErasureRecord,
    certificate_key,
    erased_key,
    is_readmitted,
    read_certificate,
    read_erased,
    write_erased,
)
from sbh_pipelines.repository.catalog.owners import split_home
from sbh_pipelines.repository.format import Keys, pretty
from sbh_pipelines.stores.purge import PurgeResult, every, keys_of

STEP = "erase"
_LONGEST_REASON = 500


def check_request(slug: TenantId, confirm: str, reason: str) -> None:
    """Raises EraseRefused unless the slug was typed again, RequestError without a reason."""
    if confirm != slug:
        raise EraseRefused(
            "An erasure must be confirmed by the tenant's slug",
            on=slug,
            why="it destroys all backups of the tenant for good, and was not confirmed",
            remedy=f"--confirm {slug}",
        )
    if not reason.strip() or len(reason) > _LONGEST_REASON:
        raise RequestError(
            "An erasure needs a reason",
            on=slug,
            why="" if not reason.strip() else f"it may have {_LONGEST_REASON} characters",
            remedy="say why, for the certificate: --reason",
        )


def erase(
    site: Site, whose: Erased, user_id: str, reason: str, region: str | None, progress: ProgressSink
) -> ErasureCertificate:
    """Erase everything; the certificate. `region`: where the application has the tenant; None where it has it no more.

    Goes on where a killed run stopped; a tenant that is erased already gives its certificate, and what was locked at copies goes
    where it is not any more. Raises EraseRefused under a legal hold, LeaseHeld, CopyError where all is erased but a copy that does
    not answer, UnknownTenant where nothing is known of the tenant, and the store's and the key provider's errors.
    """
    return _Erasure(site, whose, user_id, reason, region, progress).run()


class _Erasure:
    def __init__(
        self, site: Site, whose: Erased, user_id: str, reason: str, region: str | None, progress: ProgressSink
    ) -> None:
        self._site, self._slug, self._user_id, self._reason = site, whose.slug, user_id, reason
        self._whose, self._region, self._progress = whose, region, progress
        self._places = list(places_of(site, whose.slug, whose.home))
        catalogs = map(site.catalog, site.settings.storage.regions)
        self._catalogs = [catalog for catalog in catalogs if is_there(catalog.store, catalog.prefix)]
        self._copies = ErasureInCopies(site, whose)

    def run(self) -> ErasureCertificate:
        record = self._record()
        holding = [place for place in self._places if not place.is_empty()]
        if record is not None and record.done and not holding:
            if self._copies.lack(record):  # of those that the settings did not have then, or have elsewhere now
                record = self._copies.sweep(self._copies.erase(record, self._write))
                self._write(record)
                self._copies.refuse_unreached()
            elif record.copies:  # what was locked then may not be any more
                self._copies.sweep(record)
            return self.certificate(record)
        if not self._places or (record is None and not holding and self._region is None):
            raise _unknown(self._slug)
        if record is None or record.done:
            refuse_others(self._site, self._whose)
        self._refuse_held()
        with ExitStack() as stack:
            for place in holding:
                self._lease(place, stack)
            if record is None or record.done:
                before, record = record, self._intend(holding)
                self._refuse_late(holding, before)
            else:
                self._write(record)  # a killed run may have told some regions only
            self._put_aside()
            record = self._copies.erase(record, self._write)
            self._tell("keys", 0)
            own_keys = self._destroy_kms_keys()
            done = PurgeResult()
            for place in self._places:
                purge_in(place, place.prefix + Keys.KEYS, every, done)
            for place in self._places:
                purge_in(place, place.prefix, place.all_but_audit_and_lease(), done)
                self._tell("objects", done.versions)
            self._forget_records()
            withdraw_erased(self._site, self._whose.home)
        for place in self._places:  # the lease goes once nothing renews it any more
            purge_in(place, place.prefix, keys_of([place.prefix + Keys.LEASE]), done)
        for place in self._places:
            self._prove_empty(place, done)
        record = self._copies.sweep(record)
        self._copies.refuse_unreached()
        return self._certify(record, done, own_keys)

    def _put_aside(self) -> None:
        """What stays of it, the audit trail, is that tenant's: whoever gets the slug next begins elsewhere."""
        regions = [catalog.region for catalog in self._catalogs]
        keys, owners = keys_of_home(self._site, self._whose)
        number = split_home(self._whose.home)
        for region in regions:
            if number is not None and number[1] not in self._site.owners.former(self._slug, region, anew=True):
                put_aside(self._site, self._whose.home, keys, owners, self._user_id, [region])

    def _tell(self, what: str, done: int) -> None:
        self._progress(Progress(STEP, self._slug, done, 0, what))

    def _record(self) -> ErasureRecord | None:
        """The record of any region: a killed run may have written some of them."""
        for catalog in self._catalogs:
            with suppress(CorruptObject):
                found = read_erased(catalog, self._whose.home)
                if found is not None and not is_readmitted(catalog, self._whose.home, found.erasure_id):
                    return found
        return None

    def _refuse_held(self) -> None:
        found = [hold for place in self._places for hold in legal_holds(place.store, place.prefix)]
        if found:
            raise EraseRefused(
                "The tenant is under a legal hold",
                on=self._slug,
                why=", ".join(hold.id for hold in found[:10]),
                remedy=f"see `sbh backup holds {self._slug}`; whoever placed the hold must release it first",
            )

    def _lease(self, place: ErasurePlace, stack: ExitStack) -> None:
        seconds, clock = self._site.settings.backup.lease_s, self._site.clock
        held = leases.acquire(place.store, place.prefix, leases.new_owner(leases.ERASE), leases.ERASE, seconds, clock)
        stack.enter_context(leases.kept(held, seconds))

    def _intend(self, holding: list[ErasurePlace]) -> ErasureRecord:
        """Count what there is, then say in every region that it goes."""
        found = PurgeResult()
        for place in self._places:
            found.add(place.purger.count(place.prefix, place.all_but_audit()))
        now = self._site.clock()
        keys = [key for place in self._places for key in describe_keys(place.store, place.prefix)]
        likely = (
            self._region,
            *(key.region for key in keys),
            *(place.place.region for place in (*holding, *self._places)),
        )
        region = next(name for name in likely if name in self._site.settings.storage.regions)
        tenants = [HousedTenant(self._slug, "", catalog.region, "", self._whose.home) for catalog in self._catalogs]
        former, doubts = former_wrappings(self._site, self._places, tenants, keys)
        record = ErasureRecord(
            former=former,
            doubts=doubts or None,
            tenant_id=self._slug,
            state=ERASING,
            erasure_id=f"erase_{now:%Y%m%d_%H%M%S}_{secrets.token_hex(3)}",
            region=region,
            requested_by=self._user_id,
            reason=self._reason,
            begun_at=timestamp(now),
            found=ErasureCounts(found.objects, found.versions, found.bytes),
            keys=keys,
        )
        self._write(record)
        return record

    def _write(self, record: ErasureRecord) -> None:
        for catalog in self._catalogs:
            write_erased(catalog, self._whose.home, record)

    def _refuse_late(self, holding: list[ErasurePlace], before: ErasureRecord | None) -> None:
        """A hold that was placed, or a first backup that was begun, before the intent was there.

        `before`: the record of an earlier erasure, which stands then: refusing this one admits nobody.
        """
        try:
            self._refuse_held()
            for place in self._places:
                busy = None if place in holding else leases.running(place.store, place.prefix, self._site.clock)
                if busy:
                    raise LeaseHeld(
                        "Another writer works on this tenant", on=place.store.url(place.prefix), why=busy.purpose
                    )
        except (EraseRefused, LeaseHeld):
            if before is None:
                self.withdraw()
            else:
                self._write(before)
            raise

    def withdraw(self) -> None:
        for catalog in self._catalogs:
            catalog.store.delete([catalog.prefix + erased_key(self._whose.home)])

    def _destroy_kms_keys(self) -> list[DestroyedKmsKey]:
        """In every region, also where regions share a bucket. None where another tenant of the slug has its key wrapped by it."""
        if is_shared(self._site, self._whose):
            return []
        regions = self._site.settings.storage.regions
        return [DestroyedKmsKey(**key) for region in regions for key in self._site.keys.destroy(self._slug, region)]

    def _forget_records(self) -> None:
        for catalog in self._catalogs:
            catalog.compact(always=True)
            place = catalog_place(self._site.settings, catalog.region)
            self._site.purger(place).purge(place.prefix + RECORDS, lambda _, current: not current)

    def _prove_empty(self, place: ErasurePlace, done: PurgeResult) -> None:
        last = place.purger.purge(place.prefix, place.all_but_audit())
        done.add(last)
        if not last.left and not place.is_empty():
            raise EraseRefused(
                "Something of the tenant came back while it was erased",
                on=place.store.url(place.prefix),
                remedy="run it again; see who writes there",
            )

    def _certify(self, record: ErasureRecord, done: PurgeResult, own_keys: list[DestroyedKmsKey]) -> ErasureCertificate:
        if (kept := self._kept_certificate(record)) is not None:  # of a run that was killed before it wrote the record
            return self._finish(record, kept)
        found = record.found
        counted = ErasureCounts(
            max(found.objects, done.objects),
            max(found.versions - done.left, done.versions),
            max(found.bytes, done.bytes),
        )
        tenant = HousedTenant(self._slug, "", record.region, "", self._whose.home)
        props = {"erasure_id": record.erasure_id, "reason": record.reason, **asdict(counted), "left": done.left}
        self._site.track(tenant, "tenant.erased", self._user_id, props)
        finished = self._site.clock()
        copies = record.copies or ()
        own_keys = [*own_keys, *self._copies.kms_keys]
        keys_everywhere = [*record.keys, *(key for copy in copies for key in copy.keys)]
        certificate = ErasureCertificate(
            copies=record.copies,
            journal=journal_remains(self._site, finished),
            tenant_id=record.tenant_id,
            erasure_id=record.erasure_id,
            requested_by=record.requested_by,
            reason=record.reason,
            begun_at=record.begun_at,
            finished_at=timestamp(finished),
            regions=[catalog.region for catalog in self._catalogs],
            buckets=sorted({place.place.bucket for place in self._places}),
            destroyed=Destroyed(counted.objects, counted.versions, counted.bytes, record.keys, own_keys, record.former),
            not_destroyed=NotDestroyed(done.left, done.left_keys),
            copies_made_before=what_copies_open(
                keys_everywhere, own_keys, self._slug, record.former or (), _doubts(record)
            ),
            kept_elsewhere=list(KEPT_ELSEWHERE),
            audit_trail=self._kept_trail(tenant),
            signed_in=record.region,
        )
        return self._finish(record, sign_certificate(certificate, self._site.catalog(record.region).certificate_key))

    def _kept_certificate(self, record: ErasureRecord) -> ErasureCertificate | None:
        for catalog in self._catalogs:
            with suppress(ObjectMissing):
                return ErasureCertificate.of(read_certificate(catalog, self._slug, record.erasure_id))
        return None

    def _finish(self, record: ErasureRecord, certificate: ErasureCertificate) -> ErasureCertificate:
        key = certificate_key(self._slug, record.erasure_id)
        for catalog in self._catalogs:
            with suppress(ObjectExists):
                catalog.store.create(catalog.prefix + key, pretty(as_document(certificate)))
        done = replace(record, state=DONE, certificate=key)
        self._copies.finish(done, certificate)
        self._write(done)
        return certificate

    def _kept_trail(self, tenant: HousedTenant) -> KeptTrail:
        """Where the trail ends, this erasure's event included."""
        end = self._site.trails.of(tenant).read_head()
        return KeptTrail(end.seq, end.hash) if end is not None else KeptTrail(0, None)

    def certificate(self, record: ErasureRecord) -> ErasureCertificate:
        kept = self._kept_certificate(record)  # a region that came later has none
        return kept or ErasureCertificate.of(read_certificate(self._catalogs[0], self._slug, record.erasure_id))


def _doubts(record: ErasureRecord) -> Sequence[str]:
    return ("the erasure was begun by an earlier release",) if record.former is None else record.doubts or ()


def _unknown(slug: str) -> UnknownTenant:
    return UnknownTenant(
        "No such tenant",
        on=slug,
        why="neither the application nor any region knows it",
        remedy="see `sbh tenants list`",
    )
