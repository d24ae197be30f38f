"""A tenant's admin wants a legal hold that is against the tenant gone, so that what it keeps can be forgotten.

What stops them: legal holds are placed and released by the platform, a pin by whoever placed it; and keys are the platform's as well.
"""

import json

import pytest

from sbh_pipelines.backup.service.retention import Retention
from sbh_pipelines.errors import AccessDenied, ForgetRefused
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines_tests.support.application import ACME, ADMIN, Application

MALLORY = UserContext("mallory", ACME, Role.ADMIN, "api")


def test_a_legal_hold_is_the_platforms(application: Application) -> None:
    """Neither release nor a name of another kind takes it away, and the tenant places none that the platform would mind."""
    service = application.service()
    old = service.backups.create(ACME, ADMIN).id
    service.backups.create(ACME, ADMIN, "full")
    held = service.retention.hold(ACME, ADMIN, reason="case 7")
    for wish in (
        lambda: service.retention.release(held.id, ACME, MALLORY),
        lambda: service.retention.release("anything", ACME, MALLORY),
        lambda: service.retention.hold(ACME, MALLORY, reason="mine"),
    ):
        with pytest.raises(AccessDenied, match="platform"):
            wish()
    with pytest.raises(ForgetRefused):
        service.retention.forget(ACME, MALLORY, backup_id=old)
    assert [hold.id for hold in service.retention.holds(ACME, MALLORY)] == [held.id]
    assert service.retention.release(held.id, ACME, ADMIN).id == held.id


def test_a_pin_is_its_placers(application: Application) -> None:
    """The platform's pin stays, also where the tenant pins the same backup over it; the tenant's own is the tenant's to take away."""
    service = application.service()
    made = service.backups.create(ACME, ADMIN).id
    service.retention.pin(made, ACME, ADMIN, "quarter")
    for wish in (service.retention.unpin, service.retention.pin):
        with pytest.raises(AccessDenied, match="platform"):
            wish(made, ACME, MALLORY)
    with pytest.raises(AccessDenied, match="platform"):
        service.retention.release(f"pin-{made}", ACME, MALLORY)
    assert [hold.reason for hold in service.retention.holds(ACME, MALLORY)] == ["quarter"]
    service.retention.unpin(made, ACME, ADMIN)
    service.retention.pin(made, ACME, MALLORY, "mine")
    assert service.retention.unpin(made, ACME, MALLORY).reason == ""
    service.retention.pin(made, ACME, MALLORY, "mine")
    assert service.retention.unpin(made, ACME, ADMIN)


def test_a_pin_that_the_platform_places_at_the_same_moment(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look whether there is one and the tenant's own: what is replaced is what was looked at."""
    service = application.service()
    made = service.backups.create(ACME, ADMIN).id
    may_release, asked = Retention._may_release, list[str]()

    def slow(self: Retention, repository: Repository, pin_id: str, user: UserContext) -> None:
        may_release(self, repository, pin_id, user)
        if user is MALLORY and not asked:
            asked.append(pin_id)
            service.retention.pin(made, ACME, ADMIN, "quarter")

    monkeypatch.setattr(Retention, "_may_release", slow)
    with pytest.raises(AccessDenied, match="platform"):
        service.retention.pin(made, ACME, MALLORY, "mine")
    assert [hold.reason for hold in service.retention.holds(ACME, MALLORY)] == ["quarter"]
    service.retention.pin(made, ACME, ADMIN, "another quarter")
    assert [hold.reason for hold in service.retention.holds(ACME, MALLORY)] == ["another quarter"]


def test_a_damaged_pin_is_nobodys_of_the_tenant(application: Application) -> None:
    """Whoever writes to the bucket does not make the platform's pin the tenant's; one of before there were owners is the tenant's."""
    service = application.service()
    made = service.backups.create(ACME, ADMIN).id
    service.retention.pin(made, ACME, ADMIN, "quarter")
    file = application.repository(ACME) / "holds" / f"pin-{made}.json"
    whole = json.loads(file.read_bytes())
    file.write_text(json.dumps({**whole, "placed_for": ACME}))
    with pytest.raises(AccessDenied, match="platform"):
        service.retention.unpin(made, ACME, MALLORY)


def test_keys_are_the_platforms(application: Application) -> None:
    """Whose wrapping is retired, and which epochs end, is no tenant's."""
    service = application.service()
    service.backups.create(ACME, ADMIN)
    with pytest.raises(AccessDenied, match="platform"):
        service.keys.rotate([ACME], MALLORY, new_data_key=True, re_encrypt=True)
    assert service.keys.rotate([ACME], ADMIN).rotated
