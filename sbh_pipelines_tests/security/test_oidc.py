"""Tokens of an OpenID Connect issuer: its keys over real HTTP, its claims under other names, its outages."""

import base64
import json
import time

import jwt
import pytest

from sbh_pipelines.errors import KeyServiceUnavailable, SbhError, Unauthenticated
from sbh_pipelines.model import utc_now
from sbh_pipelines.security.oidc import OidcKeys
from sbh_pipelines.security.policy import Role
from sbh_pipelines.security.tokens import Tokens, open_tokens
from sbh_pipelines.settings import Settings
from sbh_pipelines.settings.access import is_safe_url
from sbh_pipelines_tests.support.issuer import issuer


@pytest.fixture
def idp():
    with issuer() as it:
        it.add_key("k1", "rsa")
        yield it


def settings(idp, **auth):
    return Settings(auth={"mode": "oidc", "issuer": idp.url, "algorithms": ["RS256", "ES256"], **auth})


def claims(idp, **changes):
    now = int(time.time())
    return {
        "iss": idp.url,
        "aud": ["account", "sbh-pipelines"],
        "sub": "u-1",
        "tenant": "tenant-1",
        "role": "viewer",
        "iat": now,
        "exp": now + 300,
    } | changes


class Timer:
    now = 1000.0

    def __call__(self):
        return self.now


def tokens_with(idp, timer, **auth):
    given = settings(idp, **auth)
    return Tokens(given, OidcKeys(given.auth, timer), None, utc_now)


def test_claims_may_have_other_names_and_values(idp):
    """Roles deep in the token, tenants by group, users by e-mail: as the settings map them; the highest role counts."""
    tokens = open_tokens(
        settings(
            idp,
            user_claim="email",
            tenant_claim="https://example.com/org",
            role_claim="realm_access.roles",
            roles={"backup-viewers": "viewer", "backup-admins": "admin"},
            tenants={"ops-team": "*"},
        )
    )
    said = {
        "email": "ann@example.com",
        "https://example.com/org": ["ops-team", "tenant-1"],
        "realm_access": {"roles": ["offline_access", "backup-viewers", "backup-admins"]},
    }
    user = tokens.verify(idp.sign(claims(idp, **said), "k1"), "api")
    assert (user.user_id, user.tenant_id, user.role) == ("ann@example.com", "*", Role.ADMIN)
    # A role's own name means nothing where the settings map others.
    for roles in (["admin"], "admin", [], None, [["backup-admins"]], {"backup-admins": True}):
        with pytest.raises(Unauthenticated):
            tokens.verify(idp.sign(claims(idp, **said | {"realm_access": {"roles": roles}}), "k1"), "api")


def test_a_new_key_is_found_and_forged_key_names_cost_one_request_a_minute(idp):
    """Rotation works at once; a thousand unknown key names ask the issuer once."""
    timer = Timer()
    tokens = tokens_with(idp, timer)
    assert tokens.verify(idp.sign(claims(idp), "k1"), "api")
    timer.now += 61
    asked = len(idp.requests)
    assert tokens.verify(idp.sign(claims(idp), "k1"), "api")
    assert len(idp.requests) == asked  # keys are kept for ten minutes
    idp.add_key("k2", "ec")
    token = idp.sign(claims(idp), "k2")
    assert tokens.verify(token, "api")
    asked = len(idp.requests)
    timer.now += 61
    for n in range(1000):
        with pytest.raises(Unauthenticated):
            tokens.verify(idp.sign(claims(idp), "k2", {"kid": f"x{n}"}), "api")
    assert len(idp.requests) - asked == 2  # discovery and keys
    for name in (None, 7, ["k2"], {"k": 1}):  # no name, among two keys, and names that are none
        header = base64.urlsafe_b64encode(json.dumps({"alg": "ES256", "kid": name}).encode()).rstrip(b"=").decode()
        with pytest.raises(Unauthenticated):
            tokens.verify(".".join([header, *token.split(".")[1:]]), "api")


def test_a_short_outage_of_the_issuer_is_survived(idp):
    """Keys serve an hour beyond their time; then nobody is believed, and the error says that it is not the token."""
    timer = Timer()
    tokens = tokens_with(idp, timer)
    token = idp.sign(claims(idp), "k1")
    assert tokens.verify(token, "api")
    good, idp.answers["/keys"] = idp.answers["/keys"], 503
    timer.now += 3600
    assert tokens.verify(token, "api")
    timer.now += 1000
    with pytest.raises(KeyServiceUnavailable, match="HTTP 503"):
        tokens.verify(token, "api")
    idp.answers["/keys"] = good
    timer.now += 6
    assert tokens.verify(token, "api")


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/keys", b"[" * 100_000),
        ("/keys", b"x" * (600 << 10)),
        ("/keys", b"[]"),
        ("/keys", {"keys": {}}),
        ("/keys", 302),
        ("/.well-known/openid-configuration", {"issuer": "https://example.com", "jwks_uri": "https://example.com"}),
        ("/.well-known/openid-configuration", "no object"),
    ],
    ids=str,
)
def test_what_no_issuer_should_answer(idp, path, answer):
    """Nonsense, too much of it, redirects and another issuer's document: no keys, one clear error."""
    idp.answers[path] = answer
    with pytest.raises(KeyServiceUnavailable) as caught:
        open_tokens(settings(idp)).verify(idp.sign(claims(idp), "k1"), "api")
    assert caught.value.why
    assert "/elsewhere" not in idp.requests


def test_a_plain_http_address_in_the_discovery_document_is_not_followed(idp):
    """Keys that came over an open line could be anybody's."""
    idp.answers["/.well-known/openid-configuration"]["jwks_uri"] = "http://example.com/keys"
    with pytest.raises(KeyServiceUnavailable, match="not an https URL"):
        open_tokens(settings(idp)).verify(idp.sign(claims(idp), "k1"), "api")


def test_keys_that_are_not_for_this(idp):
    """Shared secrets, keys for encryption, algorithms that the settings do not name: their tokens are refused."""
    idp.add_key("enc", "rsa", use="enc")
    idp.add_key("ed", "ed")
    secret = base64.urlsafe_b64encode(b"s" * 32).rstrip(b"=").decode()
    idp.answers["/keys"]["keys"].append({"kty": "oct", "k": secret, "kid": "oct", "alg": "HS256"})
    idp.answers["/keys"]["keys"] += [None, 7, {}, {"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"}]
    tokens = open_tokens(settings(idp))
    assert tokens.verify(idp.sign(claims(idp), "k1"), "api")
    forged = jwt.encode(claims(idp), b"s" * 32, algorithm="HS256", headers={"kid": "oct"})
    for token in (forged, idp.sign(claims(idp), "enc"), idp.sign(claims(idp), "ed"), idp.sign(claims(idp), "k1")[:-9]):
        with pytest.raises(Unauthenticated):
            tokens.verify(token, "api")


def test_a_key_is_used_for_its_own_algorithm_only(idp):
    """A genuine RS256 key does not check an ES256 or PS256 signature, and no key checks HS256."""
    tokens = open_tokens(settings(idp, algorithms=["RS256", "PS256"]))
    _, private = idp._private["k1"]
    with pytest.raises(Unauthenticated):  # the key's own document says RS256
        tokens.verify(jwt.encode(claims(idp), private, algorithm="PS256", headers={"kid": "k1"}), "api")
    assert tokens.verify(jwt.encode(claims(idp), private, algorithm="RS256", headers={"kid": "k1"}), "api")


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("https://idp.example.com/realms/x", True),
        ("http://127.0.0.1:8080", True),
        ("http://localhost", True),
        ("http://[::1]:1", True),
        ("http://idp.example.com", False),
        ("http://127.0.0.1.example.com", False),
        ("http://localhost.example.com", False),
        ("https://user:pw@idp.example.com", False),
        ("ftp://x", False),
        ("https://", False),
        ("https://a:b", False),
        ("file:///etc/passwd", False),
        ("https://a\nb", False),
    ],
)
def test_safe_urls(url, safe):
    """https anywhere, http on this host only, never with a password in it."""
    assert is_safe_url(url) is safe


def test_errors_never_show_the_token(idp):
    """Neither the error of a refused token nor its traceback's arguments hold any part of it."""
    token = idp.sign(claims(idp, tenant="../x"), "k1")
    with pytest.raises(SbhError) as caught:
        open_tokens(settings(idp)).verify(token, "api")
    for part in token.split("."):
        assert part[:20] not in repr(caught.value)
    assert caught.value.__suppress_context__
