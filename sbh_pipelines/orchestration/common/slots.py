"""Slots: the moments for which a schedule launches, and which of two schedules a slot belongs to.

Dagster evaluates, after an outage, only the newest slot that a schedule missed. Several schedules then evaluate theirs
within seconds, in any order: a full of 02:00 beside an incremental of 05:00. So a schedule asks here whether a fuller one
launches too. The answer comes from the cron lines and from what Dagster recorded of ticks, never from the clock: it is
the same whichever is evaluated first.
"""

from dataclasses import dataclass
from datetime import datetime

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorType, TickStatus  # not exported; the tests hold it
from dagster._utils.schedules import reverse_cron_string_iterator  # what the scheduler itself counts with


@dataclass(frozen=True, slots=True)
class Timetable:
    """The cron line of the schedule `name`, in the time zone `zone`; `on`: it runs unless somebody stops it."""

    name: str
    cron: str
    zone: str
    on: bool = True


def latest_slot(timetable: Timetable, at: datetime) -> datetime:
    """The newest slot that is not after `at`."""
    return next(reverse_cron_string_iterator(at.timestamp(), timetable.cron, timetable.zone))


def launches(instance: dg.DagsterInstance, timetable: Timetable, at: datetime) -> bool:
    """Whether the schedule launches for the slot `at` itself, or still has to for an earlier one that it missed."""
    states = instance.all_instigator_state(instigator_type=InstigatorType.SCHEDULE)
    state = next((state for state in states if state.instigator_name == timetable.name), None)
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


def _will_be_repeated(instance: dg.DagsterInstance, status: TickStatus, failures: int) -> bool:
    allowed = getattr(instance.scheduler, "max_tick_retries", 0)
    return status is TickStatus.STARTED or (status is TickStatus.FAILURE and failures <= allowed)
