"""Signing in at an OpenID Connect issuer: the whole dance over real HTTP, and what goes wrong in it."""

import base64
import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, urlsplit

import pytest

from sbh_pipelines.errors import KeyServiceUnavailable, SettingsError, TooManyRequests, Unauthenticated
from sbh_pipelines.security.code_flow import CodeFlow
from sbh_pipelines.security.cookies import SealedCookie
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.security.tokens import open_tokens
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.support.issuer import Page, issuer

REDIRECT = "https://backups.example.com/login/callback"
SECRET = "of two processes that are one site"


class Browser:
    """Goes to the issuer, logs in there, and comes back with a code; the issuer's answers can be changed on the way."""

    def __init__(self, idp):
        self.idp, self.forms, self.claims, self.key, self.now = idp, [], {}, "k1", 0.0
        idp.answers["/token"] = self._token
        self.settings = Settings(
            auth={"mode": "oidc", "issuer": idp.url, "algorithms": ["ES256"]},
            ui={"client_id": "sbh ui", "client_secret": "s:cret"},
        )
        self.flow = self.another()

    def another(self, via="ui", secret=SECRET):
        """Another process."""
        tokens, clock = open_tokens(self.settings), lambda: self.now
        return CodeFlow(self.settings, tokens, via, REDIRECT, secret, clock=clock, monotonic=clock)

    def _token(self, headers, body):
        self.forms.append((headers, {name: values[0] for name, values in parse_qs(body.decode()).items()}))
        now = int(time.time())
        said = {"iss": self.idp.url, "aud": "sbh ui", "sub": "ann", "tenant": "*", "role": "admin", "nonce": self.nonce}
        said |= {"iat": now, "exp": now + 300} | self.claims
        return {"id_token": self.idp.sign({k: v for k, v in said.items() if v is not None}, self.key)}

    def begin(self, page="/runs"):
        url, cookie = self.flow.begin(page)
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
    assert browser.sent["redirect_uri"] == REDIRECT
    assert browser.sent["code_challenge_method"] == "S256"
    assert browser.end(cookie).user == UserContext("ann", "*", Role.ADMIN, "ui")
    assert browser.flow.asked_for(cookie) == "/runs"
    ((headers, form),) = browser.forms
    challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=").decode()
    assert challenge == browser.sent["code_challenge"]
    assert base64.b64decode(headers["authorization"].split()[1]) == b"sbh%20ui:s%3Acret"
    with pytest.raises(Unauthenticated, match="begun elsewhere"):
        browser.end(cookie)


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"nonce": "another"}, "nonce"),
        ({"nonce": None}, "nonce"),
        ({"aud": "sbh-pipelines"}, "another audience than sbh ui"),
        ({"iss": "https://evil.example"}, "issuer"),
        ({"exp": 1, "iat": 0}, "expired"),
        ({"iat": 4_102_444_800, "exp": 4_102_445_100}, "clocks"),
        ({"role": None}, "names no role"),
        ({"tenant": "../x"}, "tenant"),
    ],
    ids=str,
)
def test_id_tokens_that_are_not_for_this_login(browser, claims, why):
    """Another login's, another client's, another issuer's, an old one, of a clock that is wrong: nobody is logged in, and told why."""
    browser.claims = claims
    with pytest.raises(Unauthenticated, match="not believed here") as caught:
        browser.end(browser.begin())
    assert why in caught.value.why


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


def test_one_process_ends_what_another_began(browser):
    """Of the same secret, and of the same face; nobody else opens the cookie."""
    cookie = browser.begin()
    for other in (browser.another(via="console"), browser.another(secret=None), browser.another(secret=SECRET[:-1])):
        assert other.asked_for(cookie) == ""
        with pytest.raises(Unauthenticated, match="begun elsewhere"):
            other.end(cookie, {"code": "c0de", "state": browser.sent["state"]})
    assert browser.another().end(cookie, {"code": "c0de", "state": browser.sent["state"]}).user.user_id == "ann"


def test_an_answer_with_a_forged_state_ends_nobodys_login(browser):
    """Any page can send a visitor's browser to the callback."""
    cookie = browser.begin()
    with pytest.raises(Unauthenticated, match="another login"):
        browser.end(cookie, state="x")
    assert browser.end(cookie).user.user_id == "ann"


@pytest.mark.parametrize("page", ["/a", "/ab", "/abc"])  # one of them ends where base64 has nothing to spare
def test_a_cookie_that_is_spelled_differently_is_no_other_login(browser, page):
    cookie = browser.begin(page)
    assert browser.end(cookie)
    with pytest.raises(Unauthenticated, match="begun elsewhere"):
        browser.end(cookie + "=" * (-len(cookie) % 4))


def test_a_long_page_is_come_back_to_and_a_longer_one_ends_no_login(browser):
    long = "/console?path=" + "x" * 1986
    assert browser.flow.asked_for(browser.begin(long)) == long
    for longer in (long + "x", "/console?" + '"' * 1991):
        cookie = browser.begin(longer)
        assert browser.flow.asked_for(cookie) == ""
        assert browser.end(cookie)


def test_a_sealed_cookie_is_for_one_purpose_and_short():
    cookie = SealedCookie("tea", SECRET)
    sealed = cookie.sealed(("ann", 7, None))
    assert SealedCookie("tea", SECRET).opened(sealed) == ["ann", 7, None]
    assert SealedCookie("coffee", SECRET).opened(sealed) is None
    changed = sealed[:-2] + ("AA" if sealed[-2:] != "AA" else "BB")
    for wrong in (changed, sealed[1:], sealed + ".", "é", "", "A" * 5000):
        assert cookie.opened(wrong) is None


@pytest.mark.parametrize(
    ("said", "why"),
    [("access_denied", "it answered access_denied"), ("<b>call 555</b>", ""), (None, "")],
    ids=str,
)
def test_what_the_issuer_says_is_told_where_it_is_a_code(browser, said, why):
    answer = {"code": "", "error_description": "call 555"} | ({"error": said} if said else {})
    with pytest.raises(Unauthenticated, match="did not sign you in") as caught:
        browser.end(browser.begin(), **answer)
    assert caught.value.why == why


def test_a_name_of_this_machine_is_as_good_as_another(browser):
    """A cookie of 127.0.0.1 does not come back to localhost; a public name is never left."""
    flow = CodeFlow(browser.settings, open_tokens(browser.settings), "ui", "http://localhost:3000/login/callback")
    assert flow.begin_at("127.0.0.1:3000") == "http://localhost:3000"
    for host in ("localhost:3000", "LocalHost:3000", "backups.example.com", "evil.example", "[::1", "127.0.0.1:x", ""):
        assert flow.begin_at(host) is None
    assert flow.begin_at("127.0.0.1:8400") is None  # another server's page
    assert browser.flow.begin_at("127.0.0.1:3000") is None


def test_a_port_that_browsers_leave_out_is_no_other_name(browser):
    flow = CodeFlow(browser.settings, open_tokens(browser.settings), "ui", "https://localhost/login/callback")
    assert (flow.begin_at("localhost"), flow.begin_at("localhost:443")) == (None, None)
    assert flow.begin_at("127.0.0.1") == "https://localhost"


@pytest.mark.parametrize(
    ("answer", "error", "why"),
    [
        (500, KeyServiceUnavailable, "HTTP 500"),
        (429, KeyServiceUnavailable, "HTTP 429"),
        (302, Unauthenticated, "HTTP 302"),
        (Page(400, b"<h1>call 555</h1>"), Unauthenticated, "HTTP 400"),
        (Page(400, b'{"error": "invalid_grant", "error_description": "c0de"}'), Unauthenticated, "invalid_grant"),
        (Page(401, b'{"error": "invalid_client"}'), Unauthenticated, "invalid_client"),
        (b"<html>", KeyServiceUnavailable, "not JSON"),
        (b"x" * 600_000, KeyServiceUnavailable, "larger"),
        ({}, KeyServiceUnavailable, "no id_token"),
        ({"id_token": 7}, KeyServiceUnavailable, "no id_token"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_an_issuer_in_trouble(browser, answer, error, why):
    """An error that tells the person what to do, whatever the token endpoint answers, and nothing of codes and secrets."""
    cookie = browser.begin()
    browser.idp.answers["/token"] = answer
    with pytest.raises(error) as caught:
        browser.end(cookie)
    assert why in caught.value.why
    assert not any(word in str(caught.value) for word in ("c0de", "s:cret", "555"))
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


def test_strangers_with_made_up_codes_do_not_hammer_the_issuer(browser):
    """While it says nothing to four of them, the next is refused at once, and keeps no thread; then people get in again."""
    asked, go_on = threading.Semaphore(0), threading.Event()

    def silent(*_):
        asked.release()
        assert go_on.wait(60)
        return Page(400, b'{"error": "invalid_grant"}')

    def come():
        url, cookie = browser.flow.begin("/")
        state = parse_qs(urlsplit(url).query)["state"][0]
        return browser.flow.end(cookie, {"code": "junk", "state": state})

    sound, browser.idp.answers["/token"] = browser.idp.answers["/token"], silent
    with ThreadPoolExecutor(4) as threads:
        four = [threads.submit(come) for _ in range(4)]
        assert all(asked.acquire(timeout=60) for _ in four)
        for _ in range(50):
            with pytest.raises(TooManyRequests):
                come()
        go_on.set()
        assert {type(each.exception()) for each in four} <= {Unauthenticated, KeyServiceUnavailable}
    assert browser.idp.requests.count("/token") == 4
    browser.idp.answers["/token"] = sound
    assert browser.end(browser.begin()).user.user_id == "ann"


def test_the_secret_of_the_client_is_read_once_and_never_empty(browser, tmp_path):
    file = tmp_path / "secret"
    file.write_text("of a file\n")
    ui = {"client_id": "sbh ui", "client_secret_file": file}
    browser.settings = Settings(auth={"mode": "oidc", "issuer": browser.idp.url, "algorithms": ["ES256"]}, ui=ui)
    browser.flow = browser.another()
    file.write_text("")
    assert browser.end(browser.begin())
    ((headers, _),) = browser.forms
    assert base64.b64decode(headers["authorization"].split()[1]) == b"sbh%20ui:of%20a%20file"
    with pytest.raises(SettingsError, match="is empty"):
        browser.another()
    file.unlink()
    with pytest.raises(SettingsError, match="Cannot read"):
        browser.another()
