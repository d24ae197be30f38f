"""One admin wants to be the two persons of an approval: by a second token that they issue, by a name that they change, by outliving
what is taken from them.

What stops them: tokens are issued by the platform, each says by whose it was issued, and those are one person; and what a person
has issued ends with them.
"""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.cli.command import operating_user
from sbh_pipelines.errors import AccessDenied, ApprovalNeeded, RequestError, SettingsError, Unauthenticated
from sbh_pipelines.security.people import Person, one_person
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.security.signing_key import write_signing_key
from sbh_pipelines.security.tokens import open_tokens
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.support.application import ACME, ADMIN, Application

ROOT = UserContext("root", "*", Role.ADMIN, "cli", by_system=True)
WORDS = {"user_id": "bob", "tenant_id": ACME, "role": "admin", "ttl_s": 600}


@pytest.fixture
def service(application: Application, tmp_path: Path) -> BackupService:
    key, revoked = tmp_path / "signing.key", tmp_path / "revoked"
    write_signing_key(key)
    made = application.service(
        auth={"mode": "local", "signing_key_file": key, "revoked_file": revoked},
        approval={"restore": "two-person"},
        restore={"safety_backup": True},
    )
    revoked.touch()
    made.backups.create(ACME, ADMIN)
    return made


def holder(service: BackupService, issuer: UserContext, name: str, tenant: str = ACME) -> UserContext:
    """Whoever presents a token that `issuer` issues in this name."""
    token = service.tokens.issue(issuer, user_id=name, tenant_id=tenant, role="admin", ttl_s=600)
    return open_tokens(service.settings).verify(token, "api")


def allowed(service: BackupService, one: UserContext, other: UserContext) -> bool:
    """Whether the other may approve what the one asks for, so that it is done."""
    asked = service.approvals.request_restore("latest", ACME, one, reason="mine")
    try:
        service.approvals.approve(asked.approval_id, ACME, other)
    except ApprovalNeeded:
        return False
    return bool(service.restores.run("latest", ACME, one, approval_id=asked.approval_id).restore_id)


def test_a_tenants_admin_issues_nobody(service: BackupService) -> None:
    """Not even for the own tenant, nor with a lesser role."""
    ann = holder(service, ROOT, "ann")
    for role in ("admin", "viewer"):
        with pytest.raises(AccessDenied, match="platform"):
            service.tokens.issue(ann, user_id="bob", tenant_id=ACME, role=role, ttl_s=600)


def test_issuer_and_issued_are_one_person(service: BackupService) -> None:
    """In both directions, over any number of tokens in between, and two whom one has issued as well; root's two people are two."""
    mallory = holder(service, ROOT, "mallory", "*")
    bob, carl = holder(service, mallory, "bob"), holder(service, mallory, "carl")
    deputy = holder(service, mallory, "deputy", "*")
    deep = holder(service, deputy, "dora")
    for one, other in ((mallory, bob), (bob, mallory), (bob, carl), (mallory, deep), (bob, deep), (ROOT, bob)):
        assert not allowed(service, one, other), (one, other)
    assert not allowed(service, bob, UserContext("ＭALLORY", ACME, Role.ADMIN, "api"))
    assert allowed(service, bob, holder(service, ROOT, "ann"))
    assert allowed(service, holder(service, ROOT, "ann"), holder(service, ROOT, "otto"))


@pytest.mark.parametrize("name", ["os:eve", "OS:eve", "ｏｓ:eve", "os:"])
def test_nobody_is_named_like_an_issuer_of_the_system(service: BackupService, name: str) -> None:
    """Such a name would be that of no person: it may be nobody's, and who has it all the same is one with themselves."""
    assert one_person(Person(name), Person(name))
    with pytest.raises(RequestError):
        holder(service, ROOT, name)


def test_an_undo_and_breaking_the_glass(service: BackupService, application: Application) -> None:
    """The same rule for an undo; and who broke the glass is on record with who issued them."""
    mallory = holder(service, ROOT, "mallory", "*")
    bob = holder(service, mallory, "bob")
    application.wreck(ACME)
    done = service.restores.run("latest", ACME, bob, break_glass="now")
    (broken,) = (e for e in service.audit.events(ADMIN, ACME).events if e.event == "restore.break_glass")
    assert broken.props["issued_by"] == ["mallory", "os:root"]
    asked = service.approvals.request_undo(done.restore_id, ACME, bob, reason="mine")
    with pytest.raises(ApprovalNeeded, match="mallory"):
        service.approvals.approve(asked.approval_id, ACME, mallory)
    (requested,) = (e for e in service.audit.events(ADMIN, ACME).events if e.event == "restore.requested")
    assert requested.props["issued_by"] == ["mallory", "os:root"]


def test_what_was_issued_says_so_and_cannot_be_made_to_say_less(service: BackupService) -> None:
    """The claim is the issuer's, signed; a chain has an end; tokens of before it go on."""
    mallory = holder(service, ROOT, "mallory", "*")
    assert holder(service, mallory, "bob").issued_by == ("mallory", "os:root")
    settings, now = service.settings, int(time.time())
    key = settings.auth.signing_key_file.read_bytes()  # type: ignore[union-attr]
    said = {"iss": "sbh-pipelines", "aud": "sbh-pipelines", "sub": "old", "tenant": ACME, "role": "admin"}
    said |= {"iat": now, "exp": now + 60}  # type: ignore[dict-item]
    tokens = open_tokens(settings)
    assert tokens.verify(jwt.encode(said, key, algorithm="EdDSA"), "api").issued_by == ()
    for odd in ("mallory", [1], [["x"]], ["x"] * 100, {"a": 1}, [""]):
        with pytest.raises(Unauthenticated):
            tokens.verify(jwt.encode({**said, "iss_by": odd}, key, algorithm="EdDSA"), "api")
    long = UserContext("x", "*", Role.ADMIN, "api", issued_by=("y",) * 20)
    with pytest.raises(RequestError, match="chain"):
        holder(service, long, "z")


@pytest.mark.parametrize("variable", ["LOGNAME", "USER", "LNAME", "USERNAME"])
def test_the_environment_says_nobodys_name(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """Without a token the operating system says who it is, and not a variable that the caller sets between two commands."""
    before = operating_user()
    monkeypatch.setenv(variable, "somebody-else")
    assert operating_user() == before
    assert before.by_system


def test_no_service_is_impersonated(application: Application, tmp_path: Path) -> None:
    """Whose runs act for whomever they say."""
    key = tmp_path / "key"
    write_signing_key(key)
    auth = {"mode": "local", "signing_key_file": key, "services": ["service:api"]}
    service = application.service(auth=auth)
    mallory = holder(service, ROOT, "mallory", "*")
    for name in ("service:api", "SERVICE:API"):
        with pytest.raises(AccessDenied, match="service"):
            holder(service, mallory, name, "*")
    assert holder(service, ROOT, "service:api", "*").user_id == "service:api"


def test_who_is_revoked_takes_along_what_they_issued(service: BackupService) -> None:
    """By a person and a time, and by who issued; tokens of later are believed."""
    tokens = open_tokens(service.settings)
    mallory = holder(service, ROOT, "mallory", "*")
    bob = service.tokens.issue(mallory, **WORDS)  # type: ignore[arg-type]
    other = service.tokens.issue(ROOT, **{**WORDS, "user_id": "otto"})  # type: ignore[arg-type]
    kept = tokens.verified(bob, "ui")
    assert not tokens.revoked(kept)
    for user in (mallory, UserContext("t", "*", Role.OPERATOR)):
        if user.role is Role.OPERATOR:
            with pytest.raises(AccessDenied):
                service.tokens.revoke(user, issued_by="mallory")
    service.tokens.revoke(ROOT, issued_by="Mallory")
    with pytest.raises(Unauthenticated):
        tokens.verify(bob, "api")
    assert tokens.revoked(kept)
    assert tokens.verify(other, "api").user_id == "otto"
    service.tokens.revoke(ROOT, user_id="otto", before=datetime.now(UTC) - timedelta(days=1))
    assert tokens.verify(other, "api").user_id == "otto"
    service.tokens.revoke(ROOT, user_id="OTTO")
    with pytest.raises(Unauthenticated):
        tokens.verify(other, "api")
    events = [e for e in service.audit.events(ADMIN).events if e.event == "token.revoked"]
    assert len(events) == 3


@pytest.mark.parametrize("line", ["user:", "user: before 2026-01-01", "user:ann before never", "issuer:ann before 1"])
def test_a_list_that_makes_no_sense_lets_nobody_in(tmp_path: Path, line: str) -> None:
    """A slip of the pen must not bring back whom it meant to keep out."""
    key, revoked = tmp_path / "signing.key", tmp_path / "revoked"
    write_signing_key(key)
    tokens = open_tokens(
        Settings(auth={"mode": "local", "signing_key_file": key, "revoked_file": revoked})  # type: ignore[arg-type]
    )
    revoked.write_text("# gone\n\nabc\nuser:x y before 2020-01-01T00:00:00Z\n")
    token = tokens.issue("ann", ACME, "viewer", 60)
    assert tokens.verify(token, "api").user_id == "ann"
    revoked.write_text(f"{line}\n")
    with pytest.raises(SettingsError, match="line 1"):
        tokens.verify(token, "api")
