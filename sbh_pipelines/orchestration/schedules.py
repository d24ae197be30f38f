"""The daily full backup of the fleet.

The cron line is part of the definitions, and definitions read no file: it comes from the environment variables
SBH_SCHEDULES__DAILY_FULL and SBH_SCHEDULES__TIME_ZONE of the code server, which also override the settings file, or it
is 02:00 UTC. Change it by setting them and reloading the code location.
"""

import os
from collections.abc import Iterator, Sequence
from itertools import groupby

import dagster as dg

from sbh_pipelines.model import Tenant, timestamp
from sbh_pipelines.orchestration.jobs import fleet_backup_job
from sbh_pipelines.orchestration.resources import BackupServiceResource

REGION_TAG = "sbh/region"
SLOT_TAG = "sbh/slot"


@dg.schedule(
    name="daily_full_backup",
    job=fleet_backup_job,
    cron_schedule=os.environ.get("SBH_SCHEDULES__DAILY_FULL", "0 2 * * *"),
    execution_timezone=os.environ.get("SBH_SCHEDULES__TIME_ZONE", "UTC"),
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every tenant, every night: one run per region and batch of tenants (`backup.batch_tenants`). A slot is"
    " launched once, however often its tick is repeated.",
)
def daily_full_backup(
    context: dg.ScheduleEvaluationContext, backups: BackupServiceResource
) -> list[dg.RunRequest] | dg.SkipReason:
    slot = timestamp(context.scheduled_execution_time)
    service = backups.service
    requests = list(batches(slot, service.tenants(), service.settings.backup.batch_tenants))
    return requests or dg.SkipReason("The tenants table is empty")


def batches(slot: str, tenants: Sequence[Tenant], size: int) -> Iterator[dg.RunRequest]:
    """A run per `size` tenants of one region, so that what one region's outage delays is that region's."""
    in_order = sorted(tenants, key=lambda tenant: (tenant.region, tenant.id))
    for region, group in groupby(in_order, key=lambda tenant: tenant.region):
        names = [str(tenant.id) for tenant in group]
        for number, start in enumerate(range(0, len(names), size), 1):
            yield dg.RunRequest(
                run_key=f"daily_full/{slot}/{region}/{number}",
                run_config=fleet_config(names[start : start + size], f"scheduled for {slot}"),
                tags={REGION_TAG: region, SLOT_TAG: slot, "sbh/batch": str(number)},
            )


def fleet_config(tenants: Sequence[str], description: str | None = None) -> dict[str, object]:
    """Run configuration of `fleet_backup_job` for these tenants."""
    return {"ops": {"snapshot_tables": {"config": {"tenants": list(tenants), "description": description}}}}
