"""Slots: the moments for which a schedule launches, and which of two schedules a slot belongs to.

Dagster evaluates, after an outage, only the newest slot that a schedule missed. Several schedules then evaluate theirs
within seconds, in any order: a full of 02:00 beside an incremental of 05:00. So a schedule asks here whether a fuller one
launches too. The answer comes from the cron lines and from what Dagster recorded of ticks, never from the clock: it is
the same whichever is evaluated first.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import dagster as dg

from sbh_pipelines.model import timestamp
from sbh_pipelines.orchestration.common.dagster_internals import (
    ScheduleState,
    TickStatus,
    schedule_states,
    slots_before,
)
from sbh_pipelines.orchestration.common.names import named
from sbh_pipelines.orchestration.common.resources import Backups
from sbh_pipelines.orchestration.common.runs import OPERATION_TAG, SCHEDULE_TAG, SLOT_TAG, under_way
from sbh_pipelines.settings import ScheduleSettings, Settings


@dataclass(frozen=True, slots=True)
class Timetable:
    """When a schedule launches.

    Attributes:
        name: the schedule, as the settings call it.
        cron: its cron line.
        zone: time zone of the line.
        on: whether it runs unless somebody stops it.
        variable: the environment variable that turns it on and off, and gives the line.
    """

    name: str
    cron: str
    zone: str
    on: bool = True
    variable: str = ""


def latest_slot(timetable: Timetable, at: datetime) -> datetime:
    """The newest slot that is not after `at`."""
    return next(slots_before(at, timetable.cron, timetable.zone))


def launches(instance: dg.DagsterInstance, timetable: Timetable, at: datetime) -> bool:
    """Whether the schedule launches for the slot `at` itself, or still has to for an earlier one that it missed."""
    # A code location that was renamed leaves what was recorded of its schedules behind: the one at work counts.
    known = [s for s in schedule_states(instance) if s.instigator_name == named(timetable.name)]
    state = max(known, key=_evaluated_at, default=None)
    if not (state.is_running if state else timetable.on):
        return False
    slot = latest_slot(timetable, at).timestamp()
    if state is None or state.instigator_data is None:
        return slot == at.timestamp()
    data = state.instigator_data
    if slot < (getattr(data, "start_timestamp", None) or 0):
        return False  # turned on since
    if slot == at.timestamp():
        return True
    if slot < (getattr(data, "last_iteration_timestamp", None) or 0):
        return False  # the scheduler has been past it
    newest = next(iter(instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1)), None)
    if newest is None or newest.timestamp < slot:
        return True
    return newest.timestamp == slot and _will_be_repeated(instance, newest.status, newest.failure_count)


def _evaluated_at(state: ScheduleState) -> float:
    """When a schedule was evaluated or turned on last, in seconds since 1970."""
    data = state.instigator_data
    return max(getattr(data, name, None) or 0.0 for name in ("last_iteration_timestamp", "start_timestamp"))


def _will_be_repeated(instance: dg.DagsterInstance, status: TickStatus, failures: int) -> bool:
    allowed = getattr(instance.scheduler, "max_tick_retries", 0)
    return status is TickStatus.STARTED or (status is TickStatus.FAILURE and failures <= allowed)


def timetable(name: str, variable: str, default: str, when_off: str = "") -> Timetable:
    """The timetable of a schedule: the cron line of the environment variable, else `default`.

    An empty line means off. Such a schedule is there all the same, stopped; its line is then `default`, or `when_off` where
    that is empty too, for people who turn it on in Dagster.
    """
    cron = os.environ.get(variable, default).strip()
    zone = os.environ.get("SBH_SCHEDULES__TIME_ZONE") or str(ScheduleSettings.model_fields["time_zone"].default)
    return Timetable(name, cron or default or when_off, zone, bool(cron), variable)


def status_of(times: Timetable) -> dg.DefaultScheduleStatus:
    return dg.DefaultScheduleStatus.RUNNING if times.on else dg.DefaultScheduleStatus.STOPPED


def warn_of_another_line(context: dg.ScheduleEvaluationContext, times: Timetable, line: str, zone: str) -> None:
    """Log where the settings file says another line or zone: one that is written there changes nothing."""
    if (line, zone) != (times.cron if times.on else "", times.zone):
        context.log.warning(
            f"The settings say {line!r} in {zone}, but this schedule runs at {times.cron!r} in {times.zone}: cron lines"
            f" come from the environment of the code server. Set {times.variable} and SBH_SCHEDULES__TIME_ZONE there."
        )


def schedule_of_one_run(
    times: Timetable,
    job: dg.JobDefinition,
    operation: str,
    line: Callable[[Settings], str],
    description: str,
    unless: Callable[[Settings], str] = lambda settings: "",
) -> dg.ScheduleDefinition:
    """A schedule that takes care of everything in one run.

    `line`: what the settings file says of it. `unless`: why there is nothing to do with these settings, empty where there is.
    """

    @dg.schedule(
        name=named(times.name),
        job=job,
        cron_schedule=times.cron,
        execution_timezone=times.zone,
        default_status=status_of(times),
        description=f"{description} Skipped while the last such run is queued or at work.",
    )
    def tick(context: dg.ScheduleEvaluationContext, backups: Backups) -> dg.RunRequest | dg.SkipReason:
        settings, slot = backups.service.settings, timestamp(context.scheduled_execution_time)
        if reason := unless(settings):
            return dg.SkipReason(reason)
        warn_of_another_line(context, times, line(settings), settings.schedules.time_zone)
        runs = under_way(context.instance, {OPERATION_TAG: operation})
        before = [run.run_id for run in runs if run.tags.get(SLOT_TAG) != slot]
        if before:
            return dg.SkipReason(f"Run {before[0]} is still at it")
        return dg.RunRequest(run_key=f"{times.name}/{slot}", tags={SCHEDULE_TAG: times.name, SLOT_TAG: slot})

    return tick
