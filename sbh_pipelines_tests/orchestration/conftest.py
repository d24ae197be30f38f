"""Fixtures of the orchestration's tests: a Dagster instance, and a fake service where no server is needed."""

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import alembic.script.base
import dagster as dg
import pytest

from sbh_pipelines.orchestration.common.assets import TENANTS
from sbh_pipelines_tests.support.dagster_internals import OpenInstances
from sbh_pipelines_tests.support.fakes import FAKES, FakeResource, FakeService
from sbh_pipelines_tests.support.fix_stack import elsewhere, real_resource, real_run, site
from sbh_pipelines_tests.support.job_runs import execute
from sbh_pipelines_tests.support.quick_dagster import migrations

__all__ = ["elsewhere", "real_resource", "real_run", "site"]  # fixtures, made elsewhere

migrations.read_once(alembic.script.base)

Run = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture(autouse=True)
def every_instance_is_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test that leaves an instance of Dagster open fails itself, and not, at times, one that runs after it.

    Dagster looks up state in the instance that was entered last. One that is left open is closed by the garbage collector,
    in the midst of another test, which then finds the instance that was current before: one that is gone. It takes no more
    than a schedule that is called with its resources as arguments: Dagster makes a context of its own for it, opens the
    instance there anew, and closes neither. `with dg.build_schedule_context(..., resources=...)` and `evaluate_tick` do.
    """
    instances = OpenInstances(monkeypatch)
    yield
    assert instances.places() == []


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def dagster_home() -> Iterator[dg.DagsterInstance]:
    """An instance on disk, which another process, or a schedule, can open by reference."""
    with dg.instance_for_test() as made:
        yield made


@pytest.fixture
def fake(instance: dg.DagsterInstance) -> Iterator[FakeService]:
    """A service for three tenants, whose partitions exist."""
    service = FakeService()
    name = uuid.uuid4().hex
    FAKES[name] = service
    service.resource = FakeResource(fake=name)  # type: ignore[attr-defined]
    instance.add_dynamic_partitions(TENANTS, list(service.names))
    yield service
    del FAKES[name]


@pytest.fixture
def run(instance: dg.DagsterInstance, fake: FakeService) -> Run:
    """Runs one of the jobs in this process with the fake service."""

    def run_job(job: str, **arguments: Any) -> dg.ExecuteInProcessResult:
        return execute(job, fake.resource, instance, **arguments)  # type: ignore[attr-defined]

    return run_job
