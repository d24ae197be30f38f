"""What every call of the service begins with: may this caller do this to this tenant?"""

from contextlib import suppress
from typing import Any

from sbh_pipelines.backup.create.drafts import OpenDrafts
from sbh_pipelines.backup.service.lost_tenant import lost_tenant
from sbh_pipelines.backup.site.audit_trails import came_through, noted
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.database.schema.tenants import find_tenant, list_tenants
from sbh_pipelines.errors import AccessDenied, SbhError, SourceError, UnknownTenant
from sbh_pipelines.model import Clock, Tenant, TenantId, utc_now
from sbh_pipelines.placement import platform_tenant
from sbh_pipelines.security.policy import ALL_TENANTS, UserContext, authorize
from sbh_pipelines.settings import Settings


class Access:
    """Settings, what they lead to, and who may touch it."""

    def __init__(self, settings: Settings, *, clock: Clock = utc_now, site: Site | None = None) -> None:
        """`site`: what the service works with, where a caller has one already; it is over `settings` then."""
        self.settings = settings
        self._site = site or Site(settings, clock)
        self._shop = OpenDrafts(self._site)

    def tenants(self) -> list[Tenant]:
        """The tenants of the application that can be backed up, by slug."""
        return list(list_tenants(self.settings).tenants)

    def tenants_of(self, user_ctx: UserContext) -> list[Tenant]:
        """Those of them that the caller may see."""
        return [tenant for tenant in self.tenants() if user_ctx.tenant_id in (ALL_TENANTS, tenant.id)]

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
        self._authorize(user_ctx, action, slug)  # before the look-up: strangers do not learn which tenants exist
        return self.tenant(slug)

    def _authorize(self, user_ctx: UserContext, action: str, tenant_id: str) -> None:
        """Raises AccessDenied, which is recorded: in the tenant's trail where it is the caller's own, else in the platform's."""
        came_through(user_ctx.via)
        try:
            authorize(user_ctx, action, tenant_id)
        except AccessDenied as error:
            with noted(error):
                self._record_denied(user_ctx, action, tenant_id, error)
            raise

    def _record_denied(self, user_ctx: UserContext, action: str, tenant_id: str, error: AccessDenied) -> None:
        where = platform_tenant(self.settings)
        if (
            user_ctx.tenant_id == tenant_id
        ):  # another's is not even looked up: the answer must not take longer if it exists
            with suppress(SbhError):
                where = self.tenant(tenant_id)
        props = {
            "action": action,
            "tenant": tenant_id,
            "own_tenant": user_ctx.tenant_id,
            "role": user_ctx.role.name.lower(),
        }
        self._site.track(where, "access.denied", user_ctx.user_id, {**props, "why": error.why})

    def _accessed(self, tenant: Tenant, user_ctx: UserContext | None, what: str, **props: Any) -> None:
        """Record that somebody looks at backups, before they see anything. Dagster's own sensors and schedules are nobody."""
        if user_ctx is None or (user_ctx.via, user_ctx.user_id) != ("dagster", "dagster"):
            who = user_ctx.user_id if user_ctx is not None else ""  # Python code that did not say for whom it asks
            self._site.track(tenant, "backup.accessed", who, {"what": what, **props})

    def _candidates(self, tenant_id: str | None, user_ctx: UserContext | None) -> list[Tenant]:
        """The tenants that an id which is unique within a tenant only may belong to."""
        if tenant_id and user_ctx is not None:
            self._authorize(user_ctx, "backup.status", tenant_id)
        tenants = [self.tenant(tenant_id)] if tenant_id else self.tenants()
        if user_ctx is not None:
            tenants = [t for t in tenants if user_ctx.tenant_id in (ALL_TENANTS, t.id)]
        return [t for t in tenants if t.region in self.settings.storage.regions]
