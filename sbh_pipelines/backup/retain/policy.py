"""Which backups are kept: a pure function of the policy and the backups, with a reason for each.

A rule such as `keep_daily = 7` keeps the newest backup of each of the last seven days *that have one*, counted apart for
each type of backup. `keep_last` keeps the newest so many of a type, `keep_within` those made in the hours before the
tenant's newest backup. There is no clock in here: time that passes without backups, such as a long outage, expires
nothing.

Hours, days, ISO weeks and months are those of the policy's time zone. A day of 23 or 25 hours is a day; the hour that a
night in autumn has twice is two hours; an ISO week belongs to one year only, also over New Year.

A backup made before a restore is counted by no rule: it holds what somebody wanted to be rid of, and must not take the place
of a good one. It has a term of its own (`holds.py`). So has one put together for a moment of the past: that is never the newest
either, whenever it was made.

Kept by every policy: the newest backup (a tenant found unchanged since is described by it), the newest full backup that
is not known to be damaged, and whatever is pinned or held.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sbh_pipelines.backup.contents.summary import BackupSummary
from sbh_pipelines.errors import SettingsError
from sbh_pipelines.model import BackupId, BackupType, Tenant
from sbh_pipelines.settings import RetentionClass, RetentionOverride, RetentionSettings

Bucket = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the policy says of one backup.

    Attributes:
        backup: The backup.
        rules: The rules that keep it; without any it is to be forgotten.
        dropped: Why it is to be forgotten.
    """

    backup: BackupSummary
    rules: tuple[str, ...]
    dropped: str = ""

    @property
    def backup_id(self) -> BackupId:
        return self.backup.id

    @property
    def keep(self) -> bool:
        return bool(self.rules)

    @property
    def reasons(self) -> list[str]:
        """The rules that keep it, or why it is dropped."""
        return list(self.rules) or [self.dropped]


def policy_of(settings: RetentionSettings, tenant: Tenant) -> RetentionSettings:
    """The policy of a tenant: the general one with what its tier, then what its own override replaces."""
    policy = settings
    for override in (settings.tiers.get(tenant.tier), settings.tenants.get(tenant.id)):
        if override is not None:
            policy = _overridden(policy, override)
    return policy


def _overridden(policy: RetentionSettings, override: RetentionOverride) -> RetentionSettings:
    given = override.model_dump(exclude_none=True)
    classes = {name: getattr(policy, name).model_copy(update=given.pop(name)) for name in _CLASSES.values()}
    return policy.model_copy(update={**given, **classes})


def decide(
    policy: RetentionSettings,
    backups: Iterable[BackupSummary],
    *,
    protected: Mapping[BackupId, Sequence[str]] = MappingProxyType({}),
    doubted: Collection[BackupId] = (),
) -> list[Verdict]:
    """A verdict for every backup, newest first.

    `protected` are backups that nothing may drop, with the reasons; `doubted` are full backups that may be damaged and
    so cannot be the one that is always kept. Raises SettingsError for an unknown time zone.
    """
    zone = _zone(policy)
    newest_first = sorted({b.id: b for b in backups}.values(), key=lambda b: (b.created_at, b.id), reverse=True)
    kept: dict[BackupId, list[str]] = {b.id: list(protected.get(b.id, ())) for b in newest_first}
    nearest: dict[BackupId, str] = {}
    read = [b for b in newest_first if not b.recovered]
    if read:
        kept[read[0].id].append("newest backup")
    fulls = [b.id for b in read if b.full]
    sound = [backup_id for backup_id in fulls if backup_id not in doubted]
    for backup_id in sound[:1]:
        kept[backup_id].append("newest full")
    for backup_id in fulls if not sound else ():
        kept[backup_id].append("every full backup may be damaged")
    for kind, name in _CLASSES.items():
        rules: RetentionClass = getattr(policy, name)
        own = [b for b in read if b.type is kind and not b.aside]
        hours = max(rules.keep_within_hours, rules.keep_within_days * 24)
        if kind is not BackupType.INCREMENTAL:
            hours = max(hours, policy.keep_within_hours)
        for backup in own:
            if backup is not read[0] and backup.created_at > read[0].created_at - _hours(hours):
                kept[backup.id].append(f"within {hours:g} h of the newest")
        for number, backup in enumerate(own if rules.keep_last else (), 1):
            if number <= rules.keep_last:
                kept[backup.id].append(f"last {number} of {rules.keep_last}")
            else:
                nearest[backup.id] = f"it is number {number} of its type, keep_last keeps {rules.keep_last}"
        nearest |= _count(own, rules, zone, kept)
    return [Verdict(b, tuple(kept[b.id]), "" if kept[b.id] else _dropped(b, nearest)) for b in newest_first]


def _dropped(backup: BackupSummary, nearest: Mapping[BackupId, str]) -> str:
    if backup.aside:
        return f"it was made {'for' if backup.recovered else 'before'} a restore, and its term is over"
    near = nearest.get(backup.id, f"no period is counted for {backup.type} backups")
    return f"no rule keeps it: {near}"


def _count(
    newest_first: Sequence[BackupSummary], rules: RetentionClass, zone: ZoneInfo, kept: dict[BackupId, list[str]]
) -> dict[BackupId, str]:
    """Add the rules by period to `kept`; how far each backup is from the period rule that comes nearest to keeping it."""
    nearest: dict[BackupId, tuple[int, str]] = {}
    for period, (bucket_of, unit) in _PERIODS.items():
        limit: int = getattr(rules, f"keep_{period}")
        if not limit:
            continue
        first: dict[Bucket, tuple[int, BackupId]] = {}
        for backup in newest_first:
            number, best = first.setdefault(bucket_of(backup.created_at.astimezone(zone)), (len(first) + 1, backup.id))
            if number <= limit and best == backup.id:
                kept[backup.id].append(f"{period} {number} of {limit}")
                continue
            near = (
                (0, f"{period} keeps {best} of the same {unit}")
                if number <= limit
                else (number - limit, f"its {unit} is number {number}, {period} keeps {limit}")
            )
            nearest[backup.id] = min(nearest.get(backup.id, near), near, key=lambda found: found[0])
    return {backup_id: text for backup_id, (_, text) in nearest.items()}


def _hour(moment: datetime) -> Bucket:
    """The offset tells the two hours apart that a clock put back has."""
    offset = moment.utcoffset() or timedelta()
    return (moment.year, moment.month, moment.day, moment.hour, round(offset.total_seconds()))


_PERIODS: dict[str, tuple[Callable[[datetime], Bucket], str]] = {
    "hourly": (_hour, "hour"),
    "daily": (lambda t: (t.year, t.month, t.day), "day"),
    "weekly": (lambda t: tuple(t.isocalendar()[:2]), "week"),
    "monthly": (lambda t: (t.year, t.month), "month"),
}
_CLASSES = {
    BackupType.FULL: "full_backups",
    BackupType.INCREMENTAL: "incremental_backups",
    BackupType.DIFFERENTIAL: "differential_backups",
}
_LONGEST_HOURS = 24.0 * 366 * 1000  # a policy may say "for ever" with any number


def _hours(hours: float) -> timedelta:
    return timedelta(hours=min(hours, _LONGEST_HOURS))


def _zone(policy: RetentionSettings) -> ZoneInfo:
    try:
        return ZoneInfo(policy.time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise SettingsError(
            "No such time zone",
            on=f"retention.time_zone = {policy.time_zone!r}",
            remedy="use a name of the IANA database, e.g. Europe/Dublin",
        ) from None
