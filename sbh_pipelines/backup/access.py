"""What every call of the service begins with: may this caller do this to this tenant?"""

from sbh_pipelines.backup.drafts import Workshop
from sbh_pipelines.backup.lost_tenant import lost_tenant
from sbh_pipelines.backup.site import Site
from sbh_pipelines.errors import SbhError, SourceError, UnknownTenant
from sbh_pipelines.model import Clock, Tenant, TenantId, utc_now
from sbh_pipelines.security.policy import ALL_TENANTS, UserContext, authorize
from sbh_pipelines.settings import Settings
from sbh_pipelines.sources.database.tenants import find_tenant, list_tenants


class Access:
    """Settings, what they lead to, and who may touch it."""

    def __init__(self, settings: Settings, *, clock: Clock = utc_now) -> None:
        self.settings = settings
        self._site = Site(settings, clock)
        self._shop = Workshop(self._site)

    def tenants(self) -> list[Tenant]:
        """The tenants of the application that can be backed up, by slug."""
        return list(list_tenants(self.settings).tenants)

    def tenant(self, tenant_id: str) -> Tenant:
        """A tenant of the application; where its row is gone, or the database, as its last backup has it.

        Raises InvalidId, UnknownTenant.
        """
        slug = TenantId.parse(tenant_id)
        try:
            return find_tenant(self.settings, slug)
        except (UnknownTenant, SourceError) as error:  # its row is gone, or the whole database
            try:
                lost = lost_tenant(self._site, slug)
            except SbhError as second:
                if isinstance(error, SourceError):
                    raise error from second  # the store is out of reach as well: what to mend first is the database
                raise
            if lost is None:
                raise
            return lost

    def _allowed(self, tenant_id: str, user_ctx: UserContext, action: str) -> Tenant:
        slug = TenantId.parse(tenant_id)
        authorize(user_ctx, action, slug)  # before the look-up: strangers do not learn which tenants exist
        return self.tenant(slug)

    def _candidates(self, tenant_id: str | None, user_ctx: UserContext | None) -> list[Tenant]:
        """The tenants that an id which is unique within a tenant only may belong to."""
        if tenant_id and user_ctx is not None:
            authorize(user_ctx, "backup.status", tenant_id)
        tenants = [self.tenant(tenant_id)] if tenant_id else self.tenants()
        if user_ctx is not None:
            tenants = [t for t in tenants if user_ctx.tenant_id in (ALL_TENANTS, t.id)]
        return [t for t in tenants if t.region in self.settings.storage.regions]
