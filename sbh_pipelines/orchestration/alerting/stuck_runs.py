"""Runs that are at work by Dagster's books and not in fact.

Where the launcher knows about its workers, it is asked. Dagster's default launcher does not: there the code server that
began the run is asked whether it still has it, at the address that the run's tags name. A server that was killed with its
runs does not answer, or is another one by now, which does not know them. Where neither can tell, as under Celery and of runs
started from the command line, a worker that has stopped saying that it lives is gone.

A run whose worker has been silent for longer than a lease lasts is ended: by Dagster's books its tenants would be at work for
hours, and nobody would take them. Should the worker only be cut off and come back, it finds its leases taken, and stops. Silence
is counted by this host's own looks (`hosts/heartbeat.py`): neither a clock that is wrong nor a storage that was away ends a run.
"""

import time
from datetime import timedelta

import dagster as dg

from sbh_pipelines.errors import RunStuck
from sbh_pipelines.orchestration.alerting.alert_sender import AlertSender
from sbh_pipelines.orchestration.alerting.conditions import Condition
from sbh_pipelines.orchestration.common.dagster_internals import CodeServer, worker_is_known_gone
from sbh_pipelines.orchestration.common.names import named, site
from sbh_pipelines.orchestration.common.resources import Backups
from sbh_pipelines.orchestration.common.runs import own_records, tenants_of
from sbh_pipelines.orchestration.hosts.heartbeat import SILENT_S, Silence, Silences, look
from sbh_pipelines.settings import AlertSettings

_MOST = 200
_CONFIRM_S = 20.0  # a run that ends this very moment has no worker either; a database that was away has heard of none
_EVERY_S = 30
_LEASE_MARGIN_S = 5.0
_NAMED = 5
_ASK_S = 5
_GRACE_S = 20.0  # between the start of a run and its worker's first word

_AT_WORK = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING])
_NEVER_LOOKED = Silences()

Answered = dict[tuple[str, int | None, str | None], bool]
"""By address of a code server that failed to say whether it has a run: whether it answered at all."""


def stuck_runs(
    instance: dg.DagsterInstance,
    settings: AlertSettings,
    silences: Silences = _NEVER_LOOKED,
    now: float | None = None,
) -> list[Condition]:
    """A condition for each run that is stuck: its worker is gone, else it is over its time, else it says nothing."""
    moment = time.time() if now is None else now
    found = []
    answered: Answered = {}
    for record in own_records(instance, _AT_WORK, _MOST):
        run = record.dagster_run
        started = record.start_time
        if started is None:
            continue
        error = _why(instance, run, started, settings, moment, silences, answered)
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
    silences: Silences,
    answered: Answered,
) -> tuple[str, RunStuck] | None:
    remedy = "see the run's page; terminate it there, and the next slot, or the sensor's retry, takes its tenants again"
    if (
        run.status is dg.DagsterRunStatus.STARTED
        and now - started > _GRACE_S
        and worker_is_gone(instance, run, silences, answered)
    ):
        silence = silences.by_run.get(run.run_id)
        why = "no process works on it, and nothing has ended it" + (f"; {_described(silence)}" if silence else "")
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


def end_lost_runs(instance: dg.DagsterInstance, lease_s: float, silences: Silences) -> list[str]:
    """End the runs at work whose workers have been gone for longer than their leases last; returns the runs' ids.

    Dagster then repeats them, on whichever host, or the sensor `retry_failed_tenants` does.
    """
    answered, ended = Answered(), []
    enough_s = max(lease_s, SILENT_S) + _LEASE_MARGIN_S
    for record in own_records(instance, dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]), _MOST):
        run = record.dagster_run
        silence = silences.by_run.get(run.run_id)
        if silence is None or silence.lasted_s < enough_s or not worker_is_gone(instance, run, silences, answered):
            continue
        why = f"The run's worker is gone: {_described(silence)}. Its leases have run out, so that others may take over."
        instance.report_run_failed(run, why)
        ended.append(run.run_id)
    return ended


def _described(silence: Silence) -> str:
    return f"{silence.heard.worker} has not been heard of for {timedelta(seconds=round(silence.lasted_s))}"


def worker_is_gone(
    instance: dg.DagsterInstance,
    run: dg.DagsterRun,
    silences: Silences = _NEVER_LOOKED,
    answered: Answered | None = None,
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
        silence = silences.by_run.get(run.run_id)
        return silence is not None and not silence.heard.over and silence.lasted_s > SILENT_S
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
    settings, instance = backups.service.settings, context.instance
    watched = [record.dagster_run.run_id for record in own_records(instance, _AT_WORK, _MOST)]
    silences = look(instance, watched, site().name, time.time())
    found = stuck_runs(instance, settings.alerts, silences)
    ended = end_lost_runs(instance, settings.backup.lease_s, silences)  # also where no channel takes the alerts
    told = AlertSender(instance, "stuck runs", "sensor run_watch", settings.alerts).report(found)
    return dg.SkipReason(f"{len(found):,} runs are stuck, {len(told):,} alerts, {len(ended):,} runs ended")
