"""What the catalog of a region is told of a backup: the record that the next tick compares its tenant with."""

from collections.abc import Iterable, Mapping

from sbh_pipelines.backup.contents.manifest import WITH_TABLES, Component
from sbh_pipelines.backup.create.draft import Draft
from sbh_pipelines.backup.create.drafts import OpenDrafts
from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import BackupId, RecoveryPoint, TenantId
from sbh_pipelines.repository.catalog.records import TenantRecord, TenantState
from sbh_pipelines.repository.format import FILES


def state_of(components: Mapping[str, Component]) -> TenantState | None:
    """The state at a backup; None for one that builds on a release which did not record it."""
    tables = [table for name in WITH_TABLES for table in components[name].tables]
    if any(table.key_hash is None for table in tables) or "listing" not in components[FILES].facts:
        return None
    seed = tables[0].seed if tables else ""
    return TenantState(seed, {t.table: [t.rows, t.key_hash, t.definition] for t in tables}, components[FILES].listing)


def record_of(draft: Draft) -> TenantRecord | None:
    """The catalog's record of a backup that was just published."""
    if draft.manifest is None or draft.recovery_point is None:
        return None
    return TenantRecord(draft.tenant.id, draft.backup_id, draft.recovery_point, state_of(draft.components))


def known_records(open_drafts: OpenDrafts, drafts: Iterable[Draft]) -> dict[TenantId, TenantRecord]:
    """What the catalogs have of these tenants."""
    by_region: dict[str, list[TenantId]] = {}
    for draft in drafts:
        by_region.setdefault(draft.tenant.region, []).append(draft.tenant.id)
    found: dict[TenantId, TenantRecord] = {}
    for region, tenants in by_region.items():
        found |= open_drafts.site.catalog(region).read(tenants)
    return found


def record_unchanged(
    open_drafts: OpenDrafts, point: RecoveryPoint, found: Mapping[TenantId, tuple[str, BackupId]]
) -> None:
    regions = {region for region, _ in found.values()}
    for region in sorted(regions):
        unchanged = {tenant: backup for tenant, (where, backup) in found.items() if where == region}
        open_drafts.site.catalog(region).record([], unchanged, point)


def record_published(open_drafts: OpenDrafts, drafts: Iterable[Draft]) -> None:
    """Tell the catalogs of backups just published, so that the next tick need not open their repositories.

    A catalog that cannot be written costs the next tick time; the backups are there, and are not to fail for it.
    """
    by_region: dict[str, list[TenantRecord]] = {}
    for draft in drafts:
        if record := record_of(draft):
            by_region.setdefault(draft.tenant.region, []).append(record)
    for region, made in by_region.items():
        try:
            open_drafts.site.catalog(region).record(made)
        except SbhError:
            continue
