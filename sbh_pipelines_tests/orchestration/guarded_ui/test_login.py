"""Who is logged in to the web UI, and until when. The login at an issuer is in `security/test_code_flow.py`."""

import asyncio

from starlette.requests import Request

from sbh_pipelines.orchestration.guarded_ui.login import CALLBACK, VIA, Login, safe_path
from sbh_pipelines.orchestration.guarded_ui.origins import origins_of
from sbh_pipelines.orchestration.guarded_ui.sessions import Sessions
from sbh_pipelines.security.code_flow import CodeFlow
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.security.tokens import VerifiedToken, open_tokens
from sbh_pipelines.settings import Settings

VIEWER = UserContext("v", "*", Role.VIEWER, "ui")


def test_sessions_end():
    """With their life, with the token, with the logout, and where there are too many, the oldest."""
    now = [0.0]
    sessions = Sessions(100, lambda: now[0], most=5)
    token = VerifiedToken(VIEWER, 0.0, 1000.0, "id", "")
    long, _ = sessions.open(token, left_s=1000)
    short, life = sessions.open(token, left_s=10)
    left, _ = sessions.open(token, left_s=1000)
    assert life == 10
    sessions.close(left)
    now[0] = 11
    assert [bool(sessions.find(name)) for name in (long, short, left, None, "", "é\udc80")] == [True] + [False] * 5
    for _ in range(5):
        sessions.open(token, left_s=1000)
    assert sessions.find(long) is None


def test_from_another_name_of_this_host_one_is_led_to_the_registered_one(caplog):
    """What `sbh ui` prints is 127.0.0.1; the cookie has to be of where the issuer sends the browser back to."""
    settings = Settings(auth={"mode": "oidc", "issuer": "http://127.0.0.1:9"}, ui={"client_id": "sbh"})
    tokens, origins = open_tokens(settings), origins_of(settings.ui, "127.0.0.1", 3000)
    flow = CodeFlow(settings, tokens, VIA, origins.allowed[0] + CALLBACK)
    login = Login(tokens, Sessions(60), origins, flow, lambda *_: None)
    scope = {"type": "http", "method": "GET", "path": "/login/issuer", "query_string": b"next=%2Fruns"}
    away = asyncio.run(login.to_issuer(Request({**scope, "headers": [(b"host", b"127.0.0.1:3000")]})))
    assert (away.status_code, away.headers["location"]) == (303, "http://localhost:3000/login/issuer?next=%2Fruns")
    stays = asyncio.run(login.to_issuer(Request({**scope, "headers": [(b"host", b"localhost:3000")]})))
    assert stays.status_code == 503  # nobody answers for the issuer, and the page says so
    assert b"cannot be asked now (SBH-501)" in stays.body
    assert "ConnectError" in caplog.text  # why, for the operators alone
    assert b"ConnectError" not in stays.body


def test_after_the_login_one_is_led_to_a_page_of_this_site():
    assert safe_path("/runs?url=a//b/../c") == "/runs?url=a//b/../c"
    for elsewhere in ("//evil.example", "/runs/../login", "/%2e%2E/logout", "runs", "/a\\b", "/" + "x" * 2000):
        assert safe_path(elsewhere) == "/"
