"""The digest: how the backups of all tenants stand, told at the times that the settings name, also when nothing is wrong.

It is made of the examination that `backup_watch` makes anyway. No news is good news only to whoever knows that there would be some.
"""

from collections import Counter
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from sbh_pipelines.errors import AlertError, SettingsError
from sbh_pipelines.model import parse_timestamp, size_text, timestamp
from sbh_pipelines.orchestration.alerting.alert import Alert
from sbh_pipelines.orchestration.alerting.alert_sender import AlertSender, run_link
from sbh_pipelines.orchestration.common.dagster_internals import slots_before
from sbh_pipelines.orchestration.common.names import site
from sbh_pipelines.settings import Settings

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import Examination, NewestDrill

_DAY = timedelta(days=1)
_MOST_KINDS = 20


def tell_digest(instance: dg.DagsterInstance, settings: Settings, seen: "Examination") -> str:
    """Tell it if a slot of `alerts.digest` has come since the last tick; what to say of that in the tick.

    Dagster's storage has the slot that was told last, and not the sensor's cursor, which a tick that fails does not move. Where
    there is none, or none that can be read, the next one is the first. Raises SettingsError.
    """
    if not settings.alerts.digest:
        return ""
    try:
        slot = next(slots_before(seen.examined_at, settings.alerts.digest, settings.schedules.time_zone)).timestamp()
    except Exception as error:  # of Dagster's reader of cron lines, which has no error of its own
        raise SettingsError(
            "Not a cron line",
            on=f"alerts.digest = {settings.alerts.digest}",
            why=f"{type(error).__name__}, in the time zone {settings.schedules.time_zone}",
            remedy="five fields, such as 0 7 * * 1-5; empty: no digest",
        ) from None
    key = f"sbh/digest/{site().name}"
    told = _number(instance.run_storage.get_cursor_values({key}).get(key))
    if slot == told:
        return ""
    said = _tell(instance, settings, seen) if told is not None and slot > told else ""
    instance.run_storage.set_cursor_values({key: str(slot)})
    return said


def _tell(instance: dg.DagsterInstance, settings: Settings, seen: "Examination") -> str:
    sender = AlertSender(instance, "digest", "sensor backup_watch", settings.alerts)
    try:
        sender.report((), besides=[digest(settings, seen)])
    except AlertError as error:  # it is owed to the channel
        return f"; {error}"
    return "; the digest was told"


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def digest(settings: Settings, seen: "Examination") -> Alert:
    known = list(seen.observations.values())
    since = seen.examined_at - _DAY
    late = {finding.tenant for finding in seen.findings if finding.kind in ("rpo_missed", "no_backup")}
    promised = (
        f"{len({str(tenant.id) for tenant in seen.tenants} - late - seen.unseen):,} of {len(seen.tenants):,} tenants"
    )
    unlisted = any(finding.kind == "source_unreachable" for finding in seen.findings)
    fresh = [one for one in known if one.newest is not None and one.newest.created_at >= since]
    kinds = Counter(finding.kind for finding in seen.findings)
    wrong = "nothing" if not kinds else "1 thing" if kinds.total() == 1 else f"{kinds.total():,} things"
    ages = [age for age in seen.ages.values() if age is not None]
    lines = [
        "Which tenants there are could not be read: the application's database does not answer."
        if unlisted
        else f"{promised} are as recent as was promised"
        + (f"; the oldest recovery point is {_span(max(ages))} old" if ages else ""),
        f"{len(fresh):,} tenants have a backup that was made in the last day; there are"
        f" {sum(one.backups.count for one in known):,} in all, which took {size_text(sum(one.backups.stored for one in known))}",
        f"{sum(_drilled(one.newest_drill, since) for one in known):,} tenants were drilled in the last day",
        "Nothing is wrong."
        if not kinds
        else "Wrong: " + ", ".join(f"{kind} ({count:,})" for kind, count in kinds.most_common(_MOST_KINDS)),
    ]
    if seen.unseen:
        lines.append(f"{len(seen.unseen):,} tenants could not be looked at.")
    unseen = f", {len(seen.unseen):,} unknown" if seen.unseen else ""
    how = "the tenants are unknown" if unlisted else f"{promised} as promised{unseen}"
    return Alert(
        subject=f"Backups: {how}, {wrong} wrong",
        message="\n".join(lines),
        job="sensor backup_watch",
        run_id="",
        at=timestamp(seen.examined_at),
        tenants=len(seen.tenants),
        event="digest",
        severity="info",
        key="digest",
        remedy="`sbh health` names each" if kinds else "",
        link=run_link(settings.alerts, ""),
    )


def _drilled(drill: "NewestDrill | None", since: datetime) -> bool:
    return drill is not None and bool(drill.finished_at) and parse_timestamp(drill.finished_at) >= since


def _span(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 72 else f"{hours / 24:.0f} days"
