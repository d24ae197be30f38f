"""Runs of the jobs in this process, with the resource of a test in place of the real one."""

from typing import Any

import dagster as dg

from sbh_pipelines.definitions import defs
from sbh_pipelines.orchestration.common.outputs import no_values
from sbh_pipelines.orchestration.common.resources import BackupServiceResource


def execute(
    job: str, resource: BackupServiceResource, instance: dg.DagsterInstance, **arguments: Any
) -> dg.ExecuteInProcessResult:
    """A run of the job; how it ended is in the result, also where it failed."""
    bound = dg.Definitions(
        assets=defs.assets,
        jobs=defs.jobs,
        resources={"backups": resource, "io_manager": no_values},
        executor=dg.in_process_executor,
    )
    return bound.resolve_job_def(job).execute_in_process(instance=instance, raise_on_error=False, **arguments)


def tick(
    sensor: dg.SensorDefinition, instance: dg.DagsterInstance, resource: BackupServiceResource, cursor: str | None
) -> str:
    """A tick of a sensor that keeps a cursor; the cursor after it."""
    with dg.build_sensor_context(instance, cursor=cursor, resources={"backups": resource}) as context:
        return str(sensor.evaluate_tick(context).cursor)
