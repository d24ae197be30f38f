"""`sbh health`, `sbh metrics` and `sbh alerts test` on a real stack."""

import os
import re
import threading
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sbh_pipelines.errors import AlertError, HealthError
from sbh_pipelines_tests.cli.conftest import Sbh
from sbh_pipelines_tests.support.sinks import smtp, webhook


def test_health_of_one_tenant(sbh: Sbh, settings_file: Path) -> None:
    assert sbh("backup", "create", "tenant-5").status == 0  # of which no other test makes a drill that fails
    ended = sbh("health", "tenant-5")
    assert ended.status == 0, ended.out
    assert re.search(r"tenant-5, .*: healthy", ended.out)
    assert re.search(r"storage_accessible +yes", ended.out)
    document = sbh("health", "tenant-5", "--json").document
    assert document["backup_service"] == "healthy"
    assert document["retention_policy_enforced"] is True


def test_health_says_what_is_wrong_and_what_to_do(
    sbh: Sbh, settings_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBH_STORAGE__ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("SBH_STORAGE__RETRIES", "0")
    ended = sbh("health")
    assert ended.status == HealthError.exit_status
    assert "unhealthy" in ended.out
    assert re.search(r"storage_accessible +no", ended.out)
    assert "next" in ended.out
    assert sbh("health", "--quiet").out == "unhealthy\n"


def test_metrics_in_words_and_as_json(sbh: Sbh, backed_up: str) -> None:
    ended = sbh("metrics", "tenant-6")
    assert ended.status == 0
    assert re.search(r"full +\d+ +0 ", ended.out)
    document = sbh("metrics", "tenant-6", "--json").document
    assert document["backups_total"] == document["backups_successful"] > 0
    assert document["last_backup_at"]


def test_metrics_for_node_exporter(sbh: Sbh, backed_up: str, tmp_path: Path) -> None:
    """Written in one step: a reader never finds half of it, nor anything else beside it."""
    file = tmp_path / "sbh.prom"
    halves: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            if file.exists() and not file.read_text().endswith("\n"):
                halves.append(file.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(2):
        ended = sbh("metrics", "--write", str(file))
        assert ended.status == 0, ended.err
    done.set()
    reader.join()
    assert halves == []
    assert os.listdir(tmp_path) == ["sbh.prom"]
    assert file.stat().st_mode & 0o777 == 0o644
    names = {family.name for family in text_string_to_metric_families(file.read_text())}
    assert {"sbh_backups_total", "sbh_rpo_missed", "sbh_storage_up", "sbh_build_info"} <= names
    assert "# TYPE sbh_build_info gauge" in sbh("metrics", "--write", "-").out


@pytest.mark.parametrize(
    "arguments",
    [("health", "../x"), ("health", "nobody"), ("metrics", "a b"), ("metrics", "--write", "/no/such/place/x")],
)
def test_what_cannot_be_is_refused(sbh: Sbh, settings_file: Path, arguments: tuple[str, ...]) -> None:
    assert sbh(*arguments).status == 2


def test_a_test_goes_through_every_channel(sbh: Sbh, settings_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever severity they want; and PagerDuty's incident is resolved at once."""
    with webhook() as hook, webhook() as slack, webhook() as pages, smtp() as mail:
        given = {
            "WEBHOOK_URL": f"http://127.0.0.1:{hook.port}/hunter2",
            "SLACK_URL": f"http://127.0.0.1:{slack.port}/hunter2",
            "PAGERDUTY_KEY": "hunter2",
            "PAGERDUTY_ENDPOINT_URL": f"http://127.0.0.1:{pages.port}/",
            "SMTP_HOST": "127.0.0.1",
            "SMTP_PORT": str(mail.port),
            "SMTP_STARTTLS": "false",
            "MAIL_TO": '["ops@example.com"]',
        }
        for name, value in given.items():
            monkeypatch.setenv(f"SBH_ALERTS__{name}", value)
        ended = sbh("alerts", "test", "--severity", "info")
        assert ended.status == 0, ended.out
        assert all(name in ended.out for name in ("log", "webhook", "Slack", "e-mail", "PagerDuty"))
        assert [body["event_action"] for body in pages.bodies] == ["trigger", "resolve"]
        assert len(hook.bodies) == len(slack.bodies) == len(mail.messages) == 1
        assert hook.bodies[0]["state"] == "test"
        slack.status = 404
        ended = sbh("alerts", "test", "--json")
        assert ended.status == AlertError.exit_status
        assert ended.document["channels"]["Slack"] == "HTTP status 404"
        assert ended.document["channels"]["webhook"] is None
        assert "hunter2" not in ended.out + ended.err
    assert sbh("alerts", "test", "--severity", "dire").status == 2
