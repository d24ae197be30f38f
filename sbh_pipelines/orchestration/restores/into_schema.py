"""The job that puts an old state of a tenant beside the live one, for looking at it with SQL."""

import dagster as dg
from pydantic import Field

from sbh_pipelines.backup.contents.manifest import LATEST
from sbh_pipelines.errors import SbhError
from sbh_pipelines.orchestration.backups.steps import SOURCE_DB
from sbh_pipelines.orchestration.common import batch
from sbh_pipelines.orchestration.common.assets import tenants_partitions
from sbh_pipelines.orchestration.common.batch import ProgressLog
from sbh_pipelines.orchestration.common.config import JobConfig, from_copy_field
from sbh_pipelines.orchestration.common.failures import failure_of
from sbh_pipelines.orchestration.common.metadata import markdown
from sbh_pipelines.orchestration.common.names import named, tags
from sbh_pipelines.orchestration.common.resources import Backups, user_of
from sbh_pipelines.orchestration.common.runs import OPERATION_TAG


class LookConfig(JobConfig):
    """Which backup."""

    tenant: str | None = Field(None, description="Tenant, by slug. Only for runs without a partition.")
    backup_id: str = Field(LATEST, description="A backup id such as backup_20240115_1200, or `latest`.")
    schema_name: str = Field(
        "", description="A label for the new schema, kept in its comment; the name is the system's."
    )
    tables: list[str] = Field([], description="Only these tables, `schema.table` or `table`. Empty: all.")
    from_copy: str | None = from_copy_field()


@dg.op(
    description="Puts the tenant's rows as they were in the backup into a new schema of the same database, which is dropped after"
    " `restore.keep_looks_days`. The live tables are not touched. Fails while the tenant has such a schema.",
    pool=SOURCE_DB,
    config_schema=LookConfig.schema_of_dagster(),
    out=dg.Out(dg.Nothing, description="The tables that were made, and their rows."),
)
def restore_into_schema(context: dg.OpExecutionContext, backups: Backups) -> dg.Output[None]:
    config = LookConfig.of(context)
    tenant = batch.one_tenant(context, config.tenant)
    try:
        result = backups.at(config.from_copy).restores.into_schema(
            config.backup_id,
            tenant,
            user_of(context.run.tags),
            config.schema_name,
            tables=tuple(config.tables),
            progress=ProgressLog(context.log),
        )
    except SbhError as error:
        raise failure_of(error, [tenant], "restore into schema") from None
    made = result.tables
    return dg.Output(
        None,
        metadata={
            "tenant": dg.MetadataValue.text(result.tenant_id),
            "backup_id": dg.MetadataValue.text(result.backup_id),
            "schema": dg.MetadataValue.text(result.schema),
            "expires_at": dg.MetadataValue.text(result.expires_at),
            "rows": dg.MetadataValue.int(result.rows),
            "tables": dg.MetadataValue.int(len(made)),
            "duration_s": dg.MetadataValue.float(result.seconds),
            "table_details": dg.MetadataValue.md(
                markdown(["table", "of", "rows"], ([t.table, t.of, t.rows] for t in made))
            ),
        },
    )


@dg.job(
    name=named("restore_into_schema_job"),
    partitions_def=tenants_partitions,
    description="Puts the rows of the tenant of the partition, as they were in one of its backups, into a new schema beside"
    " the live tables, for looking.",
    tags=tags({OPERATION_TAG: "restore_into_schema", "dagster/max_retries": "0"}),
)
def restore_into_schema_job() -> None:
    restore_into_schema()
