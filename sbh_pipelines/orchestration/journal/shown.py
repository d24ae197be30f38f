"""The job that shows what the journal knows of a tenant: to which moments it can be brought, and what was done to its rows."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
from pydantic import Field

from sbh_pipelines.errors import InvalidId, SbhError
from sbh_pipelines.model import parse_timestamp, utc_now
from sbh_pipelines.orchestration.common import batch
from sbh_pipelines.orchestration.common.assets import RESTORES_ASSET, tenants_partitions
from sbh_pipelines.orchestration.common.config import JobConfig
from sbh_pipelines.orchestration.common.failures import failure_of
from sbh_pipelines.orchestration.common.metadata import issues_table
from sbh_pipelines.orchestration.common.names import named, tags
from sbh_pipelines.orchestration.common.resources import Backups, user_of
from sbh_pipelines.orchestration.common.runs import OPERATION_TAG
from sbh_pipelines.orchestration.journal.metadata import moments_metadata, shown_metadata

_MOST = 200  # rows of a table in the web pages


class MomentsConfig(JobConfig):
    """Whose moments."""

    tenant: str | None = Field(None, description="The tenant, by slug. Only for runs without a partition.")


class TransactionsConfig(JobConfig):
    """Which transactions."""

    tenant: str | None = Field(None, description="The tenant, by slug. Only for runs without a partition.")
    since: str | None = Field(None, description="No transaction before, ISO 8601 in UTC, e.g. 2026-01-15T14:00:00Z.")
    until: str | None = Field(None, description="None after this time.")
    tables: list[str] = Field([], description="Only changes of these tables. Empty: of all.")
    limit: int = Field(50, description="The newest so many, at most 200.")


@dg.op(
    description="Shows to which moments the tenant can be brought: as a bar by hours, and as a table with what ends each window."
    " The tenant's page of `tenant_restore` shows it too, as an observation.",
    config_schema=MomentsConfig.schema_of_dagster(),
    out=dg.Out(dg.Nothing, description="How many windows there are."),
)
def show_moments(context: dg.OpExecutionContext, backups: Backups) -> Iterator[dg.AssetObservation | dg.Output[None]]:
    tenant = batch.one_tenant(context, MomentsConfig.of(context).tenant)
    service = backups.service
    try:
        found = service.journal.recovery_windows([tenant], user_of(context.run.tags))
    except SbhError as error:
        raise failure_of(error, [tenant], "show_moments") from None
    (windows,), now = found.tenants, utc_now()
    metadata = moments_metadata(windows, now - timedelta(days=service.settings.journal.keep_days), now)
    if found.issues:
        metadata["issues"] = dg.MetadataValue.md(issues_table(found.issues))
    said = f"{len(windows.windows)} windows; the journal tells until {windows.drained_until or 'never'}"
    context.log.info(f"{tenant}: {said}")
    yield dg.AssetObservation(RESTORES_ASSET, partition=tenant, description=said, metadata=metadata)
    yield dg.Output(None, metadata=metadata)


@dg.op(
    description="Shows what was done to the tenant's rows, transaction by transaction, with counts by table and the moment before"
    " each that took something away: what to restore to. No row's values.",
    config_schema=TransactionsConfig.schema_of_dagster(),
    out=dg.Out(dg.Nothing, description="How many transactions there are."),
)
def show_transactions(context: dg.OpExecutionContext, backups: Backups) -> Iterator[dg.Output[None]]:
    from sbh_pipelines.backup.service.results import ShowRequest  # its drivers are slow to import

    config = TransactionsConfig.of(context)
    tenant = batch.one_tenant(context, config.tenant)
    try:
        request = ShowRequest(
            since=_time(config.since),
            until=_time(config.until),
            tables=tuple(config.tables),
            limit=min(max(config.limit, 1), _MOST),
        )
    except ValueError:
        wrong = InvalidId(
            "A time cannot be read",
            on=f"since = {config.since}, until = {config.until}",
            remedy="write it as 2026-01-15T14:00:00Z",
        )
        raise failure_of(wrong, [tenant], "show_transactions") from None
    try:
        found = backups.service.journal.show(tenant, user_of(context.run.tags), request)
    except SbhError as error:
        raise failure_of(error, [tenant], "show_transactions") from None
    context.log.info(f"{tenant}: {len(found.transactions):,} transactions, the table is in the metadata of the output")
    yield dg.Output(None, metadata=shown_metadata(found))


def _time(text: str | None) -> datetime | None:
    """In UTC where it names no zone. Raises ValueError."""
    moment = parse_timestamp(text) if text else None
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


@dg.job(
    name=named("journal_show_job"),
    partitions_def=tenants_partitions,
    description="Shows what the change journal knows of the tenant of the partition: the moments that it can be brought to, and"
    " the transactions that changed its rows. Changes nothing; what it found is in the metadata of its two steps.",
    tags=tags({OPERATION_TAG: "journal_show"}),
)
def journal_show_job() -> None:
    show_moments()
    show_transactions()
