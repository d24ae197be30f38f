"""What every call of the service begins with: may this caller do this to this tenant?"""

from sbh_pipelines.backup.drafts import Workshop
from sbh_pipelines.backup.site import Site
from sbh_pipelines.model import Clock, Tenant, TenantId, utc_now
from sbh_pipelines.security.policy import UserContext, authorize
from sbh_pipelines.settings import Settings
from sbh_pipelines.sources.database.tenants import find_tenant


class Access:
    """Settings, what they lead to, and who may touch it."""

    def __init__(self, settings: Settings, *, clock: Clock = utc_now) -> None:
        self.settings = settings
        self._site = Site(settings, clock)
        self._shop = Workshop(self._site)

    def _allowed(self, tenant_id: str, user_ctx: UserContext, action: str) -> Tenant:
        slug = TenantId.parse(tenant_id)
        authorize(user_ctx, action, slug)  # before the look-up: strangers do not learn which tenants exist
        return find_tenant(self.settings, slug)
