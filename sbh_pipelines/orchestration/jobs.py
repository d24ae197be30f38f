"""The jobs that make backups. Those that check and restore them are in `repository_jobs`."""

import dagster as dg

from sbh_pipelines.orchestration.assets import backup_steps, full_backup

OPERATION_TAG = "sbh/operation"

full_backup_job = dg.define_asset_job(
    "full_backup_job",
    selection=[full_backup],
    description="A full backup of the tenants whose partitions are chosen: one, some, or all (as a backfill).",
    tags={OPERATION_TAG: "backup"},
)


@dg.graph(description="The five steps of a backup, for the tenants named in the run's configuration.")
def fleet_backup() -> None:
    backup_steps()


fleet_backup_job = fleet_backup.to_job(
    name="fleet_backup_job",
    description="Backs up the tenants named in `ops.snapshot_tables.config.tenants`, or every tenant if it names none,"
    " in one run. What the daily schedule launches, a batch of tenants at a time; the backups appear in the asset.",
    tags={OPERATION_TAG: "backup"},
)
