"""What the audit trails and the repositories show for a period, in the words of the controls that auditors ask about.

Every trail is read whole, and so verified, and its events of the period are counted. Nothing is estimated: what cannot be
known is null, and the text says so.
"""

from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime

from sbh_pipelines.backup.audit.compliance_report import (
    ComplianceReport,
    ComplianceTotals,
    HoldFigures,
    PlatformCompliance,
    PlatformTrail,
    RecoveryPointFigures,
    SettingsInForce,
    TenantCompliance,
    TrailVerdict,
    UnreadTenant,
)
from sbh_pipelines.backup.audit.trail_figures import MOST_NAMED, RecoveryTime, TrailFigures
from sbh_pipelines.backup.audit.verify import verify_trail
from sbh_pipelines.backup.create.recovery_points import recovery_points
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import Tenant, TenantId
from sbh_pipelines.repository.bounds import listed
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.repository.trail.event import PLATFORM

# What the figures of tenants have in common with their totals.
_SUMMED = (
    "validated", "invalid", "drills", "drills_passed", "exported", "accessed", "deleted", "keys_rotated", "erased", "denied"
)  # fmt: skip


def compliance_report(
    site: Site, tenants: Sequence[Tenant], since: datetime, until: datetime, *, with_platform: bool
) -> ComplianceReport:
    """A tenant whose trail cannot be read is in `errors`, and in no figure."""
    end = min(until, site.clock())
    lines, errors = list[TenantCompliance](), list[UnreadTenant]()
    with_row = [tenant for tenant in tenants if tenant.key]  # those that are gone have nothing to lose now
    ages = {p.tenant_id: p.rows_lost_s for p in recovery_points(site, with_row).recovery_points}
    for tenant in tenants:
        try:
            site.owners.check(tenant)
            lines.append(
                _line(site, tenant, TrailFigures(since, until), end, ages.get(str(tenant.id)) if tenant.key else None)
            )
        except SbhError as error:
            errors.append(UnreadTenant(str(tenant.id), tenant.region, error))
    platform = _platform(site, TrailFigures(since, until)) if with_platform else None
    return ComplianceReport(
        since=since,
        until=until,
        at=site.clock(),
        settings=_settings(site),
        totals=_totals(lines),
        tenants=lines,
        platform=platform,
        errors=errors,
    )


def _line(site: Site, tenant: Tenant, figures: TrailFigures, end: datetime, age: float | None) -> TenantCompliance:
    verified = verify_trail(site, tenant, None, figures.add)
    counts = figures.counts
    objective = site.settings.recovery_point_objective_s(tenant.tier)
    gaps = figures.gaps(end)
    restores = ("planned", "started", "completed", "failed", "undone")
    return TenantCompliance(
        tenant_id=site.owners.home_of(tenant),
        region=tenant.region,
        backups={
            "made": counts["backup.created"],
            **figures.types,
            "failed": counts["backup.failed"],
            "late": figures.late,
        },
        recovery_point=RecoveryPointFigures(
            objective_s=objective,
            longest_gap_s=max(gaps, default=None),
            gaps_over=sum(gap > objective for gap in gaps) if gaps and objective else None,
            age_s=age,
        ),
        validated=counts["backup.validated"],
        invalid=figures.invalid,
        drills=counts["drill.completed"],
        drills_passed=figures.drills_passed,
        recovery_time=figures.times,
        restores={kind: counts[f"restore.{kind}"] for kind in restores},
        restored=figures.restores,
        users=dict(figures.users.most_common(MOST_NAMED)),
        accessed=counts["backup.accessed"],
        exported=counts["backup.exported"],
        deleted=counts["backup.deleted"],
        pruned=counts["repository.pruned"],
        holds=HoldFigures(counts["hold.placed"], counts["hold.released"], _holds(site, tenant)),
        approvals={kind: counts[f"restore.{kind}"] for kind in ("requested", "approved", "rejected", "break_glass")},
        keys_rotated=counts["key.rotated"],
        erased=counts["tenant.erased"],
        denied=counts["access.denied"],
        audit=TrailVerdict(*(getattr(verified, of.name) for of in fields(TrailVerdict))),
    )


def _holds(site: Site, tenant: Tenant) -> int:
    store, prefix = site.backup_store(tenant)
    return sum(1 for info in listed(store, prefix, Keys.HOLDS) if info.key.startswith(f"{prefix}{Keys.HOLDS}legal-"))


def _platform(site: Site, figures: TrailFigures) -> PlatformCompliance:
    """Of all regions' trails of the platform together."""
    trails = list[PlatformTrail]()
    for region in site.settings.storage.regions:
        try:
            found = verify_trail(site, Tenant(TenantId(PLATFORM), "", region, ""), None, figures.add)
        except SbhError as error:
            trails.append(PlatformTrail(region, None, error=error))
            continue
        trails.append(PlatformTrail(found.region, found.valid, found.events, found.seq, found.hash, found.broken))
    counts = figures.counts
    return PlatformCompliance(
        backups={"made": counts["platform.backup_created"], "failed": counts["platform.backup_failed"]},
        restores={kind: counts[f"platform.restore_{kind}"] for kind in ("started", "completed", "failed")},
        unchanged=figures.unchanged,
        policy_changes=counts["policy.changed"],
        keys_rotated=counts["key.rotated"],
        denied=counts["access.denied"],
        audits_verified=counts["audit.verified"],
        audit=trails,
    )


def _totals(lines: Sequence[TenantCompliance]) -> ComplianceTotals:
    gaps = [(gap, line.tenant_id) for line in lines if (gap := line.recovery_point.longest_gap_s) is not None]
    longest, longest_of = max(gaps, default=(None, None))
    times: dict[str, RecoveryTime] = {}
    for line in lines:
        for scenario, time in line.recovery_time.items():
            known = times.get(scenario) or RecoveryTime(None, 0, time.objective_s)
            times[scenario] = known.and_also(time.worst_s, time.missed)
    return ComplianceTotals(
        tenants=len(lines),
        backups_made=sum(line.backups["made"] for line in lines),
        backups_failed=sum(line.backups["failed"] for line in lines),
        longest_gap_s=longest,
        longest_gap_of=longest_of,
        gaps_over=sum(line.recovery_point.gaps_over or 0 for line in lines),
        **{name: sum(getattr(line, name) for line in lines) for name in _SUMMED},
        recovery_time=times,
        **{f"restores_{end}": sum(line.restores[end] for line in lines) for end in ("completed", "failed", "undone")},
        **{f"holds_{of.name}": sum(getattr(line.holds, of.name) for line in lines) for of in fields(HoldFigures)},
        approved=sum(line.approvals["approved"] for line in lines),
        break_glass=sum(line.approvals["break_glass"] for line in lines),
        trails_valid=sum(line.audit.valid for line in lines),
        trails_broken=[line.tenant_id for line in lines if not line.audit.valid][:MOST_NAMED],
        events_late=sum(line.audit.late for line in lines),
    )


def _settings(site: Site) -> SettingsInForce:
    settings = site.settings
    return SettingsInForce(
        key_provider=settings.keys.provider,
        regions=list(settings.storage.regions),
        storage=settings.storage.kind,
        server_side_encryption=getattr(settings.storage, "sse", None),
        object_lock_days=site.audit_lock_days,
        object_lock_mode=settings.audit.object_lock_mode if site.audit_lock_days else None,
        audit_required=settings.audit.required,
        tokens=settings.auth.mode,
        safety_backup=settings.restore.safety_backup,
    )
