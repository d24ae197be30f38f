"""The asset checks of a tenant's backup: is it whole, and was its source?

They are evaluated inside the run that makes the backup, per tenant, from what `verify_checksums` read back: a check of its
own op would be skipped, because the asset emits no output (see `apply_retention`), and would read everything twice.
`validate_backup_job` evaluates them anew for a tenant's newest backup, so that damage done later turns one red too. Two
checks and no more, because each result is an event per tenant and run: a backup is whole also where files are gone in
the bucket that it was made of, and somebody else mends that.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence

import dagster as dg

from sbh_pipelines.backup.create.draft import Draft, DraftStatus
from sbh_pipelines.errors import CorruptObject, ObjectMissing, SbhError
from sbh_pipelines.orchestration.common.assets import shown_in, tenants_partitions
from sbh_pipelines.orchestration.common.dagster_internals import CheckedMaterialization
from sbh_pipelines.orchestration.common.metadata import issues_table, plural

BACKUP_VALID, SOURCE_FILES_PRESENT = "backup_valid", "source_files_present"

_DAMAGE = (CorruptObject.code, ObjectMissing.code)


def check_specs(asset: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    """The checks of one asset, each with a result per tenant."""
    says = {
        BACKUP_VALID: "Read back from the store: the manifest's signature holds, every component is there, and so is every"
        " chunk they need.",
        SOURCE_FILES_PRESENT: "Every file that rows of the tenant refer to was in the bucket when the backup was made. Warns"
        " where files were missing: the backup is as complete as its source, and the source has lost them."
        " `docs/operations/file-loss.md` says how they come back from an earlier backup.",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)  # of partitioned checks
        return [
            dg.AssetCheckSpec(name, asset=asset, partitions_def=tenants_partitions, description=text)
            for name, text in says.items()
        ]


def of_draft(draft: Draft) -> Iterator[dg.AssetCheckEvaluation]:
    """The results for a draft after `verify_checksums`: of each asset that shows the backup.

    None where there is no new backup to judge, or where that step did not get to judge it. One that is damaged says nothing
    of its source.
    """
    if draft.status is DraftStatus.UNCHANGED:
        return
    issues: list[SbhError] = []
    if draft.status is DraftStatus.FAILED:
        if draft.step != "verify_checksums" or draft.error is None or draft.error.code not in _DAMAGE:
            return
        issues = [draft.error]
    missing = int(draft.counters.get("missing_files", 0))
    for asset in shown_in(draft.type, draft.requested):
        yield valid(asset, str(draft.tenant.id), draft.backup_id, issues)
        if not issues:
            yield source_files(asset, str(draft.tenant.id), draft.backup_id, missing)


def valid(
    asset: dg.AssetKey,
    tenant: str,
    backup_id: str,
    issues: Sequence[SbhError],
    more: Mapping[str, dg.MetadataValue] | None = None,
    about: CheckedMaterialization | None = None,
) -> dg.AssetCheckEvaluation:
    """Whether a backup is whole: an error where it has issues."""
    said = f"{plural(len(issues), 'issue')}, first: {issues[0].what}" if issues else "whole"
    return dg.AssetCheckEvaluation(
        asset_key=asset,
        check_name=BACKUP_VALID,
        passed=not issues,
        partition=tenant,
        severity=dg.AssetCheckSeverity.ERROR,
        description=f"{backup_id}: {said}",
        metadata={
            "tenant": tenant,
            "backup_id": str(backup_id),
            **({"issues": dg.MetadataValue.md(issues_table(issues))} if issues else {}),
            **(more or {}),
        },
        target_materialization_data=about,
    )


def source_files(
    asset: dg.AssetKey, tenant: str, backup_id: str, missing: int, about: CheckedMaterialization | None = None
) -> dg.AssetCheckEvaluation:
    """Whether the bucket had every file that the tenant's rows refer to: a warning where it had not."""
    said = (
        f"rows refer to {plural(missing, 'file')} that the bucket does not have" if missing else "every file was there"
    )
    return dg.AssetCheckEvaluation(
        asset_key=asset,
        check_name=SOURCE_FILES_PRESENT,
        passed=not missing,
        partition=tenant,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{backup_id}: {said}",
        metadata={"tenant": tenant, "backup_id": str(backup_id), "files_missing": missing},
        target_materialization_data=about,
    )
