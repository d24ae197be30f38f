"""The instances of `deploy/` are those of Dagster: each is opened as Dagster opens it, over a real PostgreSQL."""

import re
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import boto3
import dagster as dg
import pytest
import yaml
from dagster_aws.ecs import EcsRunLauncher
from dagster_aws.s3.compute_log_manager import S3ComputeLogManager
from dagster_postgres import PostgresRunStorage

from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.orchestration.common.dagster_internals import LaunchRunContext, TryLaunchingAgain, WorkerStatus
from sbh_pipelines.orchestration.hosts.celery_launcher import OF_THE_LAUNCHER, CeleryLauncher
from sbh_pipelines.settings import Settings
from sbh_pipelines.settings.reading.environment import check_environment
from sbh_pipelines_tests.support.dagster_internals import TagConcurrencyLimitsCounter
from sbh_pipelines_tests.support.own_instance import DEPLOY, instance_environment, instance_file, postgres_port
from sbh_pipelines_tests.support.small_app import scratch_database

FILES = ("dagster.yaml", "celery/dagster.yaml", "ecs/dagster.yaml")

T = TypeVar("T")


@dg.job
def nothing() -> None: ...


@pytest.fixture
def opened(embedded_stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Opens one by its file."""
    with scratch_database(embedded_stack) as (name, _):
        for variable, value in instance_environment(embedded_stack, name).items():
            monkeypatch.setenv(variable, value)

        def load(file: str) -> dg.DagsterInstance:
            (tmp_path / "dagster.yaml").write_text(instance_file(file, postgres_port(embedded_stack)))
            return dg.DagsterInstance.from_config(str(tmp_path))

        yield load


def test_the_instance_of_one_machine(opened: Any) -> None:
    with opened("dagster.yaml") as instance:
        assert isinstance(instance.run_storage, PostgresRunStorage)
        assert isinstance(instance.compute_log_manager, S3ComputeLogManager)
        assert instance.get_concurrency_config().run_queue_config.max_concurrent_runs == 8
        assert instance.run_retries_enabled


@pytest.mark.parametrize("file", FILES)
def test_a_backlog_of_one_site_leaves_places_to_the_others(opened: Any, file: str) -> None:
    """As Dagster's queue counts: as many runs of one site as may be at work, and there are places left, for others alone."""
    with opened(file) as instance:
        queue = instance.get_concurrency_config().run_queue_config
        counted, at_work = TagConcurrencyLimitsCounter(queue.tag_concurrency_limits, []), 0
        one, other = (dg.DagsterRun(job_name="any", tags={"sbh/site": site}) for site in ("a", "b"))
        while not counted.is_blocked(one):
            counted.update_counters_with_launched_item(one)
            at_work += 1
            assert at_work < queue.max_concurrent_runs
        assert not counted.is_blocked(other)


def test_the_instance_of_several_hosts(opened: Any) -> None:
    """Its launcher knows how to reach Redis, speaks to it as the workers do, and takes a state that is lost for no death."""
    with opened("celery/dagster.yaml") as instance:
        launcher, queue = instance.run_launcher, instance.get_concurrency_config().run_queue_config
        assert isinstance(launcher, CeleryLauncher)
        assert launcher.celery.conf.broker_url == "redis://127.0.0.1:9/0"
        assert OF_THE_LAUNCHER.items() <= dict(launcher.celery.conf).items()
        assert queue.max_concurrent_runs == 8
        assert queue.max_user_code_failure_retries == 120
        run = instance.create_run_for_job(dg.JobDefinition(graph_def=dg.GraphDefinition(name="none")))
        assert launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING
        assert launcher.terminate(run.run_id) is False


def test_a_redis_that_is_away_keeps_nobody_waiting() -> None:
    """Sensors ask for each run of theirs, and a tick has a minute. One that says no word, then one that is not there."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent, dg.instance_for_test() as instance:
        redis = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        launcher = CeleryLauncher("dagster", broker=redis, backend=redis)
        origin = dg.reconstructable(nothing).get_python_origin()
        run = instance.create_run_for_job(nothing, tags={"dagster-celery/task_id": "1"}, job_code_origin=origin)
        asked = in_time(lambda: [launcher.check_run_worker_health(run).status for _ in range(6)])
        assert asked == [WorkerStatus.RUNNING] * 6
        silent.close()
        launcher = CeleryLauncher("dagster", broker=redis, backend=redis)
        launcher.register_instance(instance)
        assert in_time(lambda: launcher.check_run_worker_health(run).status) is WorkerStatus.RUNNING
        with pytest.raises(TryLaunchingAgain, match="Redis did not take the run"):
            in_time(lambda: launcher.launch_run(LaunchRunContext(run, None)))


def in_time(ask: Callable[[], T], limit_s: float = 15.0) -> T:
    """What it answers. What does not come back would keep the process for ever: it is left behind in a thread."""
    answers: Future[T] = Future()

    def work() -> None:
        try:
            answers.set_result(ask())
        except BaseException as error:
            answers.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return answers.result(limit_s)


def test_the_instance_of_tasks_in_ecs(opened: Any, embedded_stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its launcher asks ECS, moto's here, for the task definition of runs."""
    for name, value in {"AWS_ENDPOINT_URL": embedded_stack.kms_endpoint, "AWS_DEFAULT_REGION": "eu-west-1"}.items():
        monkeypatch.setenv(name, value)
    task = {"family": "sbh-run", "containerDefinitions": [{"name": "run", "image": "sbh-pipelines", "memory": 2048}]}
    boto3.client("ecs").register_task_definition(**task)
    monkeypatch.setenv("SBH_ECS_RUN_TASK", "sbh-run")
    with opened("ecs/dagster.yaml") as instance:
        launcher = instance.run_launcher
        assert isinstance(launcher, EcsRunLauncher)
        assert launcher.task_definition.endswith("task-definition/sbh-run:1")
        assert launcher.supports_check_run_worker_health


def test_what_they_take_from_the_environment_is_no_mistake_of_the_settings() -> None:
    """Every process of the instance has these variables, and reads the settings."""
    text = "".join((DEPLOY / file).read_text("utf-8") for file in FILES)
    named = set(re.findall(r"env: (\w+)", text))
    assert {"SBH_DAGSTER_PG_HOST", "SBH_DAGSTER_BUCKET", "SBH_CELERY_BROKER"} <= named
    check_environment(Settings, dict.fromkeys(named, "value"))


@pytest.mark.parametrize("name", FILES[1:])
def test_they_differ_in_what_several_hosts_need(name: str) -> None:
    one, several = (yaml.safe_load((DEPLOY / file).read_text("utf-8")) for file in (FILES[0], name))
    assert several.pop("run_launcher")
    assert several.pop("run_coordinator", None) is None or name == "celery/dagster.yaml"
    assert one["run_monitoring"].pop("start_timeout_seconds") < several["run_monitoring"].pop("start_timeout_seconds")
    assert one == several


def test_the_values_for_kubernetes_say_what_the_instance_says() -> None:
    """As far as the chart has a value for it. No cluster runs here."""
    values, *_ = _documents("values.yaml")
    one = yaml.safe_load((DEPLOY / "dagster.yaml").read_text("utf-8"))
    daemon, chart = values["dagsterDaemon"], _snake(values)
    monitoring = _snake(daemon["runMonitoring"])
    assert monitoring.pop("start_timeout_seconds") > one["run_monitoring"].pop("start_timeout_seconds")
    assert monitoring == one["run_monitoring"]
    assert _snake(daemon["runRetries"]) == one["run_retries"]
    assert (_snake(daemon["schedules"]), _snake(daemon["sensors"])) == (one["schedules"], one["sensors"])
    assert chart["concurrency"].pop("enabled")
    assert chart["concurrency"] == one["concurrency"]
    assert values["scheduler"]["config"]["daemonScheduler"] == {
        "maxTickRetries": one["scheduler"]["config"]["max_tick_retries"]
    }
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    (server,) = values["dagsterWebserver"]["workspace"]["servers"]
    assert (server["host"], server["port"]) == (deployment["name"], deployment["port"])
    assert server["name"] == deployment["dagsterApiGrpcArgs"][1]
    variables = {one["name"]: one["value"] for one in deployment["env"]}
    check_environment(Settings, variables)
    kinds = [document["kind"] for file in ("network-policy.yaml", "sbh-ui.yaml") for document in _documents(file)]
    assert kinds == ["NetworkPolicy"] * 3 + ["Deployment", "Service"]


def _documents(file: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / "helm" / file).read_text("utf-8")))


def _snake(value: Any) -> Any:
    """Keys as Dagster has them, where the chart has others; what is a key of Dagster's itself stays."""
    if isinstance(value, list):
        return [_snake(one) for one in value]
    if not isinstance(value, dict):
        return value
    kept = {"applyLimitPerUniqueValue"}
    return {
        key if key in kept else re.sub(r"(?<=[a-z])([A-Z])", lambda found: f"_{found[1].lower()}", key): _snake(inner)
        for key, inner in value.items()
    }
