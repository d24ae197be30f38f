"""The job that rotates keys: wraps them anew and, where asked to, begins key epochs and re-encrypts what is of earlier ones."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from sbh_pipelines.errors import KeyRotationFailed, SbhError
from sbh_pipelines.model import size_text
from sbh_pipelines.orchestration.backups.steps import OBJECT_STORE
from sbh_pipelines.orchestration.common import batch
from sbh_pipelines.orchestration.common.assets import tenants_partitions
from sbh_pipelines.orchestration.common.batch import ProgressLog
from sbh_pipelines.orchestration.common.config import JobConfig
from sbh_pipelines.orchestration.common.failed_tenants import FailedTenant
from sbh_pipelines.orchestration.common.failures import batch_failure, failure_of
from sbh_pipelines.orchestration.common.metadata import MetadataMap
from sbh_pipelines.orchestration.common.names import named, tags
from sbh_pipelines.orchestration.common.resources import Backups, user_of
from sbh_pipelines.orchestration.common.runs import OPERATION_TAG

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import RotationReport

KEY_ROTATION = "key_rotation"


class KeyRotationConfig(JobConfig):
    """Whose keys, and how far to go."""

    tenants: list[str] = Field(
        [],
        description="Tenants, by slug. Only for runs without a partition; there, empty means every tenant, the platform and"
        " the catalogs.",
    )
    new_data_key: bool = Field(False, description="Begin a key epoch: what is written from now on has a new data key.")
    re_encrypt: bool = Field(
        False, description="Rewrite what is of earlier epochs; a second run a day later destroys their keys."
    )


@dg.op(
    description="Wraps the tenants' data keys anew, under the key that the settings name now. Some that fail do not stop the"
    " others; the run fails and names them.",
    pool=OBJECT_STORE,
    config_schema=KeyRotationConfig.schema_of_dagster(),
    out=dg.Out(dg.Nothing, description="How many were rotated, skipped, failed."),
)
def rotate_keys(context: dg.OpExecutionContext, backups: Backups) -> Iterator[dg.Output[None]]:
    config = KeyRotationConfig.of(context)
    tenants = batch.run_tenants(context, config.tenants)
    try:
        report = backups.service.keys.rotate(
            tenants,
            user_of(context.run.tags),
            everyone=not tenants,
            new_data_key=config.new_data_key,
            re_encrypt=config.re_encrypt,
            progress=ProgressLog(context.log),
        )
    except KeyRotationFailed as error:
        raise _failure(error) from None
    except SbhError as error:
        raise failure_of(error, tenants, step=KEY_ROTATION) from None
    yield dg.Output(None, metadata=_metadata(report))


def _failure(error: KeyRotationFailed) -> dg.Failure:
    report: RotationReport | None = error.report
    failed = [FailedTenant.of(one.tenant_id, KEY_ROTATION, one.error) for one in (report.failed if report else ())]
    failure = batch_failure(failed, len(failed) + (len(report.rotated) if report else 0))
    metadata = {**(_metadata(report) if report else {}), **failure.metadata}
    return dg.Failure(failure.description, metadata=metadata, allow_retries=False)


def _metadata(report: "RotationReport") -> MetadataMap:
    rotated = report.rotated
    return {
        "rotated": dg.MetadataValue.int(len(rotated)),
        "skipped": dg.MetadataValue.int(len(report.skipped)),
        "re_encrypted": dg.MetadataValue.text(size_text(sum(done.re_encrypted_bytes or 0 for done in rotated))),
        "still_of_older_epochs": dg.MetadataValue.text(size_text(sum(done.old_bytes or 0 for done in rotated))),
        "epochs_destroyed": dg.MetadataValue.int(sum(len(done.epochs_destroyed or ()) for done in rotated)),
    }


@dg.job(
    name=named("key_rotation_job"),
    partitions_def=tenants_partitions,
    description="Rotates keys: of the tenant of the partition, or of the tenants in `ops.rotate_keys.config.tenants`; of every"
    " tenant, the platform and the catalogs where none is named.",
    tags=tags({OPERATION_TAG: KEY_ROTATION}),
)
def key_rotation_job() -> None:
    rotate_keys()
