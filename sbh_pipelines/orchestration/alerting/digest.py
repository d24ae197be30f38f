"""The digest: how the backups of all tenants stand, told at the times that the settings name, also when nothing is wrong.

It is made of the examination that `backup_watch` makes anyway. No news is good news only to whoever knows that there would be some.
"""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from sbh_pipelines.errors import AlertError, SettingsError
from sbh_pipelines.model import size_text, timestamp
from sbh_pipelines.orchestration.alerting.alert import Alert
from sbh_pipelines.orchestration.alerting.alert_sender import AlertSender, run_link
from sbh_pipelines.orchestration.common.dagster_internals import slots_before
from sbh_pipelines.settings import Settings

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import Examination

_DAY = timedelta(days=1)
_MOST_KINDS = 20


def tell_digest(context: dg.SensorEvaluationContext, settings: Settings, seen: "Examination") -> str:
    """Tell it if a slot of `alerts.digest` has come since the last tick; what to say of that in the tick.

    The sensor's cursor has the slot that was told last. Where there is none, the next one is the first. Raises SettingsError.
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
    told = context.cursor
    context.update_cursor(str(slot))
    if not told or slot <= float(told):
        return ""
    sender = AlertSender(context.instance, "digest", "sensor backup_watch", settings.alerts)
    try:
        sender.report((), besides=[digest(settings, seen)])
    except AlertError as error:  # it is owed to the channel
        return f"; {error}"
    return "; the digest was told"


def digest(settings: Settings, seen: "Examination") -> Alert:
    known = list(seen.observations.values())
    since = seen.examined_at - _DAY
    late = sum(finding.kind in ("rpo_missed", "no_backup") for finding in seen.findings)
    fresh = [one for one in known if one.newest is not None and one.newest.created_at >= since]
    kinds = Counter(finding.kind for finding in seen.findings)
    wrong = "nothing" if not kinds else "1 thing" if kinds.total() == 1 else f"{kinds.total():,} things"
    ages = [age for age in seen.ages.values() if age is not None]
    lines = [
        f"{len(seen.tenants) - late:,} of {len(seen.tenants):,} tenants are as recent as was promised"
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
    return Alert(
        subject=f"Backups: {len(seen.tenants) - late:,} of {len(seen.tenants):,} tenants as promised, {wrong} wrong",
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


def _drilled(drill: object, since: datetime) -> bool:
    at = str(getattr(drill, "finished_at", "") or "")
    try:
        return datetime.fromisoformat(at).astimezone(UTC) >= since
    except ValueError:
        return False


def _span(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 72 else f"{hours / 24:.0f} days"
