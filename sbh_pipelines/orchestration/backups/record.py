"""What a run leaves in the assets: a materialization for each backup, a word for each tenant that had not changed."""

from collections.abc import Iterator, Sequence

import dagster as dg

from sbh_pipelines.backup.create.draft import Draft
from sbh_pipelines.model import utc_now
from sbh_pipelines.orchestration.backups.metadata import backup_metadata, summary, unchanged_metadata
from sbh_pipelines.orchestration.common.assets import asset_key, shown_in
from sbh_pipelines.orchestration.common.batch import asked_type
from sbh_pipelines.orchestration.common.dagster_internals import materialization_events
from sbh_pipelines.orchestration.common.links import Links
from sbh_pipelines.orchestration.common.resources import BackupServiceResource

RETENTION_TAG = "sbh/retention_failed"
"""How many tenants of a run kept backups that were to be forgotten; the sensor `backup_watch` finds the backups."""

_OBSERVED = 20
_NAMED = 20


def backups(
    context: dg.OpExecutionContext, resource: BackupServiceResource, made: Sequence[Draft]
) -> Iterator[dg.DagsterEvent]:
    """The materializations of these drafts' backups. A full made in place of another type is shown as both."""
    links = Links.of(context.run, resource.service.settings.alerts.dagster_url)
    yield from materialization_events(
        context,
        [
            _materialization(resource, links, draft, asset)
            for draft in made
            for asset in shown_in(draft.type, draft.requested)
        ],
    )


def unchanged(
    context: dg.OpExecutionContext, drafts: Sequence[Draft]
) -> Iterator[dg.DagsterEvent | dg.AssetObservation]:
    """What is said of unchanged tenants.

    A run of the asset was asked for their partitions: they are materialized by the backup that describes them, or a
    backfill would call them failed. Runs of the fleet job say it as observations, and only of a few tenants: an event
    per tenant costs more than to find it unchanged.
    """
    if context.has_assets_def:
        made = [
            dg.AssetMaterialization(
                asset_key(asked_type(draft)),
                partition=str(draft.tenant.id),
                description=_since(draft),
                metadata={**unchanged_metadata(draft), "stored_bytes": dg.MetadataValue.int(0)},
            )
            for draft in drafts
        ]
        yield from materialization_events(context, made)
    elif len(drafts) <= _OBSERVED:
        for draft in drafts:
            yield dg.AssetObservation(
                asset_key(asked_type(draft)),
                partition=str(draft.tenant.id),
                description=_since(draft),
                metadata=unchanged_metadata(draft),
            )


def retention_errors(context: dg.OpExecutionContext, made: Sequence[Draft]) -> None:
    """Backups that stand although forgetting old ones failed: in the log, and in a tag of the run.

    The run does not fail for them: its backups are there, and to repeat it would mend nothing.
    """
    found = {draft.tenant.id: draft.retention and draft.retention.error for draft in made}
    errors = {tenant: error for tenant, error in found.items() if error}
    for tenant, error in list(errors.items())[:_NAMED]:
        context.log.warning(f"{tenant}: backed up, but old backups were not forgotten: [{error.code}] {error.what}")
    if errors:
        context.log.warning(f"{len(errors):,} of {len(made):,} tenants keep backups that were to be forgotten")
        context.instance.add_run_tags(context.run_id, {RETENTION_TAG: str(len(errors))})


def _materialization(
    resource: BackupServiceResource, links: Links, draft: Draft, asset: dg.AssetKey
) -> dg.AssetMaterialization:
    location = resource.location(draft.tenant, f"manifests/{draft.backup_id}.json")
    checksum = draft.manifest.checksum if draft.manifest else ""
    return dg.AssetMaterialization(
        asset,
        partition=str(draft.tenant.id),
        description=f"{draft.backup_id}: {summary(draft).replace('**', '')}",
        metadata=backup_metadata(draft, location, links, utc_now()),
        tags={"dagster/data_version": checksum} if checksum else None,
    )


def _since(draft: Draft) -> str:
    return f"Unchanged since {draft.unchanged_since}"
