"""The service's calls about how it stands: health, metrics, and what alerts are made of."""

from collections.abc import Sequence

from sbh_pipelines.backup.health.examination import Examination, examine
from sbh_pipelines.backup.health.report import BackupMetrics, HealthReport, backup_metrics, health_report
from sbh_pipelines.backup.health.storage import StorageReport, storage_report
from sbh_pipelines.backup.service.gate import Gate
from sbh_pipelines.database.schema.tenants import list_tenants
from sbh_pipelines.errors import SbhError, SourceError
from sbh_pipelines.model import Tenant
from sbh_pipelines.security.policy import ALL_TENANTS, UserContext

_ACTION = "health.read"


class Health:
    """How the backups stand: health, metrics, and what alerts are made of."""

    def __init__(self, gate: Gate) -> None:
        self._gate, self._site = gate, gate.site

    def check(self, user_ctx: UserContext, tenant_id: str | None = None) -> HealthReport:
        """The specification's health check, and more: what is wrong is in `issues`.

        Of one tenant everything is looked at now; of all (that the caller may see) an observation may be `health.refresh_s`
        old. Raises UnknownTenant, AccessDenied; that something cannot be reached is part of the answer.
        """
        return health_report(self._examined(user_ctx, tenant_id), tenant_id)

    def metrics(self, user_ctx: UserContext, tenant_id: str | None = None) -> BackupMetrics:
        """The specification's figures, of one tenant or of all that the caller may see."""
        return backup_metrics(self._site.settings, self._examined(user_ctx, tenant_id), tenant_id)

    def prometheus_text(self, user_ctx: UserContext) -> str:
        """The metrics in Prometheus' text format, of the tenants that the caller may see."""
        from sbh_pipelines.backup.health.prometheus import exposition  # only who scrapes pays for its import

        return exposition(self._site.settings, self._examined(user_ctx, None))

    def examine(self, user_ctx: UserContext, budget_s: float | None = None) -> Examination:
        """What alerts are made of. With a budget, tenants that it was too short for are among the unseen."""
        return self._examined(user_ctx, None, budget_s)

    def storage(self, user_ctx: UserContext, tenant_ids: Sequence[str] = (), *, days: int = 30) -> StorageReport:
        """What the backups take up, what came in the last `days`, and what it costs; of all tenants that the caller may see.

        Everything is listed: a request for each thousand objects. Raises UnknownTenant, AccessDenied, and the store's errors
        where what belongs to no tenant cannot be listed; a tenant's are in its line.
        """
        tenants = [self._gate.allowed(tenant_id, user_ctx, "report.read") for tenant_id in dict.fromkeys(tenant_ids)]
        everyone = user_ctx.tenant_id == ALL_TENANTS
        if not tenant_ids:
            self._gate.authorize(user_ctx, "report.read", user_ctx.tenant_id)
            listed = list_tenants(self._site.settings).tenants
            tenants = [tenant for tenant in listed if everyone or tenant.id == user_ctx.tenant_id]
        return storage_report(self._site, tenants, days=days, shared=everyone and not tenant_ids)

    def _examined(self, user_ctx: UserContext, tenant_id: str | None, budget_s: float | None = None) -> Examination:
        if tenant_id is not None:
            return examine(self._site, [self._gate.allowed(tenant_id, user_ctx, _ACTION, owned=False)])
        everyone = user_ctx.tenant_id == ALL_TENANTS
        self._gate.authorize(user_ctx, _ACTION, user_ctx.tenant_id)
        tenants: Sequence[Tenant] = ()
        unusable: Sequence[SbhError] = ()
        source: SbhError | None = None
        try:
            listed = list_tenants(self._site.settings)
            tenants = [t for t in listed.tenants if everyone or t.id == user_ctx.tenant_id]
            unusable = listed.unusable if everyone else ()
        except SourceError as error:
            source = error
        return examine(
            self._site,
            tenants,
            unusable=unusable,
            source=source,
            everyone=everyone,
            here_only=True,
            max_age_s=self._site.settings.health.refresh_s,
            budget_s=budget_s,
        )
