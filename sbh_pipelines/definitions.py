"""Everything that Dagster runs, merged. Loading it opens no connection; of the settings it reads which copies there are."""

import dagster as dg

from sbh_pipelines.orchestration.alerting.backup_watch import backup_watch
from sbh_pipelines.orchestration.alerting.sensors import (
    break_glass_alerts,
    failure_alerts,
    recovery_notices,
    retry_failed_tenants,
    tenants_sync,
    unusable_tenants,
)
from sbh_pipelines.orchestration.alerting.stuck_runs import run_watch
from sbh_pipelines.orchestration.backups.assets import backup_assets, source_assets
from sbh_pipelines.orchestration.backups.jobs import backup_jobs, fleet_backup_job
from sbh_pipelines.orchestration.backups.schedules import backup_schedules
from sbh_pipelines.orchestration.backups.validation import validate_backup_job
from sbh_pipelines.orchestration.common.outputs import no_values
from sbh_pipelines.orchestration.common.resources import backup_service
from sbh_pipelines.orchestration.copies.copy_runs import copies_schedule, copy_assets, copy_run_job
from sbh_pipelines.orchestration.copies.verification import copy_verify_job
from sbh_pipelines.orchestration.drills.jobs import drill_job, tenant_drill, weekly_drill
from sbh_pipelines.orchestration.drills.report import recovery_report
from sbh_pipelines.orchestration.journal.drains import change_journal, journal_drain, journal_drain_job
from sbh_pipelines.orchestration.journal.moment import moment_backup_job
from sbh_pipelines.orchestration.journal.shown import journal_show_job
from sbh_pipelines.orchestration.restores.into_schema import restore_into_schema_job
from sbh_pipelines.orchestration.restores.jobs import restore_job, tenant_restore, undo_restore_job
from sbh_pipelines.orchestration.upkeep.keys import key_rotation_job
from sbh_pipelines.orchestration.upkeep.platform import daily_platform_backup, platform_backup, platform_backup_job
from sbh_pipelines.orchestration.upkeep.retention import daily_prune, prune_job, retention_job
from sbh_pipelines.orchestration.upkeep.storage import storage_report, storage_report_job, weekly_storage_report

defs = dg.Definitions(
    assets=[
        *source_assets,
        *backup_assets,
        platform_backup,
        change_journal,
        tenant_restore,
        tenant_drill,
        recovery_report,
        storage_report,
        *copy_assets(),
    ],
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
        storage_report_job,
        journal_drain_job,
        journal_show_job,
        moment_backup_job,
        copy_run_job,
        copy_verify_job,
    ],
    schedules=[
        *backup_schedules,
        daily_prune,
        weekly_drill,
        daily_platform_backup,
        journal_drain,
        copies_schedule,
        weekly_storage_report,
    ],
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
    resources={"backups": backup_service, "io_manager": no_values},
    # Steps of one run hand over in memory and threads; a process per step would cost more than a small tenant's backup.
    executor=dg.in_process_executor,
)
