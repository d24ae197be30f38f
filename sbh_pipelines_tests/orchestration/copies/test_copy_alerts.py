"""Who is told of copies that are late, not whole, or not made, and that it is over: real backups, a real copy, Dagster's sensors."""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import dagster as dg
import pytest

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.definitions import defs
from sbh_pipelines.model import utc_now
from sbh_pipelines.orchestration.alerting.backup_watch import backup_watch
from sbh_pipelines.orchestration.alerting.sensors import failure_alerts, recovery_notices
from sbh_pipelines.security.policy import ALL_TENANTS, Role, UserContext
from sbh_pipelines.settings import load_settings
from sbh_pipelines_tests.support.buckets import fresh_bucket
from sbh_pipelines_tests.support.fakes import FAKES, FakeResource
from sbh_pipelines_tests.support.fix_stack import Site
from sbh_pipelines_tests.support.job_runs import tick
from sbh_pipelines_tests.support.sinks import WebhookSink, webhook

ADMIN = UserContext("admin", ALL_TENANTS, Role.ADMIN)


@dataclass
class Watched:
    """A copy `dr` of one region, those who are told of it, and a clock that can be put forward."""

    site: Site
    instance: dg.DagsterInstance
    sink: WebhookSink
    bucket: str
    monkeypatch: pytest.MonkeyPatch
    later: timedelta = field(default=timedelta())
    cursor: str = "0"

    def service(self, bucket: str | None = None) -> BackupService:
        copy = {"name": "dr", "from": ["eu-west-1"], "to": "eu-central-1", "bucket": bucket or self.bucket}
        self.monkeypatch.setenv("SBH_COPIES", json.dumps([copy]))
        address = f"http://127.0.0.1:{self.sink.port}/"
        self.monkeypatch.setenv("SBH_ALERTS", json.dumps({"webhook_url": address, "remind_hours": 24}))
        later = self.later
        return BackupService(load_settings(self.site.stack.settings), clock=lambda: utc_now() + later)

    @contextmanager
    def resource(self, bucket: str | None = None) -> Iterator[FakeResource]:
        name = uuid.uuid4().hex
        FAKES[name] = self.service(bucket)  # type: ignore[assignment]
        yield FakeResource(fake=name)
        del FAKES[name]

    def told(self) -> list[dict[str, Any]]:
        """What was told about copies since this was last asked."""
        found = [body for body in self.sink.bodies if "copy" in body["key"]]
        self.sink.bodies.clear()
        return found

    def look(self) -> list[dict[str, Any]]:
        """A tick of `backup_watch`."""
        with self.resource() as resource:
            backup_watch(dg.build_sensor_context(self.instance), backups=resource)
        return self.told()

    def run(self, bucket: str | None = None, **config: Any) -> list[dict[str, Any]]:
        """A run of `copy_run_job`, and the sensor that follows its end."""
        with self.resource(bucket) as resource:
            bound = dg.Definitions(
                assets=defs.assets,
                jobs=defs.jobs,
                resources={"backups": resource, "io_manager": dg.mem_io_manager},
                executor=dg.in_process_executor,
            )
            result = bound.resolve_job_def("copy_run_job").execute_in_process(
                {"ops": {"run_copies": {"config": config}}}, instance=self.instance, raise_on_error=False
            )
            assert result.success is (bucket is None)
            if not result.success:
                event, run = result.get_run_failure_event(), self.instance.get_run_by_id(result.run_id)
                assert run is not None
                failed = dg.build_run_status_sensor_context("x", event, self.instance, run).for_run_failure()
                failure_alerts(failed, backups=resource)
            self.cursor = tick(recovery_notices, self.instance, resource, self.cursor)
        return self.told()


@pytest.fixture
def watched(site: Site, dagster_home: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    with fresh_bucket(site.stack) as bucket, webhook() as sink:
        yield Watched(site, dagster_home, sink, bucket, monkeypatch)


def in_words(bodies: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(body["state"], body["key"]) for body in bodies]


def test_a_copy_that_is_late_and_one_that_is_not_whole_are_told_once_and_when_it_is_over(watched: Watched) -> None:
    service = watched.service()
    tenant = next(one for one in service.tenants.all() if one.region == "eu-west-1")
    service.create_backup(str(tenant.id), ADMIN)
    assert watched.run() == []
    assert watched.look() == []
    watched.later = timedelta(hours=3)
    (body,) = watched.look()
    assert (body["state"], body["key"], body["severity"]) == ("new", "copy_behind/dr", "error")
    assert "where 2 h 0 min was promised" in body["message"]
    assert "`sbh copies run dr`" in body["remedy"]
    assert watched.look() == []
    watched.later = timedelta()
    assert in_words(watched.look()) == [("recovered", "copy_behind/dr")]
    s3, prefix = watched.site.stack.s3_client(), f"files/{tenant.id}/backups/packs/"
    packs = s3.list_objects_v2(Bucket=watched.bucket, Prefix=prefix)["Contents"]
    for pack in packs:
        s3.delete_object(Bucket=watched.bucket, Key=pack["Key"])
    assert not watched.service().copies.verify(ADMIN, "dr", [str(tenant.id)]).valid
    (body,) = watched.look()
    assert (body["state"], body["key"], body["severity"]) == ("new", "copy_unverified/dr", "error")
    assert str(tenant.id) in body["message"]
    assert watched.look() == []
    assert watched.run() == []
    assert in_words(watched.look()) == [("recovered", "copy_unverified/dr")]


def test_copy_runs_that_fail_are_told_once_and_that_one_succeeded_since(watched: Watched) -> None:
    """The schedule starts one every hour: people are told of the first that fails, and not of each."""
    assert in_words(watched.run("no-such-bucket-of-copies")) == [("new", "run_failed.copy_run/")]
    assert watched.run("no-such-bucket-of-copies") == []
    assert in_words(watched.run()) == [("recovered", "run_failed.copy_run/")]


def test_a_run_for_one_tenant_ends_nothing_that_is_said_of_all(watched: Watched) -> None:
    service = watched.service()
    tenant = str(next(one for one in service.tenants.all() if one.region == "eu-west-1").id)
    service.create_backup(tenant, ADMIN)
    gone, named = "no-such-bucket-of-copies", "run_failed.copy_run.dr/"
    assert in_words(watched.run(gone, copy_name="dr")) == [("new", named)]
    assert watched.run(copy_name="dr", tenants=[tenant]) == []
    assert in_words(watched.run(copy_name="dr")) == [("recovered", named)]
    # What a run of every copy failed with is over when the schedule's runs go well again, and the other way round.
    assert in_words(watched.run(gone)) == [("new", "run_failed.copy_run/")]
    assert in_words(watched.run(copy_name="dr")) == [("recovered", "run_failed.copy_run/")]
    assert in_words(watched.run(gone, copy_name="dr")) == [("new", named)]
    assert in_words(watched.run()) == [("recovered", named)]
