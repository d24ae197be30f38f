"""What the assets have in common: their keys, groups, owners and kinds, and the tenant as their one dimension.

A tenant is a partition of every asset. The set is dynamic: the sensor `tenants_sync` keeps it in step with the application's
tenants table.
"""

import dagster as dg

from sbh_pipelines.orchestration.common.names import key, named

TENANTS = named("tenants")
ASSET_PREFIX = "tenant_backup"
OWNERS = ["team:backups"]
KINDS = {"postgres", "s3"}  # read from, and written to; Dagster has an icon for each
REPORT_KINDS = {"report", "s3"}

tenants_partitions = dg.DynamicPartitionsDefinition(name=TENANTS)

DRAWN_ONLY = dg.SpecificPartitionsPartitionMapping([])
"""The mapping of an edge that the graph shows and nothing else. With any other, Dagster calls an asset `unsynced` as soon as
one partition upstream is newer, or missing: a report would be so until every tenant is drilled."""

TABLES_ASSET, FILES_ASSET = key("application", "database"), key("application", "files")
RESTORES_ASSET, PLATFORM_ASSET, STORAGE_ASSET = key("tenant_restore"), key("platform_backup"), key("storage_report")


class Group:
    """The groups of the graph; plain text, for Dagster's code server can send no other."""

    SOURCE = "source"
    BACKUPS = "backups"
    PLATFORM = "platform"
    COPIES = "copies"
    RESTORES = "restores"
    PROOF = "proof"


def asset_key(backup_type: str) -> dg.AssetKey:
    """The asset of one backup type, e.g. `tenant_backup/full`."""
    return key(ASSET_PREFIX, str(backup_type))


def shown_in(made: str, requested: str | None) -> list[dg.AssetKey]:
    """The assets that show a backup: that of the type asked for, and that of the type it became, if it is another."""
    return [asset_key(backup_type) for backup_type in dict.fromkeys((requested or made, made))]
