"""What comes of a Dagster that is away, locked, of another kind, or that refuses: an error of ours, and no secret in it."""

import json
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from sbh_pipelines.api.runs.dagster import Dagster
from sbh_pipelines.errors import OrchestratorError, OrchestratorUnavailable
from sbh_pipelines.settings import SiteSettings
from sbh_pipelines.settings.api import ApiSettings
from sbh_pipelines_tests.support.served import served

LOCATIONS: dict[str, list[dict[str, Any]]] = {
    "nodes": [{"name": "__repository__", "location": {"name": "here"}, "jobs": [{"name": "restore_job"}]}]
}


class Answers(BaseHTTPRequestHandler):
    """Gives `status` and `body`; keeps what was asked."""

    status, body = 200, b"{}"
    locations: Mapping[str, Any] = LOCATIONS
    address = ""
    asked: list[tuple[str | None, dict[str, Any]]]

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).asked.append((self.headers["Authorization"], query))
        body = type(self).body
        if "repositoriesOrError" in query["query"] and type(self).status == 200 and body != b"<html>":
            body = json.dumps({"data": {"repositoriesOrError": type(self).locations}}).encode()
        self.send_response(type(self).status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing on standard error."""


class Pages(Answers):
    """Gives one page of runs after the other, then empty ones."""

    pages: list[bytes]

    def do_POST(self) -> None:
        none = json.dumps({"data": {"runsOrError": {"__typename": "Runs", "results": []}}}).encode()
        type(self).body = type(self).pages.pop(0) if type(self).pages else none
        super().do_POST()


@pytest.fixture
def answers() -> Iterator[tuple[type[Answers], Dagster]]:
    handler = type("Handler", (Answers,), {"asked": []})
    with served(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as server:
        settings = ApiSettings(dagster_url=f"http://127.0.0.1:{server.server_address[1]}/", dagster_timeout_s=60)
        client = Dagster(settings, lambda: "the-service-token")
        handler.address = settings.dagster_url
        yield handler, client
        client.close()


def launched(data: dict[str, Any]) -> bytes:
    return json.dumps({"data": {"launchRun": data}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "error", "says"),
    [
        (401, b"", OrchestratorError, "does not believe"),
        (403, b"", OrchestratorError, "does not believe"),
        (500, b"", OrchestratorUnavailable, "cannot be reached"),
        (503, b"", OrchestratorUnavailable, "cannot be reached"),
        (200, b"<html>", OrchestratorError, "not understood"),
        (200, launched({"__typename": "PythonError", "message": "Boom\nTraceback"}), OrchestratorError, "Boom"),
        (200, launched({"__typename": "UnauthorizedError", "message": "no"}), OrchestratorError, "UnauthorizedError"),
        (
            200,
            launched({"__typename": "RunConfigValidationInvalid", "errors": [{"message": "bad field"}]}),
            OrchestratorError,
            "bad field",
        ),
    ],
)
def test_every_failure_is_an_error_of_the_orchestrator(
    answers: tuple[type[Answers], Dagster], status: int, body: bytes, error: type[Exception], says: str
) -> None:
    handler, client = answers
    handler.status, handler.body = status, body
    with pytest.raises(error, match=says) as raised:
        client.launch("restore_job", {}, {"user": "alice"})
    assert type(raised.value) is error
    assert "the-service-token" not in str(raised.value)
    assert "Traceback" not in str(raised.value)


def test_a_launch_names_the_place_of_the_job_and_carries_the_service_token(
    answers: tuple[type[Answers], Dagster],
) -> None:
    handler, client = answers
    handler.body = launched({"__typename": "LaunchRunSuccess", "run": {"runId": "abc"}})
    assert client.launch("restore_job", {"ops": {}}, {"user": "alice"}) == "abc"
    (first, _), (token, query) = handler.asked
    assert first == token == "Bearer the-service-token"
    params = query["variables"]["params"]
    assert params["selector"] == {
        "repositoryLocationName": "here",
        "repositoryName": "__repository__",
        "jobName": "restore_job",
    }
    assert params["executionMetadata"] == {"tags": [{"key": "user", "value": "alice"}]}
    with pytest.raises(OrchestratorError, match="no such job"):
        client.launch("another_job", {}, {})


def test_runs_of_other_sites_are_as_if_they_were_not_there() -> None:
    """A tenant of another site has the same name, and its runs the same tags but one. A page of theirs alone is not the end."""

    def answer(*sites: str) -> bytes:
        runs = [
            {"runId": f"{site or 'unnamed'}-{n}", "status": "SUCCESS", "jobName": "x", "creationTime": 1.0}
            | {"startTime": 2.0, "endTime": 3.0, "tags": [{"key": "sbh/site", "value": site}] if site else []}
            for n, site in enumerate(sites)
        ]
        return json.dumps({"data": {"runsOrError": {"__typename": "Runs", "results": runs}}}).encode()

    handler = type(
        "Handler", (Pages,), {"asked": [], "pages": [answer("us", "us"), answer("us", ""), answer("us", "us")]}
    )
    with served(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as server:
        settings = ApiSettings(dagster_url=f"http://127.0.0.1:{server.server_address[1]}/", dagster_timeout_s=60)
        unnamed = Dagster(settings, lambda: None)
        assert [run.id for run in unnamed.runs({"sbh/tenant": "acme"}, limit=2)] == ["unnamed-1"]
        assert [query["variables"]["cursor"] for _, query in handler.asked] == [None, "us-1", "unnamed-1", "us-1"]
        handler.pages, handler.asked = [answer("us")], []
        assert [run.id for run in Dagster(settings, lambda: None, SiteSettings(name="us")).runs({}, limit=2)] == [
            "us-0"
        ]
        ((_, query),) = handler.asked
        assert query["variables"]["filter"]["tags"] == [{"key": "sbh/site", "value": "us"}]
        unnamed.close()


def test_a_launch_is_of_the_sites_own_job(answers: tuple[type[Answers], Dagster]) -> None:
    handler, _ = answers
    named = Dagster(ApiSettings(dagster_url=handler.address), lambda: None, SiteSettings(name="us"))
    handler.locations = {"nodes": [{**LOCATIONS["nodes"][0], "jobs": [{"name": "us__restore_job"}]}]}
    handler.body = launched({"__typename": "LaunchRunSuccess", "run": {"runId": "abc"}})
    assert named.launch("restore_job", {}, {}) == "abc"
    params = handler.asked[-1][1]["variables"]["params"]
    assert params["selector"]["jobName"] == "us__restore_job"
    assert params["executionMetadata"] == {"tags": [{"key": "sbh/site", "value": "us"}]}
    named.close()


def test_nobody_listens() -> None:
    client = Dagster(ApiSettings(dagster_url="http://127.0.0.1:9"), lambda: None)
    with pytest.raises(OrchestratorUnavailable):
        client.runs({})
    client.close()
