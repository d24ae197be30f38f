"""`sbh drill` and `sbh report` on real servers."""

from pathlib import Path

import pytest

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.cli.show.spans import span, trend
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.embedded.servers.layout import Layout
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.security.policy import UserContext
from sbh_pipelines_tests.cli.conftest import Sbh

TENANT = ("--tenant", "tenant-6")


@pytest.fixture
def drills(
    backed_up: str,
    sample_stack: Stack,
    sample_service: BackupService,
    admin: UserContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Drills may create databases; tenant-6 and the platform are backed up."""
    monkeypatch.setenv("SBH_DRILL__DSN", sample_stack.dsn(postgres.ADMIN))
    monkeypatch.setenv("SBH_DRILL__PASSWORD_FILE", str(Layout(sample_stack.dir).password_file(postgres.ADMIN)))
    sample_service.platform.create(admin)


def test_a_drill_is_run_listed_and_reported(sbh: Sbh, drills: None, backed_up: str) -> None:
    """In tables for people, and in one document for programs."""
    ended = sbh(
        "drill", "run", *TENANT, "--scenario", "database-corruption", "--scenario", "file system loss", "--json"
    )
    assert ended.status == 0, ended.out
    (record,) = ended.document["drills"]
    assert (record["status"], record["backup_id"]) == ("passed", backed_up)
    assert [one["scenario"] for one in record["scenarios"]] == ["database corruption", "file system loss"]
    assert sbh("drill", "list", *TENANT, "--json").document[0] == record
    assert record["drill_id"] in sbh("drill", "list", *TENANT).out
    assert sbh("report", "recovery", "--json").document["tenants"] == 6
    report = sbh("report", "recovery", *TENANT, "--json").document
    times = {row["scenario"]: row for row in report["recovery_time"]}
    assert times["database corruption"]["drill_id"] == record["drill_id"]
    assert times["configuration error"]["met"] is None
    shown = sbh("report", "recovery", *TENANT)
    assert shown.status == 0
    assert "never drilled" in next(line for line in shown.out.splitlines() if "configuration error" in line)
    assert "1 h" in next(line for line in shown.out.splitlines() if "database corruption" in line)
    assert "Recovery point objectives" in shown.out
    brief = sbh("report", "recovery", *TENANT, "--quiet").out.splitlines()
    assert "database corruption: met" in brief
    assert "complete failure: unknown" in brief


def test_a_drill_that_finds_something_exits_9_and_says_what(
    sbh: Sbh, drills: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBH_DRILL__ASSERTIONS", '["SELECT count(*) = 0 FROM tasks WHERE tenant_id = :tenant"]')
    shown = sbh("drill", "run", *TENANT, "--scenario", "database corruption")
    assert shown.status == 9
    assert "SBH-705" in shown.out
    assert "drill.assertions[0]" in shown.out.replace("\n", "")
    report = sbh("report", "recovery", *TENANT)
    assert report.status == 0
    assert "failed: SBH-705" in report.out


def test_a_wrong_scenario_or_tenant_is_refused(sbh: Sbh, settings_file: Path) -> None:
    assert sbh("drill", "run", *TENANT, "--scenario", "flood", "--json").code == "SBH-200"
    assert sbh("drill", "run", "--tenant", "nobody", "--json").code == "SBH-202"
    assert sbh("drill", "list", "--tenant", "../x", "--json").code == "SBH-201"
    assert sbh("report", "recovery", "--tenant", "nobody", "--json").code == "SBH-202"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.004, "0.00 s"), (59.99, "59.99 s"), (60, "1 min"), (3599.9, "59 min 59 s"), (3600, "1 h"), (14398.7, "3 h 59 min"),
        (86400 + 7200, "1 d 2 h"), (-90, "-1 min 30 s"), (None, ""),
    ],
)  # fmt: skip
def test_spans_of_time(seconds: float | None, text: str) -> None:
    assert span(seconds) == text


def test_trends() -> None:
    assert [trend(change) for change in (0.123, -0.5, 0.0, None)] == ["+12 %", "-50 %", "+0 %", ""]
