"""Who listens between the API and Dagster wants the API's token, with which runs can be launched for anybody.

Plain http to another machine is refused before anything is sent, unless the settings say that nobody else reaches that network.
"""

import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sbh_pipelines.api.app.app import make_app
from sbh_pipelines.api.runs.dagster import Dagster
from sbh_pipelines.cli.app import run
from sbh_pipelines.doctor import transit
from sbh_pipelines.doctor.findings import Level, Report
from sbh_pipelines.errors import OrchestratorError, SettingsError
from sbh_pipelines.settings import Settings
from sbh_pipelines.settings.api import ApiSettings
from sbh_pipelines_tests.support.served import served

TOKEN = "the-token-that-acts-for-anybody"
AFAR = "http://dagster.example.com:3000"


@pytest.fixture
def listener() -> Iterator[tuple[str, list[str | None]]]:
    """A server with another name than this host's own, and the credentials that came to it: it sends everybody elsewhere."""
    heard: list[str | None] = []

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(self.headers["Authorization"])
            self.send_response(307)
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_address[1]}/")  # type: ignore[index,str-bytes-safe]
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing on standard error."""

    with served(ThreadingHTTPServer(("0.0.0.0", 0), Listener)) as server:
        yield f"http://{socket.gethostname()}:{server.server_address[1]}", heard


def test_no_token_goes_out_in_clear(listener: tuple[str, list[str | None]]) -> None:
    """And where it is allowed it goes to that address alone: no redirect is followed."""
    url, heard = listener
    with pytest.raises(SettingsError, match="set api.dagster_allow_http = true".replace(".", "[.]")):
        Dagster(ApiSettings(dagster_url=url), lambda: TOKEN).launch("restore_job", {}, {})
    assert heard == []
    allowed = Dagster(ApiSettings(dagster_url=url, dagster_allow_http=True), lambda: TOKEN)
    with pytest.raises(OrchestratorError):
        allowed.launch("restore_job", {}, {})
    assert heard == [f"Bearer {TOKEN}"]
    allowed.close()


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:3000", "http://localhost:3000", "http://[::1]:3000", "https://dagster.example.com"]
)
def test_this_machine_and_https_need_no_leave(url: str) -> None:
    Dagster(ApiSettings(dagster_url=url), lambda: TOKEN).close()


def test_the_api_does_not_start_and_doctor_says_so(
    settings_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SBH_API__DAGSTER_URL", AFAR)
    monkeypatch.setattr("sys.argv", ["sbh", "serve", "--port", "0"])
    assert run() == SettingsError.exit_status
    assert "api.dagster_url is not encrypted" in capsys.readouterr().err

    def findings(**api: Any) -> list[tuple[Level, str]]:
        report = Report()
        settings = Settings(keys={"provider": "local", "key_file": "k"}, api={"dagster_url": AFAR} | api)  # type: ignore[arg-type]
        transit.check_addresses(report, settings)
        return [(finding.level, finding.what) for finding in report.findings]

    assert findings() == [(Level.ERROR, "api.dagster_url is not encrypted")]
    assert findings(dagster_allow_http=True) == [(Level.WARNING, "The API asks Dagster on another machine without TLS")]


def test_another_face_of_the_same_settings_goes_on(settings_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backups do not stop for an address that only the API uses."""
    from sbh_pipelines.settings import load_settings

    monkeypatch.setenv("SBH_API__DAGSTER_URL", AFAR)
    settings = load_settings()
    with pytest.raises(SettingsError):
        make_app(settings)
