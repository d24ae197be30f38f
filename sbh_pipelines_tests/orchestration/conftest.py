"""Fixtures of the orchestration's tests: a Dagster instance, and a fake service where no server is needed."""

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
import pytest

from sbh_pipelines.definitions import defs
from sbh_pipelines.orchestration.common.assets import TENANTS
from sbh_pipelines_tests.support.dagster_internals import set_defs_state_storage
from sbh_pipelines_tests.support.fakes import FAKES, FakeResource, FakeService
from sbh_pipelines_tests.support.fix_stack import elsewhere, real_resource, real_run, site

__all__ = ["elsewhere", "real_resource", "real_run", "site"]  # fixtures, made elsewhere

Run = Callable[..., dg.ExecuteInProcessResult]

# Resolved once, while there is no instance: Dagster looks up state in whichever instance was entered last, and tests that end
# theirs in another order than they began leave it one that is gone.
defs.get_repository_def()


@pytest.fixture(autouse=True)
def no_state_of_other_tests() -> Iterator[None]:
    """Each test begins without an instance, whatever those before it left behind."""
    with set_defs_state_storage(None):
        yield


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
        resources = {"backups": fake.resource, "io_manager": dg.mem_io_manager}  # type: ignore[attr-defined]
        bound = dg.Definitions(assets=defs.assets, jobs=defs.jobs, resources=resources, executor=dg.in_process_executor)
        return bound.resolve_job_def(job).execute_in_process(instance=instance, raise_on_error=False, **arguments)

    return run_job
