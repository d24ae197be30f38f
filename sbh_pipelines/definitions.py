"""Everything that Dagster runs, merged. Loading it reads no file and opens no connection."""

import dagster as dg

from sbh_pipelines.orchestration.assets import full_backup
from sbh_pipelines.orchestration.jobs import fleet_backup_job, full_backup_job
from sbh_pipelines.orchestration.repository_jobs import restore_job, validate_backup_job
from sbh_pipelines.orchestration.resources import BackupServiceResource
from sbh_pipelines.orchestration.schedules import daily_full_backup
from sbh_pipelines.orchestration.sensors import failure_alerts, retry_failed_tenants, tenants_sync, unusable_tenants

defs = dg.Definitions(
    assets=[full_backup],
    jobs=[full_backup_job, fleet_backup_job, validate_backup_job, restore_job],
    schedules=[daily_full_backup],
    sensors=[tenants_sync, unusable_tenants, failure_alerts, retry_failed_tenants],
    resources={"backups": BackupServiceResource()},
    # Steps of one run hand over in memory and threads; a process per step would cost more than a small tenant's backup.
    executor=dg.in_process_executor,
)
