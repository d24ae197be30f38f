"""To which moments tenants can be brought: by what the journal of their region tells since each of their backups."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sbh_pipelines.backup.contents.manifest import WITH_TABLES, Manifest
from sbh_pipelines.backup.contents.manifests import ManifestCache, read_manifests
from sbh_pipelines.backup.journal.view.chains import Chains, read_chains
from sbh_pipelines.backup.journal.view.unchanged import unchanged_at
from sbh_pipelines.backup.journal.view.windows import Base, Chain, Reach, Span, joined, reaches
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.errors import SbhError, UnknownBackup
from sbh_pipelines.model import RecoveryPoint, Tenant, TenantId, parse_timestamp
from sbh_pipelines.repository.catalog.records import TenantRecord
from sbh_pipelines.repository.journal.segments.changes import commit_time, microseconds_of, moment_text


@dataclass(frozen=True, slots=True)
class MomentWindow:
    """A range of moments, both ends in it; ISO 8601 UTC.

    Attributes:
        start: The first: that of a backup.
        end: The last; the same as `start` where only the backup itself is there.
        why: What ends it; empty where it is only up to where the journal was drained.
    """

    start: str
    end: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class TableWindows:
    """The moments of one table, where they are more than those of the tenant.

    Attributes:
        table: Its full name.
        windows: In the order of time.
    """

    table: str
    windows: Sequence[MomentWindow]


@dataclass(frozen=True, slots=True)
class TenantWindows:
    """The moments to which a tenant can be brought.

    Attributes:
        tenant_id: The tenant.
        windows: For all of its tables that the journal covers, in the order of time.
        tables: Tables with more moments than that.
        not_journaled: Tables of the newest backup that come as they were at a backup.
        drained_until: Up to when the journal of its region was read; None where it never was.
        behind_s: How long ago that was, s.
    """

    tenant_id: str
    windows: Sequence[MomentWindow]
    tables: Sequence[TableWindows]
    not_journaled: Sequence[str]
    drained_until: str | None
    behind_s: float | None


@dataclass(frozen=True, slots=True)
class RecoveryWindows:
    """The moments of several tenants.

    Attributes:
        tenants: One per tenant, in the order asked for.
        issues: What could not be read: because of it a window may be shorter than it is.
    """

    tenants: Sequence[TenantWindows]
    issues: Sequence[SbhError]


def recovery_windows(site: Site, tenants: Sequence[Tenant], cache: ManifestCache) -> RecoveryWindows:
    """The journal of each region is read once, back to `journal.keep_days`; of each tenant the manifests."""
    since = microseconds_of(site.clock() - timedelta(days=site.settings.journal.keep_days))
    issues: list[SbhError] = []
    told: dict[str, Chains] = {}
    records: dict[TenantId, TenantRecord] = {}
    for region in sorted({tenant.region for tenant in tenants} & set(site.settings.storage.regions)):
        told[region] = read_chains(site.journal(region), since)
        issues += told[region].issues
        try:
            records |= site.records(region, [tenant for tenant in tenants if tenant.region == region])
        except SbhError as error:
            issues.append(error)

    def look(tenant: Tenant) -> tuple[TenantWindows, list[SbhError]]:
        chains = told[tenant.region].chains if tenant.region in told else ()
        try:
            bases, damaged = _bases(site, tenant, cache, records.get(tenant.id))
        except SbhError as error:
            return _windows(tenant, chains, [], site.clock()), [error]
        return _windows(tenant, chains, bases, site.clock()), damaged

    looked = side_by_side(look, tenants, name="windows")
    return RecoveryWindows([found for found, _ in looked], issues + [e for _, errors in looked for e in errors])


def _bases(
    site: Site, tenant: Tenant, cache: ManifestCache, record: TenantRecord | None
) -> tuple[list[Base], list[SbhError]]:
    """The tenant's backups that a way to a moment can begin at: at their own, and at a later one when nothing had changed."""
    try:
        repository = site.repository(tenant)
    except UnknownBackup:
        return [], []
    with repository:
        manifests, damaged = read_manifests(repository, cache)
    usable = [one for one in manifests if one.tenant_key == tenant.key and not one.is_aside]
    found = [base_of(manifest) for manifest in usable]
    if (same := unchanged_at(record, tenant.key)) is not None and record is not None:
        found += [base_of(manifest, same) for manifest in usable if manifest.id == record.backup_id]
    return found, damaged


def base_of(manifest: Manifest, same: RecoveryPoint | None = None) -> Base:
    """A backup as the place where a way begins; `same`: a later point at which it described the tenant as well."""
    point = same or manifest.recovery_point
    return Base(
        backup_id=manifest.id,
        time=microseconds_of(parse_timestamp(point.time)),
        xmin=int(point.snapshot.partition(":")[0]),
        system_id=int(point.system_identifier),
        timeline=point.timeline,
        tables=frozenset(
            table.table
            for name in WITH_TABLES
            if name in manifest.components
            for table in manifest.components[name].tables
        ),
    )


def _windows(tenant: Tenant, chains: Sequence[Chain], bases: Sequence[Base], now: datetime) -> TenantWindows:
    found = reaches(tenant.key, chains, bases)
    whole = joined(reach.span for reach in found)
    names = sorted({table for reach in found for table in reach.tables})
    tables = [(name, joined(reach.tables.get(name, reach.span) for reach in found)) for name in names]
    newest = max(bases, key=lambda base: base.time, default=None)
    covered = {table for chain in chains[-1:] for table in chain.coverage}
    until = max((fence.time for chain in chains for fence in chain.fences), default=None)
    return TenantWindows(
        tenant_id=tenant.id,
        windows=_shown(whole, found),
        tables=[TableWindows(name, _shown(spans, ())) for name, spans in tables if spans != whole],
        not_journaled=sorted((newest.tables if newest else frozenset[str]()) - covered),
        drained_until=None if until is None else moment_text(until),
        behind_s=None if until is None else round(max((now - commit_time(until)).total_seconds(), 0.0), 1),
    )


def _shown(spans: Iterable[Span], found: Sequence[Reach]) -> list[MomentWindow]:
    whys = {reach.span.end: reach.why for reach in found}
    return [MomentWindow(moment_text(span.start), moment_text(span.end), whys.get(span.end, "")) for span in spans]
