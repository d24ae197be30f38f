"""Schedules of jobs that take care of everything in one run: when, and one at a time."""

import os

import dagster as dg

from sbh_pipelines.model import timestamp
from sbh_pipelines.orchestration.backups.due import SCHEDULE_TAG, SLOT_TAG
from sbh_pipelines.orchestration.common.runs import OPERATION_TAG, under_way
from sbh_pipelines.orchestration.common.slots import Timetable
from sbh_pipelines.settings import ScheduleSettings


def timetable(name: str, variable: str, default: str) -> Timetable:
    """When it runs, from the environment of the code server, as the other schedules have it (`schedules.py`)."""
    cron = os.environ.get(variable, default).strip()
    zone = os.environ.get("SBH_SCHEDULES__TIME_ZONE") or str(ScheduleSettings.model_fields["time_zone"].default)
    return Timetable(name, cron or default, zone, on=bool(cron))


def status_of(times: Timetable) -> dg.DefaultScheduleStatus:
    return dg.DefaultScheduleStatus.RUNNING if times.on else dg.DefaultScheduleStatus.STOPPED


def one_run(
    context: dg.ScheduleEvaluationContext, times: Timetable, operation: str, variable: str, line: str
) -> dg.RunRequest | dg.SkipReason:
    """A run for the slot, unless one of an earlier slot is queued or at work. `line` is what the settings file says."""
    slot = timestamp(context.scheduled_execution_time)
    if line != (times.cron if times.on else ""):
        context.log.warning(
            f"The settings say {line!r}, but this schedule runs at {times.cron!r}: cron lines come from the environment"
            f" of the code server. Set {variable} there."
        )
    runs = under_way(context.instance, {OPERATION_TAG: operation})
    before = [run.run_id for run in runs if run.tags.get(SLOT_TAG) != slot]
    if before:
        return dg.SkipReason(f"Run {before[0]} is still at it")
    return dg.RunRequest(run_key=f"{times.name}/{slot}", tags={SCHEDULE_TAG: times.name, SLOT_TAG: slot})
