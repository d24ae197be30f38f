"""What the assets have in common: their group, owners and kinds, and the tenant as their one dimension.

A tenant is a partition of every asset. The set is dynamic: the sensor `tenants_sync` keeps it in step with the application's
tenants table.
"""

import dagster as dg

TENANTS = "tenants"
ASSET_PREFIX = "tenant_backup"
GROUP = "tenant_backups"
OWNERS = ["team:backups"]
KINDS = {"postgres", "s3"}  # read from, and written to; Dagster has an icon for each
REPORT_KINDS = {"report", "s3"}

tenants_partitions = dg.DynamicPartitionsDefinition(name=TENANTS)


def asset_key(backup_type: str) -> dg.AssetKey:
    """The asset of one backup type, e.g. `tenant_backup/full`."""
    return dg.AssetKey([ASSET_PREFIX, str(backup_type)])


def shown_in(made: str, requested: str | None) -> list[dg.AssetKey]:
    """The assets that show a backup: that of the type asked for, and that of the type it became, if it is another."""
    return [asset_key(backup_type) for backup_type in dict.fromkeys((requested or made, made))]
