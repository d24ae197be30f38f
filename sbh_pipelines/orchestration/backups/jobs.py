"""The jobs that make backups."""

from typing import Any

import dagster as dg

from sbh_pipelines.model import BackupType
from sbh_pipelines.orchestration.backups.assets import backup_steps
from sbh_pipelines.orchestration.common.assets import asset_key
from sbh_pipelines.orchestration.common.names import named, tags
from sbh_pipelines.orchestration.common.runs import BACKUP, OPERATION_TAG, TYPE_TAG

FROM_THE_BEGINNING = {"dagster/retry_strategy": "ALL_STEPS"}
"""For `run_retries`: a run whose worker died is repeated whole, on whichever host. What is stored already is not stored again."""


def backup_job(backup_type: BackupType) -> Any:
    """The job `<type>_backup_job`: the asset's partitions, one, some, or all as a backfill."""
    article = "An" if backup_type is BackupType.INCREMENTAL else "A"
    return dg.define_asset_job(
        named(f"{backup_type}_backup_job"),
        selection=dg.AssetSelection.assets(asset_key(backup_type)),
        description=f"{article} {backup_type} backup of the tenants whose partitions are chosen: one, some, or all (as a"
        " backfill).",
        tags=tags({OPERATION_TAG: BACKUP, TYPE_TAG: str(backup_type), **FROM_THE_BEGINNING}),
    )


backup_jobs = [backup_job(backup_type) for backup_type in BackupType]


@dg.graph(description="The five steps of a backup, for the tenants named in the run's configuration.")
def fleet_backup() -> None:
    backup_steps()


fleet_backup_job = fleet_backup.to_job(
    name=named("fleet_backup_job"),
    description="Backs up the tenants named in `ops.snapshot_tables.config.tenants`, or every tenant if it names none,"
    " in one run, with backups of the type `backup_type`. What the schedules launch, a batch of tenants at a time; the"
    " backups appear in the assets.",
    tags=tags({OPERATION_TAG: BACKUP, **FROM_THE_BEGINNING}),
)
