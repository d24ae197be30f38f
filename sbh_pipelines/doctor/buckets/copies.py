"""Copies: the buckets, the keys and the tenants of a second place, each as a run of the copy would find it."""

import secrets
from collections.abc import Sequence
from contextlib import suppress

from sbh_pipelines.backup.copies.place import open_copy, refuse_primary
from sbh_pipelines.backup.copies.promotion.promotion import unlocked_events
from sbh_pipelines.backup.copies.status import copy_status
from sbh_pipelines.backup.site.fence import place_name
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.database.schema.tenants import list_tenants
from sbh_pipelines.doctor import keys
from sbh_pipelines.doctor.buckets import protection, residency
from sbh_pipelines.doctor.findings import Report
from sbh_pipelines.errors import CopyError, SbhError, StoreDenied, StoreError
from sbh_pipelines.model import Tenant, utc_now
from sbh_pipelines.placement import Place, may_lie_in
from sbh_pipelines.security.keys import open_key_provider
from sbh_pipelines.settings import CopySettings, Settings
from sbh_pipelines.settings.places.copies import at_copy, primary_copy
from sbh_pipelines.stores.object_store import Store
from sbh_pipelines.stores.open_store import endpoint, is_aws, open_control, open_store

AREA = "copies"
TEST_PREFIX = "_doctor/"  # no tenant's: no slug begins so
_SHOWN = 5


def check(report: Report, settings: Settings, *, write: bool) -> None:
    """`write` also puts, reads and tries to delete a test object in every bucket of a copy. Never raises SbhError."""
    if settings.storage.kind == "s3":
        _primary(report, settings)
    if not settings.copies:
        return
    tenants: Sequence[Tenant] = ()
    with report.trying(AREA):
        tenants = list_tenants(settings).tenants
    for copy in settings.copies:
        with report.trying(AREA):
            there = at_copy(settings, copy.name)
            _apart(report, settings, copy, there)
            for region in there.storage.regions:
                with report.trying(AREA):
                    _bucket(report, copy, there, region, write=write)
            with report.trying(AREA):
                _keys(report, settings, copy, there)
            _tenants(report, settings, copy, tenants)
            with report.trying(AREA):
                _left(report, settings, copy, tenants)


def _primary(report: Report, settings: Settings) -> None:
    """Whether backups are made here still, and whether the settings say so. What the store fails of is said of the storage."""
    site = Site(settings, utc_now)
    for region in settings.storage.regions:
        with suppress(SbhError):
            error = site.fence.look(region, leave=False)
            if error is not None:
                report.fail(AREA, f"{error.what} ({error.on})", error.why, error.remedy)
            elif settings.primary is not None:
                where = f"{place_name(site, region)}, since `sbh copies promote {settings.primary}`"
                report.ok(AREA, f"The backups are at the copy {settings.primary}", where)
    primary = primary_copy(settings)
    if primary is not None and (told := unlocked_events(site, primary)) is not None:
        what, _, remedy = told.partition("; ")
        report.warn(AREA, f"Audit events at the copy {primary.name} are not locked", what, remedy)
    for copy in settings.copies:
        with suppress(SbhError):
            try:
                refuse_primary(open_copy(site, copy.name))
            except CopyError as error:
                report.warn(AREA, f"{error.what} ({error.on})", error.why, error.remedy)


def _apart(report: Report, settings: Settings, copy: CopySettings, there: Settings) -> None:
    """Whether what takes a region down, or makes its data leave, would find the copy."""
    for region in copy.regions(settings):
        same = endpoint(settings.storage, region) == endpoint(there.storage, region)
        if region == copy.to and same:
            report.warn(
                AREA,
                f"The copy {copy.name} of {region} is in no second region",
                "it lies on the same server in the same region, and is lost with the backups",
                "name another region: under [[copies]] to; or another provider's: endpoint_url",
            )
        if not settings.residency.is_one_zone([region, copy.to]):
            report.warn(
                AREA,
                f"The copy {copy.name} leaves the zone of {region}",
                f"{copy.to} is in no zone with it, which residency.platform_lists_all allows: the catalog lists all tenants there",
                "copy to a region of the zone, and take residency.platform_lists_all out",
            )


def _bucket(report: Report, copy: CopySettings, there: Settings, region: str, *, write: bool) -> None:
    name, storage = copy.bucket.replace("{region}", region), there.storage
    control = open_control(storage, region)
    control.check_bucket(name)
    report.ok(AREA, f"The bucket {name} answers", f"copy {copy.name} of {region}, in {copy.to}")
    residency.check_bucket(report, there, control, Place(name, "", region))
    catalog = storage.catalog_prefix
    prefixes = [storage.prefix.replace("{region}", region), catalog, there.platform.prefix, there.journal.prefix]
    protection.check(report, there, control, name, prefixes, strict=is_aws(storage, region))
    if copy.lock_days is not None:
        with report.trying(AREA):
            _lock(report, name, copy.lock_days, control.object_lock(name))
    hasty = storage.model_copy(update={"timeout_s": min(storage.timeout_s, 15), "retries": min(storage.retries, 1)})
    store = open_store(hasty, Place(name, "", region))
    next(store.list(TEST_PREFIX), None)
    if write:
        _write(report, store, copy, name)


def _lock(report: Report, name: str, days: int, found: str) -> None:
    if found:
        report.ok(AREA, f"The bucket {name} can lock objects", f"each copied object for {days} days, but keys")
        return
    report.fail(
        AREA,
        f"The bucket {name} has no object lock, and lock_days is {days}",
        "nothing that is copied could be locked",
        f"aws s3api put-object-lock-configuration --bucket {name} --object-lock-configuration ObjectLockEnabled=Enabled"
        " (the bucket must be versioned); or leave lock_days out",
    )


def _write(report: Report, store: Store, copy: CopySettings, name: str) -> None:
    """What a run of the copy does: put and read back. Deleting is only for what prunes and erases there."""
    key, body = f"{TEST_PREFIX}{secrets.token_hex(8)}", secrets.token_bytes(64)
    store.create(key, body)
    if store.get(key, len(body)) != body:
        raise StoreError("What was read is not what was written", on=store.url(key), remedy="do not use this store")
    report.ok(AREA, f"Objects can be written and read in {name}", f"copy {copy.name}")
    try:
        store.delete([key])
    except StoreDenied:
        report.ok(
            AREA,
            f"What copies to {name} may not delete there",
            "whoever has its credentials destroys no copy; `sbh copies prune`, erasures and the ending of key epochs need"
            f" others there (deploy/policies/copy-upkeep.json), else it only grows; {store.url(key)} stays",
        )
    else:
        report.ok(
            AREA,
            f"What copies to {name} may also delete there",
            "retention and erasure can; so can whoever has its credentials, but for what is locked or kept as a version",
        )


def _keys(report: Report, settings: Settings, copy: CopySettings, there: Settings) -> None:
    provider, own = open_key_provider(there), "{tenant}" in there.keys.kms_key_id
    # All regions' keys are wrapped in `to`: one of them shows it.
    keys.round_trip(report, provider, there.storage.regions[0], keys.OWN if own else keys.TENANT, AREA)
    if there.keys.provider == "local" and there.keys.key_file == settings.keys.key_file:
        report.warn(
            AREA,
            f"The keys of the copy {copy.name} are wrapped by the same key file as those here",
            f"{there.keys.key_file}: with this machine all backups and the copy are lost",
            "make another one, keep it elsewhere as well, and name it under [[copies]] key_file",
        )


def _tenants(report: Report, settings: Settings, copy: CopySettings, tenants: Sequence[Tenant]) -> None:
    place = open_copy(Site(settings, utc_now), copy.name)
    here = [tenant for tenant in tenants if tenant.region in place.regions]
    out = [tenant for tenant in here if place.left_out(tenant) is not None]
    by_tier = [tenant for tenant in out if copy.tiers and tenant.tier not in copy.tiers]
    kept_in = [tenant for tenant in out if tenant not in by_tier and not may_lie_in(settings, tenant, copy.to)]
    report.ok(
        AREA,
        f"Tenants that the copy {copy.name} takes: {len(here) - len(out)} of {len(here)}",
        ", ".join(place.regions),
    )
    if by_tier:
        report.ok(AREA, f"Tenants that the copy {copy.name} leaves out by their tier: {len(by_tier)}", _first(by_tier))
    if kept_in:
        report.warn(
            AREA,
            f"Tenants whose data may not lie in {copy.to}, so that the copy {copy.name} leaves them out: {len(kept_in)}",
            _first(kept_in),
            f"allow {copy.to} to them in residency.tenants, .tiers or .default, or make a second copy for them in a region that is"
            " allowed",
        )
    if here and len(out) == len(here):
        report.fail(
            AREA,
            f"The copy {copy.name} takes no tenant at all",
            f"its tiers are {', '.join(copy.tiers) or 'all'}, its region {copy.to}",
            "correct tiers and to under [[copies]]",
        )


def _left(report: Report, settings: Settings, copy: CopySettings, tenants: Sequence[Tenant]) -> None:
    """What lies there of who is not copied any more; nothing of a copy in which backups were made, of which nothing is removed."""
    try:
        refuse_primary(open_copy(Site(settings, utc_now), copy.name), strict=True)
    except CopyError:
        return  # which is said already
    status = copy_status(Site(settings, utc_now), copy.name, tenants, utc_now(), everyone=True)
    for line in status.tenants:
        if not line.kept_backups:
            continue
        what = f"{line.kept_backups} backups of {line.tenant_id} lie at the copy {copy.name} and are not continued"
        remove = f"sbh copies forget {copy.name} --tenant {line.tenant_id} --confirm"
        if line.misplaced:
            report.fail(AREA, f"{what}, and may not lie there", line.why, remove)
        else:
            report.warn(AREA, what, line.why, f"none is needed, its retention goes on; to remove them: {remove}")


def _first(tenants: Sequence[Tenant]) -> str:
    names = [tenant.id for tenant in tenants]
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
