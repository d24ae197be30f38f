"""Which backups are kept: a pure function of the policy, the backups and the time, with a reason for each.

A rule such as `keep_daily = 7` keeps the newest backup of each of the last seven days that have one. Days, weeks (ISO)
and months begin in the policy's time zone. Counting those that exist, not calendar days gone by, means that a long
outage never expires the last backups. The newest full backup is always kept, and so is every one of the hours before it
(`keep_within_hours`, counted from the newest backup and not from the clock).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sbh_pipelines.errors import SettingsError
from sbh_pipelines.model import parse_timestamp
from sbh_pipelines.settings import RetentionClass, RetentionSettings

_PERIODS: dict[str, Callable[[datetime], tuple[int, ...]]] = {
    "hourly": lambda t: (t.year, t.month, t.day, t.hour, int(t.utcoffset().total_seconds()) if t.utcoffset() else 0),  # type: ignore[union-attr]
    "daily": lambda t: (t.year, t.month, t.day),
    "weekly": lambda t: tuple(t.isocalendar()[:2]),
    "monthly": lambda t: (t.year, t.month),
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """`rules` keep it; without any it is to be forgotten."""

    backup_id: str
    rules: tuple[str, ...]

    @property
    def keep(self) -> bool:
        return bool(self.rules)


def decide(policy: RetentionSettings, manifests: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """A verdict for every full backup, newest first. Raises SettingsError for an unknown time zone."""
    try:
        zone = ZoneInfo(policy.time_zone)
    except (ZoneInfoNotFoundError, ValueError):
        raise SettingsError("No such time zone", on=f"retention.time_zone = {policy.time_zone!r}") from None
    newest_first = sorted(
        (m for m in manifests if m["type"] == "full"), key=lambda m: (m["created_at"], m["id"]), reverse=True
    )
    rules: dict[str, list[str]] = {m["id"]: [] for m in newest_first}
    if newest_first:
        rules[newest_first[0]["id"]].append("newest full")
        since = parse_timestamp(newest_first[0]["created_at"]) - timedelta(hours=policy.keep_within_hours)
        for manifest in newest_first[1:]:
            if parse_timestamp(manifest["created_at"]) > since:
                rules[manifest["id"]].append(f"within {policy.keep_within_hours:g} h of the newest")
    for period, count in _counts(policy.full_backups).items():
        seen: set[tuple[int, ...]] = set()
        for manifest in newest_first:
            bucket = _PERIODS[period](parse_timestamp(manifest["created_at"]).astimezone(zone))
            if bucket not in seen and len(seen) < count:
                seen.add(bucket)
                rules[manifest["id"]].append(f"{period} {len(seen)} of {count}")
    return [Verdict(backup_id, tuple(kept)) for backup_id, kept in rules.items()]


def _counts(kept: RetentionClass) -> dict[str, int]:
    return {
        "hourly": kept.keep_hourly,
        "daily": kept.keep_daily,
        "weekly": kept.keep_weekly,
        "monthly": kept.keep_monthly,
    }
