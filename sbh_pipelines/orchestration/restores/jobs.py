"""The jobs that bring a tenant back, or undo that. Both are for the tenant of the partition, or a named one."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import dagster as dg

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import BackupType
from sbh_pipelines.orchestration.backups.steps import SOURCE_DB
from sbh_pipelines.orchestration.common import batch
from sbh_pipelines.orchestration.common.assets import (
    KINDS,
    OWNERS,
    RESTORES_ASSET,
    Group,
    asset_key,
    tenants_partitions,
)
from sbh_pipelines.orchestration.common.batch import ProgressLog
from sbh_pipelines.orchestration.common.failures import failure_of
from sbh_pipelines.orchestration.common.links import Links
from sbh_pipelines.orchestration.common.names import named, tags
from sbh_pipelines.orchestration.common.resources import Backups, BackupServiceResource, user_of
from sbh_pipelines.orchestration.common.runs import OPERATION_TAG
from sbh_pipelines.orchestration.restores.config import RestoreConfig, UndoConfig
from sbh_pipelines.orchestration.restores.discretion import part_text, without
from sbh_pipelines.orchestration.restores.metadata import plan_metadata, plan_text, restore_metadata, restore_text

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import RestorePlan, RestoreResult

_Events = Iterator[dg.AssetMaterialization | dg.AssetObservation | dg.Output[None]]


@dg.op(
    description="Makes the live tenant, or a part of it, what it was in the backup: compares, plans, makes a safety backup,"
    " writes only the differences in one transaction, proves what was written, commits. Refuses without `confirm: true`;"
    " with `validate_only: true` it ends with the plan.",
    pool=SOURCE_DB,
    config_schema=RestoreConfig.schema_of_dagster(),
    out=dg.Out(dg.Nothing),
)
def restore_tenant(context: dg.OpExecutionContext, backups: Backups) -> _Events:
    config = RestoreConfig.of(context)
    tenant, user = batch.one_tenant(context, config.tenant), user_of(context.run.tags)
    progress, request = ProgressLog(context.log), RestoreRequest()
    try:
        service = backups.at(config.from_copy)
        request, source = config.request(), config.source
        if config.sealed is not None:
            request = service.restores.opened(config.sealed, source, tenant, user, request)
        if config.validate_only:
            plan = service.restores.plan(source, tenant, user, request, progress=progress)
            yield from _planned(context, plan)
            return
        result = service.restores.run(
            source,
            tenant,
            user,
            request,
            confirm=config.confirm,
            approval_id=config.approval_id,
            break_glass=config.break_glass,
            progress=progress,
        )
    except SbhError as error:
        raise failure_of(without(error, request), [tenant], "restore") from None
    where = f" from the copy {result.from_copy}" if result.from_copy else ""
    yield from _restored(context, backups, result, f"Restored {result.backup_id} in place{where}")


@dg.op(
    description="Makes the tables and files that a restore touched what they were before it, from the restore's safety"
    " backup; as a restore of its own, with a safety backup of its own. Refuses without `confirm: true`.",
    pool=SOURCE_DB,
    config_schema=UndoConfig.schema_of_dagster(),
    out=dg.Out(dg.Nothing),
)
def undo_tenant_restore(context: dg.OpExecutionContext, backups: Backups) -> _Events:
    config = UndoConfig.of(context)
    tenant, user = batch.one_tenant(context, config.tenant), user_of(context.run.tags)
    try:
        restores = backups.at(config.from_copy).restores
        if config.validate_only:
            plan = restores.plan_undo(config.restore_id, tenant, user, progress=ProgressLog(context.log))
            yield from _planned(context, plan)
            return
        result = restores.undo(
            config.restore_id,
            tenant,
            user,
            confirm=config.confirm,
            approval_id=config.approval_id,
            break_glass=config.break_glass,
            progress=ProgressLog(context.log),
        )
    except SbhError as error:
        raise failure_of(error, [tenant], "undo") from None
    yield from _restored(context, backups, result, f"Undid {config.restore_id}")


@dg.job(
    name=named("restore_job"),
    partitions_def=tenants_partitions,
    description="Restores the tenant of the partition in place from one of its backups, or to a moment that the change"
    " journal tells of: all of it, or the tables, rows or files in `ops.restore_tenant.config`. Overwrites live data: needs"
    " `confirm: true` there; `validate_only: true` shows what it would do.",
    # A restore that broke off is for people to look at.
    tags=tags({OPERATION_TAG: "restore", "dagster/max_retries": "0"}),
)
def restore_job() -> None:
    restore_tenant()


@dg.job(
    name=named("undo_restore_job"),
    partitions_def=tenants_partitions,
    description="Undoes a restore of the tenant of the partition, from the backup made before it. Overwrites live data: needs"
    " `ops.undo_tenant_restore.config.confirm: true`.",
    tags=tags({OPERATION_TAG: "restore", "dagster/max_retries": "0"}),
)
def undo_restore_job() -> None:
    undo_tenant_restore()


def _planned(context: dg.OpExecutionContext, plan: "RestorePlan") -> _Events:
    """The plan as an observation of the tenant's restores; a failure that shows it where a restore would refuse."""
    request = RestoreRequest(rows=plan.scope.rows, files=tuple(plan.scope.files or ()))
    plan = replace(plan, problems=tuple(without(problem, request) for problem in plan.problems))
    metadata = plan_metadata(plan)
    if plan.problems:
        raise failure_of(plan.problems[0], [plan.tenant_id], "plan", more=metadata)
    said = f"{plan.backup_id}{part_text(plan.scope, plan.mode)}: {plan_text(plan)}; nothing was written"
    context.log.info(f"{plan.tenant_id}: {said}")
    yield dg.AssetObservation(
        RESTORES_ASSET, partition=plan.tenant_id, description=f"Plan of {said}", metadata=metadata
    )
    yield dg.Output(None)


def _restored(
    context: dg.OpExecutionContext, backups: BackupServiceResource, result: "RestoreResult", what: str
) -> _Events:
    """What the page of the tenant's restores says: what was restored, and which backup undoes it."""
    what += part_text(result.scope, result.mode)
    metadata = restore_metadata(result, what, Links.of(context.run, backups.service.settings.alerts.dagster_url))
    said = f"{what}: {restore_text(result)}"
    if result.safety_backup_id:
        said += f". Safety backup {result.safety_backup_id}: undo_restore_job brings it back"
    context.log.info(f"{result.tenant_id}: {said}")
    yield dg.AssetMaterialization(RESTORES_ASSET, partition=result.tenant_id, description=said, metadata=metadata)
    yield dg.Output(None)


tenant_restore = dg.AssetSpec(
    RESTORES_ASSET,
    group_name=Group.RESTORES,
    deps=[asset_key(backup_type) for backup_type in BackupType],
    kinds=KINDS,
    owners=OWNERS,
    partitions_def=tenants_partitions,
    description="What was restored, undone and planned of each tenant, in its partition: a sentence, the rows and files that"
    " changed, table by table, and what proves them. Backups have pages of their own, which these do not cover.",
    metadata={"restore with": "restore_job", "undo with": "undo_restore_job", "in a shell": "sbh restore list"},
)
