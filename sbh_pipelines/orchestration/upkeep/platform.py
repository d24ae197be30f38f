"""The job and the schedule of the platform backup: what tenants share, and what an empty server needs first."""

from collections.abc import Iterator

import dagster as dg

from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import size_text
from sbh_pipelines.orchestration.backups.steps import SOURCE_DB
from sbh_pipelines.orchestration.common.batch import ProgressLog
from sbh_pipelines.orchestration.common.failures import failure_of
from sbh_pipelines.orchestration.common.resources import Backups, user_of
from sbh_pipelines.orchestration.common.runs import OPERATION_TAG
from sbh_pipelines.orchestration.common.timetable import Timetable, schedule_of_one_run, timetable
from sbh_pipelines.settings import PlatformSettings

PLATFORM_BACKUP = "platform_backup"


@dg.op(
    description="Backs up, at one recovery point, the schema (by pg_dump), the shared tables, roles and grants without"
    " passwords, sequences, and the list of tenants; proves that all of it is stored; forgets all but the newest"
    " `platform.keep_last`.",
    pool=SOURCE_DB,
    out=dg.Out(dict, description="The backup's manifest."),
)
def back_up_platform(context: dg.OpExecutionContext, backups: Backups) -> Iterator[dg.Output[dict[str, object]]]:
    try:
        made = backups.service.platform.create(user_of(context.run.tags), ProgressLog(context.log))
    except SbhError as error:
        raise failure_of(error, step=PLATFORM_BACKUP) from None
    manifest, retention = made.manifest, made.retention
    components = manifest.components
    counts = components["database"].counts
    if retention.error:
        context.log.error(f"Older platform backups could not be removed: {retention.error.what}")
    yield dg.Output(
        dict(made.document),
        metadata={
            "backup_id": dg.MetadataValue.text(manifest.id),
            "recovery_point": dg.MetadataValue.text(manifest.recovery_point.time),
            "tables": dg.MetadataValue.int(counts.get("table", 0)),
            "shared_rows": dg.MetadataValue.int(components["shared"].rows or 0),
            "rows_of_no_tenant": dg.MetadataValue.int(components["no-tenant"].rows or 0),
            "tenants": dg.MetadataValue.int(counts.get("tenant", 0)),
            "roles": dg.MetadataValue.int(counts.get("role", 0)),
            "bytes_stored": dg.MetadataValue.int(int(manifest.stats["bytes_stored"])),
            "size": dg.MetadataValue.text(size_text(manifest.size)),
            "forgotten": dg.MetadataValue.int(len(retention.forgotten)),
        },
    )


@dg.job(
    description="Backs up what tenants share and what an empty server needs first. Together with the tenants' backups it is"
    " enough to rebuild everything: `sbh platform restore`.",
    tags={OPERATION_TAG: PLATFORM_BACKUP},
)
def platform_backup_job() -> None:
    back_up_platform()


def platform_timetable() -> Timetable:
    default = str(PlatformSettings.model_fields["schedule"].default)
    return timetable("daily_platform_backup", "SBH_PLATFORM__SCHEDULE", default)


daily_platform_backup = schedule_of_one_run(
    platform_timetable(),
    platform_backup_job,
    PLATFORM_BACKUP,
    lambda settings: settings.platform.schedule,
    "Makes the platform backup.",
)
