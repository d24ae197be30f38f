"""`sbh token`, and `sbh` with a token: its user's role and tenant hold."""

import base64
import io
import json
import stat

import pytest


@pytest.fixture
def site(tmp_path, sbh, monkeypatch):
    """A settings file whose tokens are made with a key of its own; its folder."""
    assert sbh("token", "key", "--write", str(tmp_path / "key")).status == 0
    (tmp_path / "data-key").write_bytes(base64.b64encode(b"k" * 32))
    (tmp_path / "sbh.toml").write_text(
        '[auth]\nmode = "local"\nsigning_key_file = "key"\nmax_ttl_s = 3600\n'
        '[storage]\nkind = "local"\npath = "objects"\n[keys]\nprovider = "local"\nkey_file = "data-key"\n'
    )
    monkeypatch.setenv("SBH_SETTINGS", str(tmp_path / "sbh.toml"))
    return tmp_path


def issue(sbh, *more):
    return sbh("token", "issue", "--user", "ann", "--tenant", "tenant-1", "--role", "operator", "--ttl", "15m", *more)


def test_the_key_is_closed_and_never_overwritten(site, sbh):
    """Mode 0600, a public half beside it, and a second `key` refuses."""
    assert stat.S_IMODE((site / "key").stat().st_mode) == 0o600
    assert "PUBLIC" in (site / "key.pub").read_text()
    before = (site / "key").read_text()
    assert sbh("token", "key", "--write", str(site / "key")).status == 3
    assert (site / "key").read_text() == before


def test_issue_prints_the_token_and_nothing_else(site, sbh):
    """One line that can be captured by a shell; with --json one document."""
    ended = issue(sbh)
    assert ended.status == 0
    assert len(ended.out.split()) == 1
    assert ended.out.count(".") == 2
    assert list(issue(sbh, "--json").document) == ["token"]


@pytest.mark.parametrize("ttl", ["2h", "0", "-5", "1y", "", "9" * 12])
def test_an_overlong_or_odd_life_is_refused(site, sbh, ttl):
    """Nothing is printed on standard output that could be taken for a token."""
    ended = sbh("token", "issue", "--user", "a", "-t", "*", "--role", "admin", f"--ttl={ttl}")
    assert (ended.status, ended.out) == (2, "")


def test_inspect_says_what_and_why(site, sbh, monkeypatch):
    """From a file or standard input; exit 4 where it is not believed; the token itself is not shown."""
    token = issue(sbh).out.strip()
    (site / "token").write_text(token + "\n")
    shown = sbh("token", "inspect", str(site / "token"))
    assert shown.status == 0
    assert "operator" in shown.out
    assert token not in shown.out
    monkeypatch.setattr("sys.stdin", io.StringIO(token[:-6]))
    refused = sbh("token", "inspect", "--json")
    assert refused.status == 4
    assert refused.document["valid"] is False
    assert "signature" in refused.document["why"]
    assert refused.document["claims"]["sub"] == "ann"
    monkeypatch.setattr("sys.stdin", io.StringIO("\0" * 100))
    assert sbh("token", "inspect").status == 4


def test_sbh_with_a_token_acts_for_its_user(site, sbh, monkeypatch):
    """No user of a tenant issues tokens, whatever the role; one of the platform does, and the token says so."""
    made = {
        who: sbh("token", "issue", "--user", "bob", "-t", who, "--role", "admin", "--ttl", "60", "--quiet").out
        for who in ("tenant-1", "*")
    }
    for token in (issue(sbh).out, made["tenant-1"]):
        monkeypatch.setenv("SBH_TOKEN", token)
        assert issue(sbh, "--json").code == "SBH-206"
    monkeypatch.setenv("SBH_TOKEN", made["*"])
    issued = issue(sbh)
    assert issued.status == 0
    monkeypatch.setattr("sys.stdin", io.StringIO(issued.out))
    said = sbh("token", "inspect", "--json").document["claims"]["iss_by"]
    assert (said[0], said[1][:3], len(said)) == ("bob", "os:", 2)


def test_what_is_revoked_is_believed_no_longer(site, sbh, monkeypatch):
    """The line it prints is the one in the file."""
    assert sbh("token", "revoke", "--user", "ann", "--json").code == "SBH-100"  # nowhere to write it
    text = (site / "sbh.toml").read_text()
    (site / "sbh.toml").write_text(text.replace("[auth]", '[auth]\nrevoked_file = "revoked"'))
    (site / "revoked").touch()
    token = issue(sbh).out
    done = sbh("token", "revoke", "--user", "ann", "--json")
    assert done.document == {"revoked": (site / "revoked").read_text().strip()}
    monkeypatch.setenv("SBH_TOKEN", token)
    assert sbh("tenants", "list", "--json").code == "SBH-209"
    monkeypatch.delenv("SBH_TOKEN")
    for wrong in ((), ("--user", "a", "--id", "b"), ("--id", "b", "--before", "2026-01-01"), ("--user", "a\nb")):
        assert sbh("token", "revoke", *wrong, "--json").status == 2


def test_a_token_that_is_meant_but_not_there_makes_nobody_an_admin(site, sbh, monkeypatch):
    """An empty SBH_TOKEN, a missing or unreadable SBH_TOKEN_FILE, a token without [auth]: errors, not the usual rights."""
    monkeypatch.setenv("SBH_TOKEN", "")
    assert issue(sbh, "--json").code == "SBH-209"
    monkeypatch.delenv("SBH_TOKEN")
    monkeypatch.setenv("SBH_TOKEN_FILE", str(site / "missing"))
    assert issue(sbh, "--json").code == "SBH-100"
    (site / "token").write_text("x.y.z")
    monkeypatch.setenv("SBH_TOKEN_FILE", str(site / "token"))
    ended = issue(sbh, "--json")
    assert ended.code == "SBH-209"
    assert "x.y.z" not in json.dumps(ended.document)
    (site / "sbh.toml").write_text("")
    assert sbh("tenants", "list", "--json").code == "SBH-100"


def test_who_made_a_token_is_on_record(site, sbh):
    """Its id, for whom, until when; never the token. Where that cannot be written there is no token."""
    token = issue(sbh).out.strip()
    (event,) = sbh("audit", "list", "--platform", "--event", "token.issued", "--json").document["events"]
    assert (event["props"]["for"], event["props"]["tenant"], event["props"]["role"]) == ("ann", "tenant-1", "operator")
    assert token not in json.dumps(event)
    (site / "data-key").unlink()
    refused = issue(sbh)
    assert (refused.status != 0, refused.out) == (True, "")
