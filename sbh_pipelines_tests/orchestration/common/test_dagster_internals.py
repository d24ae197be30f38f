"""What is used of Dagster that it does not export: each is as `dagster_internals.py` takes it to be.

A test that fails here after an upgrade names the thing that Dagster has changed, before the failures that follow from it.
"""

import inspect
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import dagster as dg
import psycopg2
import pytest
import sqlalchemy

from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.orchestration.common import dagster_internals as internals
from sbh_pipelines_tests.support import dagster_internals as of_tests

ROOT = Path(__file__).parents[3]
HOMES = {
    ROOT / "sbh_pipelines/orchestration/common/dagster_internals.py",
    ROOT / "sbh_pipelines_tests/support/dagster_internals.py",
}
PRIVATE = re.compile(
    r"^\s*(?:from|import) +(?:dagster\._|dagster_shared|dagster_webserver|dagster_graphql)", re.MULTILINE
)


@dg.job
def none() -> None: ...


def takes(function: Callable[..., object], *names: str) -> None:
    """Fails where the function has no parameter of one of these names."""
    has = inspect.signature(function).parameters
    missing = [name for name in names if name not in has]
    assert not missing, f"Dagster {dg.__version__}: {function.__qualname__} takes no {missing} any more: {[*has]}"


def test_no_other_module_imports_what_dagster_does_not_export() -> None:
    files = [file for folder in ("sbh_pipelines", "sbh_pipelines_tests") for file in (ROOT / folder).rglob("*.py")]
    found = [str(file.relative_to(ROOT)) for file in files if PRIVATE.search(file.read_text()) and file not in HOMES]
    assert found == [], "import it in orchestration/common/dagster_internals.py, with a test here"


def test_the_version_is_one_they_were_checked_with() -> None:
    assert dg.__version__.startswith(internals.CHECKED_WITH + "."), (
        f"Dagster {dg.__version__}: run the tests of this file and of the guarded web UI, then set CHECKED_WITH"
    )
    assert internals.webserver_version() == version("dagster-webserver")


def test_events_of_a_step_are_written_as_one_batch(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the buffer is larger than the batch, the event marked as the last writes them all."""
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", "500")
    written: list[int] = []
    store = instance.event_log_storage.store_event_batch
    monkeypatch.setattr(
        instance.event_log_storage, "store_event_batch", lambda events: (written.append(len(events)), store(events))
    )

    @dg.op(out={"result": dg.Out(dg.Nothing, is_required=False)})
    def three(context: dg.OpExecutionContext) -> Iterator[dg.DagsterEvent]:
        made = [dg.AssetMaterialization("x", partition=str(n)) for n in range(3)]
        yield from internals.materialization_events(context, made)

    @dg.job
    def job() -> None:
        three()

    assert job.execute_in_process(instance=instance).success
    assert written == [3], f"Dagster {dg.__version__} does not write a batch of events together any more"
    assert len(instance.fetch_materializations(dg.AssetKey("x"), limit=9).records) == 3


def test_a_run_keeps_its_connections_from_one_event_to_the_next(
    instance: dg.DagsterInstance, run: Callable[..., dg.ExecuteInProcessResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for once, before its first event: by the means of Dagster's own web server, which storages without connections ignore."""
    takes(dg.DagsterInstance.optimize_for_webserver, "statement_timeout", "pool_recycle", "max_overflow")
    kept: list[int] = []
    keep = instance.optimize_for_webserver

    def counted(**named: int) -> None:
        kept.append(named["pool_recycle"])
        keep(**named)

    monkeypatch.setattr(instance, "optimize_for_webserver", counted)
    assert run("fleet_backup_job").success
    assert kept == [20]


def test_a_connection_that_the_server_ended_is_replaced(sample_stack: Stack) -> None:
    dsn = sample_stack.dsn(postgres.ADMIN)
    engine = sqlalchemy.create_engine("postgresql+psycopg2://", creator=lambda: psycopg2.connect(dsn), pool_size=1)
    internals.ask_before_use(engine)

    def asked() -> int:
        with engine.connect() as connection:
            return int(connection.execute(sqlalchemy.text("SELECT pg_backend_pid()")).scalar_one())

    try:
        first = asked()
        assert asked() == first
        with closing(psycopg2.connect(dsn)) as other, other.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [first])
        assert asked() != first
    finally:
        engine.dispose()


def test_a_check_names_the_materialization_it_is_about(instance: dg.DagsterInstance) -> None:
    instance.report_runless_asset_event(dg.AssetMaterialization("x"))
    (made,) = instance.fetch_materializations(dg.AssetKey("x"), limit=1).records
    about = internals.CheckedMaterialization(storage_id=made.storage_id, run_id=made.run_id, timestamp=made.timestamp)
    result = dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey("x"), check_name="c", passed=True, metadata={}, target_materialization_data=about
    )
    instance.report_runless_asset_event(result)
    key = dg.AssetCheckKey(dg.AssetKey("x"), "c")
    (stored,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
    assert stored.event is not None
    event = stored.event.dagster_event
    assert event is not None
    assert event.asset_check_evaluation_data.target_materialization_data == about


def test_slots_are_counted_backwards_in_their_time_zone() -> None:
    """A slot at the moment itself is the first."""
    moment = datetime(2026, 3, 30, 1, tzinfo=UTC)  # Berlin has changed to summer time the night before
    slots = internals.slots_before(moment, "0 3 * * *", "Europe/Berlin")
    assert [next(slots).astimezone(UTC).isoformat()[:16] for _ in range(2)] == ["2026-03-30T01:00", "2026-03-29T01:00"]


def test_the_state_of_a_schedule_has_what_is_read_of_it(dagster_home: dg.DagsterInstance) -> None:
    assert internals.schedule_states(dagster_home) == []
    assert internals.sensor_locations(dagster_home, "tenants_sync") == {}
    assert "repository_selector" in dir(internals.ScheduleState)  # `test_sites.py` reads it of a sensor at work
    has = internals.schedule_states.__annotations__["return"].__args__[0]
    names = {"instigator_name", "is_running", "instigator_data", "instigator_origin_id", "selector_id"}
    assert not names - set(dir(has)), (
        f"Dagster {dg.__version__}: {has.__name__} has no {names - set(dir(has))} any more"
    )
    assert {"STARTED", "FAILURE"} <= set(internals.TickStatus.__members__)
    takes(dg.DagsterInstance.get_ticks, "origin_id", "selector_id", "limit")


def test_a_launcher_that_cannot_tell_of_a_worker_says_so(instance: dg.DagsterInstance) -> None:
    @dg.job
    def job() -> None: ...

    run = instance.create_run_for_job(job)
    assert internals.worker_is_known_gone(instance, run) is None
    assert {"NOT_FOUND", "FAILED"} <= set(internals.WorkerStatus.__members__)


def test_a_launcher_that_fails_to_answer_knows_nothing(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a launcher is asked and answers; that of Celery is tested with `deploy/celery/dagster.yaml`."""

    @dg.job
    def job() -> None: ...

    run, launcher, known = instance.create_run_for_job(job), instance.run_launcher, internals.WorkerStatus
    monkeypatch.setattr(type(launcher), "supports_check_run_worker_health", True)

    def says(answer: internals.WorkerStatus | None) -> bool | None:
        def check(_: dg.DagsterRun) -> internals.CheckRunHealthResult:
            if answer is None:
                raise ConnectionError
            return internals.CheckRunHealthResult(answer)

        monkeypatch.setattr(launcher, "check_run_worker_health", check, raising=False)
        return internals.worker_is_known_gone(instance, run)

    assert [says(answer) for answer in (known.FAILED, known.NOT_FOUND, known.RUNNING, known.UNKNOWN, None)] == [
        True,
        True,
        None,
        None,
        None,
    ]
    takes(internals.LaunchRunContext, "dagster_run", "workspace")
    assert issubclass(internals.TryLaunchingAgain, dg.DagsterError)


def test_a_task_of_celery_says_which_run_it_begins(dagster_home: dg.DagsterInstance) -> None:
    assert internals.run_of_task(of_tests.task_of_run(dagster_home, "abc", none)) == "abc"


@pytest.fixture
def code_server(tmp_path: Path) -> Iterator[str]:
    """The socket of a real code server, with a single job."""
    (tmp_path / "one.py").write_text("import dagster as dg\n\n@dg.job\ndef job(): ...\n")
    socket = str(tmp_path / "socket")
    command = [sys.executable, "-m", "dagster", "api", "grpc", "-f", str(tmp_path / "one.py"), "-s", socket]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        yield socket
        process.kill()  # one that is asked to end while it starts may not


def test_a_code_server_is_asked_whether_it_lives_and_has_a_run(code_server: str) -> None:
    place = f'{{"host": "localhost", "socket": "{code_server}"}}'
    server = internals.CodeServer.of_run({internals.GRPC_INFO_TAG: place})
    assert server is not None
    deadline = time.monotonic() + 240
    while not server.answers(1):
        assert time.monotonic() < deadline, f"Dagster {dg.__version__}: its code server does not answer a ping"
        time.sleep(0.2)
    assert server.has_worker("no-such-run", 5) is False


def test_a_run_names_its_code_server_in_this_tag() -> None:
    assert internals.GRPC_INFO_TAG == ".dagster/grpc_info"


def test_the_web_application_is_made_from_a_workspace() -> None:
    """`test_server.py` serves it; here is only what is given to it."""
    takes(
        internals.RequestContext, "instance", "current_workspace", "process_context", "version", "source", "read_only"
    )
    takes(internals.Workspace, "instance", "workspace_load_target", "version")
    takes(internals.Workspace.create_request_context, "source")
    assert callable(internals.Workspace.get_current_workspace)
    target = internals.load_target("sbh_pipelines.definitions")
    assert type(target).__name__ == "ModuleTarget"
    assert type(internals.load_target("", ["workspace.yaml"])).__name__ == "WorkspaceFileTarget"


def test_the_web_pages_open_without_the_newsletter(dagster_home: dg.DagsterInstance) -> None:
    instance = dagster_home
    assert instance.nux_enabled, f"Dagster {dg.__version__} has none any more: `without_newsletter` can go"
    internals.without_newsletter(instance)
    assert not instance.nux_enabled


def test_run_configuration_is_read_as_dagster_reads_it() -> None:
    assert internals.load_run_config_yaml("ops: {a: {config: {n: 1, at: 2026-01-02}}}") == {
        "ops": {"a": {"config": {"n": 1, "at": "2026-01-02"}}}
    }


def test_what_only_tests_use_is_there() -> None:
    """The scheduler's loop takes its clock as an argument, and gives its schedules an order by a function of its own."""
    takes(of_tests.execute_sensor_iteration, "workspace_process_context", "threadpool_executor")
    takes(of_tests.launch_scheduled_runs, "workspace_process_context", "logger", "end_datetime_utc", "max_tick_retries")
    module, _, name = of_tests.ORDER_OF_SCHEDULES.rpartition(".")
    assert hasattr(sys.modules[module], name), f"Dagster {dg.__version__}: {of_tests.ORDER_OF_SCHEDULES} is gone"


def test_an_instance_that_is_left_open_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what it enters when it is opened: `conftest.py` asks after every test."""
    instances = of_tests.OpenInstances(monkeypatch)
    instance = dg.DagsterInstance.ephemeral()
    with instance:
        assert len(instances.places()) == 1, f"Dagster {dg.__version__}: an instance enters nothing when it is opened"
    assert instances.places() == []
