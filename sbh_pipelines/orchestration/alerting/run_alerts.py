"""What runs tell people: each failure once, and that a later run of the same tenant and type succeeded.

A failed backup, validation, drill or upkeep is a condition of its tenant, which a success ends. A failed restore is told
by itself, for nothing will follow it. Runs are dealt with in the order in which Dagster's sensors come to them, so a run
that succeeded meanwhile is looked for before a failure is told.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import dagster as dg

from sbh_pipelines.orchestration.alerting.alert import Alert
from sbh_pipelines.orchestration.alerting.alert_sender import AlertSender, run_link, with_state
from sbh_pipelines.orchestration.alerting.conditions import Condition, Notice
from sbh_pipelines.orchestration.common.names import site
from sbh_pipelines.orchestration.common.runs import (
    BACKUP,
    DRILL_OPERATION,
    JOURNAL_DRAIN,
    configured,
    operation_of,
    own_records,
    tenants_of,
    types_of,
)
from sbh_pipelines.settings import AlertSettings
from sbh_pipelines.settings.alerts import Severity

NAME = "runs"
_VALIDATE = "validate"
_COPY_RUN = "copy_run"
_RECURRING = (
    BACKUP,
    _VALIDATE,
    DRILL_OPERATION,
    "prune",
    "retention",
    "platform_backup",
    "key_rotation",
    _COPY_RUN,
    JOURNAL_DRAIN,
)
_AGAIN_S = 60.0  # the next drain reads what a failed one did not: people are told of the second that fails in a row
_LOOKED_AT = 500  # runs that succeeded after a failure


def report_failure(
    instance: dg.DagsterInstance, run: dg.DagsterRun, alert: Alert, crashed: bool, settings: AlertSettings
) -> list[Alert]:
    """Report the conditions that a failed run shows; returns the alerts that were sent. `alert` says what happened in it."""
    sender = AlertSender(instance, NAME, alert.job, settings)
    alert = replace(alert, link=run_link(settings, run.run_id), severity=_severity(run), event=_event(run))
    if operation_of(run) not in _RECURRING:
        return sender.report((), unknown=lambda key: True, besides=[replace(alert, key=f"run_failed/{run.run_id}")])
    ended = _succeeded(instance, run)
    failed = {record.tenant for record in alert.failed_tenants}
    whose = sorted(failed) or (tenants_of(instance, run) if crashed else [])
    found = [c for c in _conditions(run, alert, whose) if not _in(c.key, ended)]
    went_well = _keys(run, [t for t in tenants_of(instance, run) if t not in failed]) if failed else set()

    def build(notice: Notice) -> Alert:
        of_this = any(condition.run_id == run.run_id for condition in notice.conditions)
        return with_state(alert, notice) if of_this else sender.alert(notice)

    return sender.report(found, unknown=lambda key: key not in went_well, build=build)


def report_success(instance: dg.DagsterInstance, run: dg.DagsterRun, settings: AlertSettings) -> list[Alert]:
    """Report the conditions of its tenants that a successful run has ended; returns the alerts that were sent."""
    sender = AlertSender(instance, NAME, run.job_name, settings)
    over = [key for key in sender.open_keys() if _in(key, [_Ended.of(instance, run)])]
    if not over:
        return sender.report((), unknown=lambda key: True)  # something may be owed
    return sender.report((), unknown=lambda key: key not in over)


@dataclass(frozen=True, slots=True)
class _Ended:
    """What a success ends: conditions of these kinds, of these tenants; None: of all."""

    kinds: Collection[str]
    tenants: frozenset[str] | None

    @classmethod
    def of(cls, instance: dg.DagsterInstance, run: dg.DagsterRun) -> "_Ended":
        tenants, kinds = tenants_of(instance, run), _kinds(run)
        if operation_of(run) == _COPY_RUN:
            # One for some tenants says nothing of the others; one for all also ends what a run of every copy failed with.
            return cls(kinds, frozenset(tenants)) if tenants else cls([*kinds, f"run_failed.{_COPY_RUN}"], None)
        return cls(kinds, frozenset([*tenants, ""]) if tenants else None)


def _in(key: str, ended: Iterable[_Ended]) -> bool:
    kind, _, subject = key.partition("/")
    return any(_of(kind, one.kinds) and (one.tenants is None or subject in one.tenants) for one in ended)


def _of(kind: str, kinds: Collection[str]) -> bool:
    """Whether it is one of these, or of a copy where these are of all copies."""
    return kind in kinds or any(kind.startswith(f"{one}.") for one in kinds)


def _succeeded(instance: dg.DagsterInstance, run: dg.DagsterRun) -> list[_Ended]:
    """What runs have ended that succeeded since this one ended."""
    record = instance.get_run_record_by_id(run.run_id)
    if record is None or record.end_time is None:
        return []
    since = datetime.fromtimestamp(record.end_time, UTC)
    succeeded = dg.RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS], updated_after=since, tags=site().tags)
    later = own_records(instance, succeeded, _LOOKED_AT)
    own = [found for found in later if found.start_time and found.start_time > record.end_time]
    return [_Ended.of(instance, found.dagster_run) for found in own]


def _conditions(run: dg.DagsterRun, alert: Alert, whose: Sequence[str]) -> list[Condition]:
    remedies = {record.tenant: record.remedy for record in alert.failed_tenants}
    found = []
    for kind in _kinds(run):
        for tenant in whose or [""]:
            found.append(
                Condition(
                    f"{kind}/{tenant}",
                    alert.subject,
                    alert.message,
                    alert.severity,
                    tenant,
                    remedies.get(tenant) or "see the run's page",
                    run.run_id,
                    delay_s=_AGAIN_S if operation_of(run) == JOURNAL_DRAIN else 0.0,
                    group=run.run_id,
                )
            )
    return found


def _kinds(run: dg.DagsterRun) -> list[str]:
    operation = operation_of(run)
    if operation == BACKUP:
        return [f"backup_failed.{kind}" for kind in types_of(run)]
    if operation == _VALIDATE:
        return ["verification_failed"]
    if operation == _COPY_RUN and (name := configured(run, "copy_name")):
        return [f"run_failed.{operation}.{name}"]
    return ["drill_failed"] if operation == DRILL_OPERATION else [f"run_failed.{operation}"]


def _keys(run: dg.DagsterRun, tenants: Iterable[str]) -> set[str]:
    return {f"{kind}/{tenant}" for tenant in tenants for kind in _kinds(run)}


def _event(run: dg.DagsterRun) -> str:
    """Backups and all the rest are `run_failed`, as they always were."""
    named = {_VALIDATE: "verification_failed", DRILL_OPERATION: "drill_failed"}
    return named.get(operation_of(run), "run_failed")


def _severity(run: dg.DagsterRun) -> Severity:
    return "critical" if operation_of(run) == _VALIDATE else "error"
