"""How fast tenants came back in drills, and how much they would lose now, against what was promised.

Recovery times are measured: the newest drill of each scenario counts, and a scenario that was never drilled has no number.
A drill restores one tenant; the time of a complete failure of a fleet is at least that of its largest tenants together.
Recovery points are as they stand now: of each data type (tier) the tenant that would lose most. Where the change journal tells all
rows of a tenant since its newest backup, they are lost since the last drain only; files go by the bucket's versions, or the backup.

A trend is the newest measurement against the mean of up to five before it, of the same tenant if it was drilled before:
tenants differ in size. +0.2 means a fifth more than was usual.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sbh_pipelines.backup.create.recovery_points import LatestPoint, recovery_points
from sbh_pipelines.backup.drill.copy_points import CopyPointAge, copy_points
from sbh_pipelines.backup.drill.records import (
    PASSED,
    DamagedDrill,
    DrillRecord,
    ScenarioResult,
    last_drills,
    read_records,
)
from sbh_pipelines.backup.drill.scenarios import BACKUP_TYPES, SCENARIOS
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.document import optional
from sbh_pipelines.errors import SbhError, StoreError
from sbh_pipelines.model import DrillId, Tenant, timestamp
from sbh_pipelines.settings import Settings

_BEFORE = 5  # measurements that the newest is compared with
_MOST = 60  # drills of one tenant that are looked at
_NAMED = 20  # tenants named in a list; their number is of all
SAME_TENANT, ALL_TENANTS = "same tenant", "all tenants"


@dataclass(frozen=True, slots=True)
class FailedDrill:
    """A tenant whose newest drill of a scenario failed.

    Attributes:
        tenant_id: The tenant.
        drill_id: The drill.
        at: Time at which it ended, ISO 8601 in UTC.
        error: Why it failed.
    """

    tenant_id: str
    drill_id: str
    at: str
    error: SbhError


@dataclass(frozen=True, slots=True)
class RecoveryTime:
    """One scenario: how long tenants took to come back, against its objective.

    Attributes:
        scenario: Its name.
        backup_type: What part of a backup it needs.
        objective_s: How long it may take, s; null without an objective.
        last_measured_s: How long the newest drill that passed took, s; null where none did.
        margin_s: What is left to the objective, s.
        trend: The newest measurement against the mean of those before: 0.2 is a fifth more.
        trend_over: Of which tenants those before are: same tenant, or all tenants.
        met: Whether every tenant's newest drill met the objective; null where none was drilled, or there is none.
        tenant_id: Whose drill the newest measurement is.
        drill_id: That drill.
        measured_at: Time at which it ended, ISO 8601 in UTC.
        bytes: Bytes that it restored, before compression.
        tenants_drilled: Tenants that were drilled in this scenario.
        failed: Tenants whose newest drill failed, the first of them.
        failed_count: How many they are.
        over: Tenants whose newest drill took longer than the objective, the first of them.
        over_count: How many they are.
    """

    scenario: str
    backup_type: str
    objective_s: float | None
    last_measured_s: float | None
    margin_s: float | None
    trend: float | None
    trend_over: str | None
    met: bool | None
    tenant_id: str | None
    drill_id: str | None
    measured_at: str | None
    bytes: int | None
    tenants_drilled: int
    failed: Sequence[FailedDrill]
    failed_count: int
    over: Sequence[str]
    over_count: int


@dataclass(frozen=True, slots=True)
class RecoveryPointAge:
    """One data type (tier): how much its tenants would lose now, against its objective.

    Attributes:
        data_type: The tier.
        backup_frequency: The schedules that back it up.
        objective_s: How much may be lost at most, s.
        worst_age_s: Age of the oldest of its tenants' newest recovery points, s; null where there is none. Of a tenant all of whose
            rows the change journal tells since its newest backup, that is the last moment told.
        by_journal_count: Tenants of whom that is so.
        worst_backup_age_s: The same of backups alone, s: what files go back to where their bucket keeps no versions.
        tenant_id: The tenant that would lose most.
        margin_s: What is left to the objective, s.
        trend: The newest drill's recovery point age against the mean of those before: 0.2 is a fifth more.
        trend_over: Of which tenants those before are: same tenant, or all tenants.
        met: Whether every tenant meets the objective; null where there are no tenants.
        tenants: Tenants of the data type.
        missing: Tenants that miss the objective, the first of them.
        missing_count: How many they are.
        without_backup_count: How many of them have no backup at all.
    """

    data_type: str
    backup_frequency: Sequence[str]
    objective_s: float
    worst_age_s: float | None
    by_journal_count: int
    worst_backup_age_s: float | None
    tenant_id: str | None
    margin_s: float | None
    trend: float | None
    trend_over: str | None
    met: bool | None
    tenants: int
    missing: Sequence[str]
    missing_count: int
    without_backup_count: int


@dataclass(frozen=True, slots=True)
class RecoveryObjectives:
    """Recovery times as drills measured them, and recovery points as they are now, against what was promised.

    Attributes:
        at: Time of the report, ISO 8601 in UTC.
        tenants: Tenants that it is about.
        recovery_time: A line for each scenario.
        recovery_point: A line for each data type with an objective.
        copies: A line for each copy and data type: how much would be lost if only the copy were left. Without
            copies there is none.
        issues: Records, manifests and catalogs that are damaged, so that a number may be out of date.
        site: The site that it is of; absent where that has no name.
    """

    at: str
    tenants: int
    recovery_time: Sequence[RecoveryTime]
    recovery_point: Sequence[RecoveryPointAge]
    copies: Sequence[CopyPointAge]
    issues: Sequence[SbhError]
    site: str | None = optional()


@dataclass(frozen=True, slots=True)
class _Measured:
    """One number of one drill."""

    drill_id: str
    tenant: str
    at: str
    value: float
    bytes: int = 0


def recovery_report(site: Site, tenants: Sequence[Tenant]) -> RecoveryObjectives:
    """Costs two listings for each tenant, and the last drills of those that were drilled: six where each was of all scenarios."""
    drills: list[DrillRecord | DamagedDrill] = []
    unasked = list[SbhError]()
    try:
        for tenant, ids in last_drills(site, tenants):
            drills += _newest(site, tenant, ids)
    except StoreError as error:  # where the first place is gone, what the copies would bring back counts most
        unasked.append(error)
    damaged = [drill.error for drill in drills if isinstance(drill, DamagedDrill)]
    sound = [drill for drill in drills if isinstance(drill, DrillRecord)]
    sound.sort(key=lambda drill: drill.drill_id, reverse=True)
    ages = recovery_points(site, tenants)
    at_copies, unread = copy_points(site, tenants)
    return RecoveryObjectives(
        at=timestamp(site.clock()),
        tenants=len(tenants),
        recovery_time=[_time_of(site.settings, scenario, sound) for scenario in SCENARIOS],
        recovery_point=[
            _point_of(site.settings, kind, objective, tenants, ages.recovery_points, sound)
            for kind, objective in site.settings.drill.recovery_point_objectives_s.items()
        ],
        copies=at_copies,
        issues=_once([*unasked, *damaged, *ages.issues, *unread]),
        site=site.settings.site.name or None,
    )


def _newest(site: Site, tenant: Tenant, ids: Sequence[DrillId]) -> list[DrillRecord | DamagedDrill]:
    """The last drills of a tenant: so many that each scenario is among them six times, if that is in reach."""
    found: list[DrillRecord | DamagedDrill] = []
    for first in range(0, min(len(ids), _MOST), _BEFORE + 1):
        found += read_records(site, tenant, ids[first : first + _BEFORE + 1])
        seen = Counter(one.scenario for drill in found for one in drill.scenarios)
        if all(seen[scenario] > _BEFORE for scenario in SCENARIOS):
            break
    return found


def _time_of(settings: Settings, scenario: str, drills: Sequence[DrillRecord]) -> RecoveryTime:
    """One row of the first table. `drills`: the newest first."""
    objective = settings.drill.objectives_s.get(scenario)
    results = [(drill, one) for drill in drills for one in drill.scenarios if one.scenario == scenario]
    latest: dict[str, tuple[DrillRecord, ScenarioResult]] = {}  # each tenant's newest drill of the scenario
    for drill, one in results:
        latest.setdefault(drill.tenant_id, (drill, one))
    measured = [
        _Measured(drill.drill_id, drill.tenant_id, drill.finished_at, one.seconds, one.bytes)
        for drill, one in results
        if one.status == PASSED
    ]
    failed = [
        FailedDrill(tenant, drill.drill_id, drill.finished_at, one.error)
        for tenant, (drill, one) in latest.items()
        if one.error is not None
    ]
    over = [
        tenant
        for tenant, (_, one) in latest.items()
        if one.status == PASSED and objective is not None and one.seconds > objective
    ]
    newest = measured[0] if measured else None
    trend, trend_over = _trend(measured)
    return RecoveryTime(
        scenario=scenario,
        backup_type=BACKUP_TYPES[scenario],
        objective_s=objective,
        last_measured_s=newest.value if newest else None,
        margin_s=_margin(objective, newest.value if newest else None),
        trend=trend,
        trend_over=trend_over,
        met=None if not latest or objective is None else not failed and not over,
        tenant_id=newest.tenant if newest else None,
        drill_id=newest.drill_id if newest else None,
        measured_at=newest.at if newest else None,
        bytes=newest.bytes if newest else None,
        tenants_drilled=len(latest),
        failed=failed[:_NAMED],
        failed_count=len(failed),
        over=sorted(over)[:_NAMED],
        over_count=len(over),
    )


def _point_of(
    settings: Settings,
    kind: str,
    objective: float,
    tenants: Sequence[Tenant],
    points: Sequence[LatestPoint],
    drills: Sequence[DrillRecord],
) -> RecoveryPointAge:
    """One row of the second table. A tenant without any backup misses every objective, and has no age."""
    own = {str(tenant.id) for tenant in tenants if settings.data_type(tenant.tier) == kind}
    own_points = [p for p in points if p.tenant_id in own]
    ages = {p.tenant_id: p.rows_lost_s for p in own_points}
    known = {tenant: float(age) for tenant, age in ages.items() if age is not None}
    none = sorted(tenant for tenant, age in ages.items() if age is None)
    worst = max(known, key=lambda tenant: (known[tenant], tenant), default=None)
    age = None if worst is None else known[worst]
    late = sorted((t for t in known if known[t] > objective), key=lambda t: (-known[t], t))
    seen = [
        _Measured(drill.drill_id, drill.tenant_id, drill.finished_at, drill.recovery_point_age_s)
        for drill in drills
        if drill.tenant_id in own and drill.recovery_point_age_s is not None
    ]
    missing = [*none, *late]
    trend, trend_over = _trend(seen)
    return RecoveryPointAge(
        data_type=kind,
        backup_frequency=list(settings.schedules.tiers.get(kind, ())),
        objective_s=objective,
        worst_age_s=age,
        by_journal_count=sum(p.rows_until is not None for p in own_points),
        worst_backup_age_s=max((p.age_s for p in own_points if p.age_s is not None), default=None),
        tenant_id=worst,
        margin_s=_margin(objective, age),
        trend=trend,
        trend_over=trend_over,
        met=None if not own else not missing,
        tenants=len(own),
        missing=missing[:_NAMED],
        missing_count=len(missing),
        without_backup_count=len(none),
    )


def _margin(objective: float | None, value: float | None) -> float | None:
    return None if objective is None or value is None else round(objective - value, 3)


def _trend(measured: Sequence[_Measured]) -> tuple[float | None, str | None]:
    """The trend, and of which tenants the measurements before are. `measured`: the newest first."""
    own = [m.value for m in measured[1:] if m.tenant == measured[0].tenant]
    before = (own or [m.value for m in measured[1:]])[:_BEFORE]
    mean = sum(before) / len(before) if before else 0.0
    if not mean:
        return None, None
    return round(measured[0].value / mean - 1, 4), SAME_TENANT if own else ALL_TENANTS


def _once(errors: Iterable[SbhError]) -> list[SbhError]:
    return list({str(error): error for error in errors}.values())
