"""The instances of `deploy/` are those of Dagster: each is opened as Dagster opens it, over a real PostgreSQL."""

import re
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster_aws.s3.compute_log_manager import S3ComputeLogManager
from dagster_postgres import PostgresRunStorage

from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.orchestration.common.dagster_internals import WorkerStatus
from sbh_pipelines.orchestration.hosts.celery_launcher import SETTINGS, CeleryLauncher
from sbh_pipelines.settings import Settings
from sbh_pipelines.settings.reading.environment import check_environment
from sbh_pipelines_tests.support.own_instance import DEPLOY, instance_environment, instance_file, postgres_port
from sbh_pipelines_tests.support.small_app import scratch_database


@pytest.fixture
def opened(sample_stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Opens one by its file."""
    with scratch_database(sample_stack) as (name, _):
        for variable, value in instance_environment(sample_stack, name).items():
            monkeypatch.setenv(variable, value)

        def load(file: str) -> dg.DagsterInstance:
            (tmp_path / "dagster.yaml").write_text(instance_file(file, postgres_port(sample_stack)))
            return dg.DagsterInstance.from_config(str(tmp_path))

        yield load


def test_the_instance_of_one_machine(opened: Any) -> None:
    with opened("dagster.yaml") as instance:
        assert isinstance(instance.run_storage, PostgresRunStorage)
        assert isinstance(instance.compute_log_manager, S3ComputeLogManager)
        assert instance.get_concurrency_config().run_queue_config.max_concurrent_runs == 8
        assert instance.run_retries_enabled


def test_the_instance_of_several_hosts(opened: Any) -> None:
    """Its launcher knows how to reach Redis, speaks to it as the workers do, and takes a state that is lost for no death."""
    with opened("celery/dagster.yaml") as instance:
        launcher, queue = instance.run_launcher, instance.get_concurrency_config().run_queue_config
        assert isinstance(launcher, CeleryLauncher)
        assert launcher.celery.conf.broker_url == "redis://127.0.0.1:9/0"
        assert SETTINGS.items() <= dict(launcher.celery.conf).items()
        assert queue.max_concurrent_runs == 8
        assert queue.max_user_code_failure_retries == 120
        run = instance.create_run_for_job(dg.JobDefinition(graph_def=dg.GraphDefinition(name="none")))
        assert launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING
        assert launcher.terminate(run.run_id) is False


def test_what_they_take_from_the_environment_is_no_mistake_of_the_settings() -> None:
    """Every process of the instance has these variables, and reads the settings."""
    text = "".join((DEPLOY / file).read_text("utf-8") for file in ("dagster.yaml", "celery/dagster.yaml"))
    named = set(re.findall(r"env: (\w+)", text))
    assert {"SBH_DAGSTER_PG_HOST", "SBH_DAGSTER_BUCKET", "SBH_CELERY_BROKER"} <= named
    check_environment(Settings, dict.fromkeys(named, "value"))


def test_they_differ_in_what_several_hosts_need() -> None:
    one, several = (
        yaml.safe_load((DEPLOY / file).read_text("utf-8")) for file in ("dagster.yaml", "celery/dagster.yaml")
    )
    assert several.pop("run_launcher")
    assert several.pop("run_coordinator")
    assert one["run_monitoring"].pop("start_timeout_seconds") < several["run_monitoring"].pop("start_timeout_seconds")
    assert one == several
