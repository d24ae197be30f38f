"""Who is told of drains that fail, and of what the examination finds wrong with the journal."""

import time
from dataclasses import replace
from datetime import UTC, datetime

import dagster as dg
import pytest

from sbh_pipelines.backup.health.examination import Examination, RegionState
from sbh_pipelines.backup.health.journal import JournalState
from sbh_pipelines.orchestration.alerting import run_alerts
from sbh_pipelines.orchestration.alerting.backup_watch import unlearned
from sbh_pipelines.orchestration.alerting.sensors import failure_alerts
from sbh_pipelines.settings import AlertSettings, Settings
from sbh_pipelines_tests.orchestration.conftest import Run
from sbh_pipelines_tests.support.fakes import FakeService
from sbh_pipelines_tests.support.sinks import webhook

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def test_people_are_told_of_the_second_drain_that_fails(
    run: Run, instance: dg.DagsterInstance, fake: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one reads what one that failed did not. Where a run succeeded in between, there is nothing to tell."""
    monkeypatch.setattr(run_alerts, "_AGAIN_S", 0.05)

    def failed() -> None:
        """A service without a journal fails for every drain."""
        result = run("journal_drain_job")
        context = dg.build_run_status_sensor_context(
            "failure_alerts", result.get_run_failure_event(), instance, result.dagster_run
        )
        failure_alerts(context.for_run_failure(), backups=fake.resource)  # type: ignore[attr-defined]

    def succeeded() -> None:
        done = dg.DagsterRun(job_name="journal_drain_job", tags={"sbh/operation": "journal_drain"})
        run_alerts.report_success(instance, done, fake.settings.alerts)

    with webhook() as sink:
        fake.settings = Settings(alerts=AlertSettings(webhook_url=f"http://127.0.0.1:{sink.port}/"))
        failed()
        succeeded()
        time.sleep(0.1)
        failed()
        assert sink.bodies == []
        time.sleep(0.1)
        failed()
        failed()
    (body,) = sink.bodies
    assert body["key"] == "run_failed.journal_drain/"
    assert body["subject"].startswith("journal_drain_job failed")


def test_what_was_not_looked_at_ends_nothing() -> None:
    """While the server does not answer, or a store, what was known of the journal stands."""
    seen = Examination(NOW, [], {}, {}, [], {"eu-west-1": RegionState(True, True)}, frozenset())
    assert not unlearned(seen, "journal_gap/eu-west-1/1")
    assert not unlearned(seen, "journal_slot/sbh_journal")
    assert unlearned(replace(seen, journal=JournalState(seen=False)), "journal_slot/sbh_journal")
    down = replace(seen, regions={"eu-west-1": RegionState(False, None)})
    assert unlearned(down, "journal_gap/eu-west-1/1")
