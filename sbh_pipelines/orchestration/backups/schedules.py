"""The schedules that make backups, by tier.

The cron lines are part of the definitions, and definitions read no file: they come from the environment variables
SBH_SCHEDULES__DAILY_FULL and so on, and SBH_SCHEDULES__TIME_ZONE, of the code server. Change one by setting it and
reloading the code location. Which tenants follow which schedule is read from the settings at every tick.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import dagster as dg

from sbh_pipelines.model import BackupType, Tenant, timestamp
from sbh_pipelines.orchestration.backups.due import due_tenants
from sbh_pipelines.orchestration.backups.jobs import fleet_backup_job
from sbh_pipelines.orchestration.common.names import named
from sbh_pipelines.orchestration.common.resources import Backups
from sbh_pipelines.orchestration.common.runs import SCHEDULE_TAG, SLOT_TAG, TYPE_TAG, tags_of_region
from sbh_pipelines.orchestration.common.timetable import Timetable, launches, status_of, timetable, warn_of_another_line
from sbh_pipelines.settings import ScheduleSettings


def backup_timetable(name: str, when_off: str = "") -> Timetable:
    """The timetable of a schedule of backups; `when_off`: its line where the settings' default is off."""
    default = str(ScheduleSettings.model_fields[name].default)
    return timetable(name, f"SBH_SCHEDULES__{name.upper()}", default, when_off)


@dataclass(frozen=True, slots=True)
class BackupSchedule:
    """When backups of one type are made, for the tenants that follow it."""

    type: BackupType
    timetable: Timetable
    says: str


# The fullest first: a tenant that is due for several at one slot gets the first.
BACKUP_SCHEDULES = (
    BackupSchedule(BackupType.FULL, backup_timetable("weekly_full"), "A full backup every week"),
    BackupSchedule(BackupType.FULL, backup_timetable("daily_full"), "A full backup every day"),
    BackupSchedule(
        BackupType.DIFFERENTIAL,
        backup_timetable("differential", when_off="0 */6 * * *"),
        "What changed since the last full backup. Stopped unless SBH_SCHEDULES__DIFFERENTIAL gives a cron line",
    ),
    BackupSchedule(
        BackupType.INCREMENTAL,
        backup_timetable("hourly_incremental"),
        "What changed since the last backup, every hour; unchanged tenants cost next to nothing",
    ),
)


def backup_schedule(of: BackupSchedule, fuller: Sequence[BackupSchedule]) -> dg.ScheduleDefinition:
    """The definition of a schedule; tenants that are due for one of `fuller` as well are left to it."""

    @dg.schedule(
        name=named(of.timetable.name),
        job=fleet_backup_job,
        cron_schedule=of.timetable.cron,
        execution_timezone=of.timetable.zone,
        default_status=status_of(of.timetable),
        description=f"{of.says}. For the tenants that follow it by `[schedules.tiers]` and `[schedules.tenants]`, a run"
        " per region and batch. Left out are tenants due for a fuller backup, and those still being backed up: slots"
        " that were missed become one.",
    )
    def tick(context: dg.ScheduleEvaluationContext, backups: Backups) -> list[dg.RunRequest] | dg.SkipReason:
        name, moment = of.timetable.name, context.scheduled_execution_time
        slot, service = timestamp(moment), backups.service
        settings = service.settings
        warn_of_another_line(
            context, of.timetable, str(getattr(settings.schedules, name)), settings.schedules.time_zone
        )
        covering = [f.timetable.name for f in fuller if launches(context.instance, f.timetable, moment)]
        found = due_tenants(context.instance, settings, service.tenants.all(), of.type, name, slot, covering)
        for tier, count in found.unknown_tiers.items():
            context.log.warning(
                f"{count:,} tenants have the tier {tier!r}, which [schedules.tiers] does not name: they follow the"
                f" schedules of {settings.tenants.default_tier!r}"
            )
        left_out = "; ".join(f"{count:,} {why}" for why, count in found.left_out.items())
        if not found.tenants:
            return dg.SkipReason(f"No tenant is due: {left_out}" if left_out else "The tenants table is empty")
        context.log.info(f"{len(found.tenants):,} tenants are due{'; of the others, ' if left_out else ''}{left_out}")
        full = of.type is BackupType.FULL
        size = settings.backup.batch_tenants if full else settings.schedules.incremental_tenants_per_run
        return list(batches(name, of.type, slot, found.tenants, size))

    return tick


def batches(
    schedule: str, backup_type: BackupType, slot: str, tenants: Sequence[Tenant], size: int
) -> Iterator[dg.RunRequest]:
    """A run per `size` tenants of one region, so that what one region's outage delays is that region's.

    The run key names the first tenant: where a tick is repeated because it broke off, tenants that have their run are
    not due any more, and numbers would name other batches.
    """
    in_order = sorted(tenants, key=lambda tenant: (tenant.region, tenant.id))
    for region, group in groupby(in_order, key=lambda tenant: tenant.region):
        names = [str(tenant.id) for tenant in group]
        for number, start in enumerate(range(0, len(names), size), 1):
            yield dg.RunRequest(
                run_key=f"{schedule}/{slot}/{region}/{names[start]}",
                run_config=fleet_config(names[start : start + size], backup_type, f"{schedule} of {slot}"),
                tags={
                    TYPE_TAG: str(backup_type),
                    **tags_of_region(region),
                    SCHEDULE_TAG: schedule,
                    SLOT_TAG: slot,
                    "sbh/batch": str(number),
                },
            )


def fleet_config(
    tenants: Sequence[str], backup_type: BackupType = BackupType.FULL, description: str | None = None
) -> dict[str, object]:
    """Run configuration of `fleet_backup_job` for these tenants."""
    config = {"tenants": list(tenants), "backup_type": str(backup_type), "description": description}
    return {"ops": {"snapshot_tables": {"config": config}}}


backup_schedules = [backup_schedule(of, BACKUP_SCHEDULES[:place]) for place, of in enumerate(BACKUP_SCHEDULES)]
