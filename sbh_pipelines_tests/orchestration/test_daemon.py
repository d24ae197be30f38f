"""Everything as users run it: `dg dev` with its daemon, the command lines, the web server's API.

The tests share one Dagster. Each looks at the runs that it launched itself and at no others: the daemon launches some of its
own, such as repeats of runs that crashed, whenever it comes to that. Schedules are off, whatever the hour.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg2
import pytest

from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.orchestration.alerting.conditions import Condition
from sbh_pipelines.orchestration.alerting.stuck_runs import stuck_runs, worker_is_gone
from sbh_pipelines.settings import AlertSettings
from sbh_pipelines_tests.support.fix_stack import NAMES, Site
from sbh_pipelines_tests.support.servers import (
    INSTANCE,
    NO_SCHEDULES,
    PATIENCE_S,
    QUICK_DAGSTER,
    ROOT,
    free_port,
    until,
)
from sbh_pipelines_tests.support.sinks import WebhookSink, webhook

MODULE = ("-m", "sbh_pipelines.definitions")

LAUNCH_BACKFILL = """
mutation($type: String!, $names: [String!]!) {
  launchPartitionBackfill(backfillParams: {
    assetSelection: [{path: ["tenant_backup", $type]}], partitionNames: $names
  }) { ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } }
}"""
BACKFILL = """
query($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill {
  status runs(limit: 10) { runId status } assetBackfillData { assetBackfillStatuses { ... on AssetPartitionsStatusCounts {
    numPartitionsMaterialized numPartitionsFailed } } } } } }"""
ASSET = """
{ assetNodeOrError(assetKey: {path: ["tenant_backup", "full"]}) { ... on AssetNode {
  assetPartitionStatuses { ... on DefaultPartitionStatuses { materializedPartitions failedPartitions } }
  partitionKeys } } }"""
LAUNCH = """
mutation($job: String!, $config: RunConfigData, $tags: [ExecutionTag!]) { launchRun(executionParams: {
  selector: {repositoryLocationName: "sbh_pipelines.definitions", repositoryName: "__repository__", jobName: $job}
  runConfigData: $config, executionMetadata: {tags: $tags}
}) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
RUNS = """
query($key: String!, $value: String!) { runsOrError(filter: {tags: [{key: $key, value: $value}]}) {
  ... on Runs { results { status } } } }"""

RELOAD = """
mutation { reloadRepositoryLocation(repositoryLocationName: "sbh_pipelines.definitions") { __typename } }"""


@dataclass
class Dev:
    """A running `dg dev`."""

    port: int
    environment: dict[str, str]
    alerts: WebhookSink

    def ask(self, query: str, **variables: Any) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql",
            json.dumps({"query": query, "variables": variables}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return json.load(answer)["data"]

    def command(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `dg` or `dagster` to its end, which is a good one."""
        command = [str(Path(sys.executable).with_name(program)), *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=900, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        return done

    def launch(self, job: str, config: dict[str, Any] | None = None, **tags: str) -> dict[str, str]:
        """A run by the queue, launched as the web UI does, and a tag that no other run has."""
        mark = {"launch": uuid.uuid4().hex}
        listed = [{"key": key, "value": value} for key, value in (tags | mark).items()]
        launched = self.ask(LAUNCH, job=job, config=config or {}, tags=listed)["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return mark

    def end_of(self, mark: dict[str, str]) -> str:
        """How the run with this tag ended, once it has."""
        ((key, value),) = mark.items()

        def ended() -> str | None:
            (run,) = self.ask(RUNS, key=key, value=value)["runsOrError"]["results"]
            return run["status"] if run["status"] in ("SUCCESS", "FAILURE", "CANCELED") else None

        return str(until(ended))

    def asset(self) -> Any:
        """The asset `tenant_backup/full`; without partitions while the code server is being started anew."""
        return {"partitionKeys": []} | self.ask(ASSET)["assetNodeOrError"]

    def backfill(self, backup_type: str, names: list[str]) -> Any:
        """Launches a backfill, and what it has come to once it is over."""
        backfill = self.ask(LAUNCH_BACKFILL, type=backup_type, names=names)["launchPartitionBackfill"]["backfillId"]

        def ended() -> Any:
            found = self.ask(BACKFILL, id=backfill)["partitionBackfillOrError"]
            return found if found["status"].startswith("COMPLETED") else None

        return until(ended)


@pytest.fixture(scope="module")
def dev(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    home = tmp_path_factory.mktemp("dagster")
    (home / "dagster.yaml").write_text(INSTANCE)
    port = free_port()
    with webhook() as alerts:
        environment = (
            os.environ
            | NO_SCHEDULES
            | {
                "DAGSTER_HOME": str(home),
                "SBH_SETTINGS": str(site.stack.settings),
                "SBH_ALERTS__WEBHOOK_URL": f"http://127.0.0.1:{alerts.port}/",
                "PYTHONPATH": f"{QUICK_DAGSTER}:{ROOT}",
            }
        )
        made = Dev(port, environment, alerts)
        with (home / "log").open("w") as log:
            server = subprocess.Popen(
                [Path(sys.executable).with_name("dg"), "dev", *MODULE, "-h", "127.0.0.1", "-p", str(port)],
                env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=home, start_new_session=True,
            )  # fmt: skip
        try:
            until(lambda: _serves(port), 600)  # five processes that import Dagster
            yield made
        finally:
            _stop(server)


def _serves(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _stop(server: subprocess.Popen[bytes]) -> None:
    """As Ctrl-C would; what is left after it, by force."""
    server.send_signal(signal.SIGINT)
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_a_backfill_over_all_tenants(dev: Dev, elsewhere: str) -> None:
    """The sensor has made the partitions; one run takes them all; one tenant fails, is shown as failed, and is told."""
    until(lambda: sorted(dev.asset()["partitionKeys"]) == sorted(NAMES))
    found = dev.backfill("full", NAMES)
    assert found["status"] == "COMPLETED_FAILED"
    (run,) = found["runs"]
    assert run["status"] == "FAILURE"
    assert found["assetBackfillData"]["assetBackfillStatuses"] == [
        {"numPartitionsMaterialized": len(NAMES) - 1, "numPartitionsFailed": 1}
    ]
    statuses = dev.asset()["assetPartitionStatuses"]
    assert statuses["failedPartitions"] == [elsewhere]
    assert sorted(statuses["materializedPartitions"]) == [name for name in NAMES if name != elsewhere]
    told = until(lambda: next((body for body in dev.alerts.bodies if body["run_id"] == run["runId"]), None))
    assert told["event"] == "run_failed"
    assert told["subject"] == f"tenant_backup/full failed: {elsewhere}"
    assert told["tenants"] == len(NAMES)


def test_a_backfill_over_unchanged_tenants(dev: Dev, site: Site) -> None:
    """Nothing is stored for them, and Dagster does not take them for failed: one changed, two did not."""
    names = ["tenant-1", "tenant-2", "tenant-4"]
    until(lambda: set(names) <= set(dev.asset()["partitionKeys"]))
    chosen = {"ops": {"snapshot_tables": {"config": {"tenants": names}}}}
    assert dev.end_of(dev.launch("fleet_backup_job", chosen)) == "SUCCESS"
    before = {name: max(site.keys(name, "backups/manifests/")) for name in names}
    site.sql("UPDATE users SET name = name || '.' WHERE tenant_id = 4")
    found = dev.backfill("incremental", names)
    assert found["status"] == "COMPLETED_SUCCESS"
    assert found["assetBackfillData"]["assetBackfillStatuses"] == [
        {"numPartitionsMaterialized": 3, "numPartitionsFailed": 0}
    ]
    after = {name: max(site.keys(name, "backups/manifests/")) for name in names}
    assert [name for name in names if after[name] != before[name]] == ["tenant-4"]


def test_a_job_launched_from_the_command_line_goes_through_the_queue(dev: Dev) -> None:
    mark = {"launch": uuid.uuid4().hex}
    tags = json.dumps({"dagster/partition": "tenant-2"} | mark)
    dev.command("dagster", "job", "launch", *MODULE, "-j", "full_backup_job", "--tags", tags)
    assert dev.end_of(mark) == "SUCCESS"


@pytest.mark.parametrize(
    "command",
    [("dg", "launch", *MODULE, "--assets"), ("dagster", "asset", "materialize", *MODULE, "--select")],
    ids=["dg", "dagster"],
)
def test_an_asset_is_materialized_from_the_command_line(dev: Dev, command: tuple[str, ...]) -> None:
    until(lambda: "tenant-3" in dev.asset()["partitionKeys"])
    done = dev.command(*command, "tenant_backup/full", "--partition", "tenant-3")
    assert "ASSET_MATERIALIZATION" in done.stderr
    assert "RUN_SUCCESS" in done.stderr


def test_a_fleet_job_from_the_command_line_and_a_refused_restore(dev: Dev, tmp_path: Path) -> None:
    """Without a partition: the tenants are in the configuration."""
    config = tmp_path / "run.yaml"
    config.write_text("ops: {snapshot_tables: {config: {tenants: [tenant-1, tenant-2]}}}")
    done = dev.command("dagster", "job", "execute", *MODULE, "-j", "fleet_backup_job", "-c", str(config))
    assert "0 unchanged, 2 backed up, 0 failed, of 2 tenants" in done.stderr
    restore = {"ops": {"restore_tenant": {"config": {"tenant": "tenant-1"}}}}
    assert dev.end_of(dev.launch("restore_job", restore)) == "FAILURE"


@contextmanager
def _locked(site: Site) -> Iterator[None]:
    """Backups wait for a lock, for the length of the block."""
    with closing(psycopg2.connect(site.stack.dsn(postgres.ADMIN))) as connection:
        connection.cursor().execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        yield
        connection.rollback()


def _begin(dev: Dev, instance: dg.DagsterInstance) -> tuple[str, int]:
    """A backup that waits for the lock: the run's id, and the process of its worker."""
    mark = dev.launch("full_backup_job", **{"dagster/partition": "tenant-6"})
    (run_id,) = [run.run_id for run in instance.get_runs(dg.RunsFilter(tags=mark))]

    def worker() -> int | None:
        said = (str(event.message) for event in instance.all_logs(run_id) if event.is_dagster_event)
        found = [match for text in said if (match := re.search(r"Started process for run \(pid: (\d+)\)", text))]
        working = instance.get_run_by_id(run_id).status is dg.DagsterRunStatus.STARTED  # type: ignore[union-attr]
        return int(found[0][1]) if found and working else None

    return run_id, until(worker)


def _parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def stuck(instance: dg.DagsterInstance, run_id: str) -> list[Condition]:
    """What is found of one run, half a minute from now. A repeat of another killed run may be at work, or stuck as well."""
    return [found for found in stuck_runs(instance, AlertSettings(), now=time.time() + 30) if found.run_id == run_id]


@pytest.fixture
def nothing_stays_killed(dev: Dev, site: Site) -> Iterator[None]:
    """Other tests meet neither what killed workers leave, their leases and a run that nothing ends, nor a killed code server:
    `dg dev` starts another one only when its location is reloaded.
    """
    yield
    dev.ask(RELOAD)
    until(lambda: dev.asset()["partitionKeys"])
    with dg.DagsterInstance.from_config(dev.environment["DAGSTER_HOME"]) as instance:
        for run in instance.get_runs(dg.RunsFilter(tags={"dagster/partition": "tenant-6"})):
            if not run.is_finished:
                instance.report_run_failed(run, "ended by the test that killed its worker")
    for key in site.keys("tenant-6", "backups/lease"):
        site.delete("tenant-6", key)


@pytest.mark.usefixtures("nothing_stays_killed")
def test_killed_workers_are_told(dev: Dev, site: Site) -> None:
    """A worker killed by itself: its code server ends the run, and people are told. A worker killed together with its
    code server: by Dagster's books it works for ever, and the watcher of runs finds that nobody has it.
    """
    with dg.DagsterInstance.from_config(dev.environment["DAGSTER_HOME"]) as instance:
        with _locked(site):  # no longer than need be: sensors that list the tenants wait for it as well
            alone, worker = _begin(dev, instance)
            os.kill(worker, signal.SIGKILL)
        alert = until(lambda: next((body for body in dev.alerts.bodies if body["run_id"] == alone), None))
        assert "without a word" in alert["message"]
        assert "tenant-6" in alert["subject"]
        with _locked(site):
            run_id, worker = _begin(dev, instance)
            run = instance.get_run_by_id(run_id)
            assert run is not None
            assert not worker_is_gone(instance, run)
            assert stuck(instance, run_id) == []
            forker = _parent(worker)
            for process in (_parent(forker), forker, worker):
                os.kill(process, signal.SIGKILL)
        until(lambda: worker_is_gone(instance, run))
        assert instance.get_run_by_id(run_id).status is dg.DagsterRunStatus.STARTED  # type: ignore[union-attr]
        (found,) = stuck(instance, run_id)
        assert (found.key, found.severity) == (f"run_worker_gone/{run_id}", "critical")
        assert "tenant-6" in found.message
