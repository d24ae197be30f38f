"""The job that puts a tenant's backup of a moment together: an ordinary backup, which stands aside and is kept for a few days."""

from collections.abc import Iterator

import dagster as dg
from pydantic import Field

from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import size_text
from sbh_pipelines.orchestration.backups.steps import OBJECT_STORE
from sbh_pipelines.orchestration.common import batch
from sbh_pipelines.orchestration.common.assets import RESTORES_ASSET, tenants_partitions
from sbh_pipelines.orchestration.common.batch import ProgressLog
from sbh_pipelines.orchestration.common.config import JobConfig
from sbh_pipelines.orchestration.common.failures import failure_of
from sbh_pipelines.orchestration.common.names import named, tags
from sbh_pipelines.orchestration.common.resources import Backups, user_of
from sbh_pipelines.orchestration.common.runs import OPERATION_TAG


class MomentConfig(JobConfig):
    """Which moment, and what of it."""

    tenant: str | None = Field(None, description="The tenant, by slug. Only for runs without a partition.")
    at: str = Field(
        description="The moment, e.g. 2026-01-15T14:32:07 (UTC), or xid:812345 for the moment before that transaction."
        " `journal_show_job` shows the moments that are within reach, and the transactions."
    )
    tables: list[str] = Field([], description="Only these tables. Empty: all.")
    as_of_backup: list[str] = Field(
        [],
        description="Tables that may be as the backup before the moment has them, where the journal does not tell of them; or"
        " `all`.",
    )
    description: str | None = Field(None, description="Free text kept in the manifest.")


@dg.op(
    description="Puts a backup of the tenant at the moment together, of the newest backup before it and the change journal. The"
    " tables are not read. One that is there already is taken.",
    pool=OBJECT_STORE,
    config_schema=MomentConfig.schema_of_dagster(),
    out=dg.Out(dg.Nothing, description="The id of the backup, and its recovery point."),
)
def put_moment_together(
    context: dg.OpExecutionContext, backups: Backups
) -> Iterator[dg.AssetObservation | dg.Output[None]]:
    from sbh_pipelines.backup.create.moment.way.target import Target  # only a run needs it

    config = MomentConfig.of(context)
    tenant = batch.one_tenant(context, config.tenant)
    try:
        made = backups.service.backups.create_at(
            tenant,
            user_of(context.run.tags),
            Target.parse(config.at),
            tables=config.tables,
            as_of_backup=config.as_of_backup,
            description=config.description,
            progress=ProgressLog(context.log),
        )
    except SbhError as error:
        raise failure_of(error, [tenant], "put_moment_together") from None
    metadata = {
        "backup_id": dg.MetadataValue.text(made.id),
        "tenant": dg.MetadataValue.text(tenant),
        "recovery_point": dg.MetadataValue.text(made.recovery_point.time),
        "rows": dg.MetadataValue.int(int(made.rows or 0)),
        "files": dg.MetadataValue.int(int(made.file_count or 0)),
        "size": dg.MetadataValue.text(size_text(made.size)),
        "restore_with": dg.MetadataValue.text(f"restore_job, backup_id: {made.id}"),
    }
    # Not a materialization: it is no backup of the tenant as it is, and `latest` passes it over.
    yield dg.AssetObservation(
        RESTORES_ASSET,
        partition=tenant,
        description=f"{made.id}: the tenant as it was at {made.recovery_point.time}",
        metadata=metadata,
    )
    yield dg.Output(None, metadata=metadata)


@dg.job(
    name=named("moment_backup_job"),
    partitions_def=tenants_partitions,
    description="Puts a backup of the tenant of the partition together as it was at the moment in"
    " `ops.put_moment_together.config.at`: to look at, to compare with, to restore from. Changes nothing that is live.",
    tags=tags({OPERATION_TAG: "moment"}),
)
def moment_backup_job() -> None:
    put_moment_together()
