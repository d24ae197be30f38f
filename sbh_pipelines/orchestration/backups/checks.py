"""The asset check of a tenant's backup: is it whole, and was its source?

It is evaluated inside the run that makes the backup, per tenant, from what `verify_checksums` read back: a check of its
own op would be skipped, because the asset emits no output (see `apply_retention`), and would read everything twice.
`validate_backup_job` evaluates it anew for a tenant's newest backup, so that damage done later turns it red too. One
check and not several, because each result is an event per tenant and run.
"""

import warnings
from collections.abc import Mapping, Sequence

import dagster as dg

from sbh_pipelines.backup.create.draft import Draft, DraftStatus
from sbh_pipelines.errors import CorruptObject, ObjectMissing, SbhError
from sbh_pipelines.orchestration.common.assets import shown_in, tenants_partitions
from sbh_pipelines.orchestration.common.dagster_internals import CheckedMaterialization
from sbh_pipelines.orchestration.common.metadata import issues_table

BACKUP_VALID = "backup_valid"

_DAMAGE = (CorruptObject.code, ObjectMissing.code)


def check_spec(asset: dg.AssetKey) -> dg.AssetCheckSpec:
    """The check of one asset, with a result per tenant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)  # of partitioned checks
        return dg.AssetCheckSpec(
            BACKUP_VALID,
            asset=asset,
            partitions_def=tenants_partitions,
            description="Read back from the store: the manifest's signature holds, every component is there, and so is"
            " every chunk they need. Warns where rows of the tenant refer to files that its storage does not have:"
            " then the backup is as complete as the source, and the source has lost files.",
        )


def of_draft(draft: Draft) -> list[dg.AssetCheckEvaluation]:
    """The results for a draft after `verify_checksums`: one per asset that shows the backup.

    None where there is no new backup to judge, or where that step did not get to judge it.
    """
    if draft.status is DraftStatus.UNCHANGED:
        return []
    issues: list[SbhError] = []
    if draft.status is DraftStatus.FAILED:
        if draft.step != "verify_checksums" or draft.error is None or draft.error.code not in _DAMAGE:
            return []
        issues = [draft.error]
    missing = int(draft.counters.get("missing_files", 0))
    return [
        evaluation(asset, str(draft.tenant.id), draft.backup_id, issues, missing)
        for asset in shown_in(draft.type, draft.requested)
    ]


def evaluation(
    asset: dg.AssetKey,
    tenant: str,
    backup_id: str,
    issues: Sequence[SbhError],
    files_missing: int,
    more: Mapping[str, dg.MetadataValue] | None = None,
    about: CheckedMaterialization | None = None,
) -> dg.AssetCheckEvaluation:
    """The check's result for one backup: an error where it has issues, else a warning where its source misses files."""
    said = "whole"
    if issues:
        said = f"{len(issues)} {'issue' if len(issues) == 1 else 'issues'}, first: {issues[0].what}"
    elif files_missing:
        said = f"whole, but rows refer to {files_missing:,} files that the source does not have"
    return dg.AssetCheckEvaluation(
        asset_key=asset,
        check_name=BACKUP_VALID,
        passed=not issues and not files_missing,
        partition=tenant,
        severity=dg.AssetCheckSeverity.ERROR if issues else dg.AssetCheckSeverity.WARN,
        description=f"{backup_id}: {said}",
        metadata={
            "tenant": tenant,
            "backup_id": str(backup_id),
            "files_missing": files_missing,
            **({"issues": dg.MetadataValue.md(issues_table(issues))} if issues else {}),
            **(more or {}),
        },
        target_materialization_data=about,
    )
