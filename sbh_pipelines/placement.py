"""Tenant -> region -> bucket and prefix; refuses to leave the allowed regions.

Every key of a repository is made from what this module returns, so residency is decided in one place. It is enforced where
objects are written: `stores/bound_store.py` asks `check_tenant` before a write, and the server where the bucket really is.
Reading is never refused: what lies where it may not must be found, restored and removed.
"""

from dataclasses import dataclass, replace

from sbh_pipelines.errors import ResidencyError
from sbh_pipelines.model import HousedTenant, Tenant, TenantId
from sbh_pipelines.settings import Settings, StorageSettings

PLATFORM = TenantId("_platform")  # no slug begins so


@dataclass(frozen=True, slots=True)
class Place:
    """A bucket, a prefix in it (ends with `/`), and the region both must be in."""

    bucket: str
    prefix: str
    region: str
    application: bool = False  # holds the application's own files: how those are encrypted is the bucket's business


def backup_place(settings: Settings, tenant: Tenant) -> Place:
    """Where the tenant's repository is. Raises ResidencyError when its region is not one of `storage.regions`."""
    if tenant.id == PLATFORM:
        return replace(catalog_place(settings, tenant.region), prefix=settings.platform.prefix)
    storage = settings.storage
    if tenant.region not in storage.regions:
        raise ResidencyError(
            "The tenant's region is not an allowed backup region",
            on=f"{tenant.id}, region {tenant.region!r}",
            why=f"allowed are {', '.join(storage.regions)}",
            remedy="add the region to storage.regions, or correct the tenant's region",
        )
    home = tenant.home if isinstance(tenant, HousedTenant) else tenant.id
    return Place(_fill(storage.bucket, tenant), _fill(storage.prefix, tenant, home), tenant.region)


def platform_tenant(settings: Settings) -> Tenant:
    """What stands for a tenant in the repository of the platform backup."""
    return Tenant(PLATFORM, PLATFORM, settings.platform.region or settings.storage.regions[0], "critical")


def catalog_place(settings: Settings, region: str) -> Place:
    """Where the catalog of a region is. Raises ResidencyError when it is not one of `storage.regions`."""
    storage = settings.storage
    if region not in storage.regions:
        raise ResidencyError(
            "Not an allowed backup region",
            on=region,
            why=f"allowed are {', '.join(storage.regions)}",
            remedy="add the region to storage.regions",
        )
    bucket = (storage.catalog_bucket or storage.bucket).replace("{region}", region)
    # The region is in the prefix as well: several regions may share a bucket.
    return Place(bucket, f"{storage.catalog_prefix}{region}/", region)


def audit_place(settings: Settings, region: str) -> Place:
    """Where a region keeps the platform's audit trail, and the ends of the tenants': beside its catalog. Raises ResidencyError."""
    beside = catalog_place(settings, region)
    return replace(beside, prefix=f"{settings.storage.catalog_prefix}audit/{region}/")


def journal_place(settings: Settings, region: str) -> Place:
    """Where the change journal of a region is: in its catalog's bucket. Raises ResidencyError."""
    return replace(catalog_place(settings, region), prefix=f"{settings.journal.prefix}{region}/")


def files_place(settings: Settings, tenant: Tenant) -> Place:
    """Where the tenant's own files are."""
    return Place(_fill(settings.files.bucket, tenant), _fill(settings.files.prefix, tenant), tenant.region, True)


def allowed_regions(settings: Settings, tenant: Tenant) -> tuple[str, ...]:
    """The regions of `storage.regions` that the tenant's data may lie in, in that order."""
    residency = settings.residency
    listed = residency.tenants.get(tenant.id) or residency.tiers.get(tenant.tier)
    if listed is None and not tenant.tier and residency.tiers and residency.default:
        # Its tier is not known (a tenant whose row is gone): what no tier allows is refused, no more.
        listed = [*residency.default, *(name for names in residency.tiers.values() for name in names)]
    listed = listed or residency.default
    allowed = residency.regions_of(listed) if listed else frozenset(settings.storage.regions)
    return tuple(region for region in settings.storage.regions if region in allowed)


def residency_names(settings: Settings, tenant: Tenant) -> list[str]:
    """The zones and regions that the settings allow to the tenant; none where they say nothing."""
    residency = settings.residency
    return residency.tenants.get(tenant.id) or residency.tiers.get(tenant.tier) or residency.default


def may_lie_in(settings: Settings, tenant: Tenant, region: str) -> bool:
    """Whether a copy of the tenant's backups may lie in a region, which need not be one of `storage.regions`.

    Where nothing is said of the tenant it may, but not out of a zone that its own region is of.
    """
    residency, listed = settings.residency, residency_names(settings, tenant)
    if listed:
        return region in residency.regions_of(listed)
    return residency.is_one_zone([tenant.region, region])


def check_tenant(settings: Settings, tenant: Tenant, *, application: bool = False) -> None:
    """Raises ResidencyError where nothing of the tenant may be written to its region.

    `application`: its own files are meant, which are no part of a copy.
    """
    if tenant.id == PLATFORM:
        return
    allowed = allowed_regions(settings, tenant)
    storage = settings.storage.of_files if application else settings.storage
    real = storage.real_region(tenant.region)
    if tenant.region in allowed and (real == tenant.region or may_lie_in(settings, tenant, real)):
        return
    if tenant.region in allowed:
        raise ResidencyError(
            "The tenant's data may not lie in the region of the copy",
            on=f"{tenant.id}, region {real!r}",
            why=f"allowed are {', '.join(residency_names(settings, tenant))}",
            remedy="leave its tier out of the copy, or allow the region in residency.tenants, .tiers, .default or a zone",
        )
    raise ResidencyError(
        "The tenant's data may not lie in its region",
        on=f"{tenant.id}, region {tenant.region!r}",
        why=f"allowed are {', '.join(allowed)}",
        remedy="correct the tenant's region in the application, or what residency.tenants, .tiers or .default allow",
    )


def former_places(settings: Settings, tenant: Tenant) -> list[Place]:
    """Where the tenant's repository would be, had the tenant another region; none where its move is known."""
    if tenant.id == PLATFORM or tenant.id in settings.residency.moved:
        return []
    here = backup_place(settings, tenant)
    others = (replace(tenant, region=region) for region in settings.storage.regions if region != tenant.region)
    places = (backup_place(settings, other) for other in others)
    return [place for place in places if place_identity(settings, place) != place_identity(settings, here)]


def place_identity(settings: Settings, place: Place) -> tuple[str, str, str]:
    """(server, bucket, prefix), which tells places apart: a bucket's name is unique on its server only."""
    storage = settings.storage
    server = (storage.endpoint_url or "").replace("{region}", place.region) if storage.kind == "s3" else ""
    return server, place.bucket, place.prefix


def lies_beside(settings: Settings, files: Place, own: Place) -> bool:
    """Whether a listing of the tenant's `files` goes through its repository `own` as well.

    Where a copy became the primary the files are where they were, and a bucket of the same name may be on either server.
    """
    here, there = settings.storage.of_files, settings.storage
    return (
        (files.bucket, files.region) == (own.bucket, own.region)
        and own.prefix.startswith(files.prefix)
        and _server(here, files.region) == _server(there, own.region)
    )


def is_one_place(here: Settings, one: Place, there: Settings, other: Place, *, files: bool = False) -> bool:
    """Whether two places of two settings are one. `files`: of the application's files."""
    same = (one.bucket, one.prefix) == (other.bucket, other.prefix)
    ends = ((here.storage, one), (there.storage, other))
    servers = [_server(of.of_files if files else of, place.region) for of, place in ends]
    return same and servers[0] == servers[1]


def _server(storage: StorageSettings, region: str) -> tuple[str, str, str]:
    """Tells servers apart. One that is spelled in two ways counts as two."""
    where = str(storage.path) if storage.kind == "local" else (storage.endpoint_url or "").replace("{region}", region)
    return storage.kind, where, storage.real_region(region)


def _fill(template: str, tenant: Tenant, home: str = "") -> str:
    # Not str.format: a stray brace in a setting must not raise, and attribute access must not work.
    return template.replace("{region}", tenant.region).replace("{tenant}", home or tenant.id)
