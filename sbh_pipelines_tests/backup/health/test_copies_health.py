"""Health of copies: what is late or not whole there makes a finding of the copy, which goes when that is mended."""

from datetime import timedelta
from typing import Any

import pytest

from sbh_pipelines.backup.health.examination import Examination
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import StoreDenied
from sbh_pipelines.model import utc_now
from sbh_pipelines.orchestration.alerting.backup_watch import unlearned
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines_tests.backup.copies.test_verification import below, remove
from sbh_pipelines_tests.backup.create.test_crash import struck
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.copied import COPY, Copied


@pytest.fixture
def copied(application: Application, embedded_stack: Stack) -> Copied:
    made = Copied(application, embedded_stack, copy={"objective_minutes": 60})
    for tenant in (ACME, BOLT):
        made.service().create_backup(tenant, ADMIN)
    return made


def later(copied: Copied, hours: float = 0, **sections: Any) -> BackupService:
    return copied.service(
        lambda: utc_now() + timedelta(hours=hours), health={"refresh_s": 0}, schedules={"tiers": {}}, **sections
    )


def found(examination: Examination) -> dict[str, str]:
    return {f.key: f"{f.error.code} {f.error.why}" for f in examination.findings if f.check == "copies_current"}


def test_a_copy_that_is_late_is_told_and_is_over_when_it_was_verified(copied: Copied) -> None:
    assert found(later(copied).health.examine(ADMIN)) == {}  # the backups are younger than the objective
    late = later(copied, 2).health.examine(ADMIN)
    assert list(found(late)) == ["copy_behind/dr"]
    assert found(late)["copy_behind/dr"].startswith("SBH-940 2 of 2 tenants")
    report = later(copied, 2).health.check(ADMIN)
    assert (report.copies_current, report.backup_service) == (False, "degraded")
    copied.bring_both()
    copied.service().copies.verify(ADMIN, COPY)
    assert found(later(copied).health.examine(ADMIN)) == {}
    assert later(copied).health.check(ADMIN).copies_current
    again = found(later(copied, 2).health.examine(ADMIN))
    assert "the oldest is 2 h" in again["copy_behind/dr"]


def test_what_is_not_whole_is_told_by_its_own_key(copied: Copied) -> None:
    copied.bring_both()
    pack = below(copied, "packs/")[0]
    body = copied.client.get_object(Bucket=copied.copy_bucket, Key=pack)["Body"].read()
    remove(copied.client, copied.copy_bucket, pack)
    copied.service().copies.verify(ADMIN, COPY)
    wrong = found(later(copied).health.examine(ADMIN))
    assert list(wrong) == ["copy_unverified/dr"]
    assert ACME in wrong["copy_unverified/dr"]
    copied.client.put_object(Bucket=copied.copy_bucket, Key=pack, Body=body)
    copied.service().copies.verify(ADMIN, COPY)
    assert found(later(copied).health.examine(ADMIN)) == {}


def test_a_state_that_is_not_believed_holds_nothing_back(copied: Copied) -> None:
    """Whoever may put one object at the source keeps no alert from coming, and none from ending."""
    copied.bring_both()
    remove(copied.client, copied.copy_bucket, below(copied, "packs/")[0])
    copied.service().copies.verify(ADMIN, COPY)
    key = next(key for key in copied.objects(copied.bucket) if "copies/dr/" in key)
    copied.client.put_object(Bucket=copied.bucket, Key=key.rsplit("/", 1)[0] + "/garbage", Body=b"x")
    seen = later(copied).health.examine(ADMIN)
    assert set(found(seen)) == {"copy_unreadable/dr", "copy_unverified/dr"}
    assert not unlearned(seen, "copy_behind/dr")
    assert copied.service().retention.compact_catalogs(ADMIN)
    assert list(found(later(copied).health.examine(ADMIN))) == ["copy_unverified/dr"]


def test_a_source_of_states_that_cannot_be_asked_ends_no_alert(copied: Copied) -> None:
    copied.bring_both()
    copied.service().copies.verify(ADMIN, COPY)
    denied = StoreDenied("The store refused", on="s3://source", why="AccessDenied", remedy="none")
    with struck(lambda _, key, __: (denied, "before") if "copies/dr/states" in key else None, ("list",)):
        seen = later(copied).health.examine(ADMIN)
    assert list(found(seen)) == ["copy_unreadable/dr"]
    assert unlearned(seen, "copy_behind/dr")
    assert not unlearned(seen, "copy_behind/another")
    assert not unlearned(seen, "copy_unreadable/dr")


def test_lags_are_metrics(copied: Copied) -> None:
    copied.bring_both()
    copied.service().copies.verify(ADMIN, COPY, [ACME])
    text = later(copied, 2).health.prometheus_text(ADMIN)
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("sbh_copy"))
    assert float(lines['sbh_copy_objective_seconds{copy="dr"}']) == 3600
    assert 7000 < float(lines['sbh_copy_lag_seconds{copy="dr",tenant="acme"}']) < 8000
    assert lines['sbh_copy_tenants{copy="dr",standing="behind"}'] == "1.0"
    assert lines['sbh_copy_tenants{copy="dr",standing="never"}'] == "1.0"
    assert 'sbh_copy_lag_seconds{copy="dr",tenant="bolt"}' not in lines
    theirs = later(copied).health.prometheus_text(UserContext("viewer", ACME, Role.VIEWER))
    shown = [line for line in theirs.splitlines() if line.startswith("sbh_copy")]
    assert [line.split(" ")[0] for line in shown] == ['sbh_copy_lag_seconds{copy="dr",tenant="acme"}']
