"""The jobs that give space back: forgetting by policy without a backup, and prune with its schedule.

Both go through tenants one by one; one that fails does not keep the others. A tenant whose lease somebody holds is tried
once more after all the others: by then its backup has usually ended.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import dagster as dg
from pydantic import Field

from sbh_pipelines.errors import LeaseHeld, SbhError, unforeseen
from sbh_pipelines.model import Progress, ProgressSink
from sbh_pipelines.orchestration.backups.steps import OBJECT_STORE
from sbh_pipelines.orchestration.common import batch
from sbh_pipelines.orchestration.common.assets import tenants_partitions
from sbh_pipelines.orchestration.common.batch import ProgressLog
from sbh_pipelines.orchestration.common.config import JobConfig
from sbh_pipelines.orchestration.common.failed_tenants import FailedTenant
from sbh_pipelines.orchestration.common.failures import batch_failure, failure_of
from sbh_pipelines.orchestration.common.metadata import MetadataMap
from sbh_pipelines.orchestration.common.names import named, tags
from sbh_pipelines.orchestration.common.resources import Backups, BackupServiceResource, user_of
from sbh_pipelines.orchestration.common.runs import OPERATION_TAG
from sbh_pipelines.orchestration.common.timetable import Timetable, schedule_of_one_run, timetable
from sbh_pipelines.orchestration.upkeep.metadata import forgotten_metadata, journals_metadata, pruned_metadata
from sbh_pipelines.security.policy import UserContext
from sbh_pipelines.settings import ScheduleSettings

if TYPE_CHECKING:
    from sbh_pipelines.backup.service import BackupService

PRUNE, RETENTION = "prune", "retention"
_Report = TypeVar("_Report")


class UpkeepConfig(JobConfig):
    """Which tenants, and whether to change anything."""

    tenants: list[str] = Field(
        [], description="Tenants, by slug. Only for runs without a partition; there, empty means every tenant."
    )
    dry_run: bool = Field(False, description="Only report what would be done; change nothing.")


@dg.op(
    description="Removes data that no backup needs, tenant by tenant: plans, repacks what is mostly dead, and deletes what"
    " has been out of use long enough. Then the catalogs and the change journals of all regions are compacted,"
    " and schemas of `--into-schema` whose time is over dropped, as are databases that killed drills left. Last, each copy has its"
    " own policy applied, what it needs no more removed, and its locks renewed.",
    pool=OBJECT_STORE,
    config_schema=UpkeepConfig.schema_of_dagster(),
    out=dg.Out(dg.Nothing, description="What was given back, in sum."),
)
def prune_tenants(context: dg.OpExecutionContext, backups: Backups) -> Iterator[dg.Output[None]]:
    config = UpkeepConfig.of(context)
    service, user = backups.service, user_of(context.run.tags)
    reports, failed = _each(
        context,
        config,
        backups,
        PRUNE,
        lambda tenant, progress: service.retention.prune(tenant, user, dry_run=config.dry_run, progress=progress),
    )
    metadata = pruned_metadata(reports, config.dry_run)
    if not config.dry_run:
        steps = (
            ("compact_catalogs", _compacted),
            ("keep_journals", _journals),
            ("drop_leftovers", _leftovers),
            ("keep_copies", _copies),
        )
        for step, work in steps:
            try:
                metadata |= work(service, user)
            except SbhError as error:
                if not failed:
                    raise failure_of(error, step=step, more=metadata) from None
                context.log.error(f"{step}: {error}")  # the run fails, and says which tenants did
    yield from _end(context, len(reports), failed, metadata)


def _compacted(service: "BackupService", user: UserContext) -> dict[str, dg.MetadataValue[Any]]:
    return {"catalogs": dg.MetadataValue.json(dict(service.retention.compact_catalogs(user)))}


def _journals(service: "BackupService", user: UserContext) -> dict[str, dg.MetadataValue[Any]]:
    return journals_metadata(service.retention.keep_journals(user))


def _leftovers(service: "BackupService", user: UserContext) -> dict[str, dg.MetadataValue[Any]]:
    """Copies of tenants' rows do not stay for ever: schemas beside the live ones, and databases of drills that were killed."""
    found = service.restores.drop_expired_looks(user)
    drills = service.drills.drop_leftovers(user)
    for error in found.failed.values():
        raise error
    return {
        "looks_dropped": dg.MetadataValue.int(len(found.dropped)),
        "drill_databases_dropped": dg.MetadataValue.int(len(drills)),
    }


def _copies(service: "BackupService", user: UserContext) -> dict[str, dg.MetadataValue[Any]]:
    """Of the copies that this system makes; what is in the way of one keeps no other from it."""
    metadata: dict[str, dg.MetadataValue[Any]] = {}
    errors: list[SbhError] = []
    for copy in service.settings.copies:
        if copy.kind != "managed":
            continue
        try:
            done = service.copies.prune(user, copy.name)
        except SbhError as error:
            errors.append(error)
            continue
        metadata[f"copy {copy.name}"] = dg.MetadataValue.json(
            {
                "tenants": len(done.tenants),
                "backups forgotten": sum(len(one.forgotten) for one in done.tenants),
                "objects removed": sum(one.objects for one in done.tenants),
                "bytes removed": sum(one.bytes for one in done.tenants),
                **({"nothing deleted": str(done.undeleted)} if done.undeleted else {}),
            }
        )
        errors += [*done.issues, *(issue for one in done.tenants for issue in one.issues)]
    if errors:
        raise errors[0]
    return metadata


@dg.op(
    description="Forgets the backups that the retention policy no longer keeps, tenant by tenant, without making any. For"
    " tenants whose schedules are paused; the others are seen to after each backup.",
    pool=OBJECT_STORE,
    config_schema=UpkeepConfig.schema_of_dagster(),
    out=dg.Out(dg.Nothing, description="How many backups were kept and forgotten."),
)
def forget_backups(context: dg.OpExecutionContext, backups: Backups) -> Iterator[dg.Output[None]]:
    config = UpkeepConfig.of(context)
    service, user = backups.service, user_of(context.run.tags)
    reports, failed = _each(
        context,
        config,
        backups,
        RETENTION,
        lambda tenant, _: service.retention.forget(tenant, user, dry_run=config.dry_run),
    )
    yield from _end(context, len(reports), failed, forgotten_metadata(reports, config.dry_run))


@dg.job(
    name=named("prune_job"),
    partitions_def=tenants_partitions,
    description="Gives back the space that no backup needs: of the tenant of the partition, or of the tenants in"
    " `ops.prune_tenants.config.tenants`; every tenant where none is named. `dry_run: true` only reports.",
    tags=tags({OPERATION_TAG: PRUNE}),
)
def prune_job() -> None:
    prune_tenants()


@dg.job(
    name=named("retention_job"),
    partitions_def=tenants_partitions,
    description="Applies the retention policy without making a backup: to the tenant of the partition, or to the tenants"
    " in `ops.forget_backups.config.tenants`; every tenant where none is named. `dry_run: true` shows, for every backup,"
    " the rule that keeps or drops it.",
    tags=tags({OPERATION_TAG: RETENTION}),
)
def retention_job() -> None:
    forget_backups()


def prune_timetable() -> Timetable:
    default = str(ScheduleSettings.model_fields["daily_prune"].default)
    return timetable("daily_prune", "SBH_SCHEDULES__DAILY_PRUNE", default)


daily_prune = schedule_of_one_run(
    prune_timetable(),
    prune_job,
    PRUNE,
    lambda settings: settings.schedules.daily_prune,
    "Gives back the space that no backup needs any more, of all tenants in one run.",
)


def _each(
    context: dg.OpExecutionContext,
    config: UpkeepConfig,
    backups: BackupServiceResource,
    step: str,
    work: Callable[[str, ProgressSink], _Report],
) -> tuple[dict[str, _Report], list[FailedTenant]]:
    """What `work` reports of each tenant, and a record for each that failed."""
    tenants = batch.tenants_or_all(context, config.tenants, backups, step)
    progress, reports, held = ProgressLog(context.log), dict[str, _Report](), list[str]()
    failed: list[FailedTenant] = []

    def one(tenant: str, last: bool) -> None:
        try:
            reports[tenant] = work(tenant, progress)
        except SbhError as error:
            if isinstance(error, LeaseHeld) and not last:
                held.append(tenant)
                return
            context.log.error(f"{tenant}: {error}")
            failed.append(FailedTenant.of(tenant, step, error))
        except Exception as error:  # one tenant's damage never ends the others' work
            told = unforeseen(error, tenant)
            context.log.error(f"{tenant}: {told}")
            failed.append(FailedTenant.of(tenant, step, told))
        progress(Progress(step, tenant, len(reports) + len(failed), len(tenants), "tenants"))

    for tenant in tenants:
        one(tenant, last=False)
    for tenant in held:
        one(tenant, last=True)
    return reports, failed


def _end(
    context: dg.OpExecutionContext,
    done: int,
    failed: Sequence[FailedTenant],
    metadata: MetadataMap,
) -> Iterator[dg.Output[None]]:
    context.log.info(f"{done:,} tenants done, {len(failed):,} failed")
    if failed:
        failure = batch_failure(failed, done + len(failed))
        raise dg.Failure(failure.description, metadata={**metadata, **failure.metadata}, allow_retries=False)
    yield dg.Output(None, metadata={**metadata, "tenants": dg.MetadataValue.int(done)})
