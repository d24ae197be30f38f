"""The compliance report's figures, from events alone."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sbh_pipelines.backup.audit.trail_figures import RecoveryTime, TrailFigures
from sbh_pipelines.cli.show.compliance import CONTROLS, controls, markdown
from sbh_pipelines.model import utc_now
from sbh_pipelines.repository.trail.event import GENESIS, AuditEvent, AuditKey, Chain, Entry, chained
from sbh_pipelines_tests.support.application import ACME, ADMIN, Application
from sbh_pipelines_tests.support.site import site_of

APRIL, MAY = datetime(2026, 4, 1, tzinfo=UTC), datetime(2026, 5, 1, tzinfo=UTC)


def event(name: str, at: datetime, **props: Any) -> AuditEvent:
    made = chained(
        Entry(name, "ann", "backup", "cli", props), Chain(ACME, "eu-west-1"), AuditKey("", b""), 1, GENESIS, at
    )
    return replace(made, at=at.isoformat())


def backup(at: datetime, **props: Any) -> AuditEvent:
    return event("backup.created", at, type="full", recovery_point=at.isoformat(), **props)


def figures(*events: AuditEvent) -> TrailFigures:
    made = TrailFigures(APRIL, MAY)
    for one in events:
        made.add(one)
    return made


def test_only_the_period_counts() -> None:
    """Its beginning is in it, its end is not."""
    made = figures(*(backup(at) for at in (APRIL - timedelta(hours=1), APRIL, MAY - timedelta(hours=1), MAY)))
    assert made.counts["backup.created"] == 2
    assert made.types == {"full": 2}


def test_what_the_application_tracks_itself_is_no_figure() -> None:
    """It may call its events what it likes."""
    assert figures(replace(backup(APRIL), via="analytics"), replace(backup(APRIL), source="billing")).counts == {}


@pytest.mark.parametrize(
    ("hours", "gaps"),
    [
        ([], []),
        ([10], [14]),
        ([-30, 10], [10, 14]),
        ([-30], [24]),
        ([-5, 2, 3, 12], [2, 1, 9, 12]),
    ],
)
def test_gaps_lie_between_recovery_points_and_reach_to_the_end(hours: list[int], gaps: list[int]) -> None:
    """From the beginning of the period on where there was a backup before it; before the first one nothing is known."""
    made = figures(*(backup(APRIL + timedelta(hours=h)) for h in hours))
    assert made.gaps(APRIL + timedelta(days=1)) == [gap * 3600 for gap in gaps]


def test_drills_give_the_worst_time_and_how_often_it_was_missed() -> None:
    """A failed one has no time."""
    times = [(100.0, "passed", True), (300.0, "passed", False), (900.0, "failed", None)]
    made = figures(
        *(
            event(
                "drill.completed",
                APRIL,
                status=status,
                scenarios=[{"scenario": "file loss", "status": status, "seconds": s, "objective_s": 200.0, "met": met}],
            )
            for s, status, met in times
        )
    )
    assert made.times == {"file loss": RecoveryTime(300.0, 1, 200.0)}
    assert (made.drills_passed, made.counts["drill.completed"]) == (2, 3)


def test_a_report_says_what_is_not_known_and_ends_no_table(application: Application) -> None:
    """Also for tenants that were never backed up; and a user's name is no markup."""
    service = application.service()
    site_of(service).track(
        service.tenants.find(ACME), "restore.completed", "eve|`<b>`", {"restore_id": "r", "backup_id": "b"}
    )
    now = utc_now()
    report = service.audit.compliance_report(ADMIN, now - timedelta(days=1), now + timedelta(days=1))
    assert [line.tenant_id for line in report.tenants] == ["acme", "bolt"]
    said = {control["subject"]: control["evidence"] for control in controls(report)}
    assert len(said) == len(CONTROLS)
    assert said["Data lost at worst"].startswith("not known")
    assert said["Recovery is rehearsed"] == "none in the period"
    assert report.totals.restores_completed == 1
    text = markdown(report)
    assert "eve\\|\\`\\<b\\>\\`" in text
    rows = [line for line in text.splitlines() if line.startswith("| acme |")]
    assert all(row.count(" | ") == 10 for row in rows)


def test_a_broken_trail_is_named(application: Application) -> None:
    """In the totals and in the control that asks for it."""
    service = application.service()
    service.create_backup(ACME, ADMIN)
    (application.repository(ACME) / "audit" / "000000000001.jsonl").unlink()
    now = utc_now()
    report = service.audit.compliance_report(ADMIN, now - timedelta(days=1), now + timedelta(days=1))
    assert report.totals.trails_broken == [ACME]
    assert "broken: acme" in next(c["evidence"] for c in controls(report) if c["subject"] == "The trail is whole")
