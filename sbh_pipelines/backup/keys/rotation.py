"""Rotation of keys: wrapped anew, a new data key, and everything sealed anew so that an old one can be destroyed.

Each of the three is a step further. Wrapping anew replaces a few hundred bytes per tenant and disturbs no other work. A new data
key begins a key epoch: what is written from then on is sealed with it. Re-encryption rewrites what is still of earlier epochs, by
the same two phases as a prune: a first run copies and retires, a run `prune.min_age_hours` later removes, and only when nothing
of an epoch is left, not even a retired pack, its key object is emptied, and its older versions deleted.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace

from sbh_pipelines.backup.keys.copy_rotation import CopyRotation, rotate_in_copies
from sbh_pipelines.backup.keys.journal_keys import SealedEpochs, register_newest
from sbh_pipelines.backup.retain.prune import PruneReport, lease_for, prune
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.concurrency import streamed
from sbh_pipelines.document import optional
from sbh_pipelines.errors import KeyRotationFailed, ObjectMissing, SbhError, StoreDenied, UnknownBackup, unforeseen
from sbh_pipelines.model import HousedTenant, Progress, ProgressSink, Tenant, timestamp
from sbh_pipelines.placement import PLATFORM
from sbh_pipelines.repository.catalog.catalog import OWNER
from sbh_pipelines.repository.catalog.owners import slug_of
from sbh_pipelines.repository.keys.data_key import EPOCH, KeyPlace, read_key_object
from sbh_pipelines.repository.keys.epochs import RewrappedKey, begin_epoch, destroy_epoch, epochs, put_right, rewrap
from sbh_pipelines.repository.keys.remains import remains, sign_anew
from sbh_pipelines.stores.purge import keys_of

STEP = "rotate keys"
_SIDE_BY_SIDE = 8
_NAMED = 10


@dataclass(frozen=True, slots=True)
class RotationRequest:
    """What a rotation is to do besides wrapping anew.

    Attributes:
        new_data_key: Begin a key epoch.
        re_encrypt: Rewrite what is of earlier epochs, and destroy the keys of those of which nothing is left.
    """

    new_data_key: bool = False
    re_encrypt: bool = False


@dataclass(frozen=True, slots=True)
class KeyOwner:
    """Whose keys.

    Attributes:
        name: Its name in reports.
        tenant: The tenant, or what stands for the platform or a region's catalog.
        catalog: Whether they are those of a region's catalog.
    """

    name: str
    tenant: Tenant
    catalog: bool = False


@dataclass(frozen=True, slots=True)
class OwnerRotation:
    """What was done for one owner of keys. From `re_encrypted_bytes` on only where re-encryption was asked for.

    Attributes:
        tenant_id: Name of the owner.
        region: Where its keys are.
        provider: What wraps them now.
        keys: The data keys that were wrapped anew.
        epoch: The newest key epoch.
        re_encrypted_bytes: Bytes that were sealed anew.
        documents_signed: Documents that were signed anew.
        epochs_destroyed: Epochs whose key was destroyed just now.
        old_bytes: Bytes that are still of earlier epochs.
        old_packs: Packs that are still of earlier epochs.
        key_versions_left: Versions of destroyed key objects that could not be deleted.
        epochs_held_back: Epochs of which nothing but changes in the change journal is left, whose key stays for them.
        note: What else is to be known.
        copies: What was done in each copy that has the owner's keys; absent where none has.
    """

    tenant_id: str
    region: str
    provider: str
    keys: Sequence[RewrappedKey]
    epoch: int
    re_encrypted_bytes: int | None = optional()
    documents_signed: int | None = optional()
    epochs_destroyed: Sequence[int] | None = optional()
    old_bytes: int | None = optional()
    old_packs: int | None = optional()
    key_versions_left: int | None = optional()
    epochs_held_back: int | None = optional()
    note: str | None = optional()
    copies: Sequence[CopyRotation] | None = optional()


@dataclass(frozen=True, slots=True)
class FailedRotation:
    """An owner whose keys were not rotated.

    Attributes:
        tenant_id: Name of the owner.
        error: Why.
    """

    tenant_id: str
    error: SbhError


@dataclass(frozen=True, slots=True)
class RotationReport:
    """What a rotation did, each in the order in which the owners were given.

    Attributes:
        rotated: What was done, by owner.
        skipped: Names of owners that have no keys.
        failed: Owners whose keys were not rotated.
        issues: Parts of the catalogs that could not be read, so that owners may be missing.
    """

    rotated: Sequence[OwnerRotation]
    skipped: Sequence[str]
    failed: Sequence[FailedRotation]
    issues: Sequence[SbhError] | None = optional()


def catalog_owner(region: str) -> KeyOwner:
    return KeyOwner(f"{OWNER}/{region}", Tenant(PLATFORM, PLATFORM, region, "critical"), catalog=True)


def key_place(site: Site, owner: KeyOwner) -> KeyPlace:
    """Where the owner's key objects are. Raises ResidencyError."""
    if owner.catalog:
        catalog = site.catalog(owner.tenant.region)
        return KeyPlace(catalog.store, catalog.prefix, OWNER, owner.tenant.region, site.keys)
    store, prefix = site.backup_store(owner.tenant)
    home, marks = site.owners.home_of(owner.tenant), site.epoch_marks(owner.tenant.region)
    return KeyPlace(store, prefix, owner.tenant.id, owner.tenant.region, site.keys, marks, home)


def rotate_all(
    site: Site, owners: Sequence[KeyOwner], request: RotationRequest, user_id: str, progress: ProgressSink
) -> RotationReport:
    """One that fails, fails alone.

    Raises KeyRotationFailed, which carries the `report`, when all is done and some failed; where only one was to be rotated,
    its own error.
    """
    rotated, skipped, failed = list[OwnerRotation](), list[str](), list[FailedRotation]()
    threads = 1 if request.new_data_key or request.re_encrypt else _SIDE_BY_SIDE
    sealed = SealedEpochs(site)

    def one(owner: KeyOwner) -> OwnerRotation | SbhError | None:
        try:
            return rotate_one(site, owner, request, user_id, progress, sealed)
        except (UnknownBackup, ObjectMissing):
            return None
        except SbhError as error:
            return error
        except Exception as error:
            return unforeseen(error, owner.name)

    results = streamed(one, owners, name="rotate", threads=threads, ahead=len(owners))
    for number, (owner, result) in enumerate(zip(owners, results, strict=True), 1):
        if result is None:
            skipped.append(owner.name)
        elif isinstance(result, SbhError):
            failed.append(FailedRotation(owner.name, result))
        else:
            rotated.append(result)
        progress(Progress(STEP, "all", number, len(owners), "tenants"))
    if failed and len(owners) == 1:
        raise failed[0].error
    report = RotationReport(rotated, skipped, failed)
    if failed:
        raise _failed(report)
    return report


def _failed(report: RotationReport) -> KeyRotationFailed:
    names, first = [failed.tenant_id for failed in report.failed], report.failed[0].error
    shown = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    error = KeyRotationFailed(
        f"The keys of {len(names)} of {len(names) + len(report.rotated)} were not rotated",
        on=shown,
        why=f"the first: {first.what} ({first.on}): {first.why}",
        remedy=f"{first.remedy or 'see the errors'}; then run it again: the others are done, and doing them twice is harmless",
    )
    error.report = report
    return error


def rotate_one(
    site: Site,
    owner: KeyOwner,
    request: RotationRequest,
    user_id: str,
    progress: ProgressSink,
    sealed: SealedEpochs,
) -> OwnerRotation:
    """`sealed`: of this run.

    Raises ObjectMissing or UnknownBackup where it has no keys, LeaseHeld (only with a new data key or a re-encryption), CopyError
    where all is done but in a copy.
    """
    done = _rotated_here(site, owner, request, user_id, progress, sealed)
    housed = owner if owner.catalog else replace(owner, tenant=site.owners.housed(owner.tenant))
    copies = rotate_in_copies(
        site,
        owner.name,
        housed.tenant,
        lambda end: key_place(end, housed),
        user_id,
        end_epochs=request.re_encrypt and not owner.catalog,
        progress=progress,
    )
    return replace(done, copies=copies or None)


def _rotated_here(
    site: Site,
    owner: KeyOwner,
    request: RotationRequest,
    user_id: str,
    progress: ProgressSink,
    sealed: SealedEpochs,
) -> OwnerRotation:
    place, tenant = key_place(site, owner), owner.tenant
    back = put_right(place, timestamp(site.clock()))
    if back is not None:
        site.track(tenant, "key.restored", user_id, {"owner": owner.name, "region": tenant.region, "epoch": back})
    keys = rewrap(place)
    done = OwnerRotation(owner.name, tenant.region, site.keys.name, keys, read_key_object(place, EPOCH).newest)
    site.track(
        tenant,
        "key.rotated",
        user_id,
        {"owner": owner.name, "region": tenant.region, "keys": [asdict(k) for k in keys]},
    )
    if owner.catalog:
        return done
    if request.new_data_key:
        done = replace(done, epoch=_new_epoch(site, place, tenant))
        register_newest(site, tenant)
        site.track(tenant, "key.created", user_id, {"region": tenant.region, "epoch": done.epoch})
    if request.re_encrypt:
        done = _re_encrypted(site, tenant, done, progress, sealed)
        if done.epochs_destroyed:
            props = {"region": tenant.region, "epochs_destroyed": done.epochs_destroyed}
            site.track(tenant, "key.rotated", user_id, {"owner": owner.name, **props})
    return done


def _new_epoch(site: Site, place: KeyPlace, tenant: Tenant) -> int:
    with ExitStack() as stack:
        held = lease_for(site, tenant, STEP, stack)
        held.renew()
        return begin_epoch(place)


def _re_encrypted(
    site: Site, tenant: Tenant, done: OwnerRotation, progress: ProgressSink, sealed: SealedEpochs
) -> OwnerRotation:
    """Seal and sign anew what is of earlier epochs, and destroy the keys of those of which nothing is left."""
    place = key_place(site, KeyOwner(tenant.id, tenant))
    newest = read_key_object(place, EPOCH).newest
    if newest == EPOCH:
        return replace(
            done,
            re_encrypted_bytes=0,
            documents_signed=0,
            epochs_destroyed=(),
            old_bytes=0,
            old_packs=0,
            key_versions_left=0,
            note="there is one key epoch only; begin another with --new-data-key",
        )
    pruned = prune(site, tenant, dry_run=False, progress=progress, re_encrypt=True)
    register_newest(site, tenant)  # a killed run may have begun the epoch only
    destroyed, versions_left, held_back = list[int](), 0, list[str]()
    with ExitStack() as stack:
        held = lease_for(site, tenant, STEP, stack)
        repository = stack.enter_context(site.repository(tenant))
        signed = sign_anew(repository, progress)
        repository.load_index()
        old = {epoch: found for epoch, found in remains(repository).items() if epoch < newest}
        for epoch in epochs(place):
            if epoch >= newest or epoch in old:
                continue
            held.renew()
            why = None
            if not read_key_object(place, epoch).destroyed:
                why = sealed.why_needed(tenant, epoch, newest)
            if why is None:
                versions_left += _destroy(site, place, tenant, epoch, destroyed)
            else:
                held_back.append(why)
    hours = site.settings.prune.min_age_hours
    notes = [f"what was retired is removed after {hours:g} hours: run it again then"] if old else []
    notes += dict.fromkeys(held_back)
    return replace(
        done,
        re_encrypted_bytes=pruned.bytes_rewritten if isinstance(pruned, PruneReport) else 0,
        documents_signed=signed,
        epochs_destroyed=destroyed,
        old_bytes=sum(found.bytes for found in old.values()),
        old_packs=sum(found.packs for found in old.values()),
        key_versions_left=versions_left,
        epochs_held_back=len(held_back) or None,
        note="; ".join(notes) or None,
    )


def _destroy(site: Site, place: KeyPlace, tenant: Tenant, epoch: int, destroyed: list[int]) -> int:
    """Empty or delete the key object, then its older versions; how many of those could not be deleted."""
    if not read_key_object(place, epoch).destroyed:
        destroyed.append(epoch)
    destroy_epoch(place, epoch, timestamp(site.clock()))
    key = place.key(epoch)
    older = keys_of([key])
    try:
        purged = site.purger(site.backup_place(tenant)).purge(key, lambda k, now: older(k, now) and not now)
    except StoreDenied:
        return 1  # a role that may not delete versions: they stay until the bucket's lifecycle removes them
    return purged.left


def each_owner(site: Site, tenants: Iterable[Tenant], notice: Callable[[SbhError], None]) -> list[KeyOwner]:
    """Everybody who has keys: the tenants given, those of whom only backups are left, the platform, the catalogs."""
    found = {str(tenant.id): tenant for tenant in tenants}
    for region in site.settings.storage.regions:
        catalog = site.catalog(region)
        former = {mark.home for mark in site.owners.all_former(region)}
        for home in sorted({*catalog.read(), *former}):
            if (slug := slug_of(home)) is None:
                continue
            if home in former:  # put aside: it has keys of its own
                found.setdefault(home, HousedTenant(slug, "", region, "", home))
            else:
                found.setdefault(str(slug), Tenant(slug, "", region, ""))
        for damage in catalog.damages:
            notice(damage.error)
    regions = site.settings.storage.regions
    platform = Tenant(PLATFORM, PLATFORM, site.settings.platform.region or regions[0], "critical")
    allowed = [KeyOwner(name, tenant) for name, tenant in sorted(found.items()) if tenant.region in regions]
    return [*allowed, KeyOwner(str(PLATFORM), platform), *map(catalog_owner, regions)]
