"""Logging in at an OpenID Connect issuer: the whole dance over real HTTP, and what goes wrong in it."""

import base64
import hashlib
import time
from urllib.parse import parse_qs, urlsplit

import pytest

from sbh_pipelines.errors import KeyServiceUnavailable, Unauthenticated
from sbh_pipelines.orchestration.guarded_ui.code_flow import CodeFlow
from sbh_pipelines.orchestration.guarded_ui.sessions import Sessions
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.security.tokens import VerifiedToken, open_tokens
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.support.issuer import issuer

ORIGIN = "https://backups.example.com"
VIEWER = UserContext("v", "*", Role.VIEWER, "ui")


class Browser:
    """Goes to the issuer, logs in there, and comes back with a code; the issuer's answers can be changed on the way."""

    def __init__(self, idp):
        self.idp, self.forms, self.claims, self.key, self.now = idp, [], {}, "k1", 0.0
        idp.answers["/token"] = self._token
        self.settings = Settings(
            auth={"mode": "oidc", "issuer": idp.url, "algorithms": ["ES256"]},
            ui={"client_id": "sbh ui", "client_secret": "s:cret"},
        )
        self.flow = CodeFlow(self.settings, open_tokens(self.settings), ORIGIN, lambda: self.now)

    def _token(self, headers, body):
        self.forms.append((headers, {name: values[0] for name, values in parse_qs(body.decode()).items()}))
        now = int(time.time())
        said = {"iss": self.idp.url, "aud": "sbh ui", "sub": "ann", "tenant": "*", "role": "admin", "nonce": self.nonce}
        said |= {"iat": now, "exp": now + 300} | self.claims
        return {"id_token": self.idp.sign({k: v for k, v in said.items() if v is not None}, self.key)}

    def begin(self):
        url, cookie = self.flow.begin("/runs")
        self.sent = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        self.nonce = self.sent["nonce"]
        return cookie

    def end(self, cookie, **answer):
        return self.flow.end(cookie, {"code": "c0de", "state": self.sent["state"]} | answer)


@pytest.fixture
def browser():
    with issuer() as idp:
        idp.add_key("k1", "ec")
        yield Browser(idp)


def test_a_login_at_the_issuer(browser):
    """The code is exchanged with the verifier of the challenge that went along, and the client's secret."""
    cookie = browser.begin()
    assert browser.sent["redirect_uri"] == ORIGIN + "/login/callback"
    assert browser.sent["code_challenge_method"] == "S256"
    verified, path = browser.end(cookie)
    assert (verified.user, path) == (UserContext("ann", "*", Role.ADMIN, "ui"), "/runs")
    ((headers, form),) = browser.forms
    challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=").decode()
    assert challenge == browser.sent["code_challenge"]
    assert base64.b64decode(headers["authorization"].split()[1]) == b"sbh%20ui:s%3Acret"
    with pytest.raises(Unauthenticated, match="begun elsewhere"):
        browser.end(cookie)


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"aud": "sbh-pipelines"},
        {"iss": "https://evil.example"},
        {"exp": 1, "iat": 0},
        {"role": None},
        {"tenant": "../x"},
    ],
    ids=str,
)
def test_id_tokens_that_are_not_for_this_login(browser, claims):
    """Another login's, another client's, another issuer's, an old one: nobody is logged in."""
    browser.claims = claims
    with pytest.raises(Unauthenticated):
        browser.end(browser.begin())


def test_answers_that_do_not_belong_to_this_browser(browser):
    """A state that was not sent, no code, another issuer's answer, no cookie, too late: refused before the exchange."""
    for answer in ({"state": "x"}, {"state": ""}, {"code": ""}, {"iss": "https://evil.example"}):
        with pytest.raises(Unauthenticated):
            browser.end(browser.begin(), **answer)
    browser.begin()
    for cookie in ("", "x", "x" * 5000):
        with pytest.raises(Unauthenticated):
            browser.end(cookie)
    cookie = browser.begin()
    browser.now += 601
    with pytest.raises(Unauthenticated, match="too long ago"):
        browser.end(cookie)
    assert browser.forms == []


@pytest.mark.parametrize("answer", [500, b"nonsense", b"x" * 300_000, {}, {"id_token": 7}], ids=str)
def test_an_issuer_in_trouble(browser, answer):
    """An error that tells the person what to do, whatever the token endpoint answers."""
    cookie = browser.begin()
    browser.idp.answers["/token"] = answer
    with pytest.raises((Unauthenticated, KeyServiceUnavailable)):
        browser.end(cookie)
    browser.idp.answers["/.well-known/openid-configuration"] = 503
    browser.now += 61
    with pytest.raises(KeyServiceUnavailable):
        browser.begin()


def test_strangers_who_begin_logins_do_not_hammer_the_issuer(browser):
    """It is asked once a minute, or once in seconds while it does not answer, however many logins are begun."""
    discovery = "/.well-known/openid-configuration"
    for _ in range(50):
        browser.begin()
    assert browser.idp.requests.count(discovery) == 1
    sound, browser.idp.answers[discovery] = browser.idp.answers[discovery], 503
    browser.now += 61
    for _ in range(50):
        with pytest.raises(KeyServiceUnavailable):
            browser.begin()
    assert browser.idp.requests.count(discovery) == 2
    browser.idp.answers[discovery] = sound
    browser.now += 6
    assert browser.begin()


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
