"""Drills: tenants restored into a throw-away place, on a schedule, and the report of what that took.

A drill belongs to the asset `tenant_backup/drill`, a partition per tenant, whose latest materialization is the tenant's last
drill that passed; its check `restore_drill` says whether the last one did. It is an asset of its own because a check of
`tenant_backup/full` would be planned, and shown as skipped, by every run that makes a backup. `drill_job` drills the tenant
of the partition, those it is told, or else those drilled longest ago, and then brings the asset `recovery_report` up to
date. The report is made also where a drill failed: that is when it is wanted.
"""

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from sbh_pipelines.backup.drill.scenarios import SCENARIOS
from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import BackupType
from sbh_pipelines.orchestration.backups.steps import SOURCE_DB
from sbh_pipelines.orchestration.common import batch
from sbh_pipelines.orchestration.common.assets import (
    DRAWN_ONLY,
    KINDS,
    OWNERS,
    PLATFORM_ASSET,
    Group,
    asset_key,
    tenants_partitions,
)
from sbh_pipelines.orchestration.common.batch import ProgressLog
from sbh_pipelines.orchestration.common.config import JobConfig, from_copy_field
from sbh_pipelines.orchestration.common.failed_tenants import FailedTenant
from sbh_pipelines.orchestration.common.failures import batch_failure, failure_of
from sbh_pipelines.orchestration.common.metadata import plural
from sbh_pipelines.orchestration.common.names import named, tags
from sbh_pipelines.orchestration.common.resources import Backups, user_of
from sbh_pipelines.orchestration.common.runs import OPERATION_TAG
from sbh_pipelines.orchestration.common.timetable import Timetable, schedule_of_one_run, timetable
from sbh_pipelines.orchestration.drills.metadata import drill_metadata, drill_text
from sbh_pipelines.orchestration.drills.report import DRILL, DRILL_ASSET, REPORT_ASSET, report_metadata
from sbh_pipelines.settings import DrillSettings

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import DrillRecord

RESTORE_DRILL = "restore_drill"

DrillEvent = dg.AssetMaterialization | dg.AssetCheckEvaluation | dg.Output[None]


class DrillConfig(JobConfig):
    """Whom to drill, and what."""

    tenants: list[str] = Field(
        [],
        description="Tenants, by slug. Only for runs without a partition; there, empty means those drilled longest ago,"
        " `drill.tenants_per_drill` of them.",
    )
    backup_id: str = Field("latest", description="A backup id such as backup_20240115_1200, or `latest`.")
    scenarios: list[str] = Field([], description=f"Any of: {', '.join(SCENARIOS)}. Empty: all.")
    from_copy: str | None = from_copy_field(" What the drill found is on record there.")


@dg.op(
    description="Restores each tenant into a database of its own, which is dropped afterwards, and its files to this"
    " machine's disk; proves what came back and measures how long it took. Fails if a drill did. Evaluates the asset check"
    " `restore_drill` for each tenant.",
    pool=SOURCE_DB,
    ins=dict.fromkeys((*map(str, BackupType), "platform"), dg.In(dg.Nothing)),
    config_schema=DrillConfig.schema_of_dagster(),
    out={
        # Never emitted: an output would record a materialization for every tenant of the run, failed or not.
        "result": dg.Out(dg.Nothing, is_required=False),
        RESTORE_DRILL: dg.Out(dg.Nothing, is_required=False),
    },
)
def drill_tenants(context: dg.OpExecutionContext, backups: Backups) -> Iterator[DrillEvent]:
    config = DrillConfig.of(context)
    user = user_of(context.run.tags)
    tenants = batch.run_tenants(context, config.tenants)
    failed: list[FailedTenant] = []
    try:
        service = backups.at(config.from_copy)
        tenants = tenants or service.drills.candidates(user)
    except SbhError as error:
        raise failure_of(error, step=DRILL) from None
    for tenant in tenants:
        try:
            record = service.drills.run(
                tenant,
                user,
                backup_id=config.backup_id,
                scenarios=config.scenarios,
                progress=ProgressLog(context.log),
            )
        except SbhError as error:
            context.log.error(f"{tenant}: {error}")
            failed.append(FailedTenant.of(tenant, DRILL, error))
            continue
        context.log.info(f"{tenant}: {record.drill_id}: {drill_text(record)}")
        if record.error:
            failed.append(FailedTenant.of(tenant, DRILL, record.error))
        else:
            yield dg.AssetMaterialization(
                DRILL_ASSET,
                partition=tenant,
                description=f"{record.drill_id} with {record.backup_id}: {drill_text(record)}",
                metadata=drill_metadata(record),
            )
        yield _evaluation(tenant, record)
    if not context.has_assets_def:
        yield from _reported(context, backups, failed, len(tenants), config.from_copy)
    if failed:
        raise batch_failure(failed, len(tenants))
    if not tenants:
        context.log.warning("No tenant has a backup: there is nothing to drill with")
    yield dg.Output(None, RESTORE_DRILL)


def _reported(
    context: dg.OpExecutionContext, backups: Backups, failed: list[FailedTenant], drilled: int, from_copy: str | None
) -> Iterator[dg.AssetMaterialization]:
    """The report as it is after the drills; where it cannot be made, drills that failed are still what the run tells, and so are
    those with a copy: what the report is of may be gone.
    """
    try:
        report = backups.service.drills.report(user_of(context.run.tags))
    except SbhError as error:
        if not failed and from_copy is None:
            raise failure_of(error, step="recovery_report") from None
        context.log.error(f"The recovery report could not be made: {error}")
        return
    yield dg.AssetMaterialization(
        REPORT_ASSET, description=f"After {plural(drilled, 'drill')}", metadata=report_metadata(report)
    )


def _check_spec() -> dg.AssetCheckSpec:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)  # of partitioned checks
        return dg.AssetCheckSpec(
            RESTORE_DRILL,
            asset=DRILL_ASSET,
            partitions_def=tenants_partitions,
            description="The tenant's last drill: what came back is what was backed up, foreign keys hold, and the"
            " assertions of the settings are true. Warns where it took longer than the scenario's objective, and where"
            " something damaged could be got over, such as the newest platform backup.",
        )


@dg.graph_asset(
    key=DRILL_ASSET,
    ins={
        str(backup_type): dg.AssetIn(asset_key(backup_type), dagster_type=dg.Nothing, partition_mapping=DRAWN_ONLY)
        for backup_type in BackupType
    }
    | {"platform": dg.AssetIn(PLATFORM_ASSET, dagster_type=dg.Nothing)},
    group_name=Group.PROOF,
    partitions_def=tenants_partitions,
    backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=10),
    check_specs=[_check_spec()],
    kinds=KINDS,
    owners=OWNERS,
    description="Each tenant's last drill that passed: the newest backup restored into a throw-away database, its files to a"
    " disk, all of it proved, and how many seconds each scenario took. The live tenant is not touched.",
    metadata={"report": "recovery_report"},
)
def tenant_drill(full: Any, incremental: Any, differential: Any, platform: Any) -> dict[str, Any]:
    drilled = drill_tenants(full=full, incremental=incremental, differential=differential, platform=platform)
    return {
        "result": drilled.result,
        f"{DRILL_ASSET.to_python_identifier()}_{RESTORE_DRILL}": getattr(drilled, RESTORE_DRILL),
    }


@dg.job(
    name=named("drill_job"),
    partitions_def=tenants_partitions,
    description="Drills the tenant of the partition, or the tenants in `ops.drill_tenants.config.tenants`; where none is"
    " named, those drilled longest ago. Then makes the recovery report.",
    tags=tags({OPERATION_TAG: DRILL, "dagster/max_retries": "0"}),  # a drill that failed is a finding, not an accident
)
def drill_job() -> None:
    drill_tenants()


def _evaluation(tenant: str, record: "DrillRecord") -> dg.AssetCheckEvaluation:
    late = any(one.met is False for one in record.scenarios)
    return dg.AssetCheckEvaluation(
        asset_key=DRILL_ASSET,
        check_name=RESTORE_DRILL,
        passed=not record.error and not late and not record.issues,
        partition=tenant,
        severity=dg.AssetCheckSeverity.ERROR if record.error else dg.AssetCheckSeverity.WARN,
        description=f"{record.backup_id}: {drill_text(record)}",
        metadata=drill_metadata(record),
    )


def drill_timetable() -> Timetable:
    return timetable("weekly_drill", "SBH_DRILL__SCHEDULE", str(DrillSettings.model_fields["schedule"].default))


weekly_drill = schedule_of_one_run(
    drill_timetable(),
    drill_job,
    DRILL,
    lambda settings: settings.drill.schedule,
    "Drills the tenants that were drilled longest ago, `drill.tenants_per_drill` of them, and makes the recovery report.",
)
