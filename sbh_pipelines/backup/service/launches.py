"""What a face does before it has Dagster do long work: is the caller allowed to, and does nobody else do it already?

Work that writes is launched under a claim of the tenant, an object beside its repository that is taken as a lease is. So of
requests that come at the same time, also to several processes, one looks at what runs and launches, and the next sees
that run. Whoever dies with the claim loses it after `_CLAIM_S`. The work itself is kept apart by the tenant's lease.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from sbh_pipelines.backup.service.gate import Gate
from sbh_pipelines.model import Tenant
from sbh_pipelines.repository import lease as leases
from sbh_pipelines.security.policy import ALL_TENANTS, UserContext

_CLAIM_FOLDER = "launch/"
_CLAIM_S = 60.0
_WAIT_S = 8.0


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

    def writer_at_work(self, tenant: Tenant) -> leases.LeaseDocument | None:
        """Who holds the tenant's lease right now."""
        store, prefix = self._site.backup_store(tenant)
        return leases.running(store, prefix, self._site.clock)

    @contextmanager
    def claim(self, tenant: Tenant, purpose: str) -> Iterator[None]:
        """Nobody else launches work on the tenant while the block runs. Raises LeaseHeld after waiting some seconds, and
        TenantErased.
        """
        self._site.admit(tenant)
        store, prefix = self._site.backup_store(tenant)
        owner = leases.new_owner(purpose)
        claim = leases.acquire_within(
            _WAIT_S, store, prefix + _CLAIM_FOLDER, owner, purpose, _CLAIM_S, self._site.clock
        )
        try:
            yield
        finally:
            claim.release()
