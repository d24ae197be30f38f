"""Everything that Dagster runs, merged. Loading it reads no file and opens no connection."""

import dagster as dg

from sbh_pipelines.orchestration.assets import backup_assets
from sbh_pipelines.orchestration.drills import drill_job, recovery_report, tenant_drill, weekly_drill
from sbh_pipelines.orchestration.jobs import backup_jobs, fleet_backup_job
from sbh_pipelines.orchestration.key_jobs import key_rotation_job
from sbh_pipelines.orchestration.look_jobs import restore_into_schema_job
from sbh_pipelines.orchestration.platform_jobs import daily_platform_backup, platform_backup_job
from sbh_pipelines.orchestration.repository_jobs import validate_backup_job
from sbh_pipelines.orchestration.resources import BackupServiceResource
from sbh_pipelines.orchestration.restore_jobs import restore_job, undo_restore_job
from sbh_pipelines.orchestration.schedules import backup_schedules, daily_prune
from sbh_pipelines.orchestration.sensors import (
    failure_alerts,
    recovery_notices,
    retry_failed_tenants,
    tenants_sync,
    unusable_tenants,
)
from sbh_pipelines.orchestration.upkeep import prune_job, retention_job
from sbh_pipelines.orchestration.watching import backup_watch, break_glass_alerts, run_watch

defs = dg.Definitions(
    assets=[*backup_assets, tenant_drill, recovery_report],
    jobs=[
        *backup_jobs,
        fleet_backup_job,
        validate_backup_job,
        restore_job,
        undo_restore_job,
        restore_into_schema_job,
        prune_job,
        retention_job,
        drill_job,
        platform_backup_job,
        key_rotation_job,
    ],
    schedules=[*backup_schedules, daily_prune, weekly_drill, daily_platform_backup],
    sensors=[
        tenants_sync,
        unusable_tenants,
        failure_alerts,
        recovery_notices,
        retry_failed_tenants,
        backup_watch,
        run_watch,
        break_glass_alerts,
    ],
    resources={"backups": BackupServiceResource()},
    # Steps of one run hand over in memory and threads; a process per step would cost more than a small tenant's backup.
    executor=dg.in_process_executor,
)
