"""A Dagster that takes longer to answer a launch than the API waits: what is repeated with its key launches no second run."""

import json
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sbh_pipelines.api.runs import operations as ops
from sbh_pipelines.api.runs.dagster import Dagster
from sbh_pipelines.api.runs.launches import Launch, Launcher
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import IdempotencyConflict, LeaseHeld, OrchestratorUnavailable
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.settings.api import ApiSettings
from sbh_pipelines_tests.support.application import ACME, Application
from sbh_pipelines_tests.support.databases import fresh_database
from sbh_pipelines_tests.support.served import served
from sbh_pipelines_tests.support.servers import PATIENCE_S, until

ANN = UserContext("ann", ACME, Role.ADMIN)
LOCATIONS = {"nodes": [{"name": "__repository__", "location": {"name": "here"}, "jobs": [{"name": "backup_job"}]}]}
WANTED = Launch(ops.CREATE, "backup.create", "backup_job", {}, {"type": "full"})


@dataclass
class SlowDagster:
    """Answers as Dagster's GraphQL does; a launch waits until `launch` is set, and `held` says that one does."""

    runs: list[dict[str, Any]] = field(default_factory=list)
    launch: threading.Event = field(default_factory=threading.Event)
    held: threading.Event = field(default_factory=threading.Event)
    address: str = ""

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        query, given = asked["query"], asked["variables"]
        if "repositoriesOrError" in query:
            return {"repositoriesOrError": {"__typename": "RepositoryConnection", **LOCATIONS}}
        if "runsOrError" in query:
            wanted = {(tag["key"], tag["value"]) for tag in given["filter"]["tags"]}
            found = [run for run in self.runs if wanted <= {(tag["key"], tag["value"]) for tag in run["tags"]}]
            return {"runsOrError": {"__typename": "Runs", "results": found}}
        self.held.set()
        assert self.launch.wait(PATIENCE_S)
        run = {"runId": str(uuid.uuid4()), "status": "SUCCESS", "jobName": "backup_job"}
        times = {"creationTime": time.time(), "startTime": None, "endTime": None}
        self.runs.append({**run, **times, "tags": given["params"]["executionMetadata"]["tags"]})
        return {"launchRun": {"__typename": "LaunchRunSuccess", "run": run}}


@pytest.fixture
def application(embedded_stack: Stack, application_template: str, tmp_path: Path) -> Iterator[Application]:
    """Of this test's own: a claim stays for a while."""
    with fresh_database(embedded_stack, application_template) as database:
        yield Application(database, tmp_path)


@pytest.fixture
def slow() -> Iterator[SlowDagster]:
    dagster = SlowDagster()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps({"data": dagster.answer(asked)}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing on standard error."""

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:
                """The client gave up, which is what it is for."""

    with served(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        dagster.address = f"http://127.0.0.1:{server.server_address[1]}"
        yield dagster
        dagster.launch.set()


def test_a_launch_that_is_not_answered_in_time_is_not_repeated(application: Application, slow: SlowDagster) -> None:
    service = application.service()
    client = Dagster(ApiSettings(dagster_url=slow.address, dagster_timeout_s=5), lambda: None)
    launcher = Launcher(client)

    def asked(wanted: Launch = WANTED, key: str = "tonight") -> tuple[str, bool]:
        return launcher.launch(service, ANN, ACME, wanted, key)

    with pytest.raises(OrchestratorUnavailable) as lost:
        asked()
    assert lost.value.unanswered
    with pytest.raises(LeaseHeld):  # it is not known yet whether there will be one
        asked()
    assert slow.runs == []
    slow.launch.set()
    until(lambda: slow.runs)
    (run,) = slow.runs
    assert asked() == (run["runId"], True)
    with pytest.raises(IdempotencyConflict):
        asked(Launch(ops.CREATE, "backup.create", "backup_job", {}, {"type": "incremental"}))
    assert slow.runs == [run]
    client.close()


def test_a_dagster_that_is_not_there_keeps_nobody_waiting(application: Application, slow: SlowDagster) -> None:
    """Nothing was asked for: so the claim is free at once."""
    service, gone = application.service(), Dagster(ApiSettings(dagster_url="http://127.0.0.1:9"), lambda: None)
    with pytest.raises(OrchestratorUnavailable) as lost:
        Launcher(gone).launch(service, ANN, ACME, WANTED, "tonight")
    assert not lost.value.unanswered
    slow.launch.set()
    there = Dagster(ApiSettings(dagster_url=slow.address, dagster_timeout_s=PATIENCE_S), lambda: None)
    # Who meets a claim waits for some seconds, and is refused.
    launched, repeated = Launcher(there).launch(service, ANN, ACME, WANTED, "tonight")
    assert (launched, repeated) == (slow.runs[0]["runId"], False)
    gone.close()
    there.close()
