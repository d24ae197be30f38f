"""The sensor that watches the backups themselves: what no failed run would tell.

`backup_watch` turns the findings of an examination into conditions. Where something could not be looked at, nothing is
concluded from that: what was known of it stands.
"""

from typing import TYPE_CHECKING

import dagster as dg

from sbh_pipelines.errors import AlertError
from sbh_pipelines.orchestration.alerting.alert import Alert
from sbh_pipelines.orchestration.alerting.alert_sender import AlertSender
from sbh_pipelines.orchestration.alerting.conditions import SEVERITIES, Condition
from sbh_pipelines.orchestration.alerting.digest import tell_digest
from sbh_pipelines.orchestration.common.names import named
from sbh_pipelines.orchestration.common.resources import Backups, user_of

if TYPE_CHECKING:  # their drivers are slow to import, and loading the definitions must not need them
    from sbh_pipelines.backup.service.results import Examination, Finding

_BUDGET_S = 30.0  # a tick may take a minute, and has to send as well
# Told by the runs themselves, by another sensor, or by another finding.
_TOLD_ELSEWHERE = ("backup_failed", "drill_failed", "tenant_unusable", "no_recovery_point")
_OF_AN_OBSERVATION = ("storage_unreachable", "key_trouble", "unreadable")


@dg.sensor(
    name=named("backup_watch"),
    minimum_interval_seconds=300,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells people of missed recovery point objectives, tenants without a backup, unusual sizes, damaged manifests,"
    " retention that is not enforced, overdue drills, a change journal that is behind, has a gap or loses its slot,"
    " copies that are behind or not whole, and of"
    " stores, keys and databases that cannot be reached; once, and when it is over. Tells the digest, where `alerts.digest` has"
    " a cron line.",
)
def backup_watch(context: dg.SensorEvaluationContext, backups: Backups) -> dg.SkipReason:
    service = backups.service
    seen = service.health.examine(user_of({}), budget_s=_BUDGET_S)
    found = [condition_of(finding) for finding in seen.findings if finding.kind not in _TOLD_ELSEWHERE]
    sender = AlertSender(context.instance, "backups", "sensor backup_watch", service.settings.alerts)
    told, undelivered = list[Alert](), None
    try:
        told = sender.report(found, unknown=lambda key: unlearned(seen, key))
    except AlertError as error:  # it is owed to the channel; the digest is told to the others all the same
        undelivered = error
    for alert in told:
        context.log.info(alert.text())
    digested = tell_digest(context.instance, service.settings, seen)
    if undelivered is not None:
        raise undelivered
    return dg.SkipReason(
        f"{len(seen.tenants):,} tenants, {len(found):,} conditions, {len(told):,} alerts"
        + (f"; {len(seen.unseen):,} tenants could not be looked at" if seen.unseen else "")
        + digested
    )


def condition_of(finding: "Finding") -> Condition:
    error = finding.error
    on = f" ({error.on})" if error.on and error.on != finding.tenant else ""
    subject = f"{error.what}: {finding.subject}" if finding.subject else error.what
    return Condition(
        finding.key,
        subject,
        f"[{error.code}] {error.what}{on}" + (f": {error.why}" if error.why else ""),
        next(severity for severity in SEVERITIES if severity == finding.severity),
        finding.tenant,
        error.remedy,
        delay_s=finding.delay_s,
    )


def unlearned(seen: "Examination", key: str) -> bool:
    """Whether the examination learned nothing about this condition, so that its absence means nothing."""
    kind, _, subject = key.partition("/")
    source_down = any(finding.kind == "source_unreachable" for finding in seen.findings)
    if kind == "source_unreachable":
        return False
    if source_down:
        return True
    if kind.startswith("journal_"):
        return not seen.journal.seen or not all(region.store for region in seen.regions.values())
    if kind.startswith("copy_") and kind != "copy_unreadable":
        return subject in seen.copies.unseen
    if kind == "drill_overdue":
        return bool(seen.unseen)
    if subject in seen.regions:
        region = seen.regions[subject]
        if kind == "storage_unreachable":
            return False
        return not region.store or (kind != "key_trouble" and region.key is False)
    if subject in seen.unseen:
        observed = any(tenant == subject for tenant in map(str, seen.observations))
        return not (observed and kind in _OF_AN_OBSERVATION)
    return False
