"""Runs as tasks of Celery: the run launcher of an instance with workers on several hosts. `deploy/celery/` has all of it.

It is Dagster's own, with four changes. A run that somebody terminates is cancelled, and not taken for one that broke off, which
Dagster would repeat. A state that Redis has lost is not taken for a worker's death, which would end runs that are at work. A run
that Redis does not take goes back into Dagster's queue. And how Redis is spoken to is said once: `SETTINGS` are
the workers' too.
"""

from typing import Any

import dagster as dg
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG
from kombu.exceptions import OperationalError

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
    "result_backend_always_retry": True,
    # Longer than any run: a state that is forgotten says nothing.
    "result_expires": 7 * 86_400,
    "task_default_queue": "dagster",
    "task_default_priority": 5,
}


class CeleryLauncher(CeleryRunLauncher):
    """Dagster's launcher for Celery; see the module."""

    def app_args(self) -> dict[str, Any]:
        given = super().app_args()
        return {**given, "config_source": {**given["config_source"], **SETTINGS}}

    def launch_run(self, context: LaunchRunContext) -> None:
        try:
            super().launch_run(context)
        except OperationalError as error:
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
        if DAGSTER_CELERY_TASK_ID_TAG in run.tags:
            said = super().check_run_worker_health(run)
            if said.status in (WorkerStatus.SUCCESS, WorkerStatus.FAILED):
                return said
        return CheckRunHealthResult(WorkerStatus.RUNNING)
