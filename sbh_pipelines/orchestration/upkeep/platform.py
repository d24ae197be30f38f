"""The platform backup as an asset, with its job and schedule: what tenants share, and what an empty server needs first."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg

from sbh_pipelines.errors import CorruptObject, ObjectMissing, SbhError
from sbh_pipelines.model import parse_timestamp, size_text
from sbh_pipelines.orchestration.backups.steps import SOURCE_DB
from sbh_pipelines.orchestration.common.assets import KINDS, OWNERS, PLATFORM_ASSET, TABLES_ASSET, Group
from sbh_pipelines.orchestration.common.batch import ProgressLog
from sbh_pipelines.orchestration.common.failures import failure_of
from sbh_pipelines.orchestration.common.metadata import MetadataMap, issues_table, plural
from sbh_pipelines.orchestration.common.names import named, tags
from sbh_pipelines.orchestration.common.resources import Backups, user_of
from sbh_pipelines.orchestration.common.runs import OPERATION_TAG, PLATFORM_BACKUP, tag_run
from sbh_pipelines.orchestration.common.timetable import Timetable, schedule_of_one_run, timetable
from sbh_pipelines.settings import PlatformSettings

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import PlatformBackup

PLATFORM_VALID = "platform_backup_valid"
_DAMAGE = (CorruptObject.code, ObjectMissing.code)

_Events = Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]


@dg.asset(
    key=PLATFORM_ASSET,
    group_name=Group.PLATFORM,
    deps=[TABLES_ASSET],
    kinds=KINDS,
    owners=OWNERS,
    pool=SOURCE_DB,
    check_specs=[
        dg.AssetCheckSpec(
            PLATFORM_VALID,
            asset=PLATFORM_ASSET,
            description="Read back from the store before the backup is published: everything that its manifest names is there,"
            " and is what was written.",
        )
    ],
    description="What tenants share and what an empty server needs first, at one recovery point: the schema (by pg_dump), the"
    " shared tables, roles and grants without passwords, sequences, and the list of tenants. With the tenants' backups it is"
    " enough to rebuild everything: `sbh platform restore`. All but the newest `platform.keep_last` are forgotten.",
    metadata={"rebuild with": "sbh platform restore", "when all is lost": "docs/operations/complete-failure.md"},
)
def platform_backup(context: dg.AssetExecutionContext, backups: Backups) -> _Events:
    user = user_of(context.run.tags)
    tag_run(context, None)
    try:
        made = backups.service.platform.create(user, ProgressLog(context.log))
    except SbhError as error:
        if error.code in _DAMAGE:
            issues = {"issues": dg.MetadataValue.md(issues_table([error]))}
            yield dg.AssetCheckResult(passed=False, check_name=PLATFORM_VALID, description=error.what, metadata=issues)
        raise failure_of(error, step=PLATFORM_BACKUP) from None
    if made.retention.error:
        context.log.error(f"Older platform backups could not be removed: {made.retention.error.what}")
    context.log.info(_summary(made))
    yield dg.MaterializeResult(metadata=_metadata(made))
    yield dg.AssetCheckResult(passed=True, check_name=PLATFORM_VALID, description=f"{made.manifest.id}: whole")


def _summary(made: "PlatformBackup") -> str:
    manifest = made.manifest
    counts = manifest.components["database"].counts
    of = (
        f"the definitions of {plural(counts.get('table', 0), 'table')}, {plural(counts.get('role', 0), 'role')} and"
        f" {plural(counts.get('tenant', 0), 'tenant')}"
    )
    rows = plural((manifest.components["shared"].rows or 0) + (manifest.components["no-tenant"].rows or 0), "row")
    moment = f"{parse_timestamp(manifest.recovery_point.time):%Y-%m-%d %H:%M:%S} UTC"
    return f"{of}, {rows} that are no tenant's, as of {moment}; {size_text(manifest.size)}"


def _metadata(made: "PlatformBackup") -> MetadataMap:
    manifest, components = made.manifest, made.manifest.components
    counts = components["database"].counts
    return {
        "summary": dg.MetadataValue.md(f"Holds {_summary(made)}."),
        "backup_id": dg.MetadataValue.text(manifest.id),
        "recovery_point": dg.MetadataValue.timestamp(parse_timestamp(manifest.recovery_point.time)),
        "tables": dg.MetadataValue.int(counts.get("table", 0)),
        "tenants": dg.MetadataValue.int(counts.get("tenant", 0)),
        "shared_rows": dg.MetadataValue.int(components["shared"].rows or 0),
        "rows_of_no_tenant": dg.MetadataValue.int(components["no-tenant"].rows or 0),
        "roles": dg.MetadataValue.int(counts.get("role", 0)),
        "bytes_stored": dg.MetadataValue.int(int(manifest.stats["bytes_stored"])),
        "forgotten": dg.MetadataValue.text(str(len(made.retention.forgotten))),
    }


platform_backup_job: Any = dg.define_asset_job(
    named("platform_backup_job"),
    selection=dg.AssetSelection.assets(PLATFORM_ASSET),
    description="Backs up what tenants share and what an empty server needs first. Together with the tenants' backups it is"
    " enough to rebuild everything: `sbh platform restore`.",
    tags=tags({OPERATION_TAG: PLATFORM_BACKUP}),
)


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
