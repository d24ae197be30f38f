"""How fast tenants came back in drills, and how much they would lose now, against what was promised.

Recovery times are measured: the newest drill of each scenario counts, and a scenario that nobody drilled has no number.
A drill restores one tenant; the time of a complete failure of a fleet is at least that of its largest tenants together.
Recovery points are as they stand now: of each data type (tier) the tenant that would lose most.

A trend is the newest measurement against the mean of up to five before it, of the same tenant if it was drilled before:
tenants differ in size. +0.2 means a fifth more than was usual.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sbh_pipelines.backup.create.recovery_points import LatestPoint, recovery_points
from sbh_pipelines.backup.drill.records import DAMAGED, PASSED, last_drills, read_records
from sbh_pipelines.backup.drill.scenarios import BACKUP_TYPES, SCENARIOS
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import SbhError, error_from_dict
from sbh_pipelines.model import DrillId, Tenant, timestamp
from sbh_pipelines.settings import Settings

_BEFORE = 5  # measurements that the newest is compared with
_MOST = 60  # drills of one tenant that are looked at
_NAMED = 20  # tenants named in a list; their number is of all
SAME_TENANT, ALL_TENANTS = "same tenant", "all tenants"


@dataclass(frozen=True, slots=True)
class _Measured:
    """One number of one drill."""

    drill_id: str
    tenant: str
    at: str
    value: float
    bytes: int = 0


def recovery_report(site: Site, tenants: Sequence[Tenant]) -> dict[str, Any]:
    """{at, tenants, recovery_time: [...], recovery_point: [...], issues: [errors]}; seconds, and null where unknown.

    Costs two listings for each tenant, and the last drills of those that were drilled: six where each was of all scenarios.
    """
    drills: list[dict[str, Any]] = []
    for tenant, ids in last_drills(site, tenants):
        drills += _newest(site, tenant, ids)
    damaged = [record for record in drills if record["status"] == DAMAGED]
    sound = sorted((r for r in drills if r["status"] != DAMAGED), key=lambda r: str(r["drill_id"]), reverse=True)
    ages = recovery_points(site, tenants)
    issues = [*(error_from_dict(record["error"]) for record in damaged), *ages.issues]
    return {
        "at": timestamp(site.clock()),
        "tenants": len(tenants),
        "recovery_time": [_time_of(site.settings, scenario, sound) for scenario in SCENARIOS],
        "recovery_point": [
            _point_of(site.settings, kind, objective, tenants, ages.recovery_points, sound)
            for kind, objective in site.settings.drill.recovery_point_objectives_s.items()
        ],
        "issues": [issue.as_dict() for issue in _once(issues)],
    }


def _newest(site: Site, tenant: Tenant, ids: Sequence[DrillId]) -> list[dict[str, Any]]:
    """The last drills of a tenant: so many that each scenario is among them six times, if that is in reach."""
    found: list[dict[str, Any]] = []
    for first in range(0, min(len(ids), _MOST), _BEFORE + 1):
        found += read_records(site, tenant, ids[first : first + _BEFORE + 1])
        seen = Counter(one["scenario"] for record in found for one in record["scenarios"])
        if all(seen[scenario] > _BEFORE for scenario in SCENARIOS):
            break
    return found


def _time_of(settings: Settings, scenario: str, drills: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One row of the first table. `drills`: the newest first."""
    objective = settings.drill.objectives_s.get(scenario)
    measured: list[_Measured] = []
    latest: dict[str, Mapping[str, Any]] = {}  # each tenant's newest drill of the scenario
    for drill in drills:
        for one in drill["scenarios"]:
            if one["scenario"] != scenario:
                continue
            tenant, name = str(drill["tenant_id"]), str(drill["drill_id"])
            latest.setdefault(tenant, {**one, "tenant_id": tenant, "drill_id": name, "at": drill["finished_at"]})
            if one["status"] == PASSED:
                measured.append(_Measured(name, tenant, drill["finished_at"], one["seconds"], one["bytes"]))
    failed = [
        {"tenant_id": tenant, "drill_id": one["drill_id"], "at": one["at"], "error": one["error"]}
        for tenant, one in latest.items()
        if one["status"] != PASSED
    ]
    over = [
        tenant
        for tenant, one in latest.items()
        if one["status"] == PASSED and objective is not None and one["seconds"] > objective
    ]
    newest = measured[0] if measured else None
    return {
        "scenario": scenario,
        "backup_type": BACKUP_TYPES[scenario],
        "objective_s": objective,
        "last_measured_s": newest.value if newest else None,
        "margin_s": _margin(objective, newest.value if newest else None),
        **_trend(measured),
        "met": None if not latest or objective is None else not failed and not over,
        "tenant_id": newest.tenant if newest else None,
        "drill_id": newest.drill_id if newest else None,
        "measured_at": newest.at if newest else None,
        "bytes": newest.bytes if newest else None,
        "tenants_drilled": len(latest),
        "failed": failed[:_NAMED],
        "failed_count": len(failed),
        "over": sorted(over)[:_NAMED],
        "over_count": len(over),
    }


def _point_of(
    settings: Settings,
    kind: str,
    objective: float,
    tenants: Sequence[Tenant],
    points: Sequence[LatestPoint],
    drills: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """One row of the second table. A tenant without any backup misses every objective, and has no age."""
    own = {str(tenant.id) for tenant in tenants if settings.data_type(tenant.tier) == kind}
    ages = {p.tenant_id: p.age_s for p in points if p.tenant_id in own}
    known = {tenant: float(age) for tenant, age in ages.items() if age is not None}
    none = sorted(tenant for tenant, age in ages.items() if age is None)
    worst = max(known, key=lambda tenant: (known[tenant], tenant), default=None)
    age = None if worst is None else known[worst]
    late = sorted((t for t in known if known[t] > objective), key=lambda t: (-known[t], t))
    seen = [
        _Measured(str(d["drill_id"]), str(d["tenant_id"]), d["finished_at"], float(d["recovery_point_age_s"]))
        for d in drills
        if d["tenant_id"] in own and d["recovery_point_age_s"] is not None
    ]
    missing = [*none, *late]
    return {
        "data_type": kind,
        "backup_frequency": list(settings.schedules.tiers.get(kind, ())),
        "objective_s": objective,
        "worst_age_s": age,
        "tenant_id": worst,
        "margin_s": _margin(objective, age),
        **_trend(seen),
        "met": None if not own else not missing,
        "tenants": len(own),
        "missing": missing[:_NAMED],
        "missing_count": len(missing),
        "without_backup_count": len(none),
    }


def _margin(objective: float | None, value: float | None) -> float | None:
    return None if objective is None or value is None else round(objective - value, 3)


def _trend(measured: Sequence[_Measured]) -> dict[str, Any]:
    """{trend, trend_over}. `measured`: the newest first."""
    own = [m.value for m in measured[1:] if m.tenant == measured[0].tenant]
    before = (own or [m.value for m in measured[1:]])[:_BEFORE]
    mean = sum(before) / len(before) if before else 0.0
    if not mean:
        return {"trend": None, "trend_over": None}
    return {"trend": round(measured[0].value / mean - 1, 4), "trend_over": SAME_TENANT if own else ALL_TENANTS}


def _once(errors: Iterable[SbhError]) -> list[SbhError]:
    return list({str(error): error for error in errors}.values())
