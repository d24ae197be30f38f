"""`sbh restore request`, `sbh approvals`, and a restore that needs them, with tokens of two persons."""

import pytest


@pytest.fixture
def acting_as(sbh, settings_file, monkeypatch):
    """Who the next calls are by; restores need two persons."""
    monkeypatch.setenv("SBH_APPROVAL__RESTORE", "two-person")

    def become(user, role="admin", tenant="*"):
        monkeypatch.delenv("SBH_TOKEN", raising=False)
        issued = sbh("token", "issue", "--user", user, "-t", tenant, "--role", role, "--ttl", "10m")
        monkeypatch.setenv("SBH_TOKEN", issued.out.strip())

    return become


def test_two_persons_restore_from_the_command_line(sbh, backed_up, acting_as):
    """Refused with what to type; asked for, shown, approved by another, done, and not a second time."""
    what = ("-t", "tenant-6", "--tables", "users")
    acting_as("ann")
    refused = sbh("restore", "run", backed_up, *what, "--confirm", "--json")
    assert (refused.status, refused.code) == (4, "SBH-212")
    assert "sbh restore request" in refused.document["error"]["remedy"]
    asked = sbh("restore", "request", backed_up, *what, "--reason", "users were lost")
    assert "sbh approvals approve approval_" in asked.out
    asked = sbh("restore", "request", backed_up, *what, "--reason", "users were lost", "--quiet")
    approval = asked.out.strip()
    assert sbh("approvals", "approve", approval, "-t", "tenant-6", "--json").code == "SBH-212"
    acting_as("bob")
    shown = sbh("approvals", "show", approval, "-t", "tenant-6")
    assert "users were lost" in shown.out
    assert backed_up in shown.out
    assert sbh("approvals", "approve", approval, "-t", "tenant-6", "--comment", "seen").status == 0
    listed = sbh("approvals", "list", "-t", "tenant-6", "--quiet")
    assert f"{approval} approved" in listed.out
    acting_as("ann")
    other = sbh("restore", "run", backed_up, "-t", "tenant-6", "--confirm", "--approval", approval, "--json")
    assert other.code == "SBH-212"
    done = sbh("restore", "run", backed_up, *what, "--confirm", "--approval", approval)
    assert done.status == 0, done.err
    assert sbh("restore", "run", backed_up, *what, "--confirm", "--approval", approval, "--json").code == "SBH-212"
    assert "used" in sbh("approvals", "list", "-t", "tenant-6").out


def test_an_emergency_and_a_refusal(sbh, backed_up, acting_as):
    """Breaking the glass needs a reason; what was rejected stays so; a tenant's viewer may only look."""
    what = ("-t", "tenant-6", "--tables", "users")
    acting_as("ann")
    assert sbh("restore", "run", backed_up, *what, "--confirm", "--break-glass", "", "--json").code == "SBH-200"
    assert sbh("restore", "run", backed_up, *what, "--confirm", "--break-glass", "site is down").status == 0
    approval = sbh("restore", "request", backed_up, *what, "--reason", "x", "--quiet").out.strip()
    acting_as("vic", "viewer", "tenant-6")
    assert sbh("approvals", "reject", approval, "-t", "tenant-6", "--json").code == "SBH-206"
    assert sbh("approvals", "show", approval, "-t", "tenant-6").status == 0
    acting_as("bob")
    assert sbh("approvals", "reject", approval, "-t", "tenant-6").status == 0
    acting_as("eve", "admin", "tenant-1")
    for name in ("show", "approve"):
        assert sbh("approvals", name, approval, "-t", "tenant-6", "--json").code == "SBH-206"
