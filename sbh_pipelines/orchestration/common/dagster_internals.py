"""What is used of Dagster that Dagster does not export. No other module imports from its private packages.

Checked with the Dagster of `CHECKED_WITH`. A newer one may change any of it without notice: `test_dagster_internals.py` has
a test for each line of this table, and says what to look at.

    materialization_events        many materializations of one step, written to storage together
    keep_connections              an instance's connections to PostgreSQL, kept from one event to the next
    CheckedMaterialization        which materialization the result of an asset check is about
    sensor_locations              which code locations have a sensor of a name, and when each looked last
    schedule_states, ScheduleState, TickStatus
                                  whether a schedule is on, and what has become of its last tick
    slots_before                  the moments of a cron line, backwards, as the scheduler counts them
    worker_is_known_gone          what the run launcher knows of a run's worker, where it knows anything
    CheckRunHealthResult, LaunchRunContext, WorkerStatus, TryLaunchingAgain
                                  what a run launcher is given and answers; what it raises to be asked again
    run_of_task                   which run a task of Celery is to begin
    CodeServer, GRPC_INFO_TAG     a code server, asked whether it lives and whether it has a run's worker
    Workspace, RequestContext     the workspace of the web server, and what each of its requests sees of it
    load_target                   where the workspace finds the definitions
    without_newsletter            the settings of an instance
    web_application               Dagster's web application, to put a guard around it; and its version
    load_run_config_yaml          run configuration as Dagster itself reads it
"""

import json
import threading
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData as CheckedMaterialization,
)
from dagster._core.errors import DagsterUserCodeUnreachableError as TryLaunchingAgain
from dagster._core.events import DagsterEventBatchMetadata
from dagster._core.launcher.base import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster._core.scheduler.instigation import InstigatorState as ScheduleState
from dagster._core.scheduler.instigation import InstigatorType, TickStatus
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._core.workspace.context import WorkspaceProcessContext as Workspace
from dagster._core.workspace.context import WorkspaceRequestContext as RequestContext
from dagster._core.workspace.load_target import ModuleTarget, WorkspaceFileTarget
from dagster._core.workspace.load_target import WorkspaceLoadTarget as LoadTarget
from dagster._grpc.__generated__.dagster_api_pb2 import PingRequest
from dagster._grpc.client import DagsterGrpcClient
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult, ExecuteRunArgs
from dagster._serdes import deserialize_value, unpack_value
from dagster._utils.schedules import reverse_cron_string_iterator
from dagster_shared.yaml_utils import load_run_config_yaml
from sqlalchemy.engine import Engine
from sqlalchemy.event import listen
from sqlalchemy.exc import DisconnectionError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

__all__ = [
    "GRPC_INFO_TAG",
    "CheckRunHealthResult",
    "CheckedMaterialization",
    "CodeServer",
    "LaunchRunContext",
    "LoadTarget",
    "RequestContext",
    "ScheduleState",
    "TickStatus",
    "TryLaunchingAgain",
    "WorkerStatus",
    "Workspace",
    "keep_connections",
    "load_run_config_yaml",
    "load_target",
    "materialization_events",
    "run_of_task",
    "schedule_states",
    "sensor_locations",
    "slots_before",
    "web_application",
    "webserver_version",
    "without_newsletter",
    "worker_is_known_gone",
]

CHECKED_WITH = "1.13"
_CONNECTION_S, _STATEMENT_MS, _MORE_CONNECTIONS = 20, 600_000, 20
_kept: "weakref.WeakSet[dg.DagsterInstance]" = weakref.WeakSet()
_opening = threading.Lock()
_KNOW_THEIR_WORKERS = ("K8sRunLauncher", "EcsRunLauncher", "DockerRunLauncher")


def materialization_events(
    context: dg.OpExecutionContext, materializations: Sequence[dg.AssetMaterialization]
) -> Iterator[dg.DagsterEvent]:
    """The events of these materializations, all of the step that runs now, for it to yield as one batch.

    One that an op yields by itself costs Dagster 30 to 50 ms on PostgreSQL: for small tenants, more than the backup. Marked
    as a batch, as Dagster marks those it makes itself, they are written together where DAGSTER_EVENT_BATCH_SIZE is set, and
    one by one where it is not.
    """
    step, batch, last = context.get_step_execution_context(), uuid.uuid4().hex, len(materializations) - 1
    for number, materialization in enumerate(materializations):
        yield dg.DagsterEvent.asset_materialization(
            step, materialization, DagsterEventBatchMetadata(batch, number == last)
        )


def keep_connections(instance: dg.DagsterInstance) -> None:
    """Have the instance keep a connection to each of its storages from one event to the next, as Dagster's own web server does.

    Otherwise a storage of PostgreSQL connects anew for each statement, which for the events of a small tenant's backup costs more
    than the backup. A connection is asked whether it lives before it is used, and used for some seconds only: a restart of the
    server ends no run. Where the storage is of another kind nothing happens.
    """
    with _opening:
        if instance in _kept:
            return
        _kept.add(instance)
    instance.optimize_for_webserver(
        statement_timeout=_STATEMENT_MS, pool_recycle=_CONNECTION_S, max_overflow=_MORE_CONNECTIONS
    )
    for storage in (instance.run_storage, instance.event_log_storage, instance.schedule_storage):
        engine = getattr(storage, "_engine", None)
        if isinstance(engine, Engine) and engine.dialect.name == "postgresql":
            ask_before_use(engine)


def ask_before_use(engine: Engine) -> None:
    """Have a pool's connection that the server has ended replaced when it is taken out, and not found dead by a statement."""

    def ask(connection: Any, *_: object) -> None:
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        except Exception as error:  # whatever the driver has: there is no use for it
            raise DisconnectionError from error

    listen(engine, "checkout", ask)


def schedule_states(instance: dg.DagsterInstance) -> Sequence[ScheduleState]:
    """What Dagster has recorded of each schedule: whether it is on, and where its ticks are found."""
    return instance.all_instigator_state(instigator_type=InstigatorType.SCHEDULE)


def sensor_locations(instance: dg.DagsterInstance, name: str) -> dict[str, float]:
    """The code locations that have a sensor of this name, and when each evaluated it last, in seconds since 1970."""
    if instance.schedule_storage is None:
        return {}
    found: dict[str, float] = {}
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
        if state.instigator_name == name and state.instigator_data is not None:
            ticked = getattr(state.instigator_data, "last_tick_start_timestamp", None) or 0.0
            location = state.repository_selector.location_name
            found[location] = max(found.get(location, 0.0), ticked)
    return found


def slots_before(moment: datetime, cron: str, zone: str) -> Iterator[datetime]:
    """The slots of a cron line in a time zone that are not after the moment, the newest first."""
    return iter(reverse_cron_string_iterator(moment.timestamp(), cron, zone))


def worker_is_known_gone(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool | None:
    """Whether the run launcher knows that the run has no worker; None where it is one that cannot tell, or does not now.

    That it is told of a worker at work is no answer where the launcher only repeats what the worker said when it began: Celery's
    does so for ever.
    """
    launcher = instance.run_launcher
    if not launcher.supports_check_run_worker_health:
        return None
    try:
        status = launcher.check_run_worker_health(run).status
    except Exception:  # every kind that the clients of Celery, Kubernetes and ECS have
        return None
    if status in (WorkerStatus.NOT_FOUND, WorkerStatus.FAILED):
        return True
    return False if type(launcher).__name__ in _KNOW_THEIR_WORKERS and status is WorkerStatus.RUNNING else None


def run_of_task(packed: Mapping[str, Any]) -> str:
    """The id of the run that a task of Dagster's Celery launcher is to begin, by the task's argument."""
    return unpack_value(dict(packed), as_type=ExecuteRunArgs).run_id


class CodeServer:
    """A code server, whose process has the workers of the runs that were launched through it.

    Attributes:
        address: (host, port, socket) as the run's tag has it; equal for the runs of one server.
    """

    def __init__(self, host: str, port: int | None, socket: str | None, use_ssl: bool) -> None:
        self.address = (host, port, socket)
        self._client = DagsterGrpcClient(port=port, socket=socket, host=host, use_ssl=use_ssl)

    @classmethod
    def of_run(cls, tags: Mapping[str, str]) -> "CodeServer | None":
        """The server that a run was launched through; None where its tags name none that can be read."""
        if GRPC_INFO_TAG not in tags:
            return None
        try:
            place = json.loads(tags[GRPC_INFO_TAG])
            return cls(place["host"], place.get("port"), place.get("socket"), bool(place.get("use_ssl")))
        except (ValueError, KeyError, TypeError, AttributeError, dg.DagsterError):
            return None

    def has_worker(self, run_id: str, timeout_s: int) -> bool:
        """Whether a worker of this server has the run. Raises errors of many kinds where the server does not say."""
        said = self._client.can_cancel_execution(CanCancelExecutionRequest(run_id=run_id), timeout=timeout_s)
        return bool(deserialize_value(said, CanCancelExecutionResult).can_cancel)

    def answers(self, timeout_s: int) -> bool:
        """Whether it answers a ping in time: one that is only busy does."""
        try:
            # The client's own `ping` waits for a minute.
            self._client._query("Ping", PingRequest, timeout=timeout_s, echo="")
            return True
        except Exception:  # every kind that gRPC has
            return False


def load_target(module: str, workspace_files: Sequence[str] = ()) -> LoadTarget:
    """Where the web application finds the definitions: in workspace files, or else in a module."""
    if workspace_files:
        return WorkspaceFileTarget(paths=list(workspace_files))
    return ModuleTarget(module, attribute=None, working_directory=None, location_name=None)


def web_application(
    workspace: Workspace, lifespan: Callable[[Any], AbstractAsyncContextManager[None]], poll_ms: int = 2000
) -> "ASGIApp":
    """Dagster's web application. Its pages ask for news of assets every `poll_ms`."""
    from dagster_webserver.app import create_app_from_workspace_process_context  # takes seconds to import

    return create_app_from_workspace_process_context(workspace, live_data_poll_rate=poll_ms, lifespan=lifespan)


def without_newsletter(instance: dg.DagsterInstance) -> None:
    """Let the web pages of this process open without the dialog for a newsletter, where dagster.yaml says nothing of it."""
    if not instance.get_settings("nux"):
        instance._settings = {**(instance._settings or {}), "nux": {"enabled": False}}


def webserver_version() -> str:
    """The version of dagster-webserver that is installed."""
    from dagster_webserver.version import __version__

    return str(__version__)
