"""The job that verifies what is at a copy: by the copy alone, so that it works when the first place is gone."""

from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from sbh_pipelines.errors import SbhError
from sbh_pipelines.orchestration.common.batch import ProgressLog
from sbh_pipelines.orchestration.common.config import JobConfig
from sbh_pipelines.orchestration.common.failed_tenants import FailedTenant
from sbh_pipelines.orchestration.common.failures import failure_of
from sbh_pipelines.orchestration.common.metadata import MetadataMap, failures_table
from sbh_pipelines.orchestration.common.names import named, tags
from sbh_pipelines.orchestration.common.resources import Backups, user_of
from sbh_pipelines.orchestration.common.runs import OPERATION_TAG, tag_run
from sbh_pipelines.orchestration.copies.copy_runs import error_metadata

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import CopyVerification

COPY_VERIFY = "copy_verify"


class CopyVerifyConfig(JobConfig):
    """Which copy to verify, whose backups there, and how thoroughly."""

    copy_name: str = Field(description="The copy, by its name in the settings.")
    tenants: list[str] = Field([], description="Only these tenants, by slug. Empty: all that are copied.")
    deep: bool = Field(
        False,
        description="False: of each tenant's newest backup the signature, its documents, that every pack is there with its size."
        " True: also download, decrypt and hash all that it and every older backup there need.",
    )


@dg.op(
    description="Reads what is at a copy, by the copy alone: its buckets, its keys. Fails if something is not whole there; what is"
    " whole is recorded, as far as the place where backups are made answers.",
    config_schema=CopyVerifyConfig.schema_of_dagster(),
    out=dg.Out(dg.Nothing, description="Tenants whose backups are not whole there, and why."),
)
def verify_copy(context: dg.OpExecutionContext, backups: Backups) -> dg.Output[None]:
    config, user = CopyVerifyConfig.of(context), user_of(context.run.tags)
    tag_run(context, config.tenants)
    try:
        found = backups.service.copies.verify(
            user, config.copy_name, config.tenants, config.deep, progress=ProgressLog(context.log)
        )
    except SbhError as error:
        raise failure_of(error, step=COPY_VERIFY, more=error_metadata(error)) from None
    for issue in found.issues:
        context.log.warning(str(issue))
    wrong = [(one.tenant_id, one.error) for one in found.tenants if one.error is not None]
    if wrong:
        records = [FailedTenant.of(str(tenant), COPY_VERIFY, error) for tenant, error in wrong]
        more = {"failures": dg.MetadataValue.md(failures_table(records)), **_metadata(found)}
        raise failure_of(wrong[0][1], step=COPY_VERIFY, more={**more, **error_metadata(wrong[0][1])})
    return dg.Output(None, metadata=_metadata(found))


def _metadata(found: "CopyVerification") -> MetadataMap:
    return {
        "valid": dg.MetadataValue.bool(found.valid),
        "deep": dg.MetadataValue.bool(found.deep),
        "tenants": dg.MetadataValue.int(len(found.tenants)),
        "invalid": dg.MetadataValue.int(sum(not one.valid for one in found.tenants)),
        "left_out": dg.MetadataValue.int(len(found.left_out)),
        "objects": dg.MetadataValue.int(sum(one.objects for one in found.tenants)),
        "bytes": dg.MetadataValue.int(sum(one.bytes for one in found.tenants)),
        "duration_s": dg.MetadataValue.float(found.seconds),
    }


@dg.job(
    name=named("copy_verify_job"),
    description="Verifies what is at the copy in `ops.verify_copy.config.copy_name`, by the copy alone. Changes nothing there.",
    tags=tags({OPERATION_TAG: COPY_VERIFY}),
)
def copy_verify_job() -> None:
    verify_copy()
