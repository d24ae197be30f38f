"""One asset per backup type, made by one factory: "materialized", schedules and backfills are per asset."""

from typing import Any

import dagster as dg

from sbh_pipelines.model import BackupType
from sbh_pipelines.orchestration.backups.checks import BACKUP_VALID, SOURCE_FILES_PRESENT, check_specs
from sbh_pipelines.orchestration.backups.steps import (
    apply_retention,
    enumerate_files,
    snapshot_tables,
    verify_checksums,
    write_manifest,
)
from sbh_pipelines.orchestration.common.assets import (
    FILES_ASSET,
    KINDS,
    OWNERS,
    TABLES_ASSET,
    Group,
    asset_key,
    tenants_partitions,
)

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


source_assets = [
    dg.AssetSpec(
        TABLES_ASSET,
        group_name=Group.SOURCE,
        kinds={"postgres"},
        description="The application's database: the rows that each tenant owns, by the tenancy map of `[database]`. It is read"
        " here, and written by restores only. `sbh doctor` shows its tables and whose they are.",
    ),
    dg.AssetSpec(
        FILES_ASSET,
        group_name=Group.SOURCE,
        kinds={"s3"},
        description="The application's bucket: the files of each tenant, and those that its rows refer to by `[files]`. It is"
        " read here, and written by restores only.",
    ),
]


def backup_steps(**sources: Any) -> tuple[Any, Any]:
    """The five steps wired together, for the body of a graph: what the last one gives, and the outputs of `verify`.

    `sources`: the assets `tables` and `files` upstream, where the graph is an asset.
    """
    of = {name: {name: sources[name]} if name in sources else {} for name in ("tables", "files")}
    listed = enumerate_files(drafts=snapshot_tables(**of["tables"]), **of["files"])
    verified = verify_checksums(drafts=write_manifest(drafts=listed))
    return apply_retention(drafts=verified.drafts), verified


def backup_asset(backup_type: BackupType) -> dg.AssetsDefinition:
    """The asset `tenant_backup/<type>`: each tenant's newest backup of that type."""
    key = asset_key(backup_type)

    def steps(tables: Any, files: Any) -> dict[str, Any]:
        result, verified = backup_steps(tables=tables, files=files)
        checked = {
            f"{key.to_python_identifier()}_{name}": getattr(verified, name)
            for name in (BACKUP_VALID, SOURCE_FILES_PRESENT)
        }
        return {"result": result, **checked}

    return dg.graph_asset(
        key=key,
        ins={
            "tables": dg.AssetIn(TABLES_ASSET, dagster_type=dg.Nothing),
            "files": dg.AssetIn(FILES_ASSET, dagster_type=dg.Nothing),
        },
        group_name=Group.BACKUPS,
        partitions_def=tenants_partitions,
        backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=TENANTS_PER_RUN),
        check_specs=check_specs(key),
        kinds=KINDS,
        owners=OWNERS,
        description=f"{_READS[backup_type]}{_NO_PARENT if backup_type is not BackupType.FULL else ''} One partition per"
        f" tenant; its latest materialization is the tenant's newest {backup_type} backup. A run may be for many tenants:"
        " one that fails stays unmaterialized, alone.",
        metadata={"restore with": "restore_job", "validate with": "validate_backup_job"},
    )(steps)


backup_assets = [backup_asset(backup_type) for backup_type in BackupType]
