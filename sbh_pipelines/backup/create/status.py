"""The status of a backup, from what its repository holds: a manifest, a failure record, or a running lease."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.document import optional
from sbh_pipelines.errors import ObjectMissing, RequestError, SbhError, error_from_dict
from sbh_pipelines.model import BackupId, Tenant
from sbh_pipelines.repository import lease as leases
from sbh_pipelines.repository.bounds import most_bytes
from sbh_pipelines.repository.format import Keys, parse_document

_Status = TypeVar("_Status")


@dataclass(frozen=True, slots=True)
class BackupStatus:
    """How far a backup is, also one that never came to be.

    Attributes:
        backup_id: Its id, unique within the tenant.
        tenant_id: Whose backup it is.
        status: `failed` and `running` ones have no manifest.
        step: Of a failed one: the step that failed.
        error: Of a failed one: what failed, on what and why, in one line.
        details: Of a failed one: the error, as the record has it.
    """

    backup_id: BackupId
    tenant_id: str
    status: Literal["running", "completed", "failed"]
    step: str | None = optional()
    error: str | None = optional()
    details: Mapping[str, object] | None = optional()


def backup_status(site: Site, tenant: Tenant, backup_id: BackupId) -> BackupStatus | None:
    """None where the tenant never had such a backup. A manifest counts before all else."""
    store, prefix = site.backup_store(tenant)
    try:
        store.head(prefix + Keys.manifest(backup_id))
        return BackupStatus(backup_id, tenant.id, "completed")
    except ObjectMissing:
        pass
    try:
        key = prefix + Keys.failure(backup_id)
        record = parse_document(store.get(key, most_bytes(Keys.FAILURES)), store.url(key))
        told, step = record.get("error"), record.get("step")  # nothing of it is signed
        error = told if isinstance(told, dict) else {}
        said = str(error_from_dict(error)) if error else ""
        return BackupStatus(backup_id, tenant.id, "failed", step if isinstance(step, str) else None, said, error)
    except ObjectMissing:
        pass
    lease = leases.running(store, prefix, site.clock)
    if lease is not None and lease.purpose == backup_id and not lease.is_orphan:
        return BackupStatus(backup_id, tenant.id, "running")
    return None


def the_only(found: Sequence[tuple[Tenant, _Status]], missing: SbhError) -> tuple[Tenant, _Status]:
    """The one status found, and whose. Raises `missing` for none, RequestError for several."""
    if not found:
        raise missing
    if len(found) > 1:
        raise RequestError(
            "Several tenants have this id",
            on=", ".join(tenant.id for tenant, _ in found[:5]),
            remedy="name the tenant as well",
        )
    return found[0]
