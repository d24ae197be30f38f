"""The sensors against a real service: what is really broken is told once, and its mending too."""

import base64
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.backup.service.upkeep.drills import Drills
from sbh_pipelines.definitions import defs
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import AlertError, SettingsError, UnknownBackup
from sbh_pipelines.model import utc_now
from sbh_pipelines.orchestration.alerting import backup_watch as watch_module
from sbh_pipelines.orchestration.alerting.alert_sender import AlertSender
from sbh_pipelines.orchestration.alerting.backup_watch import backup_watch
from sbh_pipelines.orchestration.alerting.sensors import break_glass_alerts, failure_alerts, recovery_notices
from sbh_pipelines.orchestration.common.assets import TENANTS
from sbh_pipelines.orchestration.common.runs import is_ours, makes_backups, operation_of
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.databases import fresh_database
from sbh_pipelines_tests.support.fakes import FAKES, FakeResource
from sbh_pipelines_tests.support.job_runs import execute, tick
from sbh_pipelines_tests.support.sinks import WebhookSink, webhook


@pytest.fixture
def application(embedded_stack: Stack, tmp_path: Path) -> Iterator[Application]:
    with fresh_database(embedded_stack) as database:
        made = Application(database, tmp_path)
        made.create()
        yield made


@dataclass
class Watch:
    """A real application behind Dagster's sensors and jobs, and people who listen."""

    application: Application
    instance: dg.DagsterInstance
    sink: WebhookSink
    sections: dict[str, Any] = field(default_factory=dict)
    later: timedelta = timedelta()
    cursor: str = "0"

    def service(self) -> BackupService:
        alerts = {"webhook_url": f"http://127.0.0.1:{self.sink.port}/", "together": 1, "remind_hours": 24}
        health = {"refresh_s": 0, "size_floor_rows": 10, **self.sections.get("health", {})}
        sections = {"alerts": alerts, **self.sections, "health": health}
        later = self.later
        return self.application.service(clock=lambda: utc_now() + later, **sections)

    @contextmanager
    def resource(self) -> Iterator[FakeResource]:
        name = uuid.uuid4().hex
        FAKES[name] = self.service()  # type: ignore[assignment]
        yield FakeResource(fake=name)
        del FAKES[name]

    def told(self) -> list[tuple[str, str]]:
        """(state, key) of what was told since this was last asked."""
        new = [(body["state"], body["key"]) for body in self.sink.bodies]
        self.sink.bodies.clear()
        return new

    def look(self) -> list[tuple[str, str]]:
        """A tick of `backup_watch`, with a service of its own as in Dagster; what it told."""
        with self.resource() as resource:
            backup_watch(dg.build_sensor_context(self.instance), backups=resource)
        return self.told()

    def run(self, job: str, **arguments: Any) -> list[tuple[str, str]]:
        """A run, and then the sensor that follows its end; what that told."""
        with self.resource() as resource:
            self.follow(execute(job, resource, self.instance, **arguments), resource)
        return self.told()

    def follow(self, result: dg.ExecuteInProcessResult, resource: FakeResource) -> None:
        run = self.instance.get_run_by_id(result.run_id)
        assert run is not None
        if not result.success:
            event = result.get_run_failure_event()
            failed = dg.build_run_status_sensor_context("x", event, self.instance, run).for_run_failure()
            failure_alerts(failed, backups=resource)
        self.cursor = tick(recovery_notices, self.instance, resource, self.cursor)


@pytest.fixture
def watch(application: Application, instance: dg.DagsterInstance) -> Iterator[Watch]:
    """Both tenants are backed up, and all is well."""
    instance.add_dynamic_partitions(TENANTS, [ACME, BOLT])
    with webhook() as sink:
        made = Watch(application, instance, sink)
        made.service().backups.create_all([ACME, BOLT], ADMIN)
        assert made.look() == []
        yield made


def shrink(application: Application) -> None:
    application.database.run("DELETE FROM notes WHERE tenant_id = 1", "DELETE FROM items WHERE project_id % 2 = 1")
    application.database.run(
        "UPDATE projects SET lead = NULL",
        "DELETE FROM items WHERE project_id IN (SELECT id FROM projects WHERE tenant_id = 1)",
        "DELETE FROM projects WHERE tenant_id = 1 AND id > 4",
    )


def change(application: Application) -> None:
    application.database.run("UPDATE projects SET body = md5(random()::text) WHERE tenant_id = 1")


def test_a_bucket_that_is_gone_is_told_once_and_nothing_of_its_tenants(watch: Watch) -> None:
    """Of tenants that cannot be looked at nothing is concluded: neither that they are late, nor that they recovered."""
    watch.later = timedelta(minutes=80)
    assert watch.look() == [("new", f"rpo_missed/{ACME}")]
    away = watch.application.bucket.with_name("away")
    watch.application.bucket.rename(away)
    assert watch.look() == [("new", "storage_unreachable/eu-west-1")]
    assert watch.look() == []
    away.rename(watch.application.bucket)
    assert watch.look() == [("recovered", "storage_unreachable/eu-west-1")]
    watch.later = timedelta()
    watch.service().create_backup(ACME, ADMIN)
    assert watch.look() == [("recovered", f"rpo_missed/{ACME}")]


def test_missed_recovery_points_of_all_are_one_alert(watch: Watch) -> None:
    watch.later = timedelta(days=2)
    assert watch.look() == [("new", "rpo_missed/*")]
    watch.later = timedelta(days=2, hours=2)
    assert watch.look() == []
    watch.service().create_backup(ACME, ADMIN)
    watch.later = timedelta()
    assert watch.look() == [("recovered", "rpo_missed/*")]


def test_a_key_that_does_not_unwrap(watch: Watch) -> None:
    key = watch.application.directory / "backup.key"
    body = key.read_bytes()
    key.write_bytes(base64.b64encode(bytes(32)))
    assert watch.look() == [("new", "key_trouble/eu-west-1")]
    assert watch.look() == []
    key.write_bytes(body)
    assert watch.look() == [("recovered", "key_trouble/eu-west-1")]


def test_a_database_that_is_down_hides_nothing_and_ends_nothing(watch: Watch) -> None:
    watch.later = timedelta(minutes=80)
    assert watch.look() == [("new", f"rpo_missed/{ACME}")]
    watch.sections["database"] = {"dsn": watch.application.database.dsn.replace("dbname=", "dbname=no_such_")}
    assert watch.look() == [("new", "source_unreachable")]
    del watch.sections["database"]
    assert watch.look() == [("recovered", "source_unreachable")]
    watch.later = timedelta()
    assert watch.look() == [("recovered", f"rpo_missed/{ACME}")]


def test_a_tenant_that_lost_most_of_its_rows(watch: Watch) -> None:
    service = watch.service()
    for _ in range(3):
        change(watch.application)
        service.create_backup(ACME, ADMIN)
    assert watch.look() == []
    shrink(watch.application)
    service.create_backup(ACME, ADMIN)
    with watch.resource() as resource:
        backup_watch(dg.build_sensor_context(watch.instance), backups=resource)
    (body,) = watch.sink.bodies
    assert (body["key"], body["severity"]) == (f"size_unusual/{ACME}", "error")
    assert "unusually small" in body["subject"]
    assert "sbh restore diff" in body["remedy"]


def test_retention_that_is_not_enforced(watch: Watch) -> None:
    for _ in range(2):
        change(watch.application)
        watch.service().create_backup(ACME, ADMIN)
    watch.sections |= {
        "retention": {
            "keep_within_hours": 0,
            "full_backups": {"keep_daily": 0, "keep_weekly": 0, "keep_monthly": 0, "keep_last": 1},
        },
        "health": {"retention_grace_s": 0},
    }
    assert watch.look() == [("new", f"retention/{ACME}")]
    watch.service().retention.forget(ACME, ADMIN)
    assert watch.look() == [("recovered", f"retention/{ACME}")]


def test_a_new_tenant_has_time_for_its_first_backup(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenant without a backup is told when it has been so for as long as its objective, and not before."""
    watch.application.database.run("INSERT INTO tenants VALUES (3, 'coda', 'eu-west-1', 'critical', NULL)")
    assert watch.look() == []
    moment = time.time() + 2 * 3600
    later = partial(AlertSender, now=lambda: moment)
    monkeypatch.setattr(watch_module, "AlertSender", later)
    assert watch.look() == [("new", "no_backup/coda")]
    watch.service().create_backup("coda", ADMIN)
    assert watch.look() == [("recovered", "no_backup/coda")]


def test_a_damaged_pack_is_told_by_the_validation_and_its_mending_too(watch: Watch) -> None:
    packs = watch.application.repository(ACME) / "packs"
    pack = max(packs.iterdir(), key=lambda file: file.stat().st_size)
    body = pack.read_bytes()
    pack.write_bytes(body[: len(body) // 2])
    config = {"ops": {"validate_backups": {"config": {"tenants": [ACME, BOLT], "deep": True}}}}
    with watch.resource():
        assert watch.run("validate_backup_job", run_config=config) == [("new", f"verification_failed/{ACME}")]
    assert watch.run("validate_backup_job", run_config=config) == []
    pack.write_bytes(body)
    for mark in (watch.application.repository(ACME) / "index").glob("damaged-*"):
        mark.unlink()
    assert watch.run("validate_backup_job", run_config=config) == [("recovered", f"verification_failed/{ACME}")]


def fleet(*tenants: str, kind: str = "full") -> dict[str, Any]:
    return {"ops": {"snapshot_tables": {"config": {"tenants": list(tenants), "backup_type": kind}}}}


def test_a_failed_backup_is_told_once_and_its_recovery_by_type_and_tenant(watch: Watch) -> None:
    watch.application.database.run("UPDATE tenants SET region = 'mars-1' WHERE id = 2")
    job, key = "fleet_backup_job", f"backup_failed.full/{BOLT}"
    assert watch.run(job, run_config=fleet(ACME, BOLT)) == [("new", key)]
    assert watch.run(job, run_config=fleet(ACME, BOLT)) == []
    assert watch.run(job, run_config=fleet(BOLT, kind="incremental")) == [("new", f"backup_failed.incremental/{BOLT}")]
    watch.application.database.run("UPDATE tenants SET region = 'eu-west-1' WHERE id = 2")
    assert watch.run(job, run_config=fleet(ACME)) == []  # of another tenant
    assert watch.run("full_backup_job", partition_key=BOLT) == [("recovered", key)]
    assert watch.run(job, run_config=fleet(BOLT, kind="incremental")) == [
        ("recovered", f"backup_failed.incremental/{BOLT}")
    ]


def test_a_run_in_which_one_recovers_and_another_fails(watch: Watch) -> None:
    watch.application.database.run("UPDATE tenants SET region = 'mars-1' WHERE id = 2")
    assert watch.run("fleet_backup_job", run_config=fleet(ACME, BOLT)) == [("new", f"backup_failed.full/{BOLT}")]
    watch.application.database.run(
        "UPDATE tenants SET region = CASE id WHEN 1 THEN 'mars-1' ELSE 'eu-west-1' END WHERE id < 3"
    )
    assert sorted(watch.run("fleet_backup_job", run_config=fleet(ACME, BOLT))) == [
        ("new", f"backup_failed.full/{ACME}"),
        ("recovered", f"backup_failed.full/{BOLT}"),
    ]


def test_a_failed_restore_is_told_each_time(watch: Watch) -> None:
    """Nothing will follow it that could be its recovery."""
    config = {"ops": {"restore_tenant": {"config": {"tenant": ACME}}}}  # not confirmed
    for _ in range(2):
        (told,) = watch.run("restore_job", run_config=config)
        assert told[0] == "new"
        assert told[1].startswith("run_failed/")


def test_a_failure_that_was_followed_by_a_success_before_it_was_told_is_not_told(watch: Watch) -> None:
    """Dagster's sensors come to failures and successes in no order."""
    watch.application.database.run("UPDATE tenants SET region = 'mars-1' WHERE id = 2")
    results = []
    with watch.resource() as resource:
        for region in ("mars-1", "eu-west-1"):
            watch.application.database.run(f"UPDATE tenants SET region = '{region}' WHERE id = 2")
            results.append(execute("fleet_backup_job", resource, watch.instance, run_config=fleet(BOLT)))
        assert [result.success for result in results] == [False, True]
        for result in reversed(results):
            watch.follow(result, resource)
    assert watch.told() == []


def test_what_a_channel_did_not_take_is_owed_to_it_and_to_no_other(watch: Watch) -> None:
    """The tick fails and says so; the next ones send what is owed, once; nothing is told twice to the channel that took it."""
    with webhook() as slack:
        watch.sections["alerts"] = {
            "webhook_url": f"http://127.0.0.1:{watch.sink.port}/",
            "slack_url": f"http://127.0.0.1:{slack.port}/",
        }
        slack.status = 503
        watch.later = timedelta(minutes=80)
        with pytest.raises(AlertError, match="Slack: HTTP status 503"):
            watch.look()
        assert watch.told() == [("new", f"rpo_missed/{ACME}")]
        slack.bodies.clear()
        slack.status = 200
        assert watch.look() == []
        assert len(slack.bodies) == 1
        assert watch.look() == []
        assert len(slack.bodies) == 1


def test_a_run_of_the_drill_by_hand_is_ours(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Materialized in the web UI it carries no tag: it is known by its asset, and makes no backups."""
    with watch.resource() as resource:
        bound = dg.Definitions(assets=defs.assets, resources={"backups": resource, "io_manager": dg.mem_io_manager}, executor=dg.in_process_executor)  # fmt: skip
        job = bound.resolve_implicit_global_asset_job_def()
        monkeypatch.setattr(Drills, "run", _no_drill)
        result = job.execute_in_process(
            instance=watch.instance,
            raise_on_error=False,
            partition_key=ACME,
            asset_selection=[dg.AssetKey(["tenant_backup", "drill"])],
        )
        run = watch.instance.get_run_by_id(result.run_id)
        assert run is not None
        assert not result.success
        assert (is_ours(run), makes_backups(run), operation_of(run)) == (True, False, "drill")
        watch.follow(result, resource)
    (body,) = watch.sink.bodies
    assert (body["event"], body["key"]) == ("drill_failed", f"drill_failed/{ACME}")


def _no_drill(*_: Any, **__: Any) -> Any:
    raise UnknownBackup("There is no platform backup", on="platform", remedy="make one")


@pytest.mark.parametrize("reason", [None, "the database is lost and nobody else is awake"])
def test_a_restore_without_approval_is_told(watch: Watch, reason: str | None) -> None:
    """When its run begins; other restores are not."""
    config = {"tenant": ACME, **({"break_glass": reason} if reason else {})}
    run = watch.instance.create_run_for_job(
        defs.resolve_job_def("restore_job"),
        run_config={"ops": {"restore_tenant": {"config": config}}},
        tags={"sbh/operation": "restore", "user": "eve"},
    )
    with watch.resource() as resource:
        cursor = tick(break_glass_alerts, watch.instance, resource, None)  # tells nothing of what was before it
        event = dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, run.job_name)  # type: ignore[call-arg]
        watch.instance.report_dagster_event(event, run.run_id)
        for _ in range(2):  # and of nothing twice
            cursor = tick(break_glass_alerts, watch.instance, resource, cursor)
    bodies = watch.sink.bodies
    assert [body["event"] for body in bodies] == (["break_glass"] if reason else [])
    if reason:
        assert bodies[0]["severity"] == "critical"
        assert all(word in bodies[0]["text"] for word in (ACME, "eve", reason))


def test_the_digest_is_told_once_a_slot_also_when_nothing_is_wrong(watch: Watch) -> None:
    """The first look only remembers the slot; then one a day, with what is wrong by kind, and what is not known."""
    slot = utc_now() + timedelta(minutes=20)
    alerts = {
        "webhook_url": f"http://127.0.0.1:{watch.sink.port}/", "together": 1, "remind_hours": 24, "digest": f"{slot.minute} {slot.hour} * * *"
    }  # fmt: skip
    watch.sections["alerts"] = alerts

    def look(days: int | None = None) -> list[dict[str, Any]]:
        """The digests that were told, if days are given after the slot of that day."""
        if days is not None:
            watch.later = timedelta(days=days, minutes=40)
        watch.sink.bodies.clear()
        with suppress(AlertError), watch.resource() as resource:
            tick(backup_watch, watch.instance, resource, "")
        return [body for body in watch.sink.bodies if body["event"] == "digest"]

    assert look() == []
    assert look() == []
    (body,) = look(0)
    assert body["subject"] == "Backups: 2 of 2 tenants as promised, nothing wrong"
    assert "2 tenants have a backup that was made in the last day; there are 2 in all" in body["message"]
    assert look() == []
    (body,) = look(2)
    assert body["subject"] == "Backups: 0 of 2 tenants as promised, 2 things wrong"
    assert "rpo_missed (2)" in body["message"]
    assert body["severity"] == "info"
    assert look() == []
    away = watch.application.bucket.with_name("away")
    watch.application.bucket.rename(away)
    (body,) = look(3)
    assert body["subject"] == "Backups: 0 of 2 tenants as promised, 2 unknown, 1 thing wrong"
    away.rename(watch.application.bucket)
    with webhook() as slack:  # it does not take the recovery; the digest is told to the others, and once
        slack.status = 503
        watch.sections["alerts"] = alerts | {"slack_url": f"http://127.0.0.1:{slack.port}/"}
        assert len(look(4)) == 1
        assert look() == []
        watch.sections["alerts"] = alerts
    watch.instance.run_storage.set_cursor_values({"sbh/digest/": "tomorrow"})
    assert look() == []
    watch.sections["database"] = {"dsn": watch.application.database.dsn.replace("dbname=", "dbname=no_such_")}
    (body,) = look(5)
    assert body["subject"] == "Backups: the tenants are unknown, 1 thing wrong"
    watch.sections["alerts"] = alerts | {"digest": "every morning"}
    with pytest.raises(SettingsError, match="Not a cron line"):
        look()
