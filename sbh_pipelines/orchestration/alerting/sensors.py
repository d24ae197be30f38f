"""The sensors of the tenants table, and of runs that fail, succeed or begin without approval.

Two sensors stand with what they find: `backup_watch.py` has that of the backups themselves, `stuck_runs.py` that of runs
that say nothing.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import dagster as dg

from sbh_pipelines.errors import AlertError
from sbh_pipelines.model import BackupType, timestamp, utc_now
from sbh_pipelines.orchestration.alerting.alert import Alert
from sbh_pipelines.orchestration.alerting.alert_sender import AlertSender, run_link
from sbh_pipelines.orchestration.alerting.conditions import Condition
from sbh_pipelines.orchestration.alerting.locations import EVERY_S, SYNC, not_alone
from sbh_pipelines.orchestration.alerting.run_alerts import report_failure, report_success
from sbh_pipelines.orchestration.alerting.run_changes import runs_since
from sbh_pipelines.orchestration.backups.jobs import fleet_backup_job
from sbh_pipelines.orchestration.backups.schedules import fleet_config
from sbh_pipelines.orchestration.common.assets import TENANTS, tenants_partitions
from sbh_pipelines.orchestration.common.failed_tenants import FAILED_TENANTS, FailedTenant
from sbh_pipelines.orchestration.common.names import named
from sbh_pipelines.orchestration.common.resources import Backups, same_user
from sbh_pipelines.orchestration.common.runs import (
    TYPE_TAG,
    configured,
    is_ours,
    makes_backups,
    same_region,
    tenants_of,
    types_of,
)
from sbh_pipelines.settings import AlertSettings

ATTEMPT_TAG = "sbh/attempt"
RETRY_OF_TAG = "sbh/retry_of"
ATTEMPTS = 3
"""Runs a tenant gets for one slot, the first included."""

MOST_GONE = 0.5
"""A listing that lost more than this share of the tenants is not believed: no partition is removed because of it."""

WILL_RETRY_TAG = "dagster/will_retry"


@dg.sensor(
    name=named(SYNC),
    minimum_interval_seconds=EVERY_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Keeps the partitions in step with the tenants table. A tenant that is gone from the table loses its"
    " partition, not its backups; nothing is removed when the table is empty, cannot be read, or lost more than half. Where"
    " another code location has the same `site.name`, nothing is changed, and people are told.",
)
def tenants_sync(context: dg.SensorEvaluationContext, backups: Backups) -> dg.SensorResult | dg.SkipReason:
    _require_alone(context, backups.service.settings.alerts)
    listed = [str(tenant.id) for tenant in backups.service.tenants.all()]
    have = set(context.instance.get_dynamic_partitions(TENANTS))
    new = [tenant for tenant in listed if tenant not in have]
    gone = sorted(have - set(listed))
    too_many = bool(gone) and (not listed or len(gone) > max(1, MOST_GONE * len(have)))
    if too_many:
        context.log.warning(
            f"{len(gone)} of {len(have)} partitions have no tenant in the table any more: none of them is removed. If"
            " these tenants are really gone, delete their partitions on the page of the asset."
        )
        gone = []
    if not new and not gone:
        return dg.SkipReason(
            f"In step: {len(listed)} tenants" if not too_many else "The listing lost too many tenants to be believed"
        )
    context.log.info(f"{len(new)} tenants are new, {len(gone)} are gone")
    requests = [tenants_partitions.build_add_request(new)] if new else []
    removals = [tenants_partitions.build_delete_request(gone)] if gone else []
    return dg.SensorResult(dynamic_partitions_requests=[*requests, *removals])


def _require_alone(context: dg.SensorEvaluationContext, settings: AlertSettings) -> None:
    """Raises SiteNotAlone. People are told once it has stood for longer than a renamed code location is remembered."""
    error = not_alone(context.instance)
    found = []
    if error is not None:
        found = [Condition("site_not_alone", error.what, str(error), "critical", remedy=error.remedy, delay_s=300.0)]
    try:
        AlertSender(context.instance, "site", f"sensor {SYNC}", settings).report(found)
    except AlertError as undelivered:  # the next tick sends it; the partitions need not wait for it
        context.log.warning(str(undelivered))
    if error is not None:
        raise error


@dg.sensor(
    name=named("unusable_tenants"),
    minimum_interval_seconds=3600,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells people when the tenants table lists tenants that cannot be backed up (slug malformed, shared or"
    " missing): they have no partition and are in no backup. Told again when there are others, and when it is over.",
)
def unusable_tenants(context: dg.SensorEvaluationContext, backups: Backups) -> dg.SkipReason:
    errors = sorted(backups.service.tenants.unusable(), key=str)
    found = [
        Condition(
            f"tenant_unusable/{sha256(str(error).encode()).hexdigest()[:24]}",
            "A tenant is in no backup",
            str(error),
            remedy=error.remedy,
        )
        for error in errors
    ]
    settings = backups.service.settings.alerts
    AlertSender(context.instance, "tenants", "sensor unusable_tenants", settings).report(found)
    return dg.SkipReason(
        f"{len(errors)} tenants are in no backup; first: {errors[0]}" if errors else "Every tenant can be backed up"
    )


@dg.run_failure_sensor(
    name=named("failure_alerts"),
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    monitor_all_code_locations=True,  # runs started from the command line belong to none
    description="Tells people about every failed run of this code location, by the channels of `[alerts]`; a tenant that"
    " fails again is not told again until it has succeeded, or a day has passed. If a channel does not take it, the tick"
    " shows which one and why.",
)
def failure_alerts(context: dg.RunFailureSensorContext, backups: Backups) -> None:
    if is_ours(context.dagster_run):
        alert, (_, crashed) = alert_of(context), failed_tenants(context)
        context.log.info(alert.text())
        report_failure(context.instance, context.dagster_run, alert, crashed, backups.service.settings.alerts)


@dg.sensor(
    name=named("recovery_notices"),
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells people that what failed has succeeded since: a backup of the same tenant and type, a validation or"
    " a drill of the same tenant, or the same job.",
)
def recovery_notices(context: dg.SensorEvaluationContext, backups: Backups) -> dg.SkipReason:
    told, undelivered = 0, ""
    runs = runs_since(context, dg.DagsterEventType.RUN_SUCCESS)
    for run in runs:
        try:
            told += len(report_success(context.instance, run, backups.service.settings.alerts))
        except AlertError as error:  # it is owed to the channel; the other runs are told of all the same
            undelivered = f"; {error}"
    return dg.SkipReason(f"{len(runs):,} runs succeeded, {told:,} recoveries were told{undelivered}")


@dg.run_failure_sensor(
    name=named("retry_failed_tenants"),
    minimum_interval_seconds=300,
    default_status=dg.DefaultSensorStatus.RUNNING,
    monitor_all_code_locations=True,
    request_job=fleet_backup_job,
    description="Backs up again, with a backup of the same type, the tenants of a failed run whose errors may pass by"
    f" themselves, and all tenants of a run that crashed: at most {ATTEMPTS} runs in all. Errors that need somebody are"
    " not retried.",
)
def retry_failed_tenants(context: dg.RunFailureSensorContext) -> list[dg.RunRequest] | dg.SkipReason:
    run = context.dagster_run
    if not makes_backups(run):
        return dg.SkipReason(f"Run {run.run_id} made no backups")
    if run.tags.get(WILL_RETRY_TAG) == "true":
        return dg.SkipReason(f"Dagster itself repeats run {run.run_id}")
    attempt = int(run.tags.get(ATTEMPT_TAG, "1"))
    if attempt >= ATTEMPTS:
        return dg.SkipReason(f"Run {run.run_id} was attempt {attempt} of {ATTEMPTS}")
    failed, crashed = failed_tenants(context)
    by_type = {made: _to_retry(failed, made) for made in types_of(run)}
    if crashed:
        by_type = dict.fromkeys(by_type, tenants_of(context.instance, run))
    requests = [
        dg.RunRequest(
            run_key=f"retry/{run.run_id}/{made}",
            run_config=fleet_config(tenants, made, f"attempt {attempt + 1} after run {run.run_id}"),
            tags={
                **same_region(run.tags),
                **same_user(run.tags),  # a run of somebody with few rights is not repeated with all of them
                ATTEMPT_TAG: str(attempt + 1),
                RETRY_OF_TAG: run.run_id,
                TYPE_TAG: str(made),
            },
        )
        for made, tenants in by_type.items()
        if tenants
    ]
    return requests or dg.SkipReason(f"No tenant of run {run.run_id} failed with an error that may pass by itself")


def _to_retry(failed: Sequence[FailedTenant], made: BackupType) -> list[str]:
    """Tenants whose backup of this type failed with an error that may pass by itself."""
    return sorted({record.tenant for record in failed if record.transient and record.type in (None, made)})


def alert_of(context: dg.RunFailureSensorContext) -> Alert:
    """The alert about a failed run."""
    run = context.dagster_run
    failed, crashed = failed_tenants(context)
    tenants = tenants_of(context.instance, run)
    names = [record.tenant for record in failed] or tenants
    who = names[0] if len(names) == 1 else f"{len(names)} tenants" if names else ""
    message = context.failure_event.message or "The run failed"
    steps = context.get_step_failure_events()
    if steps:
        data = steps[0].step_failure_data
        said = data.user_failure_data.description if data.user_failure_data else None
        message = f"{steps[0].step_key}: {said or _summary(data.error)}"
    elif crashed:
        named = ", ".join(tenants[:20]) + (" …" if len(tenants) > 20 else "")
        message = (
            f"The run ended without a word: its worker died, or it was ended by hand. It was for {named or 'all'}."
        )
        message += " Dagster repeats it." if run.tags.get(WILL_RETRY_TAG) == "true" else ""
    assets = ", ".join(key.to_user_string() for key in run.asset_selection or ())
    what = assets if assets and run.job_name.startswith("__") else run.job_name  # Dagster's own jobs say nothing
    types = _types(run)
    what += f" ({types})" if types and not all(made in what for made in types.split(", ")) else ""
    return Alert(
        subject=f"{what} failed" + (f": {who}" if who else ""),
        message=message,
        job=what,
        run_id=run.run_id,
        at=timestamp(utc_now()),
        failed_tenants=tuple(failed),
        tenants=len(tenants) or len(failed),
        backup_type=types,
    )


def failed_tenants(context: dg.RunFailureSensorContext) -> tuple[list[FailedTenant], bool]:
    """The records of the tenants that failed, and whether the run crashed: then no step has said anything."""
    events = context.get_step_failure_events()
    records: list[FailedTenant] = []
    for event in events:
        data = event.step_failure_data.user_failure_data
        entry = data.metadata.get(FAILED_TENANTS) if data else None
        if entry is not None and isinstance(entry.value, list):
            records += [FailedTenant.from_dict(record) for record in entry.value]
    return records, not events


def _types(run: dg.DagsterRun) -> str:
    return ", ".join(types_of(run)) if makes_backups(run) else ""


def _summary(error: Any) -> str:
    """The innermost error of a step: its kind and the first line of its text."""
    while error is not None and error.cause is not None:
        error = error.cause
    return " ".join(str(error.message).split())[:500] if error is not None else "an error without a description"


@dg.sensor(
    name=named("break_glass_alerts"),
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells people of each restore that somebody began without the approval of a second person, by breaking the"
    " glass. Restores from the command line are no runs: the audit trail has them.",
)
def break_glass_alerts(context: dg.SensorEvaluationContext, backups: Backups) -> dg.SkipReason:
    settings = backups.service.settings.alerts
    runs = runs_since(context, dg.DagsterEventType.RUN_START)
    alerts = [_of_broken_glass(context.instance, run, settings) for run in runs if configured(run, "break_glass")]
    try:
        AlertSender(context.instance, "break glass", "sensor break_glass_alerts", settings).report((), besides=alerts)
    except AlertError as error:  # it is owed to the channel: the next tick sends it there
        return dg.SkipReason(str(error))
    return dg.SkipReason(f"{len(alerts):,} restores began without approval, of {len(runs):,} runs that began")


def _of_broken_glass(instance: dg.DagsterInstance, run: dg.DagsterRun, settings: AlertSettings) -> Alert:
    tenants = ", ".join(tenants_of(instance, run)) or "a tenant"
    reason = str(configured(run, "break_glass"))
    return Alert(
        subject=f"A restore of {tenants} without approval: the glass was broken",
        message=f"{run.tags.get('user') or 'Somebody'} said why: {reason[:500]}",
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
