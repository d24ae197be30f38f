"""Somebody who signed in to the web UI wants to stay there after their account, or their token, was taken away.

A login ends with its token, also one at the issuer, and at once where the token is on the list of revoked ones; open websockets
are looked at again.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from sbh_pipelines.orchestration.guarded_ui import sockets
from sbh_pipelines.orchestration.guarded_ui.guard import Guard
from sbh_pipelines.orchestration.guarded_ui.login import CALLBACK, VIA, Login
from sbh_pipelines.orchestration.guarded_ui.operations import Earlier
from sbh_pipelines.orchestration.guarded_ui.origins import Origins
from sbh_pipelines.orchestration.guarded_ui.sessions import Sessions
from sbh_pipelines.security.code_flow import CodeFlow
from sbh_pipelines.security.tokens import open_tokens
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.support.issuer import Issuer, issuer

ORIGIN = "http://localhost:3000"


async def dagster(scope: Scope, receive: Receive, send: Send) -> None:
    """In place of Dagster: a page for whoever gets this far, and websockets that stay open."""
    if scope["type"] == "http":
        await PlainTextResponse("runs of all tenants")(scope, receive, send)
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass


class Site:
    """The guarded web UI with a login at an issuer, and a list of revoked tokens."""

    def __init__(self, idp: Issuer, revoked: Path, **ui: Any) -> None:
        self.idp, self.revoked, self.later = idp, revoked, 0.0
        self.settings = Settings(
            auth={"mode": "oidc", "issuer": idp.url, "algorithms": ["ES256"], "revoked_file": revoked},  # type: ignore[arg-type]
            ui={"client_id": "sbh", **ui},  # type: ignore[arg-type]
        )
        tokens, origins = open_tokens(self.settings), Origins((ORIGIN,))
        self.flow = CodeFlow(self.settings, tokens, VIA, ORIGIN + CALLBACK)
        login = Login(
            tokens,
            Sessions(self.settings.ui.session_s, lambda: time.monotonic() + self.later),
            origins,
            self.flow,
            lambda *_: None,
        )
        self.app = Guard(
            dagster,
            tokens=tokens,
            login=login,
            origins=origins,
            services=[],
            earlier=Earlier({}.get, {}.get),
            record=lambda *_: None,
        )

    def token(self, name: str, **claims: Any) -> str:
        now = int(time.time())
        said = {"iss": self.idp.url, "aud": "sbh-pipelines", "sub": "ann", "tenant": "*", "role": "viewer", "jti": name}
        return self.idp.sign(said | {"iat": now, "exp": now + 300} | claims, "k1")

    def browser(self) -> TestClient:
        headers = {"origin": ORIGIN, "sec-fetch-site": "same-origin"}
        return TestClient(self.app, ORIGIN, headers=headers, follow_redirects=False)

    def begin(self, browser: TestClient) -> dict[str, list[str]]:
        """Off to the issuer, who will give this login's token; what was sent there."""
        sent = parse_qs(urlsplit(browser.get("/login/issuer").headers["location"]).query)
        nonce = sent["nonce"][0]
        self.idp.answers["/token"] = lambda headers, body: {"id_token": self.token("id-token", aud="sbh", nonce=nonce)}
        return sent

    def log_in(self) -> TestClient:
        """At the issuer."""
        browser = self.browser()
        sent = self.begin(browser)
        back = browser.get("/login/callback", params={"code": "c0de", "state": sent["state"][0]})
        assert back.status_code == 200, back.text
        return browser


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    revoked = tmp_path / "revoked"
    revoked.touch()
    with issuer() as idp:
        idp.add_key("k1", "ec")
        yield lambda **ui: Site(idp, revoked, **ui)


def sees(browser: TestClient) -> bool:
    return browser.get("/server_info").status_code == 200


def test_a_login_at_the_issuer_ends_with_its_token(site: Callable[..., Site]) -> None:
    """It does not go on for the hours of `ui.session_s`; nor for longer than the settings allow beyond it."""
    short, lenient = site(), site(id_token_grace_s=3600)
    one, other = short.log_in(), lenient.log_in()
    assert (sees(one), sees(other)) == (True, True)
    short.later = lenient.later = 301
    assert (sees(one), sees(other)) == (False, True)
    lenient.later = 3901
    assert not sees(other)


def test_revocation_ends_it_at_once(site: Callable[..., Site]) -> None:
    """Of the token that was pasted, of the one that the issuer gave, and where the list cannot be read, everybody's."""
    at = site(id_token_grace_s=3600)
    issued, pasted = at.log_in(), at.browser()
    assert pasted.post("/login", data={"token": at.token("pasted")}).status_code == 303
    assert (sees(issued), sees(pasted)) == (True, True)
    at.revoked.write_text("id-token\n")
    assert (sees(issued), sees(pasted)) == (False, True)
    at.revoked.write_text("id-token\npasted\n")
    assert (sees(issued), sees(pasted)) == (False, False)
    at.revoked.write_text("")
    at.revoked.unlink()
    assert not sees(pasted)


@pytest.mark.parametrize("with_cookie", [True, False], ids=["cookie", "bearer"])
@pytest.mark.parametrize("how", ["revoked", "list gone"])
def test_an_open_websocket_ends_too(
    site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch, with_cookie: bool, how: str
) -> None:
    """News of runs do not go on to somebody whose token is believed no longer: of a session, and of a bearer token."""
    monkeypatch.setattr(sockets, "LOOK_AGAIN_S", 0.1)
    at = site()
    headers = {"authorization": f"Bearer {at.token('id-token')}"}
    if with_cookie:
        headers = {"cookie": f"sbh-session={at.log_in().cookies['sbh-session']}", "origin": ORIGIN}
    headers["host"] = "localhost:3000"
    with TestClient(at.app, ORIGIN).websocket_connect("/graphql", ["graphql-ws"], headers=headers) as socket:
        socket.send_json({"type": "connection_init"})
        if how == "revoked":
            at.revoked.write_text("id-token\n")
        else:
            at.revoked.unlink()
        with pytest.raises(WebSocketDisconnect):
            socket.receive_json()


def test_strangers_end_nobodys_login(site: Callable[..., Site]) -> None:
    """However many logins they begin, the one that was begun before is finished; and each is finished once."""
    at = site()
    browser = at.browser()
    sent = at.begin(browser)
    for _ in range(3000):
        at.flow.begin("/")
    cookie = browser.cookies["sbh-session-flow"]
    answer = {"code": "c0de", "state": sent["state"][0]}
    assert browser.get("/login/callback", params=answer).status_code == 200
    again = at.browser()
    again.cookies.set("sbh-session-flow", cookie)
    assert again.get("/login/callback", params=answer).status_code == 401
    another = site().browser()  # a process with a key of its own
    another.cookies.set("sbh-session-flow", cookie)
    assert another.get("/login/callback", params=answer).status_code == 401


def test_one_user_does_not_sign_others_out(site: Callable[..., Site]) -> None:
    """A viewer who signs in again and again loses their own oldest sessions, and nobody else's."""
    at = site()
    victim = at.log_in()
    for number in range(60):
        mallory = at.browser()
        token = at.token(f"m{number}", sub="mallory")
        assert mallory.post("/login", data={"token": token}).status_code == 303
        first = mallory if number == 0 else first  # noqa: F821
    assert (sees(victim), sees(mallory), sees(first)) == (True, True, False)
