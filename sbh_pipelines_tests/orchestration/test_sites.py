"""Two sites on one Dagster instance: two code servers with a settings file each, two databases, tenants of the same names.

Dagster's own loops are turned here, with the minutes of an hour passed to them, so that every schedule and every sensor of both is
evaluated as its daemon would, and the runs that they ask for are executed. What one site does must be as if the other were not there.
"""

import base64
import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
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
from sbh_pipelines.orchestration.common.dagster_internals import ScheduleState, load_target
from sbh_pipelines.settings import load_settings
from sbh_pipelines_tests.support.dagster_internals import (
    ORDER_OF_SCHEDULES,
    InstigatorTick,
    TimestampWithTimezone,
    WorkspaceProcessContext,
    create_test_daemon_workspace_context,
    execute_sensor_iteration,
    freeze_time,
    launch_scheduled_runs,
    task_of_queued_run,
)
from sbh_pipelines_tests.support.databases import Database, fresh_database
from sbh_pipelines_tests.support.servers import QUICK_DAGSTER, ROOT, free_port, listens, started, until
from sbh_pipelines_tests.support.sinks import WebhookSink, webhook

LOG = logging.getLogger("test")
EU, US = "eu_west_1", "us"
TENANTS = {EU: {"tenant-1": "critical", "tenant-2": "critical", "old": "archive"}, US: {"tenant-1": "critical"}}
SCHEMA = """
CREATE TABLE tenants (id int PRIMARY KEY, slug text NOT NULL, region text NOT NULL, tier text);
CREATE TABLE notes (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, text text);
GRANT SELECT ON ALL TABLES IN SCHEMA public TO sbh_backup;
"""
FOLLOWED = ["weekly_full", "daily_full", "differential", "hourly_incremental"]
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
[platform]
pg_dump = "{pg_dump}"
[schedules.tiers]
critical = {followed}
archive = []
[alerts]
webhook_url = "http://127.0.0.1:{port}/{site}"
"""
INSTANCE = {
    "run_coordinator": {
        "module": "dagster._core.run_coordinator.queued_run_coordinator",
        "class": "QueuedRunCoordinator",
    },
    "concurrency": {"pools": {"default_limit": 4, "granularity": "op"}},
}
MINUTES = {
    "SCHEDULES__DAILY_FULL": "5",
    "SCHEDULES__DAILY_PRUNE": "10",
    "DRILL__SCHEDULE": "15",
    "SCHEDULES__HOURLY_INCREMENTAL": "20,40,55",
    "SCHEDULES__STORAGE_REPORT": "25",
    "SCHEDULES__JOURNAL_DRAIN": "30",
    "SCHEDULES__COPIES": "30",
    "SCHEDULES__WEEKLY_FULL": "50",
}
"""Of every hour, when each schedule launches: by the variable of its cron line, without `SBH_`."""
OF_ONE = {
    EU: {"PLATFORM__SCHEDULE": "12", "SCHEDULES__DIFFERENTIAL": "40"},
    US: {"PLATFORM__SCHEDULE": "7", "SCHEDULES__DIFFERENTIAL": "35,58"},
}

LAUNCHED = {
    5: [f"{EU} daily_full: tenant-1 tenant-2", f"{US} daily_full: tenant-1"],
    7: [f"{US} daily_platform_backup"],
    10: [f"{EU} daily_prune"],
    12: [f"{EU} daily_platform_backup"],
    15: [f"{EU} weekly_drill", f"{US} weekly_drill"],
    20: [f"{EU} hourly_incremental: tenant-1 tenant-2", f"{US} hourly_incremental: tenant-1"],
    25: [f"{EU} weekly_storage_report", f"{US} weekly_storage_report"],
    35: [f"{US} differential: tenant-1"],
    40: [f"{EU} hourly_incremental: late tenant-1 tenant-2"],
    56: [f"{EU} weekly_full: late tenant-1 tenant-2", f"{US} weekly_full: tenant-1"],
    58: [f"{US} differential: tenant-1"],
}
"""By minute, what the schedules ask for: neither what is held back by the site's own runs, nor what a fuller schedule stands for."""
LOST = 56, LAUNCHED[56][0]
FAILED = {(20, LAUNCHED[20][0]), LOST, (35, LAUNCHED[35][0])}
REPEATED = {58: [f"{EU} {EU}__fleet_backup_job: late tenant-1 tenant-2"]}
"""By minute, what the sensors ask for: the tenants of a run that broke off."""
SENSORS = (0, 5, 10, 20, 30, 35, 40, 50, 58, 60)
OPEN = {
    5: {EU: [], US: []},
    20: {EU: ["backup_failed.incremental/tenant-1", "backup_failed.incremental/tenant-2"], US: []},
    35: {
        EU: ["backup_failed.incremental/tenant-1", "backup_failed.incremental/tenant-2"],
        US: ["backup_failed.differential/tenant-1"],
    },
    40: {EU: [], US: ["backup_failed.differential/tenant-1"]},
    58: {EU: [f"backup_failed.full/{tenant}" for tenant in ("late", "tenant-1", "tenant-2")], US: []},
    60: {EU: [], US: []},
}
"""By minute, which alerts of runs people of each site wait to hear the end of."""
TOLD = {
    EU: [
        ("tenant_unusable", "new"),
        ("run_failed", "new"),
        ("backup_failed", "recovered"),
        ("run_failed", "new"),
        ("backup_failed", "recovered"),
    ],
    US: [("run_failed", "new"), ("backup_failed", "recovered")],
}


@dataclass
class Instance:
    """The instance of both sites, with the loops of its daemon."""

    dagster: dg.DagsterInstance
    workspace: WorkspaceProcessContext
    told: WebhookSink
    settings: Mapping[str, Path]
    databases: Mapping[str, Database]
    now: datetime
    evaluated: dict[str, Any] = field(default_factory=dict)
    held: list[dg.DagsterRun] = field(default_factory=list)

    def schedules(self) -> list[dg.DagsterRun]:
        """Turns the scheduler's loop; the runs that it asked for, which are queued."""
        return self._asked_for(launch_scheduled_runs(self.workspace, LOG, self.now, self.evaluated))

    def sensors(self) -> list[dg.DagsterRun]:
        """Turns the sensors' loop; the runs that it asked for."""
        return self._asked_for(execute_sensor_iteration(self.workspace, LOG, None, None))

    def _asked_for(self, loop: Iterator[Any]) -> list[dg.DagsterRun]:
        before = {run.run_id for run in self.dagster.get_runs()}
        with freeze_time(self.now):
            for error in loop:
                assert error is None or "SBH-924" in str(error), error
        return [run for run in self.dagster.get_runs() if run.run_id not in before]

    def launched(self, site: str, schedule: str) -> dg.DagsterRun:
        tags = {"sbh/site": site, "sbh/schedule": schedule}
        return self.dagster.get_runs(dg.RunsFilter(tags=tags), limit=1)[0]

    def execute(self, runs: Iterable[dg.DagsterRun]) -> list[str]:
        """By the code server of each, side by side; those that succeeded, as `site schedule: tenants`."""
        context = self.workspace.create_request_context()
        for run in runs:
            self.dagster.launch_run(run.run_id, context)
        ended = [until(lambda run=run: self._ended(run)) for run in runs]  # type: ignore[misc]
        return sorted(said(run) for run in ended if run.is_success)

    def _ended(self, run: dg.DagsterRun) -> dg.DagsterRun | None:
        found = self.dagster.get_run_by_id(run.run_id)
        return found if found and found.is_finished else None

    def states(self) -> list[ScheduleState]:
        return list(self.dagster.all_instigator_state())

    def ticks(self, state: ScheduleState, since: datetime) -> list[InstigatorTick]:
        return list(self.dagster.get_ticks(state.instigator_origin_id, state.selector_id, after=since.timestamp() - 1))

    def stop(self, site: str, schedule: str) -> None:
        """As the switch in the web pages does."""
        location = self.workspace.create_request_context().get_code_location(site)
        found = next(iter(location.get_repositories().values())).get_schedule(f"{site}__{schedule}")
        self.dagster.stop_schedule(found.get_remote_origin_id(), found.selector_id, found)

    def partitions(self) -> dict[str, list[str]]:
        names = ("tenants", *(f"{site}__tenants" for site in TENANTS))
        return {name: sorted(self.dagster.get_dynamic_partitions(name)) for name in names}

    def spoil(self, site: str) -> None:
        """No backup of the site can be made from here on: of whom the rows of a table are is not known."""
        self.databases[site].run("CREATE TABLE strays (id int)")

    def mend(self, site: str) -> None:
        self.databases[site].run("DROP TABLE IF EXISTS strays")

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

    def alerts(self, site: str) -> list[tuple[str, str, str]]:
        """What the people of a site were told."""
        bodies = [body for path, body in zip(self.told.paths, self.told.bodies, strict=True) if path == f"/{site}"]
        return [(body["event"], body["state"], body["site"]) for body in bodies]

    def memory(self, site: str, sensor: str) -> list[str]:
        """What is open in a sensor's memory of alerts."""
        key = f"sbh/alerts/{site}/{sensor}"
        text = self.dagster.run_storage.get_cursor_values({key}).get(key)
        return sorted(json.loads(text)["memory"]["open"]) if text else []


def named(run: dg.DagsterRun) -> list[str]:
    ops: Any = run.run_config.get("ops", {})
    return list(ops.get("snapshot_tables", {}).get("config", {}).get("tenants", []))


def said(run: dg.DagsterRun) -> str:
    return f"{run.tags['sbh/site']} {run.tags.get('sbh/schedule') or run.job_name}: {' '.join(named(run))}".strip(": ")


@pytest.fixture(scope="module")
def instance(embedded_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    folder = tmp_path_factory.mktemp("sites")
    with ExitStack() as opened:
        sink, base = opened.enter_context(webhook()), load_settings(embedded_stack.settings)
        ports = {site: free_port() for site in TENANTS}
        files = {site: folder / site / "sbh.toml" for site in TENANTS}
        logs, databases = {}, {}
        for site, tenants in TENANTS.items():
            databases[site] = database = opened.enter_context(fresh_database(embedded_stack))
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
                    pg_dump=base.platform.pg_dump,
                    followed=FOLLOWED,
                )
            )
            environment = {
                **os.environ,
                "SBH_SETTINGS": str(settings),
                "PYTHONPATH": f"{QUICK_DAGSTER}:{ROOT}",
                **{f"SBH_{name}": f"{at} * * * *" for name, at in (MINUTES | OF_ONE[site]).items()},
            }
            command = [str(Path(sys.executable).with_name("dagster")), "api", "grpc", "-m", "sbh_pipelines.definitions"]
            server = started([*command, "-h", "127.0.0.1", "-p", str(ports[site])], environment, log)
            logs[site] = opened.enter_context(server), log
        for site, (process, log) in logs.items():
            until(lambda site=site, process=process, log=log: listens(ports[site], process, log))  # type: ignore[misc]
        locations = ", ".join(
            f"{{grpc_server: {{host: 127.0.0.1, port: {ports[site]}, location_name: {site}}}}}" for site in TENANTS
        )
        (folder / "workspace.yaml").write_text(f"load_from: [{locations}]\n")
        made = opened.enter_context(dg.instance_for_test(INSTANCE))
        target = load_target("", [str(folder / "workspace.yaml")])
        workspace = opened.enter_context(create_test_daemon_workspace_context(target, made))
        now = datetime.now(UTC).replace(second=0, microsecond=0)
        yield Instance(made, workspace, sink, files, databases, now)


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


@pytest.fixture
def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dagster looks at the schedules in random order: here at those of one site first, and in each at the fullest last."""

    def in_order(schedules: Iterable[Any], key: Any) -> list[Any]:
        return sorted(schedules, key=lambda schedule: (key(schedule) != US, schedule.name))

    monkeypatch.setattr(ORDER_OF_SCHEDULES, in_order)


@pytest.mark.usefixtures("in_order")
def test_an_hour_of_two_sites(instance: Instance) -> None:
    """Minute by minute, the schedules, what happens then, and the sensors: each site is as if it were alone."""
    begun = instance.now = instance.now.replace(minute=0, second=0) + timedelta(hours=1)
    partitions = {"tenants": [], f"{EU}__tenants": ["old", "tenant-1", "tenant-2"], f"{US}__tenants": ["tenant-1"]}
    for minute in range(61):
        if not 46 <= minute < 56:  # the scheduler is down
            runs = instance.schedules()
            assert sorted(map(said, runs)) == LAUNCHED.get(minute, []), minute
            for run in [run for run in runs if (minute, said(run)) == LOST]:
                instance.dagster.report_run_failed(run, "its host is gone")
                runs.remove(run)
            succeeded = [launched for launched in LAUNCHED.get(minute, []) if (minute, launched) not in FAILED]
            assert instance.execute(runs) == succeeded, minute
        happens(instance, minute)
        if minute == 22:
            partitions = {**partitions, f"{EU}__tenants": ["late", "old", "tenant-1", "tenant-2"]}
        if minute in SENSORS:
            repeats = instance.sensors()
            assert instance.partitions() == partitions, minute
            assert instance.execute(repeats) == REPEATED.get(minute, []), minute
            assert all(run.tags["sbh/retry_of"] == instance.launched(EU, "weekly_full").run_id for run in repeats)
        if minute in OPEN:
            assert {site: instance.memory(site, "runs") for site in TENANTS} == OPEN[minute], minute
        instance.now += timedelta(minutes=1)
    assert {site: instance.alerts(site) for site in TENANTS} == {
        site: [(*alert, site) for alert in told] for site, told in TOLD.items()
    }
    every_tick_and_every_run_is_of_its_site(instance, begun)


def happens(instance: Instance, minute: int) -> None:
    """What is done by hand in this minute."""
    if minute == 6:
        for site in TENANTS:
            slot = instance.now.replace(minute=5)
            assert "have their run for this slot already" in instance.evaluate(site, "daily_full", slot)
    elif minute == 8:  # each would be in the way of the other site's, if these were one site
        instance.held = [instance.ask_for(US, job, {}) for job in ("prune_job", "platform_backup_job")]
    elif minute == 18:
        instance.spoil(EU)
    elif minute == 22:
        instance.databases[EU].run("INSERT INTO tenants VALUES (7, 'late', 'eu-west-1', 'critical')")
    elif minute == 33:
        instance.mend(EU)
        instance.spoil(US)
    elif minute == 37:  # of all tenants; and what one site has stopped launches in the other
        config = {"ops": {"snapshot_tables": {"config": {"tenants": [], "backup_type": "full"}}}}
        instance.held = [instance.ask_for(US, "fleet_backup_job", config)]
        instance.stop(EU, "differential")
    elif minute in (13, 41):
        for run in instance.held:
            instance.dagster.report_run_canceled(run)
        instance.mend(US)


def every_tick_and_every_run_is_of_its_site(instance: Instance, since: datetime) -> None:
    """By what Dagster has kept of the hour."""
    dagster = instance.dagster
    runs = {run.run_id: run for run in dagster.get_runs()}
    known = {EU: {*TENANTS[EU], "late"}, US: set(TENANTS[US])}
    for run in runs.values():
        site = run.tags["sbh/site"]
        assert run.job_name.startswith(f"{site}__")
        assert set(named(run)) <= known[site]
        queue = "eu-west-1" if "sbh/region" in run.tags else "dagster"
        assert run.tags["dagster-celery/queue"] == f"{site}__{queue}"
    context = instance.workspace.create_request_context()
    for site in TENANTS:
        (repository,) = context.get_code_location(site).get_repositories().values()
        states = {s.instigator_name: s for s in instance.states() if s.repository_selector.location_name == site}
        assert set(states) == {one.name for one in (*repository.get_schedules(), *repository.get_sensors())}
        ticks = {name: instance.ticks(state, since) for name, state in states.items()}
        stopped = {f"{EU}__differential"}  # before its minute came
        assert {name for name, of_it in ticks.items() if not of_it} == stopped & set(states)
        assert [tick.error for of_it in ticks.values() for tick in of_it if tick.error] == []
        launched = {run_id for of_it in ticks.values() for tick in of_it for run_id in tick.run_ids}
        assert {runs[run_id].tags["sbh/site"] for run_id in launched} == {site}
        full = dagster.get_materialized_partitions(dg.AssetKey([site, "tenant_backup", "full"]))
        assert full == {name for name in known[site] if name != "old"}
    assert dagster.event_log_storage.get_concurrency_keys() == {
        f"{site}__{pool}" for site in TENANTS for pool in ("source_db", "object_store")
    }


def test_a_worker_of_another_site_begins_no_run(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of Celery that serves another site's queue by mistake: this process has the definitions of a site without a name."""
    from sbh_pipelines.orchestration.hosts.celery_worker import execute_job  # the module alone makes a process a worker

    monkeypatch.delitem(sys.modules, "sbh_pipelines.orchestration.hosts.celery_worker")
    monkeypatch.setenv("DAGSTER_HOME", instance.dagster.root_directory)
    run = instance.ask_for(US, "prune_job", {})
    execute_job(execute_job_args_packed=task_of_queued_run(instance.dagster, run))
    ended = instance.dagster.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.status is dg.DagsterRunStatus.FAILURE
    assert "Could not load job definition." in [record.message for record in instance.dagster.all_logs(run.run_id)]
    instance.dagster.delete_run(run.run_id)


def test_a_second_location_of_one_name_is_refused(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Dagster remembers a location whose settings have the same name: the partitions are left alone, and why is said."""
    sensor, dagster = f"{EU}__tenants_sync", instance.dagster
    instance.now += timedelta(seconds=70)
    instance.sensors()
    states = {state.instigator_name: state for state in instance.states()}
    state, own = states[f"{US}__tenants_sync"], states[sensor]
    twin = state._replace(
        origin=state.origin._replace(instigator_name=sensor),
        instigator_data=state.instigator_data._replace(last_tick_start_timestamp=time.time()),  # type: ignore[union-attr]
    )
    dagster.add_instigator_state(twin)
    dagster.delete_dynamic_partition(f"{EU}__tenants", "old")
    instance.now += timedelta(seconds=70)
    instance.sensors()
    (tick,) = dagster.get_ticks(own.instigator_origin_id, own.selector_id, limit=1)
    assert "SBH-924" in str(tick.error)
    assert f"{EU}, {US}" in str(tick.error)
    assert "old" not in dagster.get_dynamic_partitions(f"{EU}__tenants")
    # Whoever looks for the reason is told too.
    monkeypatch.setenv("DAGSTER_HOME", dagster.root_directory)
    report = Report()
    _ask_dagster(report, instance.settings[EU])
    assert [f"{EU}, {US}" in finding.detail for finding in report.errors] == [True]
    # Once it is gone, all is as before.
    dagster.delete_instigator_state(twin.instigator_origin_id, twin.selector_id)
    instance.now += timedelta(seconds=70)
    instance.sensors()
    assert "old" in dagster.get_dynamic_partitions(f"{EU}__tenants")
