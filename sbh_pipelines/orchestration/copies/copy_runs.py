"""The job and the schedule of copies: a run of the schedule brings one copy up to date, for all tenants; one by hand, every copy.

Each copy has a run of its own, so that one that takes long keeps no other from being brought up to date.

Which copies there are is in the settings, so these are read when the definitions are loaded: each copy is an asset, a tenant a
partition of it. Settings that cannot be read keep no definitions from being loaded: what uses them says what is wrong. The asset
`copies` is all of them at once.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from sbh_pipelines.errors import LeaseHeld, SbhError, SettingsError
from sbh_pipelines.model import BackupType, size_text, timestamp, utc_now
from sbh_pipelines.orchestration.common.assets import OWNERS, Group, asset_key, tenants_partitions
from sbh_pipelines.orchestration.common.batch import ProgressLog
from sbh_pipelines.orchestration.common.config import JobConfig
from sbh_pipelines.orchestration.common.failures import failure_of
from sbh_pipelines.orchestration.common.metadata import MetadataMap, age
from sbh_pipelines.orchestration.common.names import key, named, tags
from sbh_pipelines.orchestration.common.resources import Backups, user_of
from sbh_pipelines.orchestration.common.runs import (
    OPERATION_TAG,
    SCHEDULE_TAG,
    SLOT_TAG,
    configured,
    tag_run,
    tenants_of,
    under_way,
)
from sbh_pipelines.orchestration.common.timetable import Timetable, status_of, timetable, warn_of_another_line
from sbh_pipelines.orchestration.copies.metadata import copied_metadata, copied_text, copies_metadata
from sbh_pipelines.settings import CopySettings, ScheduleSettings, load_settings
from sbh_pipelines.settings.places.copies import copy_named

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import CopyRun, TenantCopied

COPY_RUN = "copy_run"
COPY_ASSETS = "tenant_copy"


COPIES_ASSET = key("copies")
_MADE_BY = {
    "brought up to date by": "copy_run_job",
    "restore from a copy with": "restore_job, from_copy",
    "when the first place is gone": "docs/operations/region-lost.md",
}


def copy_asset(name: str) -> dg.AssetKey:
    """The asset of a copy, e.g. `tenant_copy/dr`."""
    return key(COPY_ASSETS, name)


def _copy(copy: CopySettings) -> dg.AssetSpec:
    made = "brought there and verified" if copy.kind == "managed" else "brought there by something else, verified"
    return dg.AssetSpec(
        copy_asset(copy.name),
        group_name=Group.COPIES,
        deps=[asset_key(backup_type) for backup_type in BackupType],
        kinds={"s3"},
        owners=OWNERS,
        partitions_def=tenants_partitions,
        description=f"The backups in {copy.to}, {made} by the copy alone. One partition per tenant: how old the newest backup"
        f" is that is whole there, against the objective of {age(copy.objective_minutes * 60)}."
        f" `sbh copies status {copy.name}` says the same now.",
        metadata=_MADE_BY,
    )


def copy_assets() -> list[dg.AssetSpec]:
    """An asset for each copy that the settings name now, and one of all."""
    try:
        named = [_copy(copy) for copy in load_settings().copies]
    except SettingsError:
        named = []
    return [*named, _copies([copy.key for copy in named] or [asset_key(each) for each in BackupType])]


def _copies(deps: Sequence[dg.AssetKey]) -> dg.AssetSpec:
    return dg.AssetSpec(
        COPIES_ASSET,
        group_name=Group.COPIES,
        deps=deps,
        kinds={"s3"},
        owners=OWNERS,
        description="The backups once more, in another region or with another provider: the copies that the settings name, with how"
        " old what was verified there is, against the objective. Each run of `copy_run_job` for all tenants materializes it, of"
        " the copies that it was for: the schedule's are for one each. Its numbers are plotted"
        " over time, each under the name of its copy. What was verified of each tenant is on the page of the copy, the asset"
        f" `{COPY_ASSETS}/NAME`, in the tenant's partition. `sbh copies status` says the same now.",
        metadata=_MADE_BY,
    )


class CopyRunConfig(JobConfig):
    """Which copy to bring up to date, and for whom."""

    copy_name: str | None = Field(None, description="Only this copy, by its name in the settings. None: every copy.")
    tenants: list[str] = Field([], description="Only these tenants, by slug. Empty: all that are copied.")


@dg.op(
    description="Brings to every copy what it has not yet, and verifies it there by the copy alone. One of the kind `external`"
    " is verified. A tenant that fails keeps no other from being copied; the run fails once all were tried.",
    config_schema=CopyRunConfig.schema_of_dagster(),
    out=dg.Out(dg.Nothing, description="Tenants that failed, by copy."),
)
def run_copies(context: dg.OpExecutionContext, backups: Backups) -> Iterator[dg.AssetMaterialization | dg.Output[None]]:
    config = CopyRunConfig.of(context)
    tag_run(context, config.tenants)
    service, user = backups.service, user_of(context.run.tags)
    errors: list[SbhError] = []
    runs: list[CopyRun] = []
    names = [copy.name for copy in service.settings.copies] if config.copy_name is None else [config.copy_name]
    for name in names:
        try:
            done = service.copies.run(user, name, config.tenants, progress=ProgressLog(context.log))
        except LeaseHeld as error:
            if config.copy_name is not None and SCHEDULE_TAG not in context.run.tags:  # somebody asked for this one
                raise failure_of(error, step=COPY_RUN, more=error_metadata(error)) from None
            context.log.info(f"Another run copies to {name}: {error.on}")
            continue
        except SbhError as error:
            context.log.error(f"{name}: {error}")
            errors.append(error)
            continue
        context.log.info(_said(done))
        runs.append(done)
        copy, now = copy_named(service.settings, name), utc_now()
        for tenant in done.tenants:
            if tenant.error is not None:
                errors.append(tenant.error)
            if tenant.recovery_point is not None and tenant.left_out is None and not tenant.ended:
                yield dg.AssetMaterialization(
                    copy_asset(name),
                    description=copied_text(copy, tenant, now),
                    metadata=copied_metadata(copy, tenant, now),
                    partition=tenant.tenant_id,
                )
            if tenant.kept_backups:
                context.log.warning(_not_continued(name, tenant))
        if done.unlisted is not None:
            context.log.warning(f"The tenants are as the catalogs have them: {done.unlisted}")
        errors += done.issues
    if runs and not config.tenants:
        of_all = [(copy_named(service.settings, done.name), done) for done in runs]
        said = ". ".join(map(_said, runs))
        yield dg.AssetMaterialization(COPIES_ASSET, description=said, metadata=copies_metadata(of_all, utc_now()))
    if errors:
        for other in errors[1:]:
            context.log.error(str(other))
        raise failure_of(errors[0], step=COPY_RUN, more=error_metadata(errors[0]))
    yield dg.Output(None, metadata=_totals(runs))


def error_metadata(error: SbhError) -> MetadataMap:
    """What the API reads of a run that failed as a whole."""
    return {"error": dg.MetadataValue.json(error.to_keep.as_dict())}


def _totals(runs: Sequence["CopyRun"]) -> MetadataMap:
    tenants = [tenant for done in runs for tenant in done.tenants]
    out = sum(tenant.left_out is not None for tenant in tenants)
    return {
        "tenants": dg.MetadataValue.int(len(tenants) - out),
        "left_out": dg.MetadataValue.int(out),
        "objects": dg.MetadataValue.int(sum(done.objects for done in runs)),
        "bytes": dg.MetadataValue.int(sum(done.bytes for done in runs)),
        "duration_s": dg.MetadataValue.float(round(sum((done.seconds for done in runs), 0.0), 3)),
    }


def _not_continued(name: str, tenant: "TenantCopied") -> str:
    return (
        f"{tenant.kept_backups:,} backups of {tenant.tenant_id} lie at {name} and are not continued since"
        f" {tenant.kept_since:%Y-%m-%dT%H:%M:%SZ}, because {tenant.left_out}"
    )


def _said(done: "CopyRun") -> str:
    if done.outside_hours:
        return f"{done.name}: copying may not begin now: hours, under [[copies]]"
    out = sum(tenant.left_out is not None for tenant in done.tenants)
    return (
        f"{done.name}: {len(done.tenants) - out:,} tenants, {out:,} left out; {done.objects:,} objects, {size_text(done.bytes)},"
        f" in {done.seconds:.1f} s"
    )


@dg.job(
    name=named("copy_run_job"),
    description="Brings every copy of the settings up to date, for all tenants in one run, and verifies it there by the copy alone;"
    " or the copy and the tenants in `ops.run_copies.config`. Each tenant is then materialized in the copy's asset,"
    f" `{COPY_ASSETS}/NAME`, with how old it is there; the asset `copies` has all of them in a table, where the run was for all."
    " The schedule `copies` starts one for each copy every hour.",
    tags=tags({OPERATION_TAG: COPY_RUN}),
)
def copy_run_job() -> None:
    run_copies()


def copies_timetable() -> Timetable:
    default = str(ScheduleSettings.model_fields["copies"].default)
    return timetable("copies", "SBH_SCHEDULES__COPIES", default)


_TIMES = copies_timetable()


@dg.schedule(
    name=named(_TIMES.name),
    job=copy_run_job,
    cron_schedule=_TIMES.cron,
    execution_timezone=_TIMES.zone,
    default_status=status_of(_TIMES),
    description="Brings every copy up to date, where there are any: a run for each. A copy is skipped while a run of it"
    " is queued or at work.",
)
def copies_schedule(context: dg.ScheduleEvaluationContext, backups: Backups) -> Iterator[dg.RunRequest | dg.SkipReason]:
    settings, slot = backups.service.settings, timestamp(context.scheduled_execution_time)
    if not settings.copies:
        yield dg.SkipReason("The settings name no copy: [[copies]]")
        return
    warn_of_another_line(context, _TIMES, settings.schedules.copies, settings.schedules.time_zone)
    runs = under_way(context.instance, {OPERATION_TAG: COPY_RUN})
    before = [run for run in runs if run.tags.get(SLOT_TAG) != slot]
    busy = {configured(run, "copy_name"): run.run_id for run in before if not tenants_of(context.instance, run)}
    free = [copy.name for copy in settings.copies if copy.name not in busy and None not in busy]
    if not free:
        yield dg.SkipReason(f"Run {next(iter(busy.values()))} is still at it")
    for name in free:
        yield dg.RunRequest(
            run_key=f"{_TIMES.name}/{name}/{slot}",
            run_config={"ops": {"run_copies": {"config": {"copy_name": name}}}},
            tags={SCHEDULE_TAG: _TIMES.name, SLOT_TAG: slot},
        )
