"""Who gets what: every endpoint, every role, the own tenant, another, one that does not exist, none; good and bad tokens."""

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sbh_pipelines.api.app import app
from sbh_pipelines.api.app.middleware import PUBLIC as PUBLIC_PATHS
from sbh_pipelines.security.policy import PERMISSIONS, PLATFORM_ONLY, Role
from sbh_pipelines.security.tokens import Tokens, open_tokens
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.support.endpoints import ENDPOINTS, PUBLIC, Endpoint
from sbh_pipelines_tests.support.servers import PATIENCE_S, Server

OWN, OTHER, GHOST = "tenant-1", "tenant-3", "no-such-tenant"
PLATFORM = "*"


def expected(endpoint: Endpoint, role: Role, token_for: str, header: str | None) -> int:
    """By the permission table alone, written a second time."""
    if endpoint.platform_only:
        return endpoint.for_all if token_for == PLATFORM else 403
    if token_for != PLATFORM and header not in (None, token_for):
        return 403
    if token_for == PLATFORM and header is None:
        may = role >= PERMISSIONS[endpoint.action]
        if endpoint.for_all == 400 and not endpoint.role_first:
            return 400
        return endpoint.for_all if may else 403
    if endpoint.action in PLATFORM_ONLY and token_for != PLATFORM:
        return 403
    if role < PERMISSIONS[endpoint.action]:
        return 403
    return 404 if header == GHOST else endpoint.status


def ask(client: httpx.Client, endpoint: Endpoint, backup_id: str, headers: dict[str, str]) -> httpx.Response:
    return client.request(endpoint.method, endpoint.url(backup_id), json=endpoint.body, headers=headers)


def without_ids(answer: httpx.Response) -> dict[str, Any]:
    return {name: value for name, value in answer.json().items() if name != "request_id"}


def test_every_route_is_in_the_table() -> None:
    """A new endpoint cannot be forgotten here."""
    routes = {
        (method, route.path) for module in app._ROUTES for route in module.router.routes for method in route.methods
    }
    assert routes | {("GET", "/api/openapi.json")} == {(e.method, e.path) for e in ENDPOINTS} | PUBLIC
    assert {path for _, path in PUBLIC} == PUBLIC_PATHS


def test_the_table_of_permissions_holds_everywhere(lonely_server: Server, backed_up: str) -> None:
    """Endpoint by role by whose token it is by the tenant in the header."""
    found, wanted = {}, {}
    for role in Role:
        ghost = (GHOST,) if role is Role.ADMIN else ()
        for token_for, headers in ((OWN, (None, OWN, OTHER)), (PLATFORM, (None, OWN, *ghost))):
            token = lonely_server.tokens.issue("alice", token_for, role, 600)
            with httpx.Client(base_url=lonely_server.address, timeout=PATIENCE_S, trust_env=False) as client:
                for header in headers:
                    sent = {"Authorization": f"Bearer {token}", **({"X-Tenant-Slug": header} if header else {})}
                    for endpoint in ENDPOINTS:
                        answer = ask(client, endpoint, backed_up, sent)
                        what = (
                            endpoint.method,
                            endpoint.url(backed_up),
                            str(endpoint.body),
                            role.name,
                            token_for,
                            header,
                        )
                        found[what], wanted[what] = answer.status_code, expected(endpoint, role, token_for, header)
    assert {what: (found[what], wanted[what]) for what in found if found[what] != wanted[what]} == {}


def test_another_tenant_looks_the_same_whether_it_exists_or_not(lonely_server: Server, backed_up: str) -> None:
    """Nor does it matter whether the backup does."""
    with lonely_server.client(OWN, Role.ADMIN) as client:
        for endpoint in ENDPOINTS:
            if endpoint.platform_only:
                continue
            answers = [
                without_ids(ask(client, endpoint, backed_up, {"X-Tenant-Slug": slug}))
                for slug in (OTHER, GHOST, "tenant-2", "../tenant-1", "x" * 5000)
            ]
            assert all(answer == answers[0] for answer in answers), endpoint
            assert answers[0]["code"] == "SBH-206"


def test_reaching_for_another_tenant_is_on_record(lonely_server: Server) -> None:
    """In the platform's trail, at once, with what was named, however long; each try is counted
    (`security/attacks/tenant/test_filling_the_audit_trail.py`)."""
    for user, slug in (("prober", OTHER), ("prober 2", GHOST), ("prober 3", "x" * 5000)):
        with lonely_server.client(OWN, Role.VIEWER, user=user) as client:
            assert client.get("/api/tenants", headers={"X-Tenant-Slug": slug}).status_code == 403
        with lonely_server.client() as platform:
            events = platform.get("/api/audit", params={"event": "access.denied", "user": user}).json()["events"]
        assert [(event["props"]["tenant"], event["props"]["own_tenant"]) for event in events] == [(slug[:64], OWN)]


def test_backups_of_another_tenant_are_unknown(lonely_server: Server, backed_up: str) -> None:
    """tenant-5 never has any: an id that another tenant has is answered as one that nobody has."""
    nobody = "backup_20010101_0000"
    with lonely_server.client("tenant-5", Role.ADMIN) as client:
        for endpoint in ENDPOINTS:
            if "{backup_id}" in endpoint.path:
                one = ask(client, endpoint, backed_up, {})
                other = ask(client, endpoint, nobody, {})
                assert one.status_code == other.status_code, endpoint
                assert (
                    one.text.replace(backed_up, nobody).partition("request_id")[0]
                    == other.text.partition("request_id")[0]
                )


def _bad_tokens(settings: Settings, tokens: Tokens) -> dict[str, str | None]:
    good = tokens.issue("mallory", PLATFORM, Role.ADMIN, 600)
    claims = jwt.decode(good, options={"verify_signature": False})
    yesterday = datetime.now(UTC) - timedelta(days=1)
    other = Ed25519PrivateKey.generate()
    public = tokens._keys.candidates({"alg": "EdDSA"})[0]  # what anybody may have
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    header, body, signature = good.split(".")
    more = {**claims, "tenant": "*", "role": "admin", "sub": "root"}
    return {
        "none": None,
        "expired": open_tokens(settings, clock=lambda: yesterday).issue("mallory", PLATFORM, Role.ADMIN, 600),
        "forged": jwt.encode(claims, other, algorithm="EdDSA"),
        "alg none": f"{part({'alg': 'none', 'typ': 'JWT'})}.{body}.",
        "alg none, kept signature": f"{part({'alg': 'none', 'typ': 'JWT'})}.{body}.{signature}",
        "the public key as a secret": _hs256(claims, pem),
        "other claims under a good signature": f"{header}.{part(more)}.{signature}",
        "wrong audience": tokens.issue("mallory", PLATFORM, Role.ADMIN, 600, audience="somebody-else"),
        "garbage": "a.b.c",
        "10 kB": "a" * 10_000,
    }


def _hs256(claims: dict[str, Any], secret: bytes) -> str:
    import hashlib
    import hmac

    def packed(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    signed = f"{packed(json.dumps({'alg': 'HS256', 'typ': 'JWT'}).encode())}.{packed(json.dumps(claims).encode())}"
    return f"{signed}.{packed(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


def test_no_bad_token_gets_anything(
    lonely_server: Server, api_settings: Settings, tokens: Tokens, backed_up: str
) -> None:
    """The same 401 at every path, also where there is nothing; only that it has expired may be told."""
    with httpx.Client(base_url=lonely_server.address, timeout=PATIENCE_S, trust_env=False) as client:
        for name, token in _bad_tokens(api_settings, tokens).items():
            sent = {"X-Tenant-Slug": OWN} | ({"Authorization": f"Bearer {token}"} if token else {})
            said = set()
            for endpoint in (*ENDPOINTS, Endpoint("GET", "/nothing/here", ""), Endpoint("PUT", "/api/backup", "")):
                answer = ask(client, endpoint, backed_up, sent)
                assert answer.status_code == 401, (name, endpoint)
                assert answer.headers["content-type"] == "application/problem+json"
                assert answer.headers["www-authenticate"].startswith("Bearer")
                said.add(answer.json()["title"])
            assert len(said) == 1
            assert ("expired" in said.pop()) == (name == "expired")


@pytest.mark.parametrize("header", ["Basic YTpi", "Bearer", "Token x", "Bearer a b"])
def test_other_schemes_are_no_tokens(lonely_server: Server, header: str) -> None:
    assert lonely_server.get("/api/backup", headers={"Authorization": header}).status_code == 401


def test_a_request_with_two_tokens_or_two_tenants_is_refused(lonely_server: Server) -> None:
    """A proxy and the server might otherwise believe different ones."""
    token = lonely_server.tokens.issue("alice", PLATFORM, Role.VIEWER, 600)
    one = ("Authorization", f"Bearer {token}")
    slugs = [("X-Tenant-Slug", OWN), ("X-Tenant-Slug", OTHER)]
    assert lonely_server.get("/api/backup", headers=[one, one]).status_code == 401
    assert lonely_server.get("/api/backup", headers=[one, *slugs]).status_code == 400
