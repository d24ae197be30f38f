"""Up to when each tenant is safe: the later of its newest backup and the last tick that found it unchanged.

The catalog answers for nearly all tenants; it is believed only where the backup it names is still listed. A tenant it does
not know, or whose newest backup it has not heard of, is asked for its manifests.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from sbh_pipelines.backup.contents.manifests import read_manifest
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.errors import CorruptObject, SbhError, UnknownBackup
from sbh_pipelines.model import BackupId, RecoveryPoint, Tenant, TenantId, parse_timestamp
from sbh_pipelines.repository.catalog.records import TenantRecord
from sbh_pipelines.repository.documents import list_manifest_ids
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
    """

    tenant_id: str
    backup_id: BackupId | None = None
    recovery_point: RecoveryPoint | None = None
    recorded_as: str | None = None
    age_s: float | None = None


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
    point, issues = _latest(site, tenant, site.catalog(tenant.region).read([tenant.id]).get(tenant.id))
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
        catalog = site.catalog(region)
        known |= catalog.read([t.id for t in allowed if t.region == region])
        issues += [damage.error for damage in catalog.damages]

    def look(tenant: Tenant) -> tuple[LatestPoint, list[SbhError]]:
        try:
            return _latest(site, tenant, known.get(tenant.id))
        except SbhError as error:
            return _answer(site, tenant, None), [error]

    looked = side_by_side(look, tenants, name="points")
    return RecoveryPoints([point for point, _ in looked], issues + [e for _, errors in looked for e in errors])


def _latest(site: Site, tenant: Tenant, record: TenantRecord | None) -> tuple[LatestPoint, list[SbhError]]:
    store, prefix = site.backup_store(tenant)
    ids = list_manifest_ids(store, prefix)
    if record is not None and record.backup_id not in ids:
        record = None  # forgotten, or never there: what is recorded of it says nothing
    issues: list[SbhError] = []
    repository: Repository | None = None
    with ExitStack() as stack:
        for backup_id in reversed(ids):
            if record is not None and backup_id == record.backup_id:
                break
            repository = repository or stack.enter_context(site.repository(tenant))
            try:
                point = read_manifest(repository, backup_id).recovery_point
            except UnknownBackup:
                continue  # forgotten since it was listed
            except CorruptObject as error:
                issues.append(error)
                continue
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
    )
