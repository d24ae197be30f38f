"""What a worker of Celery loads: `celery -A sbh_pipelines.orchestration.hosts.celery_worker worker -Q dagster,eu-west-1 -c 2`.

Where Redis is says the environment: SBH_CELERY_BROKER, and SBH_CELERY_BACKEND for the state of tasks. The application of
dagster-celery also runs single steps, of whatever code the task names: whoever writes to Redis could run what they like on every
worker. This one knows a single task, which begins a run that is in Dagster's storage already.
"""

import os
from typing import Any

import dagster as dg
from celery import Celery, Task
from dagster_celery.tasks import create_execute_job_task

from sbh_pipelines.orchestration.common.dagster_internals import run_of_task
from sbh_pipelines.orchestration.hosts.celery_launcher import OF_A_WORKER
from sbh_pipelines.orchestration.hosts.heartbeat import beating_process

app = Celery(
    "dagster",
    broker=os.environ.get("SBH_CELERY_BROKER"),
    backend=os.environ.get("SBH_CELERY_BACKEND") or os.environ.get("SBH_CELERY_BROKER"),
    # Imported before the process of a run is forked: the same four seconds for every run otherwise.
    include=["sbh_pipelines.definitions", "sbh_pipelines.backup.service.service"],
    config_source=OF_A_WORKER,
)


class RunTask(Task):  # type: ignore[misc]
    """A run, whose process says that it lives: also while a run with a process for each step waits for a pool or a retry."""

    def __call__(self, execute_job_args_packed: dict[str, Any]) -> Any:
        with dg.DagsterInstance.get() as instance, beating_process(instance, run_of_task(execute_job_args_packed)):
            return self.run(execute_job_args_packed=execute_job_args_packed)


execute_job = create_execute_job_task(app, base=RunTask)  # type: ignore[arg-type]
