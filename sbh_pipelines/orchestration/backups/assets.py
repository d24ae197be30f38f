"""One asset per backup type, made by one factory: "materialized", schedules and backfills are per asset."""

from typing import Any

import dagster as dg

from sbh_pipelines.model import BackupType
from sbh_pipelines.orchestration.backups.checks import BACKUP_VALID, check_spec
from sbh_pipelines.orchestration.backups.steps import (
    apply_retention,
    enumerate_files,
    snapshot_tables,
    verify_checksums,
    write_manifest,
)
from sbh_pipelines.orchestration.common.assets import GROUP, KINDS, OWNERS, asset_key, tenants_partitions

TENANTS_PER_RUN = 500  # of a backfill: one run costs seconds of its own, whatever it does

_READS = {
    BackupType.FULL: "Everything the tenant has: every row, every file, its configuration, at one recovery point.",
    BackupType.INCREMENTAL: "What changed since the tenant's newest backup of any type.",
    BackupType.DIFFERENTIAL: "What changed since the tenant's newest full backup.",
}
_NO_PARENT = (
    " Restores like a full one, and needs no other backup to be there. Where there is nothing to build on, a full backup is"
    " made and shown here and there."
)


def backup_steps() -> tuple[Any, Any]:
    """The five steps wired together, for the body of a graph: what the last one gives, and the outputs of `verify`."""
    verified = verify_checksums(write_manifest(enumerate_files(snapshot_tables())))
    return apply_retention(verified.drafts), verified


def backup_asset(backup_type: BackupType) -> dg.AssetsDefinition:
    """The asset `tenant_backup/<type>`: each tenant's newest backup of that type."""
    key = asset_key(backup_type)

    def steps() -> dict[str, Any]:
        result, verified = backup_steps()
        return {"result": result, f"{key.to_python_identifier()}_{BACKUP_VALID}": getattr(verified, BACKUP_VALID)}

    return dg.graph_asset(
        key=key,
        group_name=GROUP,
        partitions_def=tenants_partitions,
        backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=TENANTS_PER_RUN),
        check_specs=[check_spec(key)],
        kinds=KINDS,
        owners=OWNERS,
        description=f"{_READS[backup_type]}{_NO_PARENT if backup_type is not BackupType.FULL else ''} One partition per"
        f" tenant; its latest materialization is the tenant's newest {backup_type} backup. A run may be for many tenants:"
        " one that fails stays unmaterialized, alone.",
        metadata={"restore with": "restore_job", "validate with": "validate_backup_job"},
    )(steps)


backup_assets = [backup_asset(backup_type) for backup_type in BackupType]
