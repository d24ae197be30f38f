"""Runs that are at work by Dagster's books and not in fact.

Where the launcher knows about its workers, it is asked. Dagster's default launcher does not: there the code server that
began the run is asked whether it still has it, at the address that the run's tags name. A server that was killed with its
runs does not answer, or is another one by now, which does not know them. Runs started from the command line have no such
address, and are judged by their time only.
"""

import json
import time
from datetime import timedelta
from typing import Any

import dagster as dg
from dagster._core.launcher.base import WorkerStatus  # not exported, like what follows; a test kills a real worker
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._grpc.__generated__.dagster_api_pb2 import PingRequest
from dagster._grpc.client import DagsterGrpcClient
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
from dagster._serdes import deserialize_value

from sbh_pipelines.errors import RunStuck
from sbh_pipelines.orchestration.alerting.conditions import Condition
from sbh_pipelines.orchestration.common.runs import is_ours, tenants_of
from sbh_pipelines.settings import AlertSettings

_MOST = 200
_CONFIRM_S = 30.0  # a run that ends this very moment has no worker either
_NAMED = 5
_ASK_S = 5
_GRACE_S = 20.0  # between the start of a run and its worker's first word


def stuck_runs(instance: dg.DagsterInstance, settings: AlertSettings, now: float | None = None) -> list[Condition]:
    """A condition for each run that is stuck: its worker is gone, else it is over its time, else it says nothing."""
    moment = time.time() if now is None else now
    working = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    records = instance.get_run_records(dg.RunsFilter(statuses=working), limit=_MOST)
    found = []
    answered: dict[tuple[Any, ...], bool] = {}
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
    answered: dict[tuple[Any, ...], bool],
) -> tuple[str, RunStuck] | None:
    remedy = "see the run's page; terminate it there, and the next slot, or the sensor's retry, takes its tenants again"
    if (
        run.status is dg.DagsterRunStatus.STARTED
        and now - started > _GRACE_S
        and worker_is_gone(instance, run, answered)
    ):
        error = RunStuck(
            "a run's worker is gone", why="no process works on it, and nothing has ended it", remedy=remedy
        )
        return "run_worker_gone", error
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


def worker_is_gone(
    instance: dg.DagsterInstance, run: dg.DagsterRun, answered: dict[tuple[Any, ...], bool] | None = None
) -> bool:
    """Whether it is known that no worker has the run. False where that cannot be found out.

    `answered`: servers that failed to tell, and whether they answered at all: a machine that is gone keeps who asks waiting,
    and is waited for once, not for each of its runs.
    """
    known = {} if answered is None else answered
    launcher = instance.run_launcher
    if launcher.supports_check_run_worker_health:
        return launcher.check_run_worker_health(run).status in (WorkerStatus.NOT_FOUND, WorkerStatus.FAILED)
    if GRPC_INFO_TAG not in run.tags:
        return False
    try:
        place = json.loads(run.tags[GRPC_INFO_TAG])
        client = DagsterGrpcClient(
            port=place.get("port"), socket=place.get("socket"), host=place["host"], use_ssl=bool(place.get("use_ssl"))
        )
    except (ValueError, KeyError, TypeError, AttributeError, dg.DagsterError):
        return False
    address = (place.get("host"), place.get("port"), place.get("socket"))
    if address in known:
        return not known[address]
    try:
        said = client.can_cancel_execution(CanCancelExecutionRequest(run_id=run.run_id), timeout=_ASK_S)
        return not deserialize_value(said, CanCancelExecutionResult).can_cancel
    except Exception:  # every kind that gRPC has: nobody is there, or it is no code server
        known[address] = _answers(client)
        return not known[address]


def _answers(client: DagsterGrpcClient) -> bool:
    """A server that is only busy answers a ping."""
    try:
        # `ping` itself waits for a minute, which is longer than a tick may take.
        client._query("Ping", PingRequest, timeout=_ASK_S, echo="")
        return True
    except Exception:
        return False
