"""That a tenant was, at some later instant, what a backup of it says: ways to moments begin there as well as at the backup.

Without it the journal would have to reach back to the backup of a tenant to whom nothing happens.
"""

from sbh_pipelines.model import RecoveryPoint
from sbh_pipelines.repository.catalog.records import TenantRecord


def unchanged_at(record: TenantRecord | None, tenant_key: str) -> RecoveryPoint | None:
    """When a tick found the tenant to be what `record.backup_id` says; None where none did, or it may have been another tenant."""
    if record is None or not record.unchanged or not record.is_surely_of(tenant_key):
        return None
    return record.point
