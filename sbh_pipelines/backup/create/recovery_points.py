"""Up to when each tenant is safe: the later of its newest backup and the last tick that found it unchanged.

The catalog answers for nearly all tenants; it is believed only where the backup it names is still listed. A tenant it does
not know, or whose newest backup it has not heard of, is asked for its manifests. What the catalog is told of a backup, which the
next tick compares its tenant with, is made here too.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from sbh_pipelines.backup.contents.manifest import WITH_TABLES, Component
from sbh_pipelines.backup.contents.manifests import read_manifest
from sbh_pipelines.backup.create.draft import Draft
from sbh_pipelines.backup.create.drafts import OpenDrafts
from sbh_pipelines.backup.journal.view.standing import Newest, rows_told
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.errors import CorruptObject, SbhError, StoreError, UnknownBackup
from sbh_pipelines.model import BackupId, BackupType, RecoveryPoint, Tenant, TenantId, parse_timestamp
from sbh_pipelines.repository.catalog.records import TenantRecord, TenantState
from sbh_pipelines.repository.documents import list_manifest_ids
from sbh_pipelines.repository.format import FILES
from sbh_pipelines.repository.journal.segments.changes import commit_time, moment_text
from sbh_pipelines.repository.repository import Repository

BACKUP, UNCHANGED = "backup", "unchanged"


@dataclass(frozen=True, slots=True)
class LatestPoint:
    """Up to when a tenant is safe.

    Attributes:
        tenant_id: The tenant.
        backup_id: The backup that describes it at the recovery point; None where it has no backups.
        recovery_point: The latest instant to which it can be restored.
        recorded_as: `backup`, or `unchanged` where a tick found the tenant equal to that backup.
        age_s: How long ago that was by this machine's clock, s.
        rows_until: Up to when the change journal tells all of the tenant's rows since the backup, ISO 8601 UTC; None where it does
            not. Files are as the bucket's versions have them, or as in the backup.
        rows_lost_s: How much of the rows would be lost now, s: since the journal or the backup, whichever is later.
    """

    tenant_id: str
    backup_id: BackupId | None = None
    recovery_point: RecoveryPoint | None = None
    recorded_as: str | None = None
    age_s: float | None = None
    rows_until: str | None = None
    rows_lost_s: float | None = None


@dataclass(frozen=True, slots=True)
class RecoveryPoints:
    """Up to when several tenants are safe.

    Attributes:
        recovery_points: One per tenant, in the order asked for.
        issues: Damaged manifests and catalog objects, and tenants that could not be looked at: because of them a point may
            be older than it need be.
    """

    recovery_points: Sequence[LatestPoint]
    issues: Sequence[SbhError]


def latest_recovery_point(site: Site, tenant: Tenant) -> LatestPoint:
    """Raises UnknownBackup where the tenant has no backups, CorruptObject where none can be read."""
    point, issues = _latest(site, tenant, site.records(tenant.region, [tenant]).get(tenant.id))
    if point.backup_id is not None:
        return point
    if issues:
        raise issues[0]
    raise UnknownBackup("The tenant has no backups", on=tenant.id, remedy=f"make one: `sbh backup create {tenant.id}`")


def recovery_points(site: Site, tenants: Sequence[Tenant]) -> RecoveryPoints:
    """For many tenants: the catalog of each region is read once, and the manifests of each tenant are listed once."""
    issues: list[SbhError] = []
    known: dict[TenantId, TenantRecord] = {}
    allowed = [t for t in tenants if t.region in site.settings.storage.regions]
    for region in sorted({t.region for t in allowed}):
        try:
            known |= site.records(region, [t for t in allowed if t.region == region])
        except StoreError as error:  # of a region that is gone nothing is known; of the others everything is
            issues.append(error)
            continue
        issues += [damage.error for damage in site.catalog(region).damages]

    def look(tenant: Tenant) -> tuple[LatestPoint, list[SbhError]]:
        try:
            return _latest(site, tenant, known.get(tenant.id))
        except SbhError as error:
            return _answer(site, tenant, None), [error]

    looked = side_by_side(look, tenants, name="points")
    issues += [e for _, errors in looked for e in errors]
    points = [point for point, _ in looked]
    try:
        points = _with_journal(site, tenants, points, known)
    except SbhError as error:
        issues.append(error)
    return RecoveryPoints(points, issues)


def _with_journal(
    site: Site, tenants: Sequence[Tenant], points: Sequence[LatestPoint], known: Mapping[TenantId, TenantRecord]
) -> list[LatestPoint]:
    pairs = list(zip(tenants, points, strict=True))
    newest = [Newest(t, p.backup_id, known.get(t.id)) for t, p in pairs if p.backup_id is not None]
    told, now = rows_told(site, newest), site.clock()
    found = []
    for tenant, point in pairs:
        until = told.get(tenant.id)
        if until is None or point.age_s is None:
            found.append(point)
            continue
        lost = round(max((now - commit_time(until)).total_seconds(), 0.0), 1)
        found.append(replace(point, rows_until=moment_text(until), rows_lost_s=min(lost, point.age_s)))
    return found


def _latest(site: Site, tenant: Tenant, record: TenantRecord | None) -> tuple[LatestPoint, list[SbhError]]:
    store, prefix = site.backup_store(tenant)
    ids = list_manifest_ids(store, prefix)
    if record is not None and record.backup_id not in ids:
        record = None  # forgotten, or never there: what is recorded of it says nothing
    if record is None or not record.is_surely_of(tenant.key):
        site.owners.check(tenant)
    issues: list[SbhError] = []
    repository: Repository | None = None
    with ExitStack() as stack:
        for backup_id in reversed(ids):
            if record is not None and backup_id == record.backup_id:
                break
            repository = repository or stack.enter_context(site.repository(tenant))
            try:
                manifest = read_manifest(repository, backup_id)
                point = manifest.recovery_point
            except UnknownBackup:
                continue  # forgotten since it was listed
            except CorruptObject as error:
                issues.append(error)
                continue
            if manifest.is_recovered:
                continue  # made of an older one
            if record is None or parse_timestamp(point.time) > parse_timestamp(record.point.time):
                record = TenantRecord(tenant.id, backup_id, point, None)
            break
    return _answer(site, tenant, record), issues


def _answer(site: Site, tenant: Tenant, record: TenantRecord | None) -> LatestPoint:
    if record is None:
        return LatestPoint(tenant.id)
    age = (site.clock() - parse_timestamp(record.point.time)).total_seconds()
    return LatestPoint(
        tenant.id,
        record.backup_id,
        record.point,
        UNCHANGED if record.unchanged else BACKUP,
        round(max(age, 0.0), 1),
        rows_lost_s=round(max(age, 0.0), 1),
    )


def state_of(components: Mapping[str, Component], owner: str) -> TenantState | None:
    """The state at a backup; None for one that builds on a release which did not record it."""
    tables = [table for name in WITH_TABLES for table in components[name].tables]
    if any(table.key_hash is None for table in tables) or "listing" not in components[FILES].facts:
        return None
    seed = tables[0].seed if tables else ""
    return TenantState(
        seed, {t.table: [t.rows, t.key_hash, t.definition] for t in tables}, components[FILES].listing, owner
    )


def record_of(draft: Draft, home: str, lease: str | None) -> TenantRecord | None:
    """The catalog's record of a backup that was just published; `lease`: ETag that its lease will have once it is released."""
    if draft.manifest is None or draft.recovery_point is None or draft.manifest.is_recovered:
        return None
    state = state_of(draft.components, draft.tenant.key)
    if state is not None:
        # Whether they fit is asked anew by the first backup after a full one: a prune may have made room.
        state = replace(state, lease=lease, crowded=draft.crowded and draft.type is not BackupType.FULL)
    return TenantRecord(TenantId(home), draft.backup_id, draft.recovery_point, state)


def known_records(open_drafts: OpenDrafts, drafts: Iterable[Draft]) -> dict[TenantId, TenantRecord]:
    """What the catalogs have of these tenants."""
    by_region: dict[str, list[Tenant]] = {}
    for draft in drafts:
        by_region.setdefault(draft.tenant.region, []).append(draft.tenant)
    found: dict[TenantId, TenantRecord] = {}
    for region, tenants in by_region.items():
        found |= open_drafts.site.records(region, tenants)
    return found


def record_unchanged(
    open_drafts: OpenDrafts, point: RecoveryPoint, found: Mapping[Tenant, TenantRecord]
) -> dict[str, SbhError]:
    """That each of these tenants is at `point` what its last record says. One that does not say whose it is says it from now on.

    The errors of the regions whose catalogs cannot be written.
    """
    silent: dict[str, SbhError] = {}
    for region in sorted({tenant.region for tenant in found}):
        here = {tenant: record for tenant, record in found.items() if tenant.region == region}
        unchanged = {record.tenant: record.backup_id for record in here.values()}
        told = [
            replace(record, point=point, state=replace(record.state, owner=tenant.key), unchanged=True)
            for tenant, record in here.items()
            if record.state is not None and record.state.owner is None
        ]
        try:
            open_drafts.site.catalog(region).record(told, unchanged, point)
        except SbhError as error:
            silent[region] = error
    return silent


def record_published(open_drafts: OpenDrafts, drafts: Iterable[Draft]) -> None:
    """Tell the catalogs of backups just published, so that the next tick need not open their repositories.

    A catalog that cannot be written costs the next tick time; the backups are there, and are not to fail for it.
    """
    by_region: dict[str, list[TenantRecord]] = {}
    for draft in drafts:
        home = open_drafts.site.owners.home_of(draft.tenant)
        if record := record_of(draft, home, open_drafts.released(draft)):
            by_region.setdefault(draft.tenant.region, []).append(record)
    for region, made in by_region.items():
        try:
            open_drafts.site.catalog(region).record(made)
        except SbhError:
            continue
