"""Runs of the jobs in this process, with the resource of a test in place of the real one."""

from typing import Any

import dagster as dg

from sbh_pipelines.definitions import defs
from sbh_pipelines.orchestration.common.resources import BackupServiceResource


def execute(
    job: str, resource: BackupServiceResource, instance: dg.DagsterInstance, **arguments: Any
) -> dg.ExecuteInProcessResult:
    """A run of the job; how it ended is in the result, also where it failed."""
    bound = dg.Definitions(
        assets=defs.assets,
        jobs=defs.jobs,
        resources={"backups": resource, "io_manager": dg.mem_io_manager},
        executor=dg.in_process_executor,
    )
    return bound.resolve_job_def(job).execute_in_process(instance=instance, raise_on_error=False, **arguments)
