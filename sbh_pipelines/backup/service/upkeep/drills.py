"""The service's calls about drills: rehearse a restore, see what was rehearsed, report how that stands to what was promised."""

from collections.abc import Sequence

from sbh_pipelines.backup.contents.manifest import LATEST
from sbh_pipelines.backup.drill.drill import run_drill
from sbh_pipelines.backup.drill.records import DamagedDrill, DrillRecord, choose_tenants, drill_ids, read_records
from sbh_pipelines.backup.drill.recovery_report import RecoveryObjectives, recovery_report
from sbh_pipelines.backup.drill.scenarios import parse_scenarios
from sbh_pipelines.backup.service.gate import Gate
from sbh_pipelines.backup.site.moves import backed_up_here
from sbh_pipelines.database.rebuild.throwaway import drill_server, drop_leftovers
from sbh_pipelines.database.schema.tenants import list_tenants
from sbh_pipelines.model import ProgressSink, Tenant, no_progress
from sbh_pipelines.security.policy import ALL_TENANTS, UserContext


class Drills:
    """Rehearsed restores: run, listed, and how they stand to what was promised."""

    def __init__(self, gate: Gate) -> None:
        self._gate, self._site = gate, gate.site

    def run(
        self,
        tenant_id: str,
        user_ctx: UserContext,
        *,
        backup_id: str = LATEST,
        scenarios: Sequence[str] = (),
        progress: ProgressSink = no_progress,
    ) -> DrillRecord:
        """Restore a tenant into a throw-away place, prove and measure it.

        No scenarios: all of them. What the drill finds wrong is in the record. Raises
        UnknownTenant, UnknownBackup (also where there is no platform backup), PrivilegeMissing, RequestError: then nothing was
        drilled; and transient errors, after which nothing is recorded either.
        """
        tenant = self._gate.allowed(tenant_id, user_ctx, "drill.run")
        chosen = parse_scenarios(scenarios)
        # First the event: a drill brings a tenant's data onto this machine.
        self._site.track(
            tenant, "drill.started", user_ctx.user_id, {"backup_id": backup_id[:64], "scenarios": list(chosen)}
        )
        record = run_drill(self._site, tenant, backup_id, chosen, user_ctx.user_id, progress)
        self._site.track(tenant, "drill.completed", user_ctx.user_id, _props(record))
        return record

    def drop_leftovers(self, user_ctx: UserContext) -> list[str]:
        """Drop the databases of drills that were killed, of all tenants; their names."""
        self._gate.authorize(user_ctx, "drill.run", ALL_TENANTS)
        return drop_leftovers(drill_server(self._site.settings))

    def of(self, tenant_id: str, user_ctx: UserContext) -> list[DrillRecord | DamagedDrill]:
        """The records of a tenant's drills, the newest first."""
        tenant = self._gate.allowed(tenant_id, user_ctx, "report.read")
        self._gate.accessed(tenant, user_ctx, "drills")
        return list(read_records(self._site, tenant, drill_ids(self._site, tenant)))

    def candidates(self, user_ctx: UserContext, number: int | None = None) -> list[str]:
        """The tenants to drill next, those first whose last drill is longest ago; None: `drill.tenants_per_drill` of them."""
        self._gate.authorize(user_ctx, "drill.run", ALL_TENANTS)
        wanted = self._site.settings.drill.tenants_per_drill if number is None else number
        found = choose_tenants(self._site, self._listed(), wanted)
        return [str(tenant.id) for tenant in found]

    def report(self, user_ctx: UserContext, tenant_ids: Sequence[str] = ()) -> RecoveryObjectives:
        """Recovery times as drills measured them, and recovery points as they are now, against the objectives.

        For no tenants given, of all that the caller may see. Show the `issues`: because of them a number may be out of date.
        """
        tenants = [self._gate.allowed(tenant_id, user_ctx, "report.read") for tenant_id in dict.fromkeys(tenant_ids)]
        if not tenant_ids:
            tenants = [tenant for tenant in self._listed() if user_ctx.tenant_id in (ALL_TENANTS, tenant.id)]
        return recovery_report(self._site, tenants)

    def _listed(self) -> list[Tenant]:
        return backed_up_here(self._site, list_tenants(self._site.settings).tenants)


def _props(record: DrillRecord) -> dict[str, object]:
    """What the audit trail keeps of a drill: outcome and measured times."""
    kept = ("scenario", "status", "seconds", "objective_s", "met")
    scenarios = [{name: getattr(one, name) for name in kept} for one in record.scenarios]
    return {**{name: getattr(record, name) for name in ("drill_id", "backup_id", "status")}, "scenarios": scenarios}
