"""What nobody should send: ids, bodies, slow connections; and that limits hold."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
import pytest

from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.security.policy import Role
from sbh_pipelines.security.tokens import Tokens
from sbh_pipelines.settings.api import ApiSettings
from sbh_pipelines_tests.support.fix_api import HEAD_S, IDLE_S
from sbh_pipelines_tests.support.servers import PATIENCE_S, Server, serving

HOSTILE = [
    "../tenant-2", "..%2f..%2fetc%2fpasswd", "%2e%2e%2f", "a\x00b", "tenant-1' OR '1'='1", "';DROP TABLE tenants;--",
    "ténant", "\u202etenant", "тenant-1", "." * 300, "x" * 10_240, "{{7*7}}", "$(id)", "\r\nX-Tenant-Slug: tenant-2", "*", "null",
]  # fmt: skip
PATHS = [
    "/api/backup/{}", "/api/backup/{}/status", "/api/backup/{}/diff", "/api/backup/{}/holds", "/api/restore/{}",
    "/api/operations/{}", "/api/{}", "/{}",
]  # fmt: skip


def well_formed(answer: httpx.Response) -> bool:
    """A problem with all it must have, and nothing internal in it."""
    said = answer.json()
    named = {"type", "title", "status", "detail", "code", "what", "on", "why", "remedy", "transient", "request_id"}
    return (
        answer.headers["content-type"] == "application/problem+json"
        and named <= set(said)
        and said["status"] == answer.status_code
        and said["request_id"] == answer.headers["x-request-id"]
        and not any(word in answer.text for word in ("Traceback", "psycopg2", "SELECT ", "://", "password"))
    )


@pytest.mark.parametrize("path", PATHS)
def test_hostile_ids_in_paths(lonely_server: Server, path: str) -> None:
    """Malformed or unknown, never a server error, and never another tenant's."""
    with lonely_server.client("tenant-1") as client:
        for text in HOSTILE:
            answer = client.get(path.format(quote(text, safe="")))
            assert answer.status_code in (404, 422), (path, text)
            assert well_formed(answer), answer.text
            assert "\\d" not in answer.text  # what is wrong is told in words


def test_hostile_tenants_and_cursors(lonely_server: Server) -> None:
    with lonely_server.client() as client:
        for text in HOSTILE:
            raw = text.replace("\r\n", " ").replace("\x00", " ").encode("utf-8")
            answer = client.get("/api/backup", headers=[(b"X-Tenant-Slug", raw.strip() or b"?")])
            assert answer.status_code in (404, 422), text
            assert well_formed(answer)
            paged = client.get("/api/backup", params={"cursor": text}, headers={"X-Tenant-Slug": "tenant-1"})
            assert paged.status_code == 422, text
            assert well_formed(paged)


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "application/json", 422),
        (b"[1]", "application/json", 422),
        (b'{"type": "full", "more": 1}', "application/json", 422),
        (b'{"type": "everything"}', "application/json", 422),
        (b'{"type": 1}', "application/json", 422),
        (b'{"description": "\\u0000"}', "application/json", 422),
        (b'{"description": "\\ud800"}', "application/json", 422),
        (b'{"description": "' + b"x" * 501 + b'"}', "application/json", 422),
        (b"\xff\xfe", "application/json", 422),
        (b"[" * 30_000, "application/json", 400),
        (b'{"type": ' + b"9" * 30_000 + b"}", "application/json", 400),
        (b"type=full", "application/x-www-form-urlencoded", 415),
        (b'{"type": "full"}', "text/plain", 415),
        (b'{"description": "' + b"x" * 70_000 + b'"}', "application/json", 413),
    ],
)
def test_hostile_bodies(lonely_server: Server, body: bytes, kind: str, status: int) -> None:
    """Refused before anything is launched; there is no Dagster here, so nothing could be."""
    with lonely_server.client("tenant-1") as client:
        answer = client.post("/api/backup", content=body, headers={"Content-Type": kind})
        assert (answer.status_code, well_formed(answer)) == (status, True), answer.text


def test_hostile_parts_of_a_restore(lonely_server: Server, backed_up: str) -> None:
    """Names and conditions that PostgreSQL would choke on, or obey."""
    with lonely_server.client("tenant-1") as client:
        for body in (
            {"tables": ["users; DROP TABLE users"]},
            {"tables": ["a\x00b"]},
            {"tables": ["x"] * 501},
            {"rows": "users where 1=1; DELETE FROM tenants"},
            {"rows": "users where id in (select id from users)"},
            {"rows": "users where pg_sleep(10) is null"},
            {"files": ["../../tenant-2/**"]},
            {"files": ["\ud800".encode("utf-16", "surrogatepass").decode("utf-16", "replace")]},
            {"rows": "users where id = 1", "tables": ["users"]},
        ):
            answer = client.post(f"/api/backup/{backed_up}/diff", json=body)
            assert answer.status_code in (200, 400, 422), (body, answer.text)
            if answer.status_code == 200:  # a pattern that matches nothing of the tenant's
                assert answer.json()["nothing_to_do"], body
            else:
                assert well_formed(answer), answer.text
        odd = client.post(f"/api/backup/{backed_up}/restore", json={"into_schema": 'x"; DROP SCHEMA public; --'})
        assert odd.status_code == 422


def test_unknown_paths_and_methods(lonely_server: Server) -> None:
    with lonely_server.client("tenant-1") as client:
        nothing = client.get("/api/nothing")
        assert (nothing.status_code, well_formed(nothing)) == (404, True)
        wrong = client.put("/api/backup/")
        assert (wrong.status_code, wrong.headers["allow"], well_formed(wrong)) == (405, "GET, POST", True)
        for path in ("/api/docs", "/docs", "/redoc", "/openapi.json"):  # no page that loads scripts from elsewhere
            assert client.get(path).status_code == 404
        assert client.get("/api/backup").json() == client.get("/api/backup/").json()


def test_every_answer_has_the_headers_that_protect_it(lonely_server: Server) -> None:
    with lonely_server.client("tenant-1") as client:
        for path in ("/api/backup", "/api/nothing", "/api/health/live"):
            headers = client.get(path).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == "no-store"
            assert "default-src 'none'" in headers["content-security-policy"]
            assert "server" not in headers


def connected(server: Server) -> socket.socket:
    parts = urlsplit(server.address)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=PATIENCE_S)


def closes_within(connection: socket.socket, seconds: float = PATIENCE_S) -> bytes:
    """What comes until the server closes."""
    connection.settimeout(seconds)
    said = b""
    while piece := connection.recv(4096):
        said += piece
    return said


def test_slow_clients_are_hung_up_on(lonely_server: Server) -> None:
    """One that says nothing, one that dribbles the head of a request, one whose body does not come; others go on."""
    token = lonely_server.tokens.issue("slow", "tenant-1", Role.ADMIN, 600)
    head = (
        f"POST /api/backup HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n"
    )
    with connected(lonely_server) as silent, connected(lonely_server) as dribbling, connected(lonely_server) as stuck:
        dribbling.sendall(b"GET /api/health/live HTTP/1.1\r\nHost:")
        stuck.sendall(head.encode() + b"Content-Length: 100\r\n\r\n{")
        for _ in range(3):
            time.sleep(0.4 * HEAD_S)
            with suppress(ConnectionError):  # hung up on already
                dribbling.sendall(b" x")
        assert lonely_server.get("/api/health/live").status_code == 200
        assert b" 408 " in closes_within(stuck)
        assert closes_within(silent) == b""
        with suppress(ConnectionError):
            assert b" 200 " not in closes_within(dribbling)


def test_a_connection_between_two_requests_may_be_idle_for_longer_than_a_head(lonely_server: Server) -> None:
    """Longer than proxies keep connections, which close first then: else requests would meet a closed one, now and then."""
    ask = b"GET /api/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    with connected(lonely_server) as connection:
        for pause in (HEAD_S + 1, 0):
            connection.sendall(ask)
            said = b""
            while not said.endswith(b"}"):
                said += connection.recv(4096)
            assert b" 200 " in said
            time.sleep(pause)
        connection.sendall(ask[:20])
        assert closes_within(connection, IDLE_S - 1) == b""
    assert ApiSettings().keep_alive_s > 60


def test_a_body_without_a_length_is_bounded_too(lonely_server: Server) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 1024

    with lonely_server.client("tenant-1") as client:
        answer = client.post("/api/backup", content=pieces(), headers={"Content-Type": "application/json"})
        assert answer.status_code == 413


def test_limits_dagster_away_and_the_log(api_stack: Stack, tokens: Tokens, backed_up: str, tmp_path: Path) -> None:
    """Three plans and validations at once and no more, for a user and for a tenant; what waits for Dagster says so; no token is logged."""
    log, metrics = tmp_path / "log", tmp_path / "metrics-token"
    metrics.write_text("a-token-of-the-scraper-alone\n")
    settings = {"expensive_per_minute": 1, "expensive_burst": 3, "metrics_token_file": metrics}
    with serving(api_stack, tokens, log, dagster_url="http://127.0.0.1:9", **settings) as server:
        with server.client("tenant-1") as client:
            away = client.post("/api/backup", json={"type": "full"})
            assert (away.status_code, away.json()["code"], away.json()["on"]) == (503, "SBH-921", "")
            assert int(away.headers["Retry-After"]) >= 1
            assert client.get(f"/api/backup/{backed_up}/diff").status_code == 200
            assert client.post(f"/api/backup/{backed_up}/validate").status_code == 200
            assert client.post(f"/api/backup/{backed_up}/validate").status_code == 200
            # One a minute is let through, which on a busy machine may be the next one.
            more = (client.post(f"/api/backup/{backed_up}/validate") for _ in range(5))
            limited = next(answer for answer in more if answer.status_code != 200)
            assert (limited.status_code, limited.json()["code"], limited.headers["Retry-After"]) == (
                429,
                "SBH-210",
                "120",  # one answer for all rates: enough also for what has half of one
            )
            assert client.get("/api/backup").status_code == 200
        with server.client("tenant-1", user="bob") as bob:
            assert bob.post(f"/api/backup/{backed_up}/validate").status_code == 429  # the tenant's own limit
        with server.client("tenant-2", user="alice") as other:
            assert other.post("/api/backup/latest/validate").status_code == 200
        scraper = {"Authorization": "Bearer a-token-of-the-scraper-alone"}
        assert "sbh_build_info" in server.get("/metrics", headers=scraper).text
        assert server.get("/api/backup", headers=scraper).status_code == 401
        token = client.headers["Authorization"].removeprefix("Bearer ")
    text = log.read_text("utf-8")
    assert token not in text
    assert "scraper" not in text
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    seen = [line for line in lines if line["log"] == "sbh_pipelines.api.access" and line.get("user") == "alice"]
    assert {"request_id", "client", "method", "path", "status", "ms", "bytes", "tenant", "at"} <= set(seen[0])
