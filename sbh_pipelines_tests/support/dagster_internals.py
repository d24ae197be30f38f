"""What only tests use of Dagster that Dagster does not export: its scheduler's and sensors' loops, its GraphQL schema, its routes."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.timestamp import TimestampWithTimezone
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.scheduler.instigation import InstigatorTick
from dagster._core.storage.defs_state import base as defs_state
from dagster._core.test_utils import InProcessTestWorkspaceLoadTarget, create_test_daemon_workspace_context, freeze_time
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._daemon.sensor import execute_sensor_iteration
from dagster._grpc.types import ExecuteRunArgs
from dagster._scheduler.scheduler import launch_scheduled_runs
from dagster._serdes import pack_value
from dagster._utils.tags import TagConcurrencyLimitsCounter

__all__ = [
    "InstigatorTick",
    "OpenInstances",
    "TagConcurrencyLimitsCounter",
    "TimestampWithTimezone",
    "WorkspaceProcessContext",
    "create_test_daemon_workspace_context",
    "execute_sensor_iteration",
    "freeze_time",
    "graphql_schema",
    "launch_scheduled_runs",
    "task_of_queued_run",
    "task_of_run",
    "webserver_routes",
    "workspace_of",
]

ORDER_OF_SCHEDULES = "dagster._scheduler.scheduler.shuffled_round_robin_by_key"
"""The function that gives the scheduler's loop its schedules in random order."""


class OpenInstances:
    """Where each instance of Dagster was opened that is still open."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._opened: dict[object, str] = {}
        original = defs_state.set_defs_state_storage  # which an instance enters when it is opened

        @contextmanager
        def noted(storage: Any) -> Iterator[None]:
            mark = object()
            self._opened[mark] = "".join(traceback.format_stack(limit=12))
            try:
                with original(storage):
                    yield
            finally:
                del self._opened[mark]

        monkeypatch.setattr(defs_state, "set_defs_state_storage", noted)

    def places(self) -> list[str]:
        return list(self._opened.values())


def workspace_of(module: str, attribute: str) -> InProcessTestWorkspaceLoadTarget:
    """A workspace with the definitions of a module in this process."""
    where = LoadableTargetOrigin(module_name=module, attribute=attribute)
    return InProcessTestWorkspaceLoadTarget(InProcessCodeLocationOrigin(where))


def graphql_schema() -> Any:
    """The GraphQL schema of Dagster's web server."""
    from dagster_graphql.schema import create_schema

    return create_schema().graphql_schema


def webserver_routes() -> list[Any]:
    """The routes of Dagster's web application, as Starlette has them."""
    from dagster_webserver.webserver import DagsterWebserver

    return list(DagsterWebserver(None).build_routes())  # type: ignore[arg-type]


def task_of_run(instance: dg.DagsterInstance, run_id: str, job: dg.JobDefinition) -> Any:
    """The argument of the task of Celery that begins a run, as Dagster's launcher makes it."""
    return _task(instance, run_id, dg.reconstructable(job).get_python_origin())


def task_of_queued_run(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Any:
    """The same of a run that a code server has made: its job is where the run says."""
    return _task(instance, run.run_id, run.job_code_origin)


def _task(instance: dg.DagsterInstance, run_id: str, origin: Any) -> Any:
    return pack_value(ExecuteRunArgs(origin, run_id, instance.get_ref()))
