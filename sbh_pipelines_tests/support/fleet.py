"""Dagster on several hosts, as `deploy/celery` has it: each worker has a home, a folder for temporary files and a line of its own.

PostgreSQL, the object store, Redis, the daemon, the guarded web UI, the code server and the workers are real, each in a process of
its own. What people do is asked of the web UI. A host that dies is a group of processes that is killed; one that is cut off reaches
everything through proxies that fall silent, and what it writes is heard there.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg2
import pytest
import redis as redis_client

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.settings import load_settings
from sbh_pipelines_tests.support.fix_ui import guarded_ui
from sbh_pipelines_tests.support.own_instance import (
    BUCKET,
    DEPLOY,
    bucket_of_dagster,
    instance_environment,
    instance_file,
    postgres_port,
)
from sbh_pipelines_tests.support.servers import (
    NO_SCHEDULES,
    QUICK_DAGSTER,
    ROOT,
    code_server,
    free_port,
    started,
    until,
)
from sbh_pipelines_tests.support.sinks import WebhookSink, webhook
from sbh_pipelines_tests.support.slow_proxy import Line, slow_line
from sbh_pipelines_tests.support.small_app import scratch_database

REGIONS = ("eu-west-1", "us-east-1")
LEASE_S = 20.0
ADMIN = UserContext("tester", "*", Role.ADMIN)

_SCHEMA = """
CREATE TABLE tenants (id int PRIMARY KEY, slug text UNIQUE NOT NULL, region text NOT NULL, tier text);
CREATE TABLE notes (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, body text);
INSERT INTO tenants SELECT n, 'f' || n, CASE n % 2 WHEN 0 THEN 'eu-west-1' ELSE 'us-east-1' END, 'critical'
    FROM generate_series(1, {tenants}) n;
INSERT INTO notes SELECT n, 1 + n % {tenants}, repeat(md5(n::text), 8) FROM generate_series(1, {tenants} * 10) n;
"""
_LAUNCH = """
mutation($run: ExecutionParams!) { launchRun(executionParams: $run) { __typename
  ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  ... on RunConfigValidationInvalid { errors { message } } } }"""
_TERMINATE = """
mutation($id: String!) { terminateRun(runId: $id) { __typename ... on TerminateRunFailure { message }
  ... on PythonError { message stack } } }"""
_WHERE_LOGS_ARE = """
query($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events { ... on LogsCapturedEvent { fileKey } } } } }"""
_LOGS = """
query($key: [String!]!) { capturedLogs(logKey: $key) { stdout stderr }
  capturedLogsMetadata(logKey: $key) { stdoutLocation stderrLocation } }"""

# But for what is written without the lease: the lease itself, and what was done or refused.
_WRITE = re.compile(rb"PUT /[^/ ]+/fleet/([^/ ]+)/backups/((?!lease\.json|audit/)[^ ?]+)")
_COMMIT = "manifests/"


@dataclass(frozen=True, slots=True)
class Write:
    """A request of a worker to write an object of a tenant's repository, as it went over the worker's line."""

    worker: str
    tenant: str
    key: str


@dataclass(frozen=True, slots=True)
class CapturedLog:
    """What a run wrote to its streams, as the web pages show it, and the places that they say it is in."""

    text: str
    places: list[str]


@dataclass
class Worker:
    """A service of Celery that begins runs, with its processes: a host."""

    name: str
    home: Path
    environment: Mapping[str, str]
    lines: list[Line]
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def log(self) -> str:
        file = self.home / "log"
        return file.read_text("utf-8", "replace") if file.exists() else ""

    def begin(self) -> None:
        """Start it; `is_ready` waits for it."""
        command = [
            *(str(Path(sys.executable).with_name("celery")), "-A", "sbh_pipelines.orchestration.hosts.celery_worker"),
            *("worker", "-Q", "dagster,eu-west-1,us-east-1", "-c", "1", "-n", f"{self.name}@%h", "-l", "INFO"),
        ]
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=self.environment, cwd=self.home, stdout=log, stderr=log, start_new_session=True
            )

    def is_ready(self) -> None:
        until(lambda: self._is_alive() and " ready." in self.log)

    def _is_alive(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log[-3000:]
        return True

    def kill(self) -> None:
        """Its host dies."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def cut(self) -> None:
        for line in self.lines:
            line.silent = True

    def mend(self) -> None:
        for line in self.lines:
            line.silent = False


@dataclass
class Redis:
    port: int
    folder: Path
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def address(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        options = ["--port", str(self.port), "--dir", str(self.folder), "--bind", "127.0.0.1"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["redis-server", str(DEPLOY / "celery" / "redis.conf"), *options], stdout=log, stderr=log
            )
        with redis_client.Redis(port=self.port) as client:
            until(lambda: _pings(client))

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def _pings(client: Any) -> bool:
    try:
        return bool(client.ping())
    except redis_client.RedisError:
        return False


@dataclass
class Fleet:
    """Tenants `f1`, `f2` … with a few notes each, and the hosts that back them up."""

    stack: Stack
    database: str
    instance: dg.DagsterInstance
    redis: Redis
    alerts: WebhookSink
    service: BackupService
    ask: Callable[..., Any]
    workers: dict[str, Worker] = field(default_factory=dict)
    writes: list[Write] = field(default_factory=list)

    def launch(self, tenants: list[str], backup_type: str = "full", **tags: str) -> str:
        """A run of the fleet job in Dagster's queue; its id."""
        config = {"ops": {"snapshot_tables": {"config": {"tenants": tenants, "backup_type": backup_type}}}}
        selector = {"repositoryLocationName": "sbh", "repositoryName": "__repository__", "jobName": "fleet_backup_job"}
        run = {
            "selector": selector,
            "runConfigData": json.dumps(config),
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
        }
        answer = self.ask(_LAUNCH, run=run)["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return str(answer["run"]["runId"])

    def said(self, run_id: str, words: str) -> bool:
        """Whether these words are in the run's own log."""
        return any(words in (record.message or record.user_message) for record in self.instance.all_logs(run_id))

    def terminate(self, run_id: str) -> None:
        answer = self.ask(_TERMINATE, id=run_id)["terminateRun"]
        assert answer["__typename"] == "TerminateRunSuccess", answer

    def run(self, run_id: str) -> dg.DagsterRun:
        found = self.instance.get_run_by_id(run_id)
        assert found is not None
        return found

    def is_at_work(self, run_id: str) -> bool:
        return self.run(run_id).status is dg.DagsterRunStatus.STARTED

    def end_of(self, run_id: str, seconds: float = 180) -> str:
        """How the run ended, once it has."""
        return str(until(lambda: self.run(run_id).is_finished and self.run(run_id).status.value, seconds))

    def repeat_of(self, run_id: str) -> str:
        """The run by which Dagster repeats it, once it is there."""
        filters = dg.RunsFilter(tags={"dagster/parent_run_id": run_id})
        (found,) = until(lambda: list(self.instance.get_runs(filters)))
        return str(found.run_id)

    def worker_of(self, run_id: str) -> str:
        """By its log, which host began the run."""
        task = self.run(run_id).tags["dagster-celery/task_id"]
        (name,) = [name for name, worker in self.workers.items() if f"[{task}] received" in worker.log]
        return name

    def log_of(self, run_id: str) -> CapturedLog:
        """What the run wrote, asked as the page of the run asks."""
        events = self.ask(_WHERE_LOGS_ARE, id=run_id)["logsForRun"]["events"]
        (file, *_) = [event["fileKey"] for event in events if event]
        answer = self.ask(_LOGS, key=[run_id, "compute_logs", file])
        return CapturedLog(
            "".join(text or "" for text in answer["capturedLogs"].values()),
            [place for place in answer["capturedLogsMetadata"].values() if place],
        )

    def sql(self, statement: str) -> list[Any]:
        with closing(psycopg2.connect(self.stack.dsn("sbh_admin"), dbname=self.database)) as connection, connection:
            cursor = connection.cursor()
            cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []

    @contextmanager
    def locked(self) -> Iterator[Callable[[], None]]:
        """Backups wait for a lock: for the length of the block, or until it is let go."""
        with closing(psycopg2.connect(self.stack.dsn("sbh_admin"), dbname=self.database)) as connection:
            connection.cursor().execute("LOCK TABLE notes IN ACCESS EXCLUSIVE MODE")
            yield connection.rollback

    def waits_for_lock(self, count: int = 1) -> bool:
        query = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT granted AND a.datname = current_database()"
        return int(self.sql(query)[0][0]) >= count

    def commits(self) -> Counter[str]:
        """How many backups there are of each tenant."""
        found = Counter[str]()
        pages = self.stack.s3_client().get_paginator("list_objects_v2")
        for region in REGIONS:
            for page in pages.paginate(Bucket=f"sbh-files-{region}", Prefix="fleet/"):
                keys = (entry["Key"].split("/", 3) for entry in page.get("Contents", ()))
                found.update(tenant for _, tenant, _, key in keys if key.startswith(_COMMIT))
        return found

    def interleaved(self) -> list[tuple[str, list[str]]]:
        """Tenants of which a worker went on to write after another one had begun to, and then made a backup all the same."""
        found = []
        for tenant, writes in groupby(sorted(self.writes, key=lambda write: write.tenant), lambda write: write.tenant):
            since: list[str] = []
            for write in writes:
                if not since or since[-1] != write.worker:
                    since.append(write.worker)
                if write.key.startswith(_COMMIT):
                    if write.worker in since[:-1]:
                        found.append((tenant, since))
                    since = []
        return found

    def lease_is_released(self, tenant: str) -> bool:
        """By whoever held it: of one that was left to expire, the object has its time."""
        key = f"fleet/{tenant}/backups/lease.json"
        body = self.stack.s3_client().get_object(Bucket=f"sbh-files-{self.region(tenant)}", Key=key)["Body"].read()
        return bool(json.loads(body)["expires_at"].startswith("2000-"))

    @staticmethod
    def region(tenant: str) -> str:
        return REGIONS[int(tenant[1:]) % 2]


@contextmanager
def fleet(stack: Stack, folder: Path, tenants: int, workers: tuple[str, ...]) -> Iterator[Fleet]:
    """All of it but the workers, which are started by their names."""
    with ExitStack() as stands:
        database, connection = stands.enter_context(scratch_database(stack))
        connection.cursor().execute(_SCHEMA.format(tenants=tenants))
        connection.cursor().execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO sbh_backup")
        books, _ = stands.enter_context(scratch_database(stack))  # Dagster's own
        bucket_of_dagster(stack)
        redis = Redis(free_port(), _made(folder / "redis"))
        redis.start()
        stands.callback(redis.kill)
        alerts = stands.enter_context(webhook())
        here = _environment(stack, database, books, redis.address, f"http://127.0.0.1:{alerts.port}/")
        hub = _home(folder / "hub", here, postgres_port(stack))
        stands.enter_context(_set(hub))  # the instance reads it when it is asked for its parts
        instance = stands.enter_context(dg.DagsterInstance.from_config(hub["DAGSTER_HOME"]))
        service = BackupService(load_settings())
        for pool in ("source_db", "object_store"):  # as deploy/celery/README.md says
            instance.event_log_storage.set_concurrency_slots(pool, 4)
        workspace = stands.enter_context(code_server(stack, folder / "code", hub))
        daemon = [str(Path(sys.executable).with_name("dagster-daemon")), "run", "-w", str(workspace)]
        stands.enter_context(started(daemon, hub, folder / "daemon.log"))
        ui = stands.enter_context(guarded_ui(hub, "--workspace", str(workspace)))
        signed_in = stands.enter_context(ui.log_in("tester", "admin"))

        def ask(query: str, **variables: Any) -> Any:
            answer = ui.ask(signed_in, query, **variables)
            assert "errors" not in answer, answer
            return answer["data"]

        made = Fleet(stack, database, instance, redis, alerts, service, ask)
        for name in workers:
            made.workers[name] = stands.enter_context(_worker(name, folder / name, hub, made))
        yield made


@contextmanager
def _worker(name: str, folder: Path, hub: Mapping[str, str], of: Fleet) -> Iterator[Worker]:
    """A host that is not started yet, behind lines of its own to all that it reaches."""

    def hear(data: bytes) -> None:
        if found := _WRITE.match(data):
            of.writes.append(Write(name, found[1].decode(), found[2].decode()))

    stack, redis = of.stack, of.redis
    with ExitStack() as lines:
        places = (f"http://127.0.0.1:{postgres_port(stack)}", stack.s3_endpoint, f"http://127.0.0.1:{redis.port}")
        (_, to_postgres), (to_s3, s3_line), (_, to_redis) = [lines.enter_context(slow_line(place)) for place in places]
        s3_line.hears = hear
        broker = f"redis://127.0.0.1:{to_redis.port}/0"
        environment = {
            **hub,
            "SBH_DATABASE__DSN": _dsn_at(hub["SBH_DATABASE__DSN"], to_postgres.port),
            "SBH_STORAGE__ENDPOINT_URL": to_s3,
            "AWS_ENDPOINT_URL_S3": to_s3,
            "SBH_CELERY_BROKER": broker,
            "SBH_CELERY_BACKEND": broker,
        }
        worker = Worker(name, folder, _home(folder, environment, to_postgres.port), [to_postgres, s3_line, to_redis])
        try:
            yield worker
        finally:
            worker.kill()


def _environment(stack: Stack, database: str, books: str, redis: str, webhook_url: str) -> dict[str, str]:
    """Of every process of the fleet: its settings, and what its instance takes from there."""
    dsn = load_settings(stack.settings).database.dsn
    assert dsn
    return {
        **os.environ,
        **NO_SCHEDULES,
        **instance_environment(stack, books, redis),
        "PYTHONPATH": f"{QUICK_DAGSTER}:{ROOT}",
        "QUICK_HEARTBEATS": "1",
        "DAGSTER_EVENT_BATCH_SIZE": "500",
        "SBH_SETTINGS": str(stack.settings),
        "SBH_DATABASE__DSN": dsn.replace("dbname=app", f"dbname={database}"),
        **dict.fromkeys(("SBH_DATABASE__SHARED", "SBH_DATABASE__EXCLUDED", "SBH_DATABASE__CONFIG_TABLES"), "[]"),
        "SBH_FILES__ENABLED": "false",
        "SBH_FILES__REFERENCES": "[]",
        "SBH_JOURNAL__ENABLED": "false",
        "SBH_STORAGE__PREFIX": "fleet/{tenant}/backups/",
        "SBH_STORAGE__CATALOG_PREFIX": "_fleet-catalog/",
        "SBH_BACKUP__LEASE_S": str(LEASE_S),
        "SBH_DRAFTS__BUCKET": BUCKET,
        "SBH_ALERTS__WEBHOOK_URL": webhook_url,
    }


def _home(folder: Path, environment: Mapping[str, str], port: int) -> dict[str, str]:
    """The environment of a host: its own DAGSTER_HOME and its own folder for temporary files."""
    _made(folder)
    text, wait = instance_file("celery/dagster.yaml", port), "user_code_failure_retry_delay: "
    assert f"{wait}30" in text
    quick = f"{wait}3\n    dequeue_interval_seconds: 1"
    (folder / "dagster.yaml").write_text(text.replace(f"{wait}30", quick))
    return {**environment, "DAGSTER_HOME": str(folder), "TMPDIR": str(_made(folder / "tmp"))}


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _dsn_at(dsn: str, port: int) -> str:
    return " ".join(f"port={port}" if word.startswith("port=") else word for word in dsn.split())


@contextmanager
def _set(environment: Mapping[str, str]) -> Iterator[None]:
    """The variables of SBH_ and AWS_ in this process, for the length of the block."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            if name.startswith(("SBH_", "AWS_")):
                patch.setenv(name, value)
        yield
