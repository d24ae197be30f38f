"""Tenant -> region -> bucket and prefix; refuses to leave the allowed regions.

Every key of a repository is made from what this module returns, so residency is decided in one place.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sbh_pipelines.errors import ResidencyError
from sbh_pipelines.model import Tenant, TenantId
from sbh_pipelines.settings import Settings

PLATFORM = TenantId("_platform")  # no slug begins so


@dataclass(frozen=True, slots=True)
class Place:
    """A bucket, a prefix in it (ends with `/`), and the region both must be in."""

    bucket: str
    prefix: str
    region: str


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
    return Place(_fill(storage.bucket, tenant), _fill(storage.prefix, tenant), tenant.region)


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


def files_place(settings: Settings, tenant: Tenant) -> Place:
    """Where the tenant's own files are."""
    return Place(_fill(settings.files.bucket, tenant), _fill(settings.files.prefix, tenant), tenant.region)


def _fill(template: str, tenant: Tenant) -> str:
    # Not str.format: a stray brace in a setting must not raise, and attribute access must not work.
    return template.replace("{region}", tenant.region).replace("{tenant}", tenant.id)


class ResidencyManager:
    """The specification's `residency_manager`."""

    def __init__(self, settings: Callable[[], Settings], tenant: Callable[[TenantId], Tenant]) -> None:
        self._settings, self._tenant = settings, tenant

    def get_backup_storage_config(self, tenant_id: str) -> dict[str, str]:
        """{'bucket', 'prefix', 'region'} of the tenant's backups. Raises InvalidId, UnknownTenant, ResidencyError."""
        place = backup_place(self._settings(), self._tenant(TenantId.parse(tenant_id)))
        return {"bucket": place.bucket, "prefix": place.prefix, "region": place.region}


def __getattr__(name: str) -> Any:
    # `from sbh_pipelines.residency import residency_manager` is what the specification promises its callers. The object
    # needs the list of tenants, so the composition root makes it; this module itself depends on nothing above it.
    if name == "residency_manager":
        return importlib.import_module("sbh_pipelines.backup.service").residency_manager
    raise AttributeError(name)
