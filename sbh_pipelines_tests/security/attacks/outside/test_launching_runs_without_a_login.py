"""Somebody who reaches Dagster's port wants to launch runs without being asked who they are.

The guarded web UI asks everybody; a bare web server of Dagster's asks nobody, and the doctor finds one where the API's settings lead.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sbh_pipelines.doctor import transit
from sbh_pipelines.doctor.findings import Level, Report
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.support.fix_ui import Ui
from sbh_pipelines_tests.support.served import served
from sbh_pipelines_tests.support.servers import until


@contextmanager
def answering(status: int, body: object) -> Iterator[str]:
    class Bare(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Nothing on standard error."""

    with served(ThreadingHTTPServer(("127.0.0.1", 0), Bare)) as server:
        yield f"http://127.0.0.1:{server.server_address[1]}"


def found(url: str) -> list[tuple[Level, str]]:
    report = Report()
    transit.check_dagster(report, Settings(keys={"provider": "local", "key_file": "k"}, api={"dagster_url": url}))  # type: ignore[arg-type]
    return [(finding.level, finding.what) for finding in report.findings]


def test_the_guarded_one_asks(ui: Ui) -> None:
    # One that does not answer soon is not judged.
    assert until(lambda: found(ui.url)) == [(Level.OK, "Dagster asks who calls")]
    with ui.client() as client:
        assert client.post("/graphql", json={"query": "{ version }"}).status_code == 401


def test_a_bare_one_is_found() -> None:
    """As what answers like it; what is away, or something else, is not judged."""
    with answering(200, {"data": {"version": "1.13.27"}}) as url:
        assert until(lambda: found(url)) == [(Level.WARNING, "Dagster answers without a login")]
    for status, body in ((200, {"data": None}), (200, []), (500, {}), (404, "x")):
        with answering(status, body) as url:
            assert found(url) == []
    assert found("http://127.0.0.1:9") == []


@pytest.mark.parametrize("path", ["/graphql", "/logs/x/out", "/download_debug/x", "/report_asset_check/x"])
def test_nobody_gets_past_the_login(ui: Ui, path: str) -> None:
    with ui.client() as client:
        assert client.post(path, json={"query": "{ version }"}).status_code == 401
        assert client.get(path).status_code in (401, 405)
