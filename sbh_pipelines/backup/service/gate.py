"""The gate: what every call of the service passes. May this caller do this to this tenant, and who is told?

`Launches` is its face for long work that Dagster does: is the caller allowed to, and does nothing else do it already? Work
that writes is launched under a claim of the tenant, an object beside its repository that is taken as a lease is. Of requests
that come at the same time, also to several processes, one looks at what runs and launches, and the next sees that run. A
claim whose process died is lost after `_CLAIM_S`. The work itself is kept apart by the tenant's lease.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.restore.sensitive import tells_of
from sbh_pipelines.backup.service.tenants import Tenants
from sbh_pipelines.backup.site.audit_trails import came_through, noted
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import (
    AccessDenied,
    CorruptObject,
    OrchestratorUnavailable,
    SbhError,
    SlugTaken,
    SourceError,
    UnknownTenant,
)
from sbh_pipelines.model import Tenant, TenantId
from sbh_pipelines.placement import platform_tenant
from sbh_pipelines.repository import lease as leases
from sbh_pipelines.security.policy import ALL_TENANTS, UserContext, authorize

# What may be answered by a tenant's row as it was a moment ago, also to the tenant's own: no row or file of a backup, no trail.
_MAY_LAG = frozenset({"backup.list", "backup.status", "health.read", "report.read"})
# What is decided where backups are made, and not at a copy of them.
PRIMARY_ONLY = frozenset(
    {
        "backup.create",
        "backup.forget",
        "repository.prune",
        "backup.hold",
        "hold.legal",
        "journal.manage",
        "keys.rotate",
        "tenant.erase",
        "tenant.rehome",
        "tenant.move",
    }
)
# What writes where backups are made, and is refused where a copy took over. To erase is possible there as long as anything is.
FENCED = (PRIMARY_ONLY - {"tenant.erase"}) | {
    "backup.restore",
    "restore.request",
    "restore.approve",
    "platform.restore",
    "drill.run",
    "copies.run",
    "copies.forget",
}
_CLAIM_FOLDER = "launch/"
_CLAIM_S = 60.0
_WAIT_S = 8.0


class Gate:
    """Authorizes, finds the tenant, and records. Each facet of the service has one; all have the same."""

    def __init__(self, site: Site, tenants: Tenants) -> None:
        self.site, self.tenants = site, tenants

    def allowed(
        self, tenant_id: str, user_ctx: UserContext, action: str, *, former_key: str | None = None, owned: bool = True
    ) -> Tenant:
        """The tenant, if the caller may do `action` to it, and if what is kept under its slug is its own.

        `former_key`: for platform administrators, the tenant that had the slug before under this key, with what is kept of it.
        `owned`: False for a call that looks at many tenants, and says of each by itself that its repository is another's.
        Raises InvalidId, AccessDenied, UnknownTenant, SlugTaken.
        """
        slug = TenantId.parse(tenant_id)
        self.authorize(user_ctx, action, slug)  # before the look-up: strangers do not learn which tenants exist
        if former_key is not None:
            return self._former(slug, user_ctx, former_key)
        # A token says a slug: whose row is gone, a caller of one tenant is not known to be.
        everyone = user_ctx.tenant_id == ALL_TENANTS
        tenant = self.tenants.find(slug, gone=everyone, as_now=not everyone and action not in _MAY_LAG)
        if owned:
            self.check_owner(tenant, user_ctx, action)
        return tenant

    def check_owner(self, tenant: Tenant, user_ctx: UserContext, action: str) -> None:
        """Raises SlugTaken, which is recorded as a denial where the caller is one of the tenant's, in the platform's trail."""
        try:
            self.site.owners.check(tenant)
        except SlugTaken as error:
            if user_ctx.tenant_id != ALL_TENANTS:
                with noted(error):
                    self._record_denied(user_ctx, action, tenant.id, error, platform_tenant(self.site.settings))
            raise

    def _former(self, slug: TenantId, user_ctx: UserContext, former_key: str) -> Tenant:
        self.authorize(user_ctx, "former_tenant.read", ALL_TENANTS)
        try:
            now = self.tenants.find(slug)
        except (UnknownTenant, SourceError):
            now = None
        return self.site.owners.former_tenant(slug, former_key, now)

    def authorize(self, user_ctx: UserContext, action: str, tenant_id: str, *, decides: bool = True) -> None:
        """Raises AccessDenied, which is recorded: in the tenant's trail where it is the caller's own, else in the platform's.

        Raises NotPrimary at a copy for what is decided where backups are made, PrimaryFenced and NotPromoted for what writes where
        a copy took over; unless `decides`, only the right is asked for.
        """
        came_through(user_ctx.via)
        try:
            authorize(user_ctx, action, tenant_id)
        except AccessDenied as error:
            with noted(error):
                self._record_denied(user_ctx, action, tenant_id, error)
            raise
        if decides and action in PRIMARY_ONLY:
            self.site.primary_only(action)
        if decides and action in FENCED:
            self.site.fence.check()

    def may_see(self, user_ctx: UserContext, tenant: Tenant, request: RestoreRequest) -> None:
        """Raises AccessDenied where a request tells of values that are masked, to a caller who may not export them."""
        if told := tells_of(request, self.site.settings.restore):
            try:
                self.authorize(user_ctx, "backup.export", tenant.id)
            except AccessDenied:
                raise AccessDenied(
                    "Values of sensitive columns are for those who may export backups",
                    on=told,
                    why="restore.sensitive masks them, and a condition over one counts what is behind the mask",
                    remedy="leave it out, or ask an administrator",
                ) from None

    def track_platform(self, event: str, user_ctx: UserContext, props: Mapping[str, object]) -> None:
        """Record an event in the platform's trail. Raises where it cannot be recorded."""
        self.site.track(platform_tenant(self.site.settings), event, user_ctx.user_id, props)

    def _record_denied(
        self, user_ctx: UserContext, action: str, tenant_id: str, error: SbhError, trail: Tenant | None = None
    ) -> None:
        where = trail or platform_tenant(self.site.settings)
        # Another's is not even looked up: the answer must not take longer if it exists.
        if trail is None and user_ctx.tenant_id == tenant_id:
            with suppress(SbhError):
                where = self.tenants.find(tenant_id)
        props = {
            "action": action,
            "tenant": tenant_id,
            "own_tenant": user_ctx.tenant_id,
            "role": user_ctx.role.name.lower(),
        }
        self.site.track(where, "access.denied", user_ctx.user_id, {**props, "why": error.why})

    def accessed(self, tenant: Tenant, user_ctx: UserContext | None, what: str, **props: Any) -> None:
        """Record that somebody looks at backups, before they see anything. Dagster's own sensors and schedules are nobody."""
        if user_ctx is None or (user_ctx.via, user_ctx.user_id) != ("dagster", "dagster"):
            who = user_ctx.user_id if user_ctx is not None else ""  # Python code that did not say for whom it asks
            self.site.track(tenant, "backup.accessed", who, {"what": what, **props})

    def candidates(self, tenant_id: str | None, user_ctx: UserContext | None) -> list[Tenant]:
        """The tenants that an id which is unique within a tenant only may belong to."""
        if tenant_id and user_ctx is not None:
            self.authorize(user_ctx, "backup.status", tenant_id)
        everyone = user_ctx is None or user_ctx.tenant_id == ALL_TENANTS
        tenants = [self.tenants.find(tenant_id, gone=everyone)] if tenant_id else self.tenants.all()
        if user_ctx is not None:
            tenants = [t for t in tenants if user_ctx.tenant_id in (ALL_TENANTS, t.id)]
        tenants = [t for t in tenants if t.region in self.site.settings.storage.regions]
        if tenant_id:
            for tenant in tenants:
                self.site.owners.check(tenant)
            return tenants
        return [t for t in tenants if self._is_owned(t, everyone)]

    def _is_owned(self, tenant: Tenant, everyone: bool) -> bool:
        """`everyone`: the caller may see whoever's it is; where nothing says that, it is looked into."""
        try:
            self.site.owners.check(tenant)
        except SlugTaken:
            return False
        except CorruptObject:
            return everyone
        return True


class Launches:
    """What a face asks before Dagster does long work: may this caller, and does nothing else do it already?"""

    def __init__(self, gate: Gate) -> None:
        self._gate, self._site = gate, gate.site

    def permit(self, tenant_id: str, user_ctx: UserContext, action: str) -> Tenant:
        """The tenant. Raises InvalidId, AccessDenied (whether it exists or not), UnknownTenant."""
        return self._gate.allowed(tenant_id, user_ctx, action)

    def permit_platform(self, user_ctx: UserContext, action: str, tenant_id: str = ALL_TENANTS) -> None:
        """Raises AccessDenied unless the caller may do `action`; without `tenant_id`, on all tenants."""
        self._gate.authorize(user_ctx, action, tenant_id)

    @property
    def platform(self) -> Tenant:
        """What stands for a tenant where the work is of the platform, and of no tenant alone."""
        return platform_tenant(self._site.settings)

    def digest(self, tenant: Tenant, purpose: str, text: bytes) -> str:
        """By which what was asked for is known again; without a secret of the region's catalog nobody can hold a guess against it.

        The same before and after the tenant's first backup, whose keys so do not make it.
        """
        return self._site.catalog(tenant.region).owner_key.tag(b"launch " + purpose.encode(), tenant.id, text)[:40]

    def writer_at_work(self, tenant: Tenant) -> leases.LeaseDocument | None:
        """Who holds the tenant's lease right now."""
        store, prefix = self._site.backup_store(tenant)
        return leases.running(store, prefix, self._site.clock)

    @contextmanager
    def claim(self, tenant: Tenant, purpose: str) -> Iterator[None]:
        """Nobody else launches work on the tenant while the block runs. Raises LeaseHeld after waiting some seconds, and
        TenantErased.

        Where a launch was not answered the claim is kept until it expires: the run may still come, and then is seen.
        """
        self._site.admit(tenant)
        store, prefix = self._site.backup_store(tenant)
        owner = leases.new_owner(purpose)
        claim = leases.acquire_within(
            _WAIT_S, store, prefix + _CLAIM_FOLDER, owner, purpose, _CLAIM_S, self._site.clock
        )
        unanswered = False
        try:
            yield
        except OrchestratorUnavailable as error:
            unanswered = error.unanswered
            raise
        finally:
            if unanswered:
                claim.renew()
            else:
                claim.release()
