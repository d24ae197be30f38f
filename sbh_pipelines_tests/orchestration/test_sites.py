"""Two sites on one Dagster instance: two code servers with a settings file each, two databases, tenants of the same names.

Dagster's own loops are turned here, with the hours of a day passed to them, so that every schedule and every sensor of both is
evaluated as its daemon would. What one site does must be as if the other were not there.
"""

import base64
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from sbh_pipelines.cli.commands.doctor import _ask_dagster
from sbh_pipelines.doctor import Report
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.orchestration.common.dagster_internals import load_target
from sbh_pipelines.settings import load_settings
from sbh_pipelines_tests.support.dagster_internals import (
    InstigatorTick,
    TimestampWithTimezone,
    WorkspaceProcessContext,
    create_test_daemon_workspace_context,
    execute_sensor_iteration,
    freeze_time,
    launch_scheduled_runs,
)
from sbh_pipelines_tests.support.databases import fresh_database
from sbh_pipelines_tests.support.servers import QUICK_DAGSTER, ROOT, free_port, listens, started, until
from sbh_pipelines_tests.support.sinks import WebhookSink, webhook

EU, US = "eu_west_1", "us"
TENANTS = {EU: {"tenant-1": "critical", "tenant-2": "critical", "old": "archive"}, US: {"tenant-1": "critical"}}
SCHEMA = """
CREATE TABLE tenants (id int PRIMARY KEY, slug text NOT NULL, region text NOT NULL, tier text);
CREATE TABLE notes (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, text text);
GRANT SELECT ON ALL TABLES IN SCHEMA public TO sbh_backup;
"""
SETTINGS = """
[site]
name = "{site}"
[database]
dsn = "{dsn}"
password_file = "{password}"
[files]
enabled = false
[storage]
kind = "local"
path = "{folder}"
regions = ["eu-west-1"]
[keys]
provider = "local"
key_file = "{key}"
[alerts]
webhook_url = "http://127.0.0.1:{port}/{site}"
"""
QUEUE = {
    "run_coordinator": {
        "module": "dagster._core.run_coordinator.queued_run_coordinator",
        "class": "QueuedRunCoordinator",
    }
}
MONDAY = datetime(2026, 3, 2, tzinfo=UTC)


@dataclass
class Instance:
    """The instance of both sites, with the loops of its daemon."""

    dagster: dg.DagsterInstance
    workspace: WorkspaceProcessContext
    told: WebhookSink
    settings: Mapping[str, Path]
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def schedules_at(self, moment: datetime) -> list[str]:
        """Turns the scheduler's loop; the runs that it asked for, as `site schedule: tenants`."""
        before = {run.run_id for run in self.dagster.get_runs()}
        for error in launch_scheduled_runs(self.workspace, logging.getLogger("test"), moment, {}):
            assert error is None, error
        made = [run for run in self.dagster.get_runs() if run.run_id not in before]
        return sorted(f"{run.tags['sbh/site']} {run.tags['sbh/schedule']}: {' '.join(named(run))}" for run in made)

    def sensors(self, later: timedelta) -> None:
        """Turns the sensors' loop, some time after it was turned last."""
        self.now += later
        with freeze_time(self.now):
            for error in execute_sensor_iteration(self.workspace, logging.getLogger("test"), None, None):
                assert error is None or "SBH-924" in str(error), error

    def launched(self, site: str, schedule: str) -> dg.DagsterRun:
        tags = {"sbh/site": site, "sbh/schedule": schedule}
        return self.dagster.get_runs(dg.RunsFilter(tags=tags), limit=1)[0]

    def execute(self, *runs: dg.DagsterRun) -> None:
        """By the code server of each, side by side, to a good end."""
        context = self.workspace.create_request_context()
        for run in runs:
            self.dagster.launch_run(run.run_id, context)
        for run in runs:
            until(lambda run=run: self.dagster.get_run_by_id(run.run_id).is_finished)  # type: ignore[misc, union-attr]
            assert self.dagster.get_run_by_id(run.run_id).is_success  # type: ignore[union-attr]

    def evaluate(self, site: str, schedule: str, slot: datetime) -> str:
        """Why a schedule launches nothing for a slot, as where its tick broke off after the runs and is repeated."""
        location = self.workspace.create_request_context().get_code_location(site)
        (repository,) = location.get_repositories().values()
        at = TimestampWithTimezone(slot.timestamp(), "UTC")
        given = location.get_schedule_execution_data(
            self.dagster, repository.handle, f"{site}__{schedule}", at, log_key=None
        )
        assert given.run_requests == []
        return str(given.skip_message)

    def ask_for(self, site: str, job: str, config: dict[str, Any]) -> dg.DagsterRun:
        """A run of a job, as somebody in the web pages asks for it: it is queued."""
        context = self.workspace.create_request_context()
        repository = next(iter(context.get_code_location(site).get_repositories().values()))
        remote = repository.get_full_job(f"{site}__{job}")
        plan = context.get_code_location(site).get_execution_plan(remote, config, None, None, self.dagster)
        run = self.dagster.create_run(
            job_name=remote.name, run_id=None, run_config=config, resolved_op_selection=None, status=None,
            tags=dict(remote.tags), root_run_id=None, parent_run_id=None, step_keys_to_execute=None,
            execution_plan_snapshot=plan.execution_plan_snapshot, job_snapshot=remote.job_snapshot,
            parent_job_snapshot=None, remote_job_origin=remote.get_remote_origin(), job_code_origin=remote.get_python_origin(),
            asset_selection=None, op_selection=None, asset_check_selection=None, asset_graph=context.asset_graph,
        )  # fmt: skip
        return self.dagster.submit_run(run.run_id, context)

    def alerts(self, site: str) -> list[dict[str, Any]]:
        """What the people of a site were told."""
        return [body for path, body in zip(self.told.paths, self.told.bodies, strict=True) if path == f"/{site}"]

    def memory(self, site: str, sensor: str) -> list[str]:
        """What is open in a sensor's memory of alerts."""
        key = f"sbh/alerts/{site}/{sensor}"
        text = self.dagster.run_storage.get_cursor_values({key}).get(key)
        return sorted(json.loads(text)["memory"]["open"]) if text else []

    def last_tick(self, sensor: str) -> InstigatorTick:
        (state,) = [s for s in self.dagster.all_instigator_state() if s.instigator_name == sensor]
        return self.dagster.get_ticks(state.instigator_origin_id, state.selector_id, limit=1)[0]


def named(run: dg.DagsterRun) -> list[str]:
    ops: Any = run.run_config.get("ops", {})
    return list(ops.get("snapshot_tables", {}).get("config", {}).get("tenants", []))


@pytest.fixture(scope="module")
def instance(embedded_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    folder = tmp_path_factory.mktemp("sites")
    with ExitStack() as opened:
        sink, base = opened.enter_context(webhook()), load_settings(embedded_stack.settings)
        ports = {site: free_port() for site in TENANTS}
        files = {site: folder / site / "sbh.toml" for site in TENANTS}
        logs = {}
        for site, tenants in TENANTS.items():
            database = opened.enter_context(fresh_database(embedded_stack))
            rows = ", ".join(
                f"({n}, '{slug}', 'eu-west-1', '{tier}')" for n, (slug, tier) in enumerate(tenants.items())
            )
            database.run(
                SCHEMA, f"INSERT INTO tenants VALUES {rows}", "INSERT INTO notes SELECT id, id, slug FROM tenants"
            )
            if site == EU:
                database.run("INSERT INTO tenants VALUES (99, 'not a slug', 'eu-west-1', 'archive')")
            (folder / site / "buckets" / "sbh-files-eu-west-1").mkdir(parents=True)
            settings, log = files[site], folder / site / "log"
            dsn = base.database.dsn.replace("dbname=app", f"dbname={database.name}")
            (folder / f"{site}.key").write_text(base64.b64encode(os.urandom(32)).decode())
            settings.write_text(
                SETTINGS.format(
                    site=site,
                    dsn=dsn,
                    password=base.database.password_file,
                    folder=folder / site / "buckets",
                    key=folder / f"{site}.key",
                    port=sink.port,
                )
            )
            environment = os.environ | {"SBH_SETTINGS": str(settings), "PYTHONPATH": f"{QUICK_DAGSTER}:{ROOT}"}
            command = [str(Path(sys.executable).with_name("dagster")), "api", "grpc", "-m", "sbh_pipelines.definitions"]
            server = started([*command, "-h", "127.0.0.1", "-p", str(ports[site])], environment, log)
            logs[site] = opened.enter_context(server), log
        for site, (process, log) in logs.items():
            until(lambda site=site, process=process, log=log: listens(ports[site], process, log))  # type: ignore[misc]
        locations = ", ".join(
            f"{{grpc_server: {{host: 127.0.0.1, port: {ports[site]}, location_name: {site}}}}}" for site in TENANTS
        )
        (folder / "workspace.yaml").write_text(f"load_from: [{locations}]\n")
        made = opened.enter_context(dg.instance_for_test(QUEUE))
        target = load_target("", [str(folder / "workspace.yaml")])
        yield Instance(made, opened.enter_context(create_test_daemon_workspace_context(target, made)), sink, files)


@pytest.mark.parametrize("site", TENANTS)
def test_all_that_dagster_knows_by_name_is_named_for_the_site(instance: Instance, site: str) -> None:
    """Also what is added later: a job, an asset or a sensor without the site's name would be shared by all."""
    location = instance.workspace.create_request_context().get_code_location(site)
    (repository,) = location.get_repositories().values()
    jobs = [job for job in repository.get_all_jobs() if not job.name.startswith("__")]
    named = [*jobs, *repository.get_schedules(), *repository.get_sensors()]
    assert [one.name for one in named if not one.name.startswith(f"{site}__")] == []
    assert {(job.tags.get("sbh/site"), job.tags.get("dagster-celery/queue")) for job in jobs} == {
        (site, f"{site}__dagster")
    }
    nodes = [repository.asset_graph.get(key) for key in repository.asset_graph.get_all_asset_keys()]
    assert [node.key for node in nodes if node.key.path[0] != site] == []
    assert [node.key for node in nodes if not all(pool.startswith(f"{site}__") for pool in node.pools or ())] == []
    assert {node.partitions_def.name for node in nodes if node.partitions_def} == {f"{site}__tenants"}  # type: ignore[attr-defined]


def test_each_site_is_as_if_it_were_alone(instance: Instance) -> None:
    dagster = instance.dagster
    # Partitions: the larger site's listing takes none from the smaller one's, which has a tenant of the same name.
    instance.sensors(timedelta())
    instance.sensors(timedelta(seconds=70))
    assert {
        name: sorted(dagster.get_dynamic_partitions(name)) for name in ("tenants", f"{EU}__tenants", f"{US}__tenants")
    } == {
        "tenants": [],
        f"{EU}__tenants": ["old", "tenant-1", "tenant-2"],
        f"{US}__tenants": ["tenant-1"],
    }
    # Ticks: schedules of one name find each their own slots, and one slot launches for both.
    assert instance.schedules_at(MONDAY + timedelta(hours=12, minutes=5)) == []
    assert instance.schedules_at(MONDAY + timedelta(days=1, hours=2, minutes=1)) == [
        f"{EU} daily_full: tenant-1 tenant-2",
        f"{EU} daily_platform_backup: ",
        f"{US} daily_full: tenant-1",
        f"{US} daily_platform_backup: ",
    ]
    for site in TENANTS:
        assert instance.launched(site, "daily_full").tags["dagster-celery/queue"] == f"{site}__eu-west-1"
        assert "have their run for this slot already" in instance.evaluate(
            site, "daily_full", MONDAY + timedelta(days=1, hours=2)
        )
    # Runs: each with its own service, and materialized in its own assets.
    instance.execute(instance.launched(EU, "daily_full"), instance.launched(US, "daily_full"))
    full = {site: dg.AssetKey([site, "tenant_backup", "full"]) for site in TENANTS}
    assert {site: sorted(dagster.get_materialized_partitions(key)) for site, key in full.items()} == {
        EU: ["tenant-1", "tenant-2"],
        US: ["tenant-1"],
    }
    assert {run.tags["sbh/site"] for run in dagster.get_runs()} == set(TENANTS)
    assert all(run.job_name.startswith(f"{run.tags['sbh/site']}__") for run in dagster.get_runs())
    # Busy looks: a backup of all tenants of one site keeps nobody of the other from being backed up.
    config = {"ops": {"snapshot_tables": {"config": {"tenants": [], "backup_type": "full"}}}}
    everybody = instance.ask_for(US, "fleet_backup_job", config)
    assert instance.schedules_at(MONDAY + timedelta(days=1, hours=3, minutes=1)) == [
        f"{EU} hourly_incremental: tenant-1 tenant-2"
    ]
    # One prune and one platform backup at a time: of each site.
    prune = instance.ask_for(US, "prune_job", {})
    assert instance.schedules_at(MONDAY + timedelta(days=1, hours=4, minutes=31)) == [f"{EU} daily_prune: "]
    for run in (everybody, prune):
        dagster.report_run_canceled(run)
    # Alerts and retries: of the site whose run failed, and of nobody else. What the other finds to be well ends nothing.
    failed = instance.launched(EU, "hourly_incremental")
    dagster.report_run_failed(failed, "its host is gone")
    instance.sensors(timedelta(hours=2))
    instance.sensors(timedelta(hours=2))
    assert instance.alerts(US) == []
    told = [(alert["event"], alert["state"], alert["site"]) for alert in instance.alerts(EU)]
    assert sorted(told) == [("run_failed", "new", EU), ("tenant_unusable", "new", EU)]
    assert instance.memory(EU, "runs") == ["backup_failed.incremental/tenant-1", "backup_failed.incremental/tenant-2"]
    assert instance.memory(US, "runs") == []
    repeats = dagster.get_runs(dg.RunsFilter(tags={"sbh/retry_of": failed.run_id}))
    assert [(run.job_name, run.tags["sbh/site"], named(run)) for run in repeats] == [
        (f"{EU}__fleet_backup_job", EU, ["tenant-1", "tenant-2"])
    ]


def test_a_second_location_of_one_name_is_refused(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Dagster remembers a location whose settings have the same name: the partitions are left alone, and why is said."""
    sensor = f"{EU}__tenants_sync"
    (state,) = [s for s in instance.dagster.all_instigator_state() if s.instigator_name == f"{US}__tenants_sync"]
    twin = state._replace(
        origin=state.origin._replace(instigator_name=sensor),
        instigator_data=state.instigator_data._replace(last_tick_start_timestamp=time.time()),  # type: ignore[union-attr]
    )
    instance.dagster.add_instigator_state(twin)
    instance.dagster.delete_dynamic_partition(f"{EU}__tenants", "old")
    instance.sensors(timedelta(seconds=70))
    (own,) = [
        s for s in instance.dagster.all_instigator_state()
        if s.instigator_name == sensor and s.repository_selector.location_name == EU
    ]  # fmt: skip
    (tick,) = instance.dagster.get_ticks(own.instigator_origin_id, own.selector_id, limit=1)
    assert "SBH-924" in str(tick.error)
    assert f"{EU}, {US}" in str(tick.error)
    assert "old" not in instance.dagster.get_dynamic_partitions(f"{EU}__tenants")
    # Whoever looks for the reason is told too.
    monkeypatch.setenv("DAGSTER_HOME", instance.dagster.root_directory)
    report = Report()
    _ask_dagster(report, instance.settings[EU])
    assert [f"{EU}, {US}" in finding.detail for finding in report.errors] == [True]
