"""Runs as tasks of Celery: the run launcher of an instance with workers on several hosts. `deploy/celery/` has all of it.

It is Dagster's own, with four changes. A run that somebody terminates is cancelled, and not taken for one that broke off, which
Dagster would repeat. A state that Redis has lost is not taken for a worker's death, which would end runs that are at work. A run
that Redis does not take goes back into Dagster's queue. And how Redis is spoken to is said once: `SETTINGS` are the workers'
too. Only in patience they differ: a worker waits for Redis, while sensors and the daemon, who ask the launcher, have a minute.
"""

import time
from typing import Any

import dagster as dg
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from sbh_pipelines.orchestration.common.dagster_internals import (
    CheckRunHealthResult,
    LaunchRunContext,
    TryLaunchingAgain,
    WorkerStatus,
)

SETTINGS: dict[str, Any] = {
    # A worker takes a run when it has a place for it. What one has fetched before dies with it, and is only missed hours later.
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": True,
    # A run of which something is done is repeated by Dagster, which knows that, and not by Celery.
    "task_acks_late": False,
    # A process for each run, as everywhere in Dagster: memory goes back to the system, and signals have their meaning.
    "worker_max_tasks_per_child": 1,
    # What a run writes goes to the streams that Dagster captures, and is not taken into Celery's own log.
    "worker_redirect_stdouts": False,
    # Redis may be away for as long as it likes.
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "broker_transport_options": {"visibility_timeout": 86_400, "socket_keepalive": True},
    # Longer than any run: a state that is forgotten says nothing.
    "result_expires": 7 * 86_400,
    "task_default_queue": "dagster",
    "task_default_priority": 5,
}

OF_A_WORKER: dict[str, Any] = {**SETTINGS, "result_backend_always_retry": True}

_ANSWER_S = 3.0
_AWAY_S = 20.0  # a Redis that did not answer for one run is not asked for the others: each would wait as long
_ONCE_MORE = {"max_retries": 1, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.2}

OF_THE_LAUNCHER: dict[str, Any] = {
    **SETTINGS,
    # Without a bound Celery asks for a state for ever, and each tick of a sensor would leave a thread behind.
    "result_backend_always_retry": False,
    "result_backend_transport_options": {"retry_policy": _ONCE_MORE},
    "redis_socket_timeout": _ANSWER_S,
    "redis_socket_connect_timeout": _ANSWER_S,
    "broker_transport_options": {
        **SETTINGS["broker_transport_options"],
        "socket_timeout": _ANSWER_S,
        "socket_connect_timeout": _ANSWER_S,
    },
    "task_publish_retry_policy": _ONCE_MORE,
}


class CeleryLauncher(CeleryRunLauncher):
    """Dagster's launcher for Celery; see the module."""

    _asked_again_at = 0.0

    def app_args(self) -> dict[str, Any]:
        given = super().app_args()
        return {**given, "config_source": {**given["config_source"], **OF_THE_LAUNCHER}}

    def launch_run(self, context: LaunchRunContext) -> None:
        try:
            super().launch_run(context)
        except (OperationalError, RedisError, RuntimeError) as error:  # the last is Celery's, of its backend for states
            # The one kind of error after which Dagster's queue tries again. A run that arrived all the same is begun once.
            raise TryLaunchingAgain(f"Redis did not take the run: {type(error).__name__}") from None

    def terminate(self, run_id: str) -> bool:
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished or DAGSTER_CELERY_TASK_ID_TAG not in run.tags:
            return False
        self._instance.report_run_canceling(run)
        return super().terminate(run_id)

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Celery knows of workers that ended. Of the others it does not know whether they live: their heartbeats say that."""
        if DAGSTER_CELERY_TASK_ID_TAG in run.tags and time.monotonic() >= self._asked_again_at:
            try:
                said = super().check_run_worker_health(run)
            except Exception:  # every kind that the backends of Celery have
                self._asked_again_at = time.monotonic() + _AWAY_S
                return CheckRunHealthResult(WorkerStatus.RUNNING)
            if said.status in (WorkerStatus.SUCCESS, WorkerStatus.FAILED):
                return said
        return CheckRunHealthResult(WorkerStatus.RUNNING)
