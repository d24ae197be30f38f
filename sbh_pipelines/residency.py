"""The specification's `residency_manager`: where a tenant's backups lie, and in which regions they may.

    from sbh_pipelines.residency import residency_manager

A face on top of the service, which knows the tenants. The rules themselves are in `placement.py`, at the bottom of the layers.
"""

from collections.abc import Callable

from sbh_pipelines.backup.service import load_service
from sbh_pipelines.model import Tenant, TenantId
from sbh_pipelines.placement import allowed_regions, backup_place, check_tenant
from sbh_pipelines.settings import Settings


class ResidencyManager:
    """The specification's `residency_manager`."""

    def __init__(
        self,
        settings: Callable[[], Settings],
        tenant: Callable[[TenantId], Tenant],
        prove: Callable[[Tenant], None] = lambda _: None,
        housed: Callable[[Tenant], Tenant] = lambda tenant: tenant,
    ) -> None:
        self._settings, self._tenant, self._prove, self._housed = settings, tenant, prove, housed

    def get_backup_storage_config(self, tenant_id: str) -> dict[str, str]:
        """{'bucket', 'prefix', 'region'} of the tenant's backups. Raises InvalidId, UnknownTenant, ResidencyError."""
        settings, tenant = self._settings(), self._tenant(TenantId.parse(tenant_id))
        place = backup_place(settings, self._housed(tenant))
        check_tenant(settings, tenant)
        return {"bucket": place.bucket, "prefix": place.prefix, "region": place.region}

    def allowed_regions(self, tenant_id: str) -> tuple[str, ...]:
        """The regions in which data of the tenant may lie. Raises InvalidId, UnknownTenant."""
        return allowed_regions(self._settings(), self._tenant(TenantId.parse(tenant_id)))

    def check(self, tenant_id: str) -> None:
        """Everything that a write of the tenant's backup checks: allowed, not moved, the bucket where it is to be.

        Raises ResidencyError, and the store's errors: what cannot be asked is not taken for wrong.
        """
        settings, tenant = self._settings(), self._tenant(TenantId.parse(tenant_id))
        backup_place(settings, tenant)
        check_tenant(settings, tenant)
        self._prove(tenant)


residency_manager = ResidencyManager(
    lambda: load_service().settings,
    lambda tenant_id: load_service().tenants.find(tenant_id),
    lambda tenant: load_service().tenants.check_residency(tenant),
    lambda tenant: load_service().tenants.housed(tenant),
)
