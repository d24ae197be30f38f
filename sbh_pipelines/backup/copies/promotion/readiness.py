"""How ready a copy is to take over: each tenant as the copy alone tells, and, unless it is lost, how far the source is ahead."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sbh_pipelines.backup.copies.place import CopyPlace, source_asked
from sbh_pipelines.backup.copies.results import CopyRun, TenantCopied
from sbh_pipelines.backup.copies.verification import verify_tenant
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.concurrency import streamed
from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import (
    HousedTenant,
    Progress,
    ProgressSink,
    Tenant,
    TenantId,
    parse_timestamp,
)
from sbh_pipelines.repository.catalog.owners import slug_of
from sbh_pipelines.repository.catalog.records import TenantRecord

_AT_ONCE = 8

Readiness = Literal["ready", "behind", "missing", "damaged", "left_out"]


@dataclass(frozen=True, slots=True)
class TenantReady:
    """What a promotion finds of one tenant.

    Attributes:
        tenant_id: Its slug.
        region: The region whose tenant it is.
        standing: `ready`; `behind`: the source has more, or it is not whole as the newest; `missing`: nothing of it is at the copy;
            `damaged`: no backup of it is whole there, or that cannot be told; `left_out`: it is not copied.
        backup_id: The newest backup that is whole at the copy.
        recovery_point: Up to when that is, UTC: what came later is lost with the source.
        at_source: Up to when the source has it, UTC; None where that is not known.
        why: What is wrong, or why it is left out.
    """

    tenant_id: TenantId
    region: str
    standing: Readiness
    backup_id: str | None = None
    recovery_point: datetime | None = None
    at_source: datetime | None = None
    why: str = ""


def gone(site: Site, regions: Sequence[str], tenants: Sequence[Tenant]) -> list[Tenant]:
    """Those of whom a catalog knows, and the application no more."""
    known, found = {(tenant.id, tenant.region) for tenant in tenants}, list[Tenant]()
    for region in regions:
        slugs = {slug_of(home) for home in site.catalog(region).read()}
        for slug in sorted(filter(None, slugs)):
            if (slug, region) not in known:
                found.append(Tenant(TenantId(slug), "", region, ""))
    return found


def lines_of(
    place: CopyPlace,
    tenants: Sequence[Tenant],
    source_lost: bool,
    progress: ProgressSink,
) -> tuple[list[TenantReady], list[SbhError]]:
    """Each tenant as the copy alone tells, and, unless it is lost, how far the source is ahead."""
    issues, at_source = list[SbhError](), dict[tuple[str, str], TenantRecord]()
    for region in () if source_lost else place.regions:
        with source_asked(place):
            catalog = place.source.catalog(region)
            at_source |= {(home, region): record for home, record in catalog.read().items()}
            issues += [damage.error for damage in catalog.damages]
    everyone = [one for one in tenants if one.region in place.regions]
    everyone += gone(place.target, place.regions, everyone)
    done = list[TenantReady]()

    def one(tenant: Tenant) -> TenantReady:
        return _line(place, tenant, at_source)

    for line in streamed(one, everyone, name="promotion", threads=_AT_ONCE, ahead=_AT_ONCE + 1):
        done.append(line)
        progress(Progress("verify", place.name, len(done), len(everyone), "tenants"))
    return _worst_first(done), issues


def _worst_first(lines: Sequence[TenantReady]) -> list[TenantReady]:
    order = ("damaged", "missing", "behind", "left_out", "ready")
    return sorted(lines, key=lambda line: (order.index(line.standing), line.tenant_id))


def lines_of_run(copied: CopyRun) -> list[TenantReady]:
    """After a last run, in which everything that the source has was found whole at the copy."""

    def standing(one: TenantCopied) -> Readiness:
        return "left_out" if one.left_out is not None else "missing" if one.backup_id is None else "ready"

    return _worst_first(
        [
            TenantReady(
                one.tenant_id, one.region, standing(one), one.backup_id, one.recovery_point, why=one.left_out or ""
            )
            for one in copied.tenants
        ]
    )


def _line(place: CopyPlace, tenant: Tenant, at_source: Mapping[tuple[str, str], TenantRecord]) -> TenantReady:
    if tenant.key and (why := place.left_out(tenant)) is not None:
        return TenantReady(tenant.id, tenant.region, "left_out", why=why)
    try:
        home = place.target.owners.home_of(tenant)
        record = at_source.get((home, tenant.region))
        until = parse_timestamp(record.point.time) if record is not None and record.may_be_of(tenant.key) else None
        housed = HousedTenant(tenant.id, tenant.key, tenant.region, tenant.tier, home)
        found = verify_tenant(place, housed)
    except SbhError as error:
        return TenantReady(tenant.id, tenant.region, "damaged", why=str(error))
    standing: Readiness = "ready"
    if found.backup_id is None:
        standing = "missing"
    elif found.error is not None or (until and found.recovery_point and found.recovery_point < until):
        standing = "behind"
    why = str(found.error) if found.error is not None else ""
    return TenantReady(tenant.id, tenant.region, standing, found.backup_id, found.recovery_point, until, why)
