"""How far a copy is behind: what was verified there against the clock; a tenant sees its own line, and nothing of the platform."""

from dataclasses import replace
from datetime import timedelta

import pytest

from sbh_pipelines.backup.copies.status import copy_status
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import AccessDenied, RequestError, StoreUnavailable, UnknownTenant
from sbh_pipelines.model import Tenant, TenantId, timestamp, utc_now
from sbh_pipelines.repository.trail.event import PLATFORM
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines_tests.backup.audit.test_auditing import events
from sbh_pipelines_tests.backup.copies.test_verification import TENANT, below, remove
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.copied import COPY, REGION, Copied

BOTH = [TENANT, Application.tenant(BOLT)]


@pytest.fixture
def copied(application: Application, embedded_stack: Stack) -> Copied:
    return Copied(application, embedded_stack, copy={"objective_minutes": 60})


@pytest.fixture
def service(copied: Copied) -> BackupService:
    return copied.service()


def standings(copied: Copied, hours: float = 0) -> dict[str, str]:
    found = copy_status(copied.site(), COPY, BOTH, utc_now() + timedelta(hours=hours))
    return {str(line.tenant_id): line.standing for line in found.tenants}


def test_standings_follow_what_was_verified(copied: Copied, service: BackupService) -> None:
    service.create_backup(ACME, ADMIN)
    copied.bring_both()
    assert standings(copied) == {ACME: "never", BOLT: "never"}
    service.copies.verify(ADMIN, COPY)
    assert standings(copied) == {ACME: "current", BOLT: "never"}
    assert standings(copied, hours=2) == {ACME: "behind", BOLT: "never"}
    late = copy_status(copied.site(), COPY, BOTH, utc_now() + timedelta(hours=2))
    assert [line.tenant_id for line in late.tenants] == [BOLT, ACME]  # the worst first
    assert late.worst_lag_s is not None
    assert 7000 < late.worst_lag_s < 8000
    remove(copied.client, copied.copy_bucket, below(copied, "packs/")[0])
    service.copies.verify(ADMIN, COPY)
    failed = copy_status(copied.site(), COPY, BOTH, utc_now()).tenants[0]
    assert (failed.tenant_id, failed.standing) == (ACME, "failed")
    assert "SBH-642" in failed.why
    assert f"sbh copies run {COPY}" in failed.why


def test_another_tenants_state_under_the_slug_is_not_this_ones(copied: Copied, service: BackupService) -> None:
    service.create_backup(ACME, ADMIN)
    copied.bring_both()
    service.copies.verify(ADMIN, COPY)
    other = Tenant(TENANT.id, "77", TENANT.region, TENANT.tier)
    assert [line.standing for line in copy_status(copied.site(), COPY, [other], utc_now()).tenants] == ["never"]


def test_who_is_left_out_is_told_why(application: Application, embedded_stack: Stack) -> None:
    copied = Copied(application, embedded_stack, copy={"tiers": ["critical"]})
    (status,) = copied.service().copies.status(ADMIN)
    told = {line.tenant_id: (line.standing, line.why) for line in status.tenants}
    assert told[TENANT.id][0] == "never"
    assert told[TenantId(BOLT)][0] == "left_out"
    assert "critical are copied" in told[TenantId(BOLT)][1]
    assert status.worst_lag_s is None


def test_a_tenants_user_sees_the_own_line_and_no_bucket(copied: Copied, service: BackupService) -> None:
    service.create_backup(ACME, ADMIN)
    copied.bring_both()
    remove(copied.client, copied.copy_bucket, below(copied, "packs/")[0])
    service.copies.verify(ADMIN, COPY)
    viewer = UserContext("their viewer", ACME, Role.VIEWER)
    (status,) = service.copies.status(viewer)
    assert [line.tenant_id for line in status.tenants] == [ACME]
    assert copied.copy_bucket not in repr(status)
    assert status.issues == ()
    (whole,) = service.copies.status(UserContext("a viewer", "*", Role.VIEWER), COPY)
    assert copied.copy_bucket in repr(whole)
    theirs = UserContext("their admin", ACME, Role.ADMIN)
    for refused in (theirs, UserContext("a viewer", "*", Role.VIEWER)):
        with pytest.raises(AccessDenied):
            service.copies.verify(refused, COPY, [ACME])


def test_names_that_are_not_there_are_refused(copied: Copied, service: BackupService) -> None:
    for name in ("nope", "../dr", "", "dr\x1b[31m", "x" * 5000):
        for call in (service.copies.verify, service.copies.status):
            with pytest.raises(RequestError) as raised:
                call(ADMIN, name)
            assert len(str(raised.value)) < 500
            assert "\x1b" not in str(raised.value)
    with pytest.raises(UnknownTenant):
        service.copies.verify(ADMIN, COPY, ["nobody"])
    without = BackupService(copied.settings(copies=False))
    assert without.copies.status(ADMIN) == []
    with pytest.raises(RequestError, match="name no copy"):
        without.copies.verify(ADMIN, COPY)


def test_a_verification_is_on_record(copied: Copied, service: BackupService) -> None:
    service.create_backup(ACME, ADMIN)
    copied.bring_both()
    remove(copied.client, copied.copy_bucket, below(copied, "manifests/")[0])
    service.copies.verify(ADMIN, COPY, deep=True)
    (event,) = [event for event in events(service, PLATFORM) if event["event"] == "copy.verified"]
    assert event["props"] == {
        "copy": COPY, "deep": True, "valid": False, "tenants": 2, "invalid": 1, "codes": ["SBH-642"]
    }  # fmt: skip


def test_a_tick_counts_when_its_record_is_at_the_copy(copied: Copied, service: BackupService) -> None:
    service.create_backup(ACME, ADMIN)
    copied.bring_both()
    service.copies.verify(ADMIN, COPY)
    record = copied.site().catalog(REGION).read([TENANT.id])[TENANT.id]
    later = utc_now() + timedelta(hours=2)
    copied.site().catalog(REGION).record(
        [], {TENANT.id: record.backup_id}, replace(record.point, time=timestamp(later))
    )
    assert standings(copied, hours=2)[ACME] == "behind"
    copied.transfer()
    assert standings(copied, hours=2)[ACME] == "current"
    other = copied.service().create_backup(ACME, ADMIN)  # which was not verified
    assert other["id"] > record.backup_id
    copied.site().catalog(REGION).record([], {TENANT.id: other["id"]}, replace(record.point, time=timestamp(later)))
    copied.transfer()
    assert standings(copied, hours=2)[ACME] == "behind"


def test_a_copy_that_does_not_answer_is_said_beside_what_is_known(copied: Copied, service: BackupService) -> None:
    service.create_backup(ACME, ADMIN)
    copied.bring_both()
    service.copies.verify(ADMIN, COPY)
    status = copy_status(copied.silent(), COPY, BOTH, utc_now())
    assert [line.standing for line in status.tenants] == ["never", "current"]
    assert [type(issue) for issue in status.issues] == [StoreUnavailable]


def test_what_was_verified_in_another_bucket_is_not_this_copy_s(copied: Copied, service: BackupService) -> None:
    """The name stayed, and what it stands for moved."""
    service.create_backup(ACME, ADMIN)
    copied.bring_both()
    service.copies.verify(ADMIN, COPY)
    assert standings(copied)[ACME] == "current"
    settings = copied.settings()
    copies = [copy.model_copy(update={"bucket": "elsewhere-{region}"}) for copy in settings.copies]
    status = copy_status(Site(settings.model_copy(update={"copies": copies}), utc_now), COPY, BOTH, utc_now())
    assert {line.standing for line in status.tenants} == {"never"}


def test_the_recovery_report_says_what_only_the_copy_would_bring_back(copied: Copied, service: BackupService) -> None:
    service.create_backup(ACME, ADMIN)
    copied.bring_both()
    service.copies.verify(ADMIN, COPY, [ACME])
    late = copied.service(lambda: utc_now() + timedelta(hours=2)).drills.report(ADMIN).copies
    told = {line.data_type: line for line in late}
    critical, other = told["critical"], next(line for kind, line in told.items() if kind != "critical")
    assert (critical.copy, critical.objective_s, critical.tenant_id, critical.met) == (COPY, 3600, ACME, False)
    assert critical.worst_age_s is not None
    assert 7000 < critical.worst_age_s < 8000
    assert (other.tenants, other.without_copy_count, other.worst_age_s, other.met) == (1, 1, None, False)
    assert {line.data_type: line.met for line in service.drills.report(ADMIN).copies}["critical"] is True
    assert BackupService(copied.settings(copies=False)).drills.report(ADMIN).copies == []
