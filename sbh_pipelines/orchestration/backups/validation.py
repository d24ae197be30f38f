"""The job that validates backups: that of the tenant of the partition, or those of named ones."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from sbh_pipelines.backup.contents.manifest import LATEST, Manifest
from sbh_pipelines.document import as_document
from sbh_pipelines.errors import SbhError, UnknownBackup, unforeseen
from sbh_pipelines.orchestration.backups import checks
from sbh_pipelines.orchestration.backups.steps import OBJECT_STORE
from sbh_pipelines.orchestration.common import batch
from sbh_pipelines.orchestration.common.assets import asset_key, shown_in, tenants_partitions
from sbh_pipelines.orchestration.common.batch import ProgressLog
from sbh_pipelines.orchestration.common.config import JobConfig, from_copy_field
from sbh_pipelines.orchestration.common.dagster_internals import CheckedMaterialization
from sbh_pipelines.orchestration.common.failed_tenants import FAILED_TENANTS, FailedTenant
from sbh_pipelines.orchestration.common.failures import failure_of
from sbh_pipelines.orchestration.common.metadata import MetadataMap, issues_table, markdown
from sbh_pipelines.orchestration.common.names import named, tags
from sbh_pipelines.orchestration.common.resources import Backups, user_of
from sbh_pipelines.orchestration.common.runs import OPERATION_TAG
from sbh_pipelines.security.policy import UserContext

if TYPE_CHECKING:
    from sbh_pipelines.backup.service import BackupService
    from sbh_pipelines.backup.service.results import Validation

_Issue = tuple[str, str | None, SbhError | FailedTenant]  # of which tenant and backup


class ValidateConfig(JobConfig):
    """Which backups to validate, and how thoroughly."""

    tenants: list[str] = Field(
        [], description="Tenants, by slug. Only for runs without a partition; there, empty means every tenant."
    )
    backup_id: str = Field(LATEST, description="A backup id such as backup_20240115_1200, or `latest`.")
    deep: bool = Field(
        False,
        description="False: signatures, and that every object is there with its size. True: also download, decrypt and"
        " re-hash everything the backup needs.",
    )
    from_copy: str | None = from_copy_field(
        " No asset check is evaluated then: those are about the backups that were made here."
    )


@dg.op(
    description="Validates one backup of each tenant: signature, components, every chunk. Fails if one is not valid.",
    pool=OBJECT_STORE,
    config_schema=ValidateConfig.schema_of_dagster(),
    out=dg.Out(dg.Nothing),
)
def validate_backups(
    context: dg.OpExecutionContext, backups: Backups
) -> Iterator[dg.AssetCheckEvaluation | dg.AssetObservation]:
    config = ValidateConfig.of(context)
    progress, bad, issues = ProgressLog(context.log), list[FailedTenant](), list[_Issue]()
    tenants = batch.tenants_or_all(context, config.tenants, backups, "validate")
    user = user_of(context.run.tags)
    try:
        service = backups.at(config.from_copy)
    except SbhError as error:
        raise failure_of(error, tenants, "validate") from None
    where = f" at the copy {config.from_copy}" if config.from_copy else ""
    for tenant in tenants:
        try:
            manifest, newest_in = _find(service, user, tenant, config.backup_id)
            found = service.backups.validate(manifest.id, tenant, user, deep=config.deep, progress=progress)
        except SbhError as error:
            bad.append(FailedTenant.of(tenant, "validate", error))
            continue
        except Exception as error:  # one tenant's damage never ends the others' work
            bad.append(FailedTenant.of(tenant, "validate", unforeseen(error, tenant)))
            continue
        said = "valid" if found.valid else "NOT valid"
        context.log.info(f"{tenant}: {found.backup_id}{where}: {said}")
        yield dg.AssetObservation(
            asset_key(manifest.type),
            partition=tenant,
            description=f"Validated {found.backup_id}{where}: {said.lower()}",
            metadata=_validation_metadata(found),
        )
        for shown in () if config.from_copy else newest_in:
            yield from _checks(context, shown, tenant, manifest, found)
        if found.issues:
            bad.append(FailedTenant.of(tenant, "validate", found.issues[0]))
            issues += [(tenant, found.backup_id, issue) for issue in found.issues]
    if bad:
        raise _validation_failure(bad, issues, len(tenants))


@dg.job(
    name=named("validate_backup_job"),
    partitions_def=tenants_partitions,
    description="Checks that a backup can be restored, without restoring it: of the tenant of the partition, or of the"
    " tenants in `ops.validate_backups.config.tenants`. The issues are in the failure's metadata.",
    tags=tags({OPERATION_TAG: "validate"}),
)
def validate_backup_job() -> None:
    validate_backups()


def _find(
    service: "BackupService", user: UserContext, tenant: str, backup_id: str
) -> tuple[Manifest, list[dg.AssetKey]]:
    """The manifest, and the assets whose newest backup of the tenant it is. Raises UnknownBackup.

    A backup made for a restore is no asset's, and is not `latest`: it holds what somebody wanted to be rid of.
    """
    manifests = service.backups.of(tenant, user)
    shown = [m for m in manifests if not m.is_aside]
    wanted = shown[:1] if backup_id == LATEST else [m for m in manifests if m.id == backup_id]
    if not wanted:
        if backup_id != LATEST:
            return service.backups.get(backup_id, tenant, user), []  # raises what is wrong with the id
        raise UnknownBackup("The tenant has no backup", on=tenant, remedy="back it up first: full_backup_job")
    newest: dict[dg.AssetKey, str] = {}
    for manifest in shown:
        for asset in shown_in(manifest.type, manifest.requested_type):
            newest.setdefault(asset, manifest.id)
    found = wanted[0]
    return found, [asset for asset in shown_in(found.type, found.requested_type) if newest.get(asset) == found.id]


def _checks(
    context: dg.OpExecutionContext, asset: dg.AssetKey, tenant: str, manifest: Manifest, found: "Validation"
) -> Iterator[dg.AssetCheckEvaluation]:
    """The validation as results of the asset's checks, about the tenant's latest materialization."""
    made = context.instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[tenant]), limit=1
    ).records
    about = None
    if made:
        about = CheckedMaterialization(
            storage_id=made[0].storage_id, run_id=made[0].run_id, timestamp=made[0].timestamp
        )
    yield checks.valid(asset, tenant, found.backup_id, found.issues, {"deep": dg.MetadataValue.bool(found.deep)}, about)
    missing = int(manifest.stats.get("missing_files", 0))
    yield checks.source_files(asset, tenant, found.backup_id, missing, about)


def _validation_metadata(found: "Validation") -> MetadataMap:
    return {
        "backup_id": dg.MetadataValue.text(found.backup_id),
        "valid": dg.MetadataValue.bool(found.valid),
        "deep": dg.MetadataValue.bool(found.deep),
        "objects_checked": dg.MetadataValue.int(found.objects_checked),
        "chunks_checked": dg.MetadataValue.int(found.chunks_checked),
        "bytes_checked": dg.MetadataValue.int(found.bytes_checked),
        "duration_s": dg.MetadataValue.float(found.seconds),
        "issues": dg.MetadataValue.md(issues_table(found.issues)),
    }


def _validation_failure(bad: list[FailedTenant], issues: list[_Issue], of: int) -> dg.Failure:
    first = bad[0]
    on = f" ({first.on})" if first.on else ""
    shown: Sequence[_Issue] = issues or [(failed.tenant, None, failed) for failed in bad]
    return dg.Failure(
        description=f"{len(bad)} of {of} validations failed. First, {first.tenant}: [{first.code}] {first.what}{on}",
        metadata={
            FAILED_TENANTS: dg.MetadataValue.json(as_document(bad)),
            "issues": dg.MetadataValue.md(
                markdown(
                    ["tenant", "backup", "code", "what", "on", "why", "to mend it"],
                    ([tenant, backup, i.code, i.what, i.on, i.why, i.remedy] for tenant, backup, i in shown),
                )
            ),
        },
        allow_retries=False,
    )
