"""The status of a backup, from what its repository holds: a manifest, a failure record, or a running lease."""

from collections.abc import Mapping
from typing import Any

from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import ObjectMissing, RequestError, SbhError, error_from_dict
from sbh_pipelines.model import BackupId, Tenant
from sbh_pipelines.repository import lease as leases
from sbh_pipelines.repository.format import Keys, parse_document


def backup_status(site: Site, tenant: Tenant, backup_id: BackupId) -> dict[str, Any] | None:
    """The status document, or None where the tenant never had such a backup. A manifest counts before all else."""
    store, prefix = site.backup_store(tenant)
    base = {"backup_id": backup_id, "tenant_id": tenant.id}
    try:
        store.head(prefix + Keys.manifest(backup_id))
        return {**base, "status": "completed"}
    except ObjectMissing:
        pass
    try:
        key = prefix + Keys.failure(backup_id)
        record = parse_document(store.get(key), store.url(key))
        error: Mapping[str, Any] = record.get("error") or {}
        said = str(error_from_dict(error)) if error else ""
        return {**base, "status": "failed", "step": record.get("step"), "error": said, "details": error}
    except ObjectMissing:
        pass
    lease = leases.running(store, prefix, site.clock)
    if lease is not None and lease.purpose == backup_id:
        return {**base, "status": "running"}
    return None


def the_only(found: list[dict[str, Any]], missing: SbhError) -> dict[str, Any]:
    """The one status found. Raises `missing` for none, RequestError for several."""
    if not found:
        raise missing
    if len(found) > 1:
        raise RequestError(
            "Several tenants have this id",
            on=", ".join(f["tenant_id"] for f in found[:5]),
            remedy="name the tenant as well",
        )
    return found[0]
