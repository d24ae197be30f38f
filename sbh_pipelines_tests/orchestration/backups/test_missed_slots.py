"""An outage of the scheduler: its own loop, with the clock moved on, and nobody who executes the runs.

Times are passed to the loop as Dagster's daemon passes them. Runs stay queued until a test ends them.
"""

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial

import dagster as dg
import pytest

from sbh_pipelines.definitions import defs
from sbh_pipelines.errors import SourceUnavailable
from sbh_pipelines.orchestration.common.runs import SCHEDULE_TAG, SLOT_TAG, tenants_of
from sbh_pipelines.orchestration.common.timetable import Timetable, latest_slot
from sbh_pipelines_tests.support.dagster_internals import (
    ORDER_OF_SCHEDULES,
    InstigatorTick,
    create_test_daemon_workspace_context,
    launch_scheduled_runs,
    workspace_of,
)
from sbh_pipelines_tests.support.fakes import FAKES, FakeResource, FakeService

NAME, RETRIES = "scheduler", 100
with_fake_service = dg.Definitions(
    assets=defs.assets,
    jobs=defs.jobs,
    schedules=defs.schedules,
    resources={"backups": FakeResource(fake=NAME)},
    executor=dg.in_process_executor,
)
MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
THURSDAY = MONDAY + timedelta(days=3)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """With a queue that nobody empties, and failed ticks repeated."""
    with dg.instance_for_test(
        {
            "run_coordinator": {
                "module": "dagster._core.run_coordinator.queued_run_coordinator",
                "class": "QueuedRunCoordinator",
            },
            "scheduler": {
                "module": "dagster._core.scheduler",
                "class": "DagsterDaemonScheduler",
                "config": {"max_tick_retries": RETRIES},
            },
        }
    ) as made:
        yield made


class Scheduler:
    """The scheduler's loop, turned by hand."""

    def __init__(self, instance: dg.DagsterInstance, stack: ExitStack) -> None:
        self.instance = instance
        target = workspace_of(__name__, "with_fake_service")
        self._workspace = stack.enter_context(create_test_daemon_workspace_context(target, instance))

    def at(self, moment: datetime) -> list[str]:
        """Turns the loop once; the runs it created, as `schedule slot: tenants`."""
        before = {run.run_id for run in self.instance.get_runs()}
        log = logging.getLogger("test")
        for error in launch_scheduled_runs(self._workspace, log, moment, {}, max_tick_retries=RETRIES):
            assert error is None or "Cannot connect" in str(error), error
        made = [run for run in self.instance.get_runs() if run.run_id not in before]
        # The platform backup is made at whatever slot it is, and concerns no tenant.
        return sorted(self._said(run) for run in made if run.tags[SCHEDULE_TAG] != "daily_platform_backup")

    def ticks(self, name: str) -> list[InstigatorTick]:
        (state,) = [s for s in self.instance.all_instigator_state() if s.instigator_name == name]
        return list(self.instance.get_ticks(state.instigator_origin_id, state.selector_id))

    def stop(self, name: str) -> None:
        """As the switch in the web UI does."""
        (location,) = self._workspace.create_request_context().code_locations
        schedule = next(iter(location.get_repositories().values())).get_schedule(name)
        self.instance.stop_schedule(schedule.get_remote_origin_id(), schedule.selector_id, schedule)

    def end_all(self) -> None:
        for run in self.instance.get_runs():
            if not run.is_finished:
                self.instance.report_run_failed(run)

    def _said(self, run: dg.DagsterRun) -> str:
        tenants = " ".join(tenants_of(self.instance, run)) or "all"
        return f"{run.tags[SCHEDULE_TAG]} {run.tags[SLOT_TAG]}: {tenants}"


@pytest.fixture
def scheduler(instance: dg.DagsterInstance, fake: FakeService) -> Iterator[Scheduler]:
    """Two critical tenants and one for the archive; the loop has turned once, on Monday after noon."""
    fake.tiers = {"tenant-1": "critical", "tenant-2": "critical", "tenant-3": "archive"}
    FAKES[NAME] = fake
    with ExitStack() as stack:
        stack.callback(FAKES.pop, NAME)
        made = Scheduler(instance, stack)
        assert made.at(MONDAY + timedelta(hours=12, minutes=5)) == []
        yield made


@pytest.fixture(params=[False, True], ids=["fuller first", "fuller last"])
def in_order(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dagster looks at the schedules in random order: here by name, or the other way round."""
    by_name = partial(sorted, key=lambda schedule: schedule.name, reverse=request.param)
    monkeypatch.setattr(ORDER_OF_SCHEDULES, lambda them, key: by_name(them))


def test_a_code_location_that_was_renamed_counts_no_more(scheduler: Scheduler) -> None:
    """Dagster goes on to list what was recorded of its schedules: a full backup that it missed is waited for by nobody."""
    (now,) = [s for s in scheduler.instance.all_instigator_state() if s.instigator_name == "daily_full"]
    here = now.origin.repository_origin
    there = here._replace(code_location_origin=here.code_location_origin._replace(location_name="before"))
    before = now._replace(
        origin=now.origin._replace(repository_origin=there),
        instigator_data=now.instigator_data._replace(start_timestamp=1.0, last_iteration_timestamp=1.0),  # type: ignore[union-attr]
    )
    scheduler.instance.delete_instigator_state(now.instigator_origin_id, now.selector_id)
    for state in (before, now):  # the older one is listed first
        scheduler.instance.add_instigator_state(state)
    assert scheduler.at(MONDAY + timedelta(hours=13, minutes=5)) == [
        "hourly_incremental 2026-03-02T13:00:00Z: tenant-1 tenant-2"
    ]


@pytest.mark.usefixtures("in_order")
def test_an_outage_of_days_becomes_one_run_per_tenant(scheduler: Scheduler) -> None:
    """65 hourly, 3 daily and 3 prune slots were missed. The full of 02:00 stands for the incremental of 05:00 too."""
    assert scheduler.at(THURSDAY + timedelta(hours=5, minutes=10)) == [
        "daily_full 2026-03-05T02:00:00Z: tenant-1 tenant-2",
        "daily_prune 2026-03-05T04:30:00Z: all",
    ]


def test_a_backlog_in_the_queue_does_not_grow(scheduler: Scheduler) -> None:
    """The daemon is back, the machines that execute runs are not: slots go by, one run waits."""
    assert scheduler.at(MONDAY + timedelta(hours=13)) == ["hourly_incremental 2026-03-02T13:00:00Z: tenant-1 tenant-2"]
    for hour in (14, 15, 16):
        assert scheduler.at(MONDAY + timedelta(hours=hour, seconds=2)) == []
    (tick,) = [t for t in scheduler.ticks("hourly_incremental") if t.timestamp == _stamp(MONDAY, 16)]
    assert tick.skip_reason == "No tenant is due: 2 have a backup queued or at work; 1 do not follow this schedule"
    scheduler.end_all()
    assert scheduler.at(MONDAY + timedelta(hours=17)) == ["hourly_incremental 2026-03-02T17:00:00Z: tenant-1 tenant-2"]


def test_a_slot_of_both_makes_the_full_backup(scheduler: Scheduler) -> None:
    """At 02:00, on time."""
    assert scheduler.at(MONDAY + timedelta(days=1, hours=2)) == ["daily_full 2026-03-03T02:00:00Z: tenant-1 tenant-2"]
    scheduler.end_all()
    assert scheduler.at(MONDAY + timedelta(days=1, hours=3)) == [
        "hourly_incremental 2026-03-03T03:00:00Z: tenant-1 tenant-2"
    ]


@pytest.mark.usefixtures("in_order")
def test_a_tick_that_fails_is_made_up_for(scheduler: Scheduler, fake: FakeService) -> None:
    """The database was down at two: with ticks repeated, as deploy/dagster.yaml has it, the day keeps its full backup."""
    fake.raises["tenants"] = SourceUnavailable("Cannot connect", on="db", why="refused", remedy="start it")
    for minutes in (0, 1, 2):
        assert scheduler.at(MONDAY + timedelta(days=1, hours=2, minutes=minutes)) == []
    del fake.raises["tenants"]
    assert scheduler.at(MONDAY + timedelta(days=1, hours=3, minutes=5)) == [
        "daily_full 2026-03-03T02:00:00Z: tenant-1 tenant-2"
    ]


def test_a_schedule_that_is_stopped_takes_no_tenant_from_others(scheduler: Scheduler) -> None:
    """Somebody stopped the daily full: at 02:00 the incremental is all that there is."""
    scheduler.stop("daily_full")
    assert scheduler.at(MONDAY + timedelta(days=1, hours=2)) == [
        "hourly_incremental 2026-03-03T02:00:00Z: tenant-1 tenant-2"
    ]


@pytest.mark.parametrize(
    ("cron", "day", "slots"),
    [
        ("0 2 * * *", datetime(2026, 3, 29, tzinfo=UTC), ["01:00"]),  # 02:00 is skipped: 03:00 CEST
        ("0 2 * * *", datetime(2026, 10, 25, tzinfo=UTC), ["01:00"]),  # 02:00 is there twice: the later one
        ("0 * * * *", datetime(2026, 3, 29, tzinfo=UTC), [f"{hour:02}:00" for hour in range(4)]),
        ("0 * * * *", datetime(2026, 10, 25, tzinfo=UTC), [f"{hour:02}:00" for hour in range(4)]),
    ],
)
def test_days_on_which_clocks_change_have_their_slots(cron: str, day: datetime, slots: list[str]) -> None:
    """A day has one full backup, and every hour that passes has an incremental one. Times in UTC, of four hours."""
    timetable = Timetable("any", cron, "Europe/Berlin")
    minutes = [day + timedelta(minutes=10 * n) for n in range(24)]
    found = {latest_slot(timetable, minute).astimezone(UTC) for minute in minutes}
    assert [f"{slot:%H:%M}" for slot in sorted(found) if slot >= day] == slots


def _stamp(day: datetime, hour: int) -> float:
    return (day + timedelta(hours=hour)).timestamp()
