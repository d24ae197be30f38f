"""Tokens of the local signing key: who is believed, who is not, and that nobody learns why."""

import base64
import hashlib
import hmac
import json
import time
from datetime import UTC, datetime, timedelta

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sbh_pipelines.errors import InvalidId, RequestError, SettingsError, Unauthenticated
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.security.signing_key import write_signing_key
from sbh_pipelines.security.tokens import open_tokens
from sbh_pipelines.settings import Settings


@pytest.fixture
def site(tmp_path):
    """Settings, and the private key that counts in them."""
    file = tmp_path / "signing.key"
    write_signing_key(file)
    key = serialization.load_pem_private_key(file.read_bytes(), None)
    return Settings(auth={"mode": "local", "signing_key_file": file, "max_ttl_s": 3600}), key


def claims(**changes):
    now = int(time.time())
    good = {
        "iss": "sbh-pipelines",
        "aud": "sbh-pipelines",
        "sub": "ann",
        "tenant": "tenant-1",
        "role": "operator",
        "iat": now,
        "nbf": now,
        "exp": now + 600,
        "jti": "a1",
    }
    return {name: value for name, value in (good | changes).items() if value is not ...}


def raw(header, body, signature=b""):
    parts = (part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, body, signature))
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def test_an_issued_token_gives_back_its_user(site):
    """What `issue` was given is what `verify` finds, with the face the caller came through."""
    tokens = open_tokens(site[0])
    assert tokens.verify(tokens.issue("ann", "tenant-1", "operator", 60), "api") == UserContext(
        "ann", "tenant-1", Role.OPERATOR, "api"
    )
    assert tokens.verify(tokens.issue("root", "*", Role.ADMIN, 60), "cli").tenant_id == "*"


now = int(time.time())
REFUSED = {
    "another issuer": {"iss": "somebody"},
    "another audience": {"aud": "other"},
    "no audience": {"aud": ...},
    "no expiry": {"exp": ...},
    "no issue time": {"iat": ...},
    "no issuer": {"iss": ...},
    "not yet": {"nbf": now + 500},
    "issued in the future": {"iat": now + 500, "exp": now + 600},
    "lives too long": {"exp": now + 4000},
    "issued long ago, lives too long": {"iat": now - 3500},
    "times as text": {"exp": str(now + 60)},
    "times as truth": {"iat": True},
    "not a number": {"exp": float("nan")},
    "for ever": {"exp": 10**400},
    "no user": {"sub": ...},
    "user with a line break": {"sub": "ann\nroot"},
    "user of 10 kB": {"sub": "a" * 10_000},
    "user a list": {"sub": ["ann"]},
    "no tenant": {"tenant": ...},
    "tenant a path": {"tenant": "../tenant-2"},
    "tenant with NUL": {"tenant": "tenant-1\0"},
    "tenant with a quote": {"tenant": "x' or '1'='1"},
    "tenant in unicode": {"tenant": "tenant-１"},
    "tenant empty": {"tenant": ""},
    "two tenants": {"tenant": ["tenant-1", "tenant-2"]},
    "tenant an object": {"tenant": {"id": "tenant-1"}},
    "tenant a number": {"tenant": 1},
    "tenants nested": {"tenant": [["tenant-1"]]},
    "no role": {"role": ...},
    "unknown role": {"role": "root"},
    "role as a number": {"role": 3},
    "role in capitals": {"role": "ADMIN"},
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
def test_a_genuine_signature_does_not_excuse_odd_claims(site, change):
    """Each is signed by the right key, refused in the same words, and explained by `inspect` only."""
    settings, key = site
    token = jwt.encode(claims(**{"iat": now, "nbf": now, "exp": now + 600} | change), key, algorithm="EdDSA")
    tokens = open_tokens(settings, lambda: datetime.fromtimestamp(now, UTC))
    with pytest.raises(Unauthenticated) as caught:
        tokens.verify(token, "api")
    assert caught.value.what == "The token is not valid"
    assert caught.value.why == ""
    report = tokens.inspect(token)
    assert not report.valid
    assert report.why


def test_forged_tokens_are_refused_alike(site):
    """No signature, another key, the public key abused as a secret, no JWT at all: one answer to all of them."""
    settings, key = site
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    good = jwt.encode(claims(), key, algorithm="EdDSA")
    head, body, signature = good.split(".")

    def hmac_with_public_key(algorithm="HS256"):
        signing = raw({"alg": algorithm, "typ": "JWT"}, claims()).rsplit(".", 1)[0]
        return raw({"alg": algorithm, "typ": "JWT"}, claims(), hmac.digest(public, signing.encode(), hashlib.sha256))

    own = Ed25519PrivateKey.generate()
    embedded = json.loads(jwt.get_algorithm_by_name("EdDSA").to_jwk(own.public_key()))
    forged = [
        "",
        "x",
        "..",
        "a.b.c",
        good[:-3],
        good + "A",
        good + ".x",
        f"{head}.{body}.",
        raw({"alg": "none"}, claims()),
        raw({"alg": "None"}, claims()),
        raw({"alg": ""}, claims(), b"x"),
        raw({"alg": None}, claims(), b"x"),
        raw({}, claims(), b"x"),
        raw([], claims(), b"x"),
        raw({"alg": "EdDSA", "crit": ["exp"]}, claims(), b"x" * 64),
        raw(b"[" * 9000, claims()),
        raw({"alg": "EdDSA"}, b"[" * 9000, b"x"),
        raw({"alg": "EdDSA"}, b"\xff", b"x"),
        hmac_with_public_key(),
        jwt.encode(claims(), own, algorithm="EdDSA"),
        jwt.encode(claims(), own, algorithm="EdDSA", headers={"jwk": embedded, "kid": "../../etc/passwd"}),
        ".".join([head, raw({}, claims(role="admin")).split(".")[1], signature]),
        "Bearer " + good,
        good + "\n",
        "é" * 40,
        "A" * 100_000,
    ]
    tokens = open_tokens(settings)
    said = set()
    for token in forged:
        with pytest.raises(Unauthenticated) as caught:
            tokens.verify(token, "api")
        said.add(str(caught.value.as_dict()))
        assert not tokens.inspect(token).valid
    assert len(said) == 1


def test_only_the_holder_of_a_genuine_token_learns_that_it_expired(site):
    """An expired token says so; an expired forgery, or one for another audience, does not."""
    settings, key = site
    tokens, old = open_tokens(settings), {"iat": now - 900, "nbf": now - 900, "exp": now - 300}
    with pytest.raises(Unauthenticated, match="has expired"):
        tokens.verify(jwt.encode(claims(**old), key, algorithm="EdDSA"), "api")
    for forged in (
        jwt.encode(claims(**old), Ed25519PrivateKey.generate(), algorithm="EdDSA"),
        jwt.encode(claims(**old, aud="other"), key, algorithm="EdDSA"),
    ):
        with pytest.raises(Unauthenticated, match="is not valid"):
            tokens.verify(forged, "api")


def test_clocks_may_differ_by_the_leeway(site):
    """A token is believed `leeway_s` before and after its time, and no longer."""
    moment = datetime(2024, 1, 15, 12, tzinfo=UTC)
    token = open_tokens(site[0], lambda: moment).issue("ann", "*", "viewer", 60)
    for shift, good in ((-29, True), (-31, False), (89, True), (91, False)):
        tokens = open_tokens(site[0], lambda shift=shift: moment + timedelta(seconds=shift))
        assert tokens.inspect(token).valid is good


def test_what_cannot_be_issued(site):
    """Lives too long or too short, hostile ids, unknown roles: refused before anything is signed."""
    tokens = open_tokens(site[0])
    for ttl in (0, -1, 3601, 10**12):
        with pytest.raises(RequestError, match="live that long"):
            tokens.issue("ann", "*", "admin", ttl)
    with pytest.raises(RequestError, match="Not a role"):
        tokens.issue("ann", "*", "root", 60)
    for user in ("", " ann", "a\nb", "a\0", "x" * 201):
        with pytest.raises(RequestError, match="Not a user id"):
            tokens.issue(user, "*", "admin", 60)
    for tenant in ("", "../x", "**", "a b", "x" * 129):
        with pytest.raises(InvalidId):
            tokens.issue("ann", tenant, "admin", 60)


def test_a_host_with_the_public_half_checks_tokens_and_issues_none(site, tmp_path):
    """FILE.pub is enough for servers that only ask who somebody is."""
    settings, _ = site
    public = Settings(auth={"mode": "local", "signing_key_file": tmp_path / "signing.key.pub"})
    token = open_tokens(settings).issue("ann", "*", "viewer", 60)
    tokens = open_tokens(public)
    assert tokens.verify(token, "api").user_id == "ann"
    assert not tokens.can_issue
    with pytest.raises(SettingsError, match="cannot issue"):
        tokens.issue("ann", "*", "viewer", 60)


def test_a_key_that_others_can_get_at_is_refused(site, tmp_path):
    """A private key must be its owner's only; the public half must at least not be writable by others."""
    assert open_tokens(site[0])
    for name, bad, good in (("signing.key", 0o640, 0o600), ("signing.key.pub", 0o666, 0o644)):
        (tmp_path / name).chmod(bad)
        with pytest.raises(SettingsError, match="open to others"):
            open_tokens(Settings(auth={"mode": "local", "signing_key_file": tmp_path / name}))
        (tmp_path / name).chmod(good)
    with pytest.raises(SettingsError, match="Cannot write"):
        write_signing_key(tmp_path / "signing.key")
    for text in ("", "secret", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"):
        (tmp_path / "bad").write_text(text)
        (tmp_path / "bad").chmod(0o600)
        with pytest.raises(SettingsError, match="not an Ed25519 key"):
            open_tokens(Settings(auth={"mode": "local", "signing_key_file": tmp_path / "bad"}))


def test_a_revoked_token_is_believed_no_longer(site, tmp_path):
    """The list is read again when it changes; where it is gone, nobody is believed."""
    settings, key = site
    listed = tmp_path / "revoked"
    listed.write_text("other\n")
    tokens = open_tokens(
        settings.model_copy(update={"auth": settings.auth.model_copy(update={"revoked_file": listed})})
    )
    token = jwt.encode(claims(), key, algorithm="EdDSA")
    assert tokens.verify(token, "api")
    listed.write_text("other\na1\n")
    with pytest.raises(Unauthenticated):
        tokens.verify(token, "api")
    assert "revoked" in tokens.inspect(token).why
    listed.unlink()
    with pytest.raises(SettingsError, match="revoked"):
        tokens.verify(token, "api")


def test_without_a_mode_nobody_is_believed():
    """The default settings know no issuer, so there is nothing to open."""
    with pytest.raises(SettingsError, match="No tokens"):
        open_tokens(Settings())
