"""Which permission each GraphQL mutation of Dagster needs, in the words of the one permission table.

What is not named here needs `dagster.manage`, as does every job that is not: new things are for admins until somebody
has looked at them. Tests walk the schema, so that a new version of Dagster brings nothing unseen, and all definitions.
"""

from collections.abc import Mapping

MANAGE = "dagster.manage"
VIEW = "dagster.view"

LAUNCHES: Mapping[str, tuple[str, ...]] = {
    "launchRun": ("executionParams",),
    "launchPipelineExecution": ("executionParams",),
    "launchMultipleRuns": ("executionParamsList",),
    "launchRunReexecution": ("executionParams", "reexecutionParams"),
    "launchPipelineReexecution": ("executionParams", "reexecutionParams"),
    "launchPartitionBackfill": ("backfillParams",),
}
"""Those that start runs, with the arguments that say which, and with which tags."""

OF_BACKFILLS: Mapping[str, str] = {
    "resumePartitionBackfill": "backfillId",
    "reexecutePartitionBackfill": "reexecutionParams",
}
"""Those that start runs of an earlier backfill, for the user who launched it: no other may."""

ACTIONS: Mapping[str, str] = {
    # Runs
    "terminateRun": "run.cancel",
    "terminateRuns": "run.cancel",
    "terminatePipelineExecution": "run.cancel",
    "cancelPartitionBackfill": "run.cancel",
    "deleteRun": MANAGE,
    "deletePipelineRun": MANAGE,
    # Schedules and sensors
    "startSchedule": MANAGE,
    "stopRunningSchedule": MANAGE,
    "resetSchedule": MANAGE,
    "scheduleDryRun": MANAGE,
    "startSensor": MANAGE,
    "stopSensor": MANAGE,
    "resetSensor": MANAGE,
    "setSensorCursor": MANAGE,
    "sensorDryRun": MANAGE,
    "setAutoMaterializePaused": MANAGE,
    # What is on record about assets and partitions
    "wipeAssets": MANAGE,
    "reportRunlessAssetEvents": MANAGE,
    "reportAssetCheckEvaluations": MANAGE,
    "addDynamicPartition": MANAGE,
    "deleteDynamicPartitions": MANAGE,
    # The instance and its code
    "reloadRepositoryLocation": MANAGE,
    "reloadWorkspace": MANAGE,
    "shutdownRepositoryLocation": MANAGE,
    "setAppManagedComponent": MANAGE,
    "deleteAppManagedComponent": MANAGE,
    "refreshComponentState": MANAGE,
    "setConcurrencyLimit": MANAGE,
    "deleteConcurrencyLimit": MANAGE,
    "freeConcurrencySlots": MANAGE,
    "freeConcurrencySlotsForRun": MANAGE,
    # What the page itself sends: that a hint was seen, that a page was opened
    "setNuxSeen": VIEW,
    "logTelemetry": VIEW,
}

FIELDS: Mapping[str, str] = {
    "evaluationResult {}": MANAGE,  # runs a sensor or schedule, with all that it does, as the mutations for dry runs do
    "info": MANAGE,  # the instance's dagster.yaml as it was written
}
"""Fields of queries and subscriptions that need more than to be logged in, on whatever type; with {}: with fields of their own."""

JOBS: Mapping[str, str] = {
    "full_backup_job": "backup.create",
    "incremental_backup_job": "backup.create",
    "differential_backup_job": "backup.create",
    "fleet_backup_job": "backup.create",
    "validate_backup_job": "backup.validate",
    "restore_job": "backup.restore",
    "undo_restore_job": "backup.restore",
    "restore_into_schema_job": "backup.restore",
    "prune_job": "repository.prune",
    "retention_job": "backup.forget",
    "drill_job": "drill.run",
    "platform_backup_job": "platform.backup",
    "key_rotation_job": "keys.rotate",
    "storage_report_job": "drill.run",  # as the other report; it lists whole buckets
    "journal_drain_job": "journal.manage",
    "journal_show_job": "journal.read",
    "moment_backup_job": "backup.create",
    "copy_run_job": "copies.run",
    "copy_verify_job": "copies.verify",
}
"""What a run of each job does, by its name without the site's. The run itself asks again, tenant by tenant, with the role in its
tags."""

ASSETS: Mapping[str, str] = {
    "application/database": MANAGE,  # neither of the two can be run
    "application/files": MANAGE,
    "tenant_backup/full": "backup.create",
    "tenant_backup/incremental": "backup.create",
    "tenant_backup/differential": "backup.create",
    "tenant_backup/drill": "drill.run",
    "tenant_restore": "backup.restore",
    "platform_backup": "platform.backup",
    "recovery_report": "drill.run",
    "storage_report": "drill.run",
    "change_journal": "journal.manage",
    "copies": "copies.run",
}
"""What a run of assets without a job does, by the asset's key without the site's name."""
