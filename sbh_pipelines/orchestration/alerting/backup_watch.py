"""The sensors that watch the backups themselves, and runs that say nothing: what no failed run would tell.

`backup_watch` turns the findings of an examination into conditions. Where something could not be looked at, nothing is
concluded from that: what was known of it stands.
"""

from typing import TYPE_CHECKING

import dagster as dg

from sbh_pipelines.model import timestamp, utc_now
from sbh_pipelines.orchestration.alerting.alert import Alert
from sbh_pipelines.orchestration.alerting.alert_sender import Teller, run_link
from sbh_pipelines.orchestration.alerting.conditions import SEVERITIES, Condition
from sbh_pipelines.orchestration.alerting.stuck_runs import stuck_runs
from sbh_pipelines.orchestration.common.resources import BackupServiceResource, user_of
from sbh_pipelines.orchestration.common.runs import configured, is_ours, tenants_of

if TYPE_CHECKING:  # their drivers are slow to import, and loading the definitions must not need them
    from sbh_pipelines.backup.service.results import Examination, Finding

WATCH, RUNS = "backups", "stuck runs"
_BUDGET_S = 30.0  # a tick may take a minute, and has to send as well
# Told by the runs themselves, by another sensor, or by another finding.
_TOLD_ELSEWHERE = ("backup_failed", "drill_failed", "tenant_unusable", "no_recovery_point")
_OF_AN_OBSERVATION = ("storage_unreachable", "key_trouble", "unreadable")


@dg.sensor(
    name="backup_watch",
    minimum_interval_seconds=300,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells people of missed recovery point objectives, tenants without a backup, unusual sizes, damaged manifests,"
    " retention that is not enforced, overdue drills, and of stores, keys and databases that cannot be reached; once, and"
    " when it is over.",
)
def backup_watch(context: dg.SensorEvaluationContext, backups: BackupServiceResource) -> dg.SkipReason:
    service = backups.service
    seen = service.examine(user_of({}), budget_s=_BUDGET_S)
    found = [condition_of(finding) for finding in seen.findings if finding.kind not in _TOLD_ELSEWHERE]
    teller = Teller(context.instance, WATCH, "sensor backup_watch", service.settings.alerts)
    told = teller.tell(found, unknown=lambda key: unlearned(seen, key))
    for alert in told:
        context.log.info(alert.text())
    return dg.SkipReason(
        f"{len(seen.tenants):,} tenants, {len(found):,} conditions, {len(told):,} alerts"
        + (f"; {len(seen.unseen):,} tenants could not be looked at" if seen.unseen else "")
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


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.STARTED,
    name="break_glass_alerts",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    monitor_all_code_locations=True,
    description="Tells people of each restore that somebody began without the approval of a second person, by breaking the"
    " glass. Restores from the command line are no runs: the audit trail has them.",
)
def break_glass_alerts(context: dg.RunStatusSensorContext, backups: BackupServiceResource) -> None:
    run = context.dagster_run
    reason = configured(run, "break_glass") if is_ours(run) else None
    if not reason:
        return
    settings = backups.service.settings.alerts
    tenants = ", ".join(tenants_of(context.instance, run)) or "a tenant"
    alert = Alert(
        subject=f"A restore of {tenants} without approval: the glass was broken",
        message=f"{run.tags.get('user') or 'Somebody'} said why: {str(reason)[:500]}",
        job=run.job_name,
        run_id=run.run_id,
        at=timestamp(utc_now()),
        tenants=1,
        event="break_glass",
        severity="critical",
        key=f"break_glass/{run.run_id}",
        remedy="ask them; the audit trail has what was restored: `sbh audit list`",
        link=run_link(settings, run.run_id),
    )
    Teller(context.instance, "break glass", run.job_name, settings).tell((), besides=[alert])


@dg.sensor(
    name="run_watch",
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells people of runs at work whose worker is gone, that are over `alerts.run_over_time_s`, or that have"
    " recorded nothing for `alerts.run_silent_s`, although nothing failed.",
)
def run_watch(context: dg.SensorEvaluationContext, backups: BackupServiceResource) -> dg.SkipReason:
    settings = backups.service.settings.alerts
    found = stuck_runs(context.instance, settings)
    told = Teller(context.instance, RUNS, "sensor run_watch", settings).tell(found)
    return dg.SkipReason(f"{len(found):,} runs are stuck, {len(told):,} alerts")
