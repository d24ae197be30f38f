"""What the backups take up and what that costs, by tenant, tier and storage class: the buckets are listed, nothing is estimated.

Current versions of objects count. Older ones of a versioned bucket cost as well, until its lifecycle rule removes them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache

from sbh_pipelines.backup.health.observation import observe
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import Tenant, timestamp
from sbh_pipelines.placement import Place, audit_place, backup_place, catalog_place, journal_place, platform_tenant
from sbh_pipelines.stores.base import ObjectInfo
from sbh_pipelines.stores.open_store import open_control, storage_of

LOCAL = "local"
Listing = Callable[[Place], Iterator[tuple[ObjectInfo, str]]]


@dataclass(frozen=True, slots=True)
class StoredBytes:
    """What lies in one place.

    Attributes:
        objects: How many objects.
        bytes: Of all of them.
        by_class: The same by S3 storage class; `local` of a directory.
        new: Of those that were put in the last days.
        cost: Of a month, by `prices`; null where the list lacks a class.
    """

    objects: int
    bytes: int
    by_class: dict[str, int]
    new: int
    cost: float | None


@dataclass(frozen=True, slots=True)
class TenantStorage:
    """One tenant's repository.

    Attributes:
        tenant_id: Whose.
        region: Where it is.
        tier: The tenant's tier.
        backups: How many backups it holds.
        logical: What all of them would bring back, bytes.
        stored: What it takes up.
        saved: How many times less that is than `logical`; null where nothing is there.
        error: Why the tenant is not looked at, or not wholly.
    """

    tenant_id: str
    region: str
    tier: str
    backups: int
    logical: int
    stored: StoredBytes
    saved: float | None
    error: SbhError | None = None


@dataclass(frozen=True, slots=True)
class SharedStorage:
    """What belongs to no single tenant: catalog, change journal and audit trail of a region, the platform's backups."""

    name: str
    region: str
    stored: StoredBytes


@dataclass(frozen=True, slots=True)
class StorageReport:
    """What the backups of a site take up.

    Attributes:
        at: Time of the listing, UTC, ISO 8601.
        days: What `new` counts.
        currency: Of all costs.
        tenants: Each tenant, the largest first.
        shared: What belongs to none.
        by_tier: Bytes by tier.
        by_class: Bytes by storage class, of everything.
        total: Everything.
    """

    at: str
    days: int
    currency: str
    tenants: list[TenantStorage]
    shared: list[SharedStorage]
    by_tier: dict[str, int]
    by_class: dict[str, int]
    total: StoredBytes


def storage_report(site: Site, tenants: Sequence[Tenant], *, days: int, shared: bool) -> StorageReport:
    """List what is stored. Raises the store's errors for what is shared; a tenant's are in its line."""
    now, listing = site.clock(), _listing(site)
    since = now - timedelta(days=days)

    def measured(place: Place) -> StoredBytes:
        return _sum(site, listing(place), since)

    lines = side_by_side(lambda tenant: _of_tenant(site, tenant, measured), tenants, name="storage")
    beside = [SharedStorage(name, place.region, measured(place)) for name, place in _shared(site)] if shared else []
    parts = [line.stored for line in lines] + [line.stored for line in beside]
    total = _total(site, parts)
    return StorageReport(
        at=timestamp(now),
        days=days,
        currency=site.settings.prices.currency,
        tenants=sorted(lines, key=lambda line: (-line.stored.bytes, line.tenant_id)),
        shared=[line for line in beside if line.stored.objects],
        by_tier=_added((line.tier, line.stored.bytes) for line in lines),
        by_class=total.by_class,
        total=total,
    )


def _of_tenant(site: Site, tenant: Tenant, measured: Callable[[Place], StoredBytes]) -> TenantStorage:
    seen = observe(site, tenant)
    try:
        stored, error = measured(site.backup_place(tenant)), seen.error
    except SbhError as failed:
        stored, error = _sum(site, (), site.clock()), failed
    logical = seen.backups.logical
    saved = round(logical / stored.bytes, 2) if stored.bytes and logical else None
    return TenantStorage(tenant.id, tenant.region, tenant.tier, seen.backups.count, logical, stored, saved, error)


def _shared(site: Site) -> Iterator[tuple[str, Place]]:
    settings = site.settings
    for region in settings.storage.regions:
        yield "catalog", catalog_place(settings, region)
        yield "audit trail", audit_place(settings, region)
        yield "change journal", journal_place(settings, region)
    yield "platform backups", backup_place(settings, platform_tenant(settings))


def _listing(site: Site) -> Listing:
    control = cache(lambda region: open_control(site.settings.storage, region))

    def listing(place: Place) -> Iterator[tuple[ObjectInfo, str]]:
        if storage_of(site.settings, place).kind == "local":
            return ((info, LOCAL) for info in site.raw_store(place).list(place.prefix))
        return control(place.region).objects(place.bucket, place.prefix)

    return listing


def _sum(site: Site, found: Iterable[tuple[ObjectInfo, str]], since: datetime) -> StoredBytes:
    objects = size = new = 0
    by_class: dict[str, int] = {}
    for info, name in found:
        objects, size = objects + 1, size + info.size
        by_class[name] = by_class.get(name, 0) + info.size
        new += info.size if info.modified >= since else 0
    return StoredBytes(objects, size, by_class, new, site.settings.prices.cost(by_class))


def _total(site: Site, parts: Sequence[StoredBytes]) -> StoredBytes:
    by_class = _added(pair for part in parts for pair in part.by_class.items())
    return StoredBytes(
        sum(part.objects for part in parts),
        sum(part.bytes for part in parts),
        by_class,
        sum(part.new for part in parts),
        site.settings.prices.cost(by_class),
    )


def _added(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for name, size in pairs:
        total[name] = total.get(name, 0) + size
    return dict(sorted(total.items()))
