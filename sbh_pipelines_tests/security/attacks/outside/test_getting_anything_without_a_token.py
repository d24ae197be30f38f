"""Somebody without a token, or with what is left of one, wants any answer of the API, or an error that nobody foresaw.

Every path but liveness and the API's document asks for one sound token in one header, before anything else is looked at.
"""

import base64
import json
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from sbh_pipelines.security.policy import Role
from sbh_pipelines_tests.support.effort import examples
from sbh_pipelines_tests.support.endpoints import ENDPOINTS
from sbh_pipelines_tests.support.servers import PATIENCE_S, Server


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def headers(token: str, chance: random.Random) -> Iterator[list[bytes]]:
    """Lines of a head that are no sound token: each one thing away from one, or far from it."""
    head, body, signature = token.split(".")
    at = chance.randrange(len(token))
    wrong = chance.choice([c for c in "AZaz09-_.=+/ \t" if c != token[at] and not (token[at] == "." and c in " \t")])
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    for alg in ("none", "None", "HS256", "HS512", "RS256", "ES256", "ed25519", "", None, 1, ["EdDSA"]):
        yield [f"Authorization: Bearer {part({'alg': alg, 'typ': 'JWT'})}.{body}.{signature}".encode()]
        yield [f"Authorization: Bearer {part({'alg': alg})}.{body}.".encode()]
    for more in (
        {"kid": "../../etc/passwd"},
        {"jwk": {"kty": "OKP"}},
        {"jku": "http://127.0.0.1:1/"},
        {"x5u": "http://[::1]"},
        {"crit": ["b64"], "b64": False},
        {"zip": "DEF"},
    ):
        yield [f"Authorization: Bearer {part({'alg': 'EdDSA', **more})}.{body}.{signature}".encode()]
    for more in (
        {"role": "admin"},
        {"tenant": "*"},
        {"exp": 1e400},
        {"exp": "never"},
        {"iat": [1]},
        {"aud": {}},
        {"sub": ["a"]},
    ):
        yield [f"Authorization: Bearer {head}.{part({**claims, **more})}.{signature}".encode()]
    yield [f"Authorization: Bearer {token[:at]}{wrong}{token[at + 1 :]}".encode()]
    yield [f"Authorization: Bearer {token[:at]}".encode()]
    for odd in (b"", b"Bearer", b"Bearer ", b"bearer\t", b"Basic YTpi", b"Bearer " + b"a" * 20_000, b"Bearer a.b.c", b"Bearer \xff\xfe.\xc3.\x80",
                b"Bearer " + b"." * 9000, b"Bearer " + token.encode() + b", Bearer x", b"Bearer Bearer " + token.encode(), b"Token " + token.encode()):  # fmt: skip
        yield [b"Authorization: " + odd]
    sound = f"Authorization: Bearer {token}".encode()
    yield [sound, sound]
    yield [sound, b"authorization: Bearer x"]
    yield [b"X-Authorization: Bearer " + token.encode()]
    yield [b"Cookie: sbh_session=" + token.encode(), b"Proxy-Authorization: Bearer " + token.encode()]
    yield [b"X-Forwarded-User: admin", b"X-Original-URL: /api/health/live", b"X-Rewrite-URL: /api/health/live"]
    yield []


def ask(server: Server, method: str, path: str, lines: list[bytes]) -> tuple[int, bytes]:
    """Byte for byte: a library would refuse to send some of these."""
    place = urlsplit(server.address)
    with socket.create_connection((place.hostname or "", place.port or 0), timeout=PATIENCE_S) as connection:
        head = [f"{method} {path} HTTP/1.1".encode(), b"Host: x", b"Connection: close", *lines, b"", b""]
        connection.sendall(b"\r\n".join(head))
        said = b""
        while piece := connection.recv(65_536):
            said += piece
    return int(said.split(b" ", 2)[1]), said


def test_nothing_that_is_no_token_gets_an_answer(lonely_server: Server, backed_up: str) -> None:
    """Each on another path, with a seed that is the same every time."""
    chance = random.Random(5)
    token = lonely_server.tokens.issue("ann", "tenant-1", Role.VIEWER, 600)
    assert ask(lonely_server, "GET", "/api/backup", [f"Authorization: Bearer {token}".encode()])[0] == 200
    for _ in range(examples(2)):
        for lines in headers(token, chance):
            endpoint = chance.choice(ENDPOINTS)
            path = chance.choice(
                [
                    endpoint.url(backed_up),
                    endpoint.url(backed_up) + "/",
                    "/api/nothing",
                    "//api/backup",
                    "/api/../api/backup",
                ]
            )
            status, said = ask(lonely_server, endpoint.method, path, lines)
            assert status == 401 or (status == 400 and b"Invalid HTTP request" in said), (
                status,
                path,
                lines,
                said[-300:],
            )
            assert b"tenant-1" not in said


def test_every_operation_of_the_document_that_asks_for_a_token_needs_one(
    lonely_server: Server, backed_up: str, tmp_path: Path
) -> None:
    """Schemathesis repeats what was answered without the token, and with another. No 5xx but what says that Dagster is away."""
    token = lonely_server.tokens.issue("fuzzer", "tenant-2", Role.ADMIN, 3600)
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", f"{lonely_server.address}/api/openapi.json",
        "-H", f"Authorization: Bearer {token}", "--checks", "ignored_auth", "--phases", "examples",
        "--max-examples", "1", "--seed", "1", "--no-color", "--suppress-health-check", "all", "--request-timeout", "240",
        "--mode", "positive",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert '"status": 500' not in lonely_server.log.read_text("utf-8")


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "OPTIONS", "HEAD", "PROPFIND", "GET"])
def test_other_methods_and_forms_of_the_target(lonely_server: Server, method: str) -> None:
    for target in (
        "/api/backup",
        "*",
        "http://evil.example/api/backup",
        "/api/health/live/../../backup",
        "/api/health/live%2f..%2f..%2fbackup",
    ):
        status, said = ask(lonely_server, method, target, [])
        assert status in (400, 401, 404, 405), (method, target, status)
        assert b"backups" not in said
