"""The policy as a table: which backups are kept, and by which rule."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sbh_pipelines.backup.retention import decide
from sbh_pipelines.errors import SettingsError
from sbh_pipelines.model import BackupId, timestamp
from sbh_pipelines.settings import RetentionClass, RetentionSettings

SPECIFIED = RetentionSettings()  # daily 7, weekly 4, monthly 12


def backup(moment: datetime) -> dict[str, Any]:
    return {"id": BackupId.at(moment), "type": "full", "created_at": timestamp(moment)}


def test_the_specified_policy_over_a_year_of_daily_backups() -> None:
    """365 daily backups: 7 days, then weeks, then months; every kept one says why."""
    start = datetime(2025, 1, 1, 2, tzinfo=UTC)
    verdicts = decide(SPECIFIED, [backup(start + timedelta(days=n)) for n in range(365)])
    kept = [(v.backup_id, v.rules) for v in verdicts if v.keep]
    assert [name.removeprefix("backup_").removesuffix("_0200") for name, _ in kept] == [
        # seven days
        "20251231", "20251230", "20251229", "20251228", "20251227", "20251226", "20251225",
        # the newest of each ISO week: 28 December is the Sunday of the second week, then 21 and 14
        "20251221", "20251214",
        # the newest of each month
        "20251130", "20251031", "20250930", "20250831", "20250731", "20250630",
        "20250531", "20250430", "20250331", "20250228", "20250131",
    ]  # fmt: skip
    assert kept[0][1] == ("newest full", "daily 1 of 7", "weekly 1 of 4", "monthly 1 of 12")
    assert kept[3][1] == ("daily 4 of 7", "weekly 2 of 4")
    assert kept[-1][1] == ("monthly 12 of 12",)


def test_a_long_outage_expires_nothing() -> None:
    """Rules count the days that have backups: after a year without any, the same ones are kept."""
    old = [backup(datetime(2025, 1, day, 2, tzinfo=UTC)) for day in range(1, 8)]
    before = {v.backup_id for v in decide(SPECIFIED, old) if v.keep}
    after = {v.backup_id for v in decide(SPECIFIED, [*old, backup(datetime(2026, 1, 1, 2, tzinfo=UTC))]) if v.keep}
    assert before == {b["id"] for b in old}
    assert len(before - after) <= 1  # the eighth day with a backup pushes out one, not all


def test_the_newest_full_backup_is_kept_by_any_policy() -> None:
    """A policy that keeps nothing still keeps the last way back."""
    nothing = RetentionSettings(full_backups=RetentionClass(), keep_within_hours=0)
    verdicts = decide(nothing, [backup(datetime(2026, 1, day, tzinfo=UTC)) for day in (1, 2, 3)])
    assert [(v.backup_id[-13:-5], v.keep) for v in verdicts] == [
        ("20260103", True),
        ("20260102", False),
        ("20260101", False),
    ]


@pytest.mark.parametrize(("zone", "kept"), [("UTC", 1), ("America/New_York", 2)])
def test_days_begin_in_the_policys_time_zone(zone: str, kept: int) -> None:
    """03:00 and 06:00 UTC are one day in UTC and two in New York, across its change to summer time."""
    policy = RetentionSettings(full_backups=RetentionClass(keep_daily=7), keep_within_hours=0, time_zone=zone)
    verdicts = decide(policy, [backup(datetime(2026, 3, 8, hour, tzinfo=UTC)) for hour in (3, 6)])
    assert sum(v.keep for v in verdicts) == kept


def test_hours_that_happen_twice_are_two_hours() -> None:
    """When summer time ends 01:30 comes twice; two hourly backups then are two."""
    policy = RetentionSettings(
        full_backups=RetentionClass(keep_hourly=24), keep_within_hours=0, time_zone="America/New_York"
    )
    twice = [backup(datetime(2026, 11, 1, hour, 30, tzinfo=UTC)) for hour in (5, 6)]
    assert all(v.keep for v in decide(policy, twice))


def test_an_unknown_time_zone_is_an_error_that_names_it() -> None:
    with pytest.raises(SettingsError, match="Mars/Olympus"):
        decide(RetentionSettings(time_zone="Mars/Olympus"), [])


def test_backups_of_the_last_hours_are_kept_whatever_the_day_has() -> None:
    """A backup made before a migration survives the daily one; counted from the newest backup, not from the clock."""
    day = datetime(2026, 1, 15, tzinfo=UTC)
    verdicts = decide(SPECIFIED, [backup(day + timedelta(hours=h)) for h in (1, 2, 3, 27)])
    assert [v.rules for v in verdicts] == [
        ("newest full", "daily 1 of 7", "weekly 1 of 4", "monthly 1 of 12"),
        ("daily 2 of 7",),  # exactly 24 h older: the day's newest
        (),
        (),
    ]
    verdicts = decide(SPECIFIED, [backup(day + timedelta(hours=h)) for h in (1, 2, 3, 20)])
    assert [v.keep for v in verdicts] == [True] * 4


def test_the_input_is_not_changed() -> None:
    """A pure function: the same list again gives the same verdicts."""
    backups = [backup(datetime(2026, 1, day, tzinfo=UTC)) for day in (3, 1, 2)]
    copy = [dict(b) for b in backups]
    assert decide(SPECIFIED, backups) == decide(SPECIFIED, list(reversed(backups)))
    assert backups == copy
