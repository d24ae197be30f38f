"""The five steps of a backup as ops, for a batch of tenants: one tenant is a batch of one.

Each step takes the drafts of the one before and leaves its own (`common/outputs.py`): references and counters, never data. A
tenant that fails stays in the batch as a failed draft, and the last step reports it. One that has not changed stays in it
untouched.
"""

from collections.abc import Iterator

import dagster as dg
from pydantic import Field

from sbh_pipelines.backup.create.draft import Draft, DraftStatus
from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import BackupType
from sbh_pipelines.orchestration.backups import checks, record
from sbh_pipelines.orchestration.common import batch
from sbh_pipelines.orchestration.common.assets import asset_key
from sbh_pipelines.orchestration.common.batch import ProgressLog
from sbh_pipelines.orchestration.common.config import JobConfig
from sbh_pipelines.orchestration.common.dagster_internals import keep_connections
from sbh_pipelines.orchestration.common.failed_tenants import failed_among
from sbh_pipelines.orchestration.common.failures import batch_failure, failure_of
from sbh_pipelines.orchestration.common.names import named
from sbh_pipelines.orchestration.common.outputs import hand_over, handed_over
from sbh_pipelines.orchestration.common.resources import Backups, BackupServiceResource, user_of
from sbh_pipelines.orchestration.common.runs import tag_run

SOURCE_DB = named("source_db")
OBJECT_STORE = named("object_store")


class SnapshotConfig(JobConfig):
    """What to back up. A run of a partition needs none of it."""

    tenants: list[str] = Field(
        [],
        description="Tenants to back up, by slug. Only for runs without a partition, such as those of fleet_backup_job;"
        " there, empty means every tenant of the tenants table.",
    )
    backup_type: str = Field(
        "full",
        description="full, incremental or differential, for runs of fleet_backup_job. The runs of an asset make the"
        " asset's own.",
    )
    description: str | None = Field(
        default=None,
        description="Free text kept in the manifest of every backup of this run, e.g. 'before the migration'.",
    )


class RetentionConfig(JobConfig):
    """Whether old backups are forgotten."""

    dry_run: bool = Field(
        False, description="Only report which backups the retention policy would forget; forget none of them."
    )


@dg.op(
    description="Reads the rows and the configuration of each tenant at one recovery point and stores them as sealed"
    " chunks. The pool `source_db` bounds how many of these run at once.",
    pool=SOURCE_DB,
    ins={"tables": dg.In(dg.Nothing)},
    config_schema=SnapshotConfig.schema_of_dagster(),
    out=dg.Out(dg.Nothing, description="One draft per tenant."),
)
def snapshot_tables(context: dg.OpExecutionContext, backups: Backups) -> Iterator[dg.Output[None]]:
    keep_connections(context.instance)
    config = SnapshotConfig.of(context)
    tenants = batch.run_tenants(context, config.tenants)
    try:
        backup_type = BackupType.parse(_asset(context, config.backup_type).path[-1])
        tag_run(context, tenants, str(backup_type))
        service = backups.service
        tenants = tenants or [str(tenant.id) for tenant in service.tenants.all()]
        begun = service.backups.begin(tenants, user_of(context.run.tags), backup_type, description=config.description)
    except SbhError as error:
        if error.transient:
            batch.retries(context, backups).request_if_left(str(error))
        raise failure_of(error, tenants, "begin") from None
    batch.log_new_failures(context, [], begun)
    context.log.info(f"Tenants to back up: {len(tenants):,}, type {backup_type}")
    progress = ProgressLog(context.log)
    read = batch.run_step(
        context, backups, begun, lambda alive: service.backups.snapshot_tables(alive, progress=progress)
    )
    yield from _given(context, backups, batch.go_on(context, backups, [], read))


@dg.op(
    description="Lists the files of each tenant, pins their versions, and stores those that the repository does not"
    " hold yet. The pool `object_store` bounds how many of these run at once.",
    pool=OBJECT_STORE,
    ins={"drafts": dg.In(dg.Nothing), "files": dg.In(dg.Nothing)},
    out=dg.Out(dg.Nothing, description="One draft per tenant."),
)
def enumerate_files(context: dg.OpExecutionContext, backups: Backups) -> Iterator[dg.Output[None]]:
    before, progress = _drafts_of(context, backups, "snapshot_tables"), ProgressLog(context.log)
    listed = batch.run_step(
        context, backups, before, lambda alive: backups.service.backups.enumerate_files(alive, progress=progress)
    )
    yield from _given(context, backups, batch.go_on(context, backups, before, listed))


@dg.op(
    description="Writes the index and the component documents and prepares the signed manifests. Nothing is published.",
    pool=OBJECT_STORE,
    ins={"drafts": dg.In(dg.Nothing)},
    out=dg.Out(dg.Nothing, description="One draft per tenant, with its manifest."),
)
def write_manifest(context: dg.OpExecutionContext, backups: Backups) -> Iterator[dg.Output[None]]:
    before = _drafts_of(context, backups, "enumerate_files")
    written = batch.run_step(context, backups, before, backups.service.backups.write_manifest)
    yield from _given(context, backups, batch.go_on(context, backups, before, written))


@dg.op(
    description="Reads back what the manifests name, then publishes them: from here on the backups exist. Evaluates the"
    " asset checks `backup_valid` and `source_files_present` for each tenant.",
    pool=OBJECT_STORE,
    ins={"drafts": dg.In(dg.Nothing)},
    out={
        "drafts": dg.Out(dg.Nothing, description="One draft per tenant; its backup exists."),
        checks.BACKUP_VALID: dg.Out(dg.Nothing, is_required=False),
        checks.SOURCE_FILES_PRESENT: dg.Out(dg.Nothing, is_required=False),
    },
)
def verify_checksums(
    context: dg.OpExecutionContext, backups: Backups
) -> Iterator[dg.AssetCheckEvaluation | dg.Output[None]]:
    keep_connections(context.instance)
    before, progress = _drafts_of(context, backups, "write_manifest"), ProgressLog(context.log)
    published = batch.run_step(
        context, backups, before, lambda alive: backups.service.backups.verify_checksums(alive, progress=progress)
    )
    yield from (evaluation for draft in published for evaluation in checks.of_draft(draft))
    after = batch.go_on(context, backups, before, published)
    _hand_over(context, backups, after)
    yield dg.Output(None, "drafts", metadata=batch.outcome(after))
    yield dg.Output(None, checks.BACKUP_VALID)
    yield dg.Output(None, checks.SOURCE_FILES_PRESENT)


@dg.op(
    description="Forgets the backups that the retention policy no longer keeps, and records each tenant's backup as a"
    " materialization. Fails if a tenant of the batch failed, and names it; the others are recorded all the same. Where"
    " only the forgetting failed, the backup stands: people are told.",
    pool=OBJECT_STORE,
    ins={"drafts": dg.In(dg.Nothing)},
    config_schema=RetentionConfig.schema_of_dagster(),
    # Never emitted: an output would record a materialization for every tenant of the run, failed or not.
    out={"result": dg.Out(dg.Nothing, is_required=False)},
)
def apply_retention(
    context: dg.OpExecutionContext, backups: Backups
) -> Iterator[dg.DagsterEvent | dg.AssetObservation]:
    config = RetentionConfig.of(context)
    before, service = _drafts_of(context, backups, "verify_checksums"), backups.service
    alive = {draft.tenant.id for draft in batch.running(before)}
    try:
        after = service.backups.apply_retention(before, dry_run=config.dry_run) if alive else before
    except SbhError as error:
        after = [draft.failed("apply_retention", error) if draft.tenant.id in alive else draft for draft in before]
    except BaseException:
        service.backups.abandon(batch.running(before))
        raise
    if batch.ended_by_transient_errors(before, after) and not any(d.status is DraftStatus.COMPLETED for d in after):
        batch.retries(context, backups).request_if_left("the retention policy could not be applied")
    batch.log_new_failures(context, before, after)
    # A tenant's backup exists, even where forgetting the old ones failed.
    made = [draft for draft in after if draft.tenant.id in alive]
    unchanged = [draft for draft in after if draft.status is DraftStatus.UNCHANGED]
    record.retention_errors(context, made)
    yield from record.backups(context, backups, made)
    yield from record.unchanged(context, unchanged)
    counts, requests = batch.outcome(after), service.request_counts()
    context.log.info(
        f"{counts['unchanged']:,} unchanged, {counts['backed_up']:,} backed up, {counts['failed']:,} failed,"
        f" of {len(after):,} tenants"
    )
    asked = ", ".join(f"{count:,} {verb}" for verb, count in sorted(requests.items()))
    context.log.info(f"Requests to the store by this process: {sum(requests.values()):,} ({asked or 'none'})")
    if failed := failed_among(after):
        raise batch_failure(failed, len(after))


def _given(
    context: dg.OpExecutionContext, backups: BackupServiceResource, drafts: list[Draft]
) -> Iterator[dg.Output[None]]:
    """What a step gives to the next one, and the output that lets it begin."""
    _hand_over(context, backups, drafts)
    yield dg.Output(None)


def _hand_over(context: dg.OpExecutionContext, backups: BackupServiceResource, drafts: list[Draft]) -> None:
    try:
        hand_over(context, batch.to_documents(drafts), backups.service.settings.drafts)
    except SbhError as error:
        backups.service.backups.abandon(batch.running(drafts))
        raise failure_of(error, [draft.tenant.id for draft in batch.running(drafts)], context.op.name) from None


def _drafts_of(context: dg.OpExecutionContext, backups: BackupServiceResource, step: str) -> list[Draft]:
    try:
        return batch.to_drafts(handed_over(context, step, backups.service.settings.drafts))
    except SbhError as error:
        raise failure_of(error, step=context.op.name) from None


def _asset(context: dg.OpExecutionContext, backup_type: str) -> dg.AssetKey:
    return context.assets_def.key if context.has_assets_def else asset_key(backup_type)
