"""Rotation of keys: wrapped anew, a new data key, and everything sealed anew so that an old one can be destroyed.

Each of the three is a step further. Wrapping anew replaces a few hundred bytes per tenant and disturbs nobody. A new data key
begins a key epoch: what is written from then on is sealed with it. Re-encryption rewrites what is still of earlier epochs, by
the same two phases as a prune: a first run copies and retires, a run `prune.min_age_hours` later removes, and only when nothing
of an epoch is left, not even a retired pack, its key object is emptied, and its older versions deleted.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from sbh_pipelines.backup.retain.prune import PruneReport, lease_for, prune
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.concurrency import streamed
from sbh_pipelines.errors import KeyRotationFailed, ObjectMissing, SbhError, StoreDenied, UnknownBackup
from sbh_pipelines.model import Progress, ProgressSink, Tenant, timestamp
from sbh_pipelines.placement import PLATFORM, backup_place
from sbh_pipelines.repository.catalog.catalog import OWNER
from sbh_pipelines.repository.keys.data_key import EPOCH, KeyPlace, read_key_object
from sbh_pipelines.repository.keys.epochs import begin_epoch, destroy_epoch, epochs, rewrap
from sbh_pipelines.repository.keys.remains import remains, sign_anew
from sbh_pipelines.stores.purge import keys_of

STEP = "rotate keys"
_SIDE_BY_SIDE = 8
_NAMED = 10


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a rotation is to do besides wrapping anew."""

    new_data_key: bool = False
    re_encrypt: bool = False


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose keys: a tenant's, the platform's, or (with `catalog`) those of a region's catalog."""

    name: str
    tenant: Tenant
    catalog: bool = False


def catalog_owner(region: str) -> Owner:
    return Owner(f"{OWNER}/{region}", Tenant(PLATFORM, PLATFORM, region, "critical"), catalog=True)


def key_place(site: Site, owner: Owner) -> KeyPlace:
    """Where the owner's key objects are. Raises ResidencyError."""
    if owner.catalog:
        catalog = site.catalog(owner.tenant.region)
        return KeyPlace(catalog.store, catalog.prefix, OWNER, owner.tenant.region, site.keys)
    store, prefix = site.backup_store(owner.tenant)
    return KeyPlace(store, prefix, owner.tenant.id, owner.tenant.region, site.keys)


def rotate_all(
    site: Site, owners: Sequence[Owner], wanted: Wanted, user_id: str, progress: ProgressSink
) -> dict[str, Any]:
    """{'rotated': [...], 'skipped': [names without keys], 'failed': [{name, error}]}, in the order of `owners`.

    One that fails, fails alone. Raises KeyRotationFailed, which carries the same as its `report`, when all is done and some
    failed; where only one was to be rotated, its own error.
    """
    report: dict[str, Any] = {"rotated": [], "skipped": [], "failed": []}
    threads = 1 if wanted.new_data_key or wanted.re_encrypt else _SIDE_BY_SIDE

    def one(owner: Owner) -> dict[str, Any] | SbhError | None:
        try:
            return rotate_one(site, owner, wanted, user_id, progress)
        except (UnknownBackup, ObjectMissing):
            return None
        except SbhError as error:
            return error

    errors: list[SbhError] = []
    results = streamed(one, owners, name="rotate", threads=threads, ahead=len(owners))
    for number, (owner, result) in enumerate(zip(owners, results, strict=True), 1):
        if result is None:
            report["skipped"].append(owner.name)
        elif isinstance(result, SbhError):
            errors.append(result)
            report["failed"].append({"tenant_id": owner.name, "error": result.as_dict()})
        else:
            report["rotated"].append(result)
        progress(Progress(STEP, "all", number, len(owners), "tenants"))
    if errors and len(owners) == 1:
        raise errors[0]
    if errors:
        raise _failed(report, errors)
    return report


def _failed(report: dict[str, Any], errors: Sequence[SbhError]) -> KeyRotationFailed:
    names = [str(failed["tenant_id"]) for failed in report["failed"]]
    shown = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    error = KeyRotationFailed(
        f"The keys of {len(names)} of {len(names) + len(report['rotated'])} were not rotated",
        on=shown,
        why=f"the first: {errors[0].what} ({errors[0].on}): {errors[0].why}",
        remedy=f"{errors[0].remedy or 'see the errors'}; then run it again: the others are done, and doing them twice is harmless",
    )
    error.report = report
    return error


def rotate_one(site: Site, owner: Owner, wanted: Wanted, user_id: str, progress: ProgressSink) -> dict[str, Any]:
    """What was done for one owner: {tenant_id, region, provider, keys: [{epoch, from_key, to_key}], epoch, ...}.

    Raises ObjectMissing or UnknownBackup where it has no keys, LeaseHeld (only with a new data key or a re-encryption).
    """
    place, tenant = key_place(site, owner), owner.tenant
    wrapped = rewrap(place)
    done: dict[str, Any] = {
        "tenant_id": owner.name,
        "region": tenant.region,
        "provider": site.keys.name,
        "keys": wrapped,
        "epoch": read_key_object(place, EPOCH).newest,
    }
    site.track(tenant, "key.rotated", user_id, {"owner": owner.name, "region": tenant.region, "keys": wrapped})
    if owner.catalog:
        return done
    if wanted.new_data_key:
        done["epoch"] = _new_epoch(site, place, tenant)
        site.track(tenant, "key.created", user_id, {"region": tenant.region, "epoch": done["epoch"]})
    if wanted.re_encrypt:
        done |= re_encrypt(site, tenant, progress)
        if done["epochs_destroyed"]:
            props = {"region": tenant.region, "epochs_destroyed": done["epochs_destroyed"]}
            site.track(tenant, "key.rotated", user_id, {"owner": owner.name, **props})
    return done


def _new_epoch(site: Site, place: KeyPlace, tenant: Tenant) -> int:
    with ExitStack() as stack:
        held = lease_for(site, tenant, STEP, stack)
        held.renew()
        return begin_epoch(place)


def re_encrypt(site: Site, tenant: Tenant, progress: ProgressSink) -> dict[str, Any]:
    """Seal and sign anew what is of earlier epochs, and destroy the keys of those of which nothing is left.

    {re_encrypted_bytes, documents_signed, epochs_destroyed, old_bytes, old_packs, key_versions_left, note?}.
    """
    place = key_place(site, Owner(tenant.id, tenant))
    newest = read_key_object(place, EPOCH).newest
    done: dict[str, Any] = {"re_encrypted_bytes": 0, "documents_signed": 0, "epochs_destroyed": []}
    done |= {"old_bytes": 0, "old_packs": 0, "key_versions_left": 0}
    if newest == EPOCH:
        return {**done, "note": "there is one key epoch only; begin another with --new-data-key"}
    pruned = prune(site, tenant, dry_run=False, progress=progress, re_encrypt=True)
    done["re_encrypted_bytes"] = pruned.bytes_rewritten if isinstance(pruned, PruneReport) else 0
    with ExitStack() as stack:
        held = lease_for(site, tenant, STEP, stack)
        repository = stack.enter_context(site.repository(tenant))
        done["documents_signed"] = sign_anew(repository, progress)
        repository.load_index()
        left = remains(repository)
        old = {epoch: found for epoch, found in left.items() if epoch < newest}
        done["old_bytes"] = sum(found.bytes for found in old.values())
        done["old_packs"] = sum(found.packs for found in old.values())
        for epoch in epochs(place):
            if epoch < newest and epoch not in old:
                held.renew()
                done["key_versions_left"] += _destroy(site, place, tenant, epoch, done["epochs_destroyed"])
    if old:
        hours = site.settings.prune.min_age_hours
        done["note"] = f"what was retired is removed after {hours:g} hours: run it again then"
    return done


def _destroy(site: Site, place: KeyPlace, tenant: Tenant, epoch: int, destroyed: list[int]) -> int:
    """Empty or delete the key object, then its older versions; how many of those could not be deleted."""
    if not read_key_object(place, epoch).destroyed:
        destroyed.append(epoch)
    destroy_epoch(place, epoch, timestamp(site.clock()))
    key = place.key(epoch)
    older = keys_of([key])
    try:
        purged = site.purger(backup_place(site.settings, tenant)).purge(key, lambda k, now: older(k, now) and not now)
    except StoreDenied:
        return 1  # a role that may not delete versions: they stay until the bucket's lifecycle removes them
    return purged.left


def each_owner(site: Site, tenants: Iterable[Tenant], notice: Callable[[SbhError], None]) -> list[Owner]:
    """Everybody who has keys: the tenants given, those of whom only backups are left, the platform, the catalogs."""
    found = {str(tenant.id): tenant for tenant in tenants}
    for region in site.settings.storage.regions:
        catalog = site.catalog(region)
        for slug in catalog.read():
            found.setdefault(str(slug), Tenant(slug, "", region, ""))
        for damage in catalog.damages:
            notice(damage.error)
    regions = site.settings.storage.regions
    platform = Tenant(PLATFORM, PLATFORM, site.settings.platform.region or regions[0], "critical")
    allowed = [Owner(name, tenant) for name, tenant in sorted(found.items()) if tenant.region in regions]
    return [*allowed, Owner(str(PLATFORM), platform), *map(catalog_owner, regions)]


def remaining(site: Site, tenant: Tenant, newest: int) -> dict[str, int]:
    """Packs and bytes that are still of earlier epochs than `newest`."""
    with site.repository(tenant) as repository:
        repository.load_index()
        old = [asdict(found) for epoch, found in remains(repository).items() if epoch < newest]
    return {f"old_{name}": sum(found[name] for found in old) for name in ("packs", "bytes")}
