"""How much tenants would lose if only a copy of their backups were left, tier by tier and copy by copy."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sbh_pipelines.backup.copies.results import CopyStatus
from sbh_pipelines.backup.copies.status import copy_status
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import Tenant
from sbh_pipelines.settings import Settings


@dataclass(frozen=True, slots=True)
class CopyPointAge:
    """One data type (tier) at one copy: how much its tenants would lose now if the first place were gone.

    Attributes:
        copy: The copy's name.
        data_type: The tier.
        objective_s: How old recovery points there may become, s.
        worst_age_s: Age of the oldest of its tenants' recovery points that were verified there, s; null where there is none.
        tenant_id: The tenant that would lose most.
        margin_s: What is left to the objective, s.
        met: Whether every tenant that is copied meets the objective; null where none is copied.
        tenants: Tenants of the data type that are copied.
        without_copy_count: How many of them nothing was verified of there.
        left_out_count: Tenants of the data type that are not copied: for their residency, tier or region.
    """

    copy: str
    data_type: str
    objective_s: float
    worst_age_s: float | None
    tenant_id: str | None
    margin_s: float | None
    met: bool | None
    tenants: int
    without_copy_count: int
    left_out_count: int


def copy_points(site: Site, tenants: Sequence[Tenant]) -> tuple[list[CopyPointAge], list[SbhError]]:
    """(a line for each copy and each data type that has tenants, what could not be asked). No request where there are no copies."""
    found, issues = list[CopyPointAge](), list[SbhError]()
    kinds: dict[str, list[Tenant]] = {}
    for tenant in tenants:
        kinds.setdefault(site.settings.data_type(tenant.tier), []).append(tenant)
    for copy in site.settings.copies:
        status = copy_status(site, copy.name, tenants, site.clock())
        found += _of_copy(site.settings, status, kinds)
        issues += status.issues
    return found, issues


def _of_copy(settings: Settings, status: CopyStatus, kinds: Mapping[str, Sequence[Tenant]]) -> Iterator[CopyPointAge]:
    lines = {line.tenant_id: line for line in status.tenants if line.standing not in ("left_out", "ended")}
    order = [*settings.drill.recovery_point_objectives_s, *sorted(kinds)]
    for kind in dict.fromkeys(kind for kind in order if kind in kinds):
        own = [lines[tenant.id] for tenant in kinds[kind] if tenant.id in lines]
        ages = {line.tenant_id: line.lag_s for line in own if line.lag_s is not None}
        worst = max(ages, key=lambda tenant: (ages[tenant], tenant), default=None)
        age = None if worst is None else ages[worst]
        late = any(lag > status.objective_s for lag in ages.values())
        yield CopyPointAge(
            copy=status.name,
            data_type=kind,
            objective_s=status.objective_s,
            worst_age_s=age,
            tenant_id=worst,
            margin_s=None if age is None else round(status.objective_s - age, 3),
            met=None if not own else not late and len(ages) == len(own),
            tenants=len(own),
            without_copy_count=len(own) - len(ages),
            left_out_count=len(kinds[kind]) - len(own),
        )
