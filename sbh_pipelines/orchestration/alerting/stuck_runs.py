"""Runs that are at work by Dagster's books and not in fact.

Where the launcher knows about its workers, it is asked. Dagster's default launcher does not: there the code server that
began the run is asked whether it still has it, at the address that the run's tags name. A server that was killed with its
runs does not answer, or is another one by now, which does not know them. Where neither can tell, as under Celery and of runs
started from the command line, a worker that has stopped saying that it lives is gone.

A run whose worker has been silent for longer than a lease lasts is ended: by Dagster's books its tenants would be at work for
hours, and nobody would take them. Should the worker only be cut off and come back, it finds its leases taken, and stops.
"""

import time
from datetime import timedelta

import dagster as dg

from sbh_pipelines.errors import RunStuck
from sbh_pipelines.orchestration.alerting.alert_sender import AlertSender
from sbh_pipelines.orchestration.alerting.conditions import Condition
from sbh_pipelines.orchestration.common.dagster_internals import CodeServer, worker_is_known_gone
from sbh_pipelines.orchestration.common.names import named
from sbh_pipelines.orchestration.common.resources import Backups
from sbh_pipelines.orchestration.common.runs import is_ours, tenants_of
from sbh_pipelines.orchestration.hosts.heartbeat import SILENT_S, Heartbeat, last_heartbeat
from sbh_pipelines.settings import AlertSettings

_MOST = 200
_CONFIRM_S = 20.0  # a run that ends this very moment has no worker either; a database that was away has heard of none
_EVERY_S = 30
_LEASE_MARGIN_S = 5.0
_NAMED = 5
_ASK_S = 5
_GRACE_S = 20.0  # between the start of a run and its worker's first word

Answered = dict[tuple[str, int | None, str | None], bool]
"""By address of a code server that failed to say whether it has a run: whether it answered at all."""


def stuck_runs(instance: dg.DagsterInstance, settings: AlertSettings, now: float | None = None) -> list[Condition]:
    """A condition for each run that is stuck: its worker is gone, else it is over its time, else it says nothing."""
    moment = time.time() if now is None else now
    working = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    records = instance.get_run_records(dg.RunsFilter(statuses=working), limit=_MOST)
    found = []
    answered: Answered = {}
    for record in records:
        run = record.dagster_run
        started = record.start_time
        if not is_ours(run) or started is None:
            continue
        error = _why(instance, run, started, settings, moment, answered)
        if error is None:
            continue
        kind, what = error
        whose = tenants_of(instance, run)
        tenants = ", ".join(whose[:_NAMED]) + (" …" if len(whose) > _NAMED else "")
        found.append(
            Condition(
                f"{kind}/{run.run_id}",
                f"{run.job_name}: {what.what}",
                f"[{what.code}] {what.what}: {what.why}" + (f". It is for {tenants}." if tenants else ""),
                "critical" if kind == "run_worker_gone" else "warning",
                remedy=what.remedy,
                run_id=run.run_id,
                delay_s=_CONFIRM_S if kind == "run_worker_gone" else 0.0,
            )
        )
    return found


def _why(
    instance: dg.DagsterInstance,
    run: dg.DagsterRun,
    started: float,
    settings: AlertSettings,
    now: float,
    answered: Answered,
) -> tuple[str, RunStuck] | None:
    remedy = "see the run's page; terminate it there, and the next slot, or the sensor's retry, takes its tenants again"
    if (
        run.status is dg.DagsterRunStatus.STARTED
        and now - started > _GRACE_S
        and worker_is_gone(instance, run, answered, now)
    ):
        heard = last_heartbeat(instance, run.run_id)
        why = "no process works on it, and nothing has ended it" + (f"; {_heard_of(heard, now)}" if heard else "")
        return "run_worker_gone", RunStuck("a run's worker is gone", why=why, remedy=remedy)
    if now - started > settings.run_over_time_s:
        error = RunStuck(
            "a run takes very long",
            why=f"it has been at work for {timedelta(seconds=round(now - started))}",
            remedy=remedy,
        )
        return "run_over_time", error
    last = instance.get_records_for_run(run.run_id, limit=1, ascending=False).records
    silent = now - (last[0].timestamp if last else started)
    if silent > settings.run_silent_s:
        why = f"its last event is {timedelta(seconds=round(silent))} old"
        return "run_silent", RunStuck("a run says nothing", why=why, remedy=remedy)
    return None


def end_lost_runs(instance: dg.DagsterInstance, lease_s: float, now: float | None = None) -> list[str]:
    """End the runs at work whose workers have been gone for longer than their leases last; returns the runs' ids.

    Dagster then repeats them, on whichever host, or the sensor `retry_failed_tenants` does.
    """
    moment, answered, ended = time.time() if now is None else now, Answered(), []
    silence = max(lease_s, SILENT_S) + _LEASE_MARGIN_S
    for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]), limit=_MOST):
        heard = last_heartbeat(instance, run.run_id) if is_ours(run) else None
        if heard is None or heard.silence_s(moment) < silence or not worker_is_gone(instance, run, answered, moment):
            continue
        why = f"The run's worker is gone: {_heard_of(heard, moment)}. Its leases have run out, so that others may take over."
        instance.report_run_failed(run, why)
        ended.append(run.run_id)
    return ended


def _heard_of(heard: Heartbeat, now: float) -> str:
    return f"{heard.worker} was heard of {timedelta(seconds=round(heard.silence_s(now)))} ago for the last time"


def worker_is_gone(
    instance: dg.DagsterInstance, run: dg.DagsterRun, answered: Answered | None = None, now: float | None = None
) -> bool:
    """Whether it is known that no worker has the run. False where that cannot be found out.

    A machine that is gone keeps its caller waiting: `answered` remembers it, so that it is waited for once and not for each
    of its runs.
    """
    known = {} if answered is None else answered
    gone = worker_is_known_gone(instance, run)
    if gone is not None:
        return gone
    server = CodeServer.of_run(run.tags)
    if server is None:
        heard = last_heartbeat(instance, run.run_id)
        return heard is not None and heard.silence_s(time.time() if now is None else now) > SILENT_S
    if server.address in known:
        return not known[server.address]
    try:
        return not server.has_worker(run.run_id, _ASK_S)
    except Exception:  # every kind that gRPC has: no server is there, or it is no code server
        known[server.address] = server.answers(_ASK_S)
        return not known[server.address]


@dg.sensor(
    name=named("run_watch"),
    minimum_interval_seconds=_EVERY_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells people of runs at work whose worker is gone, that are over `alerts.run_over_time_s`, or that have"
    " recorded nothing for `alerts.run_silent_s`, although nothing failed. Ends those whose worker has been gone for longer"
    " than `backup.lease_s`, so that other hosts take over.",
)
def run_watch(context: dg.SensorEvaluationContext, backups: Backups) -> dg.SkipReason:
    settings = backups.service.settings
    found = stuck_runs(context.instance, settings.alerts)
    told = AlertSender(context.instance, "stuck runs", "sensor run_watch", settings.alerts).report(found)
    ended = end_lost_runs(context.instance, settings.backup.lease_s)
    return dg.SkipReason(f"{len(found):,} runs are stuck, {len(told):,} alerts, {len(ended):,} runs ended")
