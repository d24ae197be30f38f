"""Signing in to the console at the issuer: `sbh serve` with two processes, a provider that people sign in to, and who tries to get in."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from playwright.sync_api import expect, sync_playwright
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.testclient import TestClient

from sbh_pipelines.api.app.app import make_app
from sbh_pipelines.api.console.session import Session
from sbh_pipelines.api.console.sign_in import TO_ISSUER, issuer_login
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import KeyServiceUnavailable, RequestError, SettingsError, Unauthenticated
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.security.tokens import Tokens, VerifiedToken, open_tokens
from sbh_pipelines.settings import Settings, UiSettings
from sbh_pipelines.settings.access import AuthSettings
from sbh_pipelines_tests.api.console.test_accessibility import CHROMIUM, SIZES, pictures
from sbh_pipelines_tests.support.issuer import Issuer, Page, issuer
from sbh_pipelines_tests.support.provider import Provider
from sbh_pipelines_tests.support.servers import PATIENCE_S, Server, serving

CALLBACK = "/console/login/callback"
CLIENT, SECRET = "sbh console", "s:cret/of the client"
ADMIN = UserContext("fixture", "*", Role.ADMIN)
ACCOUNTS = {
    "ada": {"tenant": "*", "role": "admin"},
    "vera": {"tenant": "*", "role": "viewer"},
    "olga": {"tenant": "tenant-1", "role": "operator"},
    "nobody": {"tenant": "tenant-1"},
}
PAGES = ("", "/audit", *(f"/tenants/{slug}{page}" for slug in ("tenant-1", "tenant-2") for page in ("", "/audit")))
CLICKED = {"sec-fetch-site": "cross-site", "sec-fetch-user": "?1"}
ONE_MOMENT = re.compile(r'http-equiv="refresh" content="0;url=([^"]*)"')


@pytest.fixture(scope="module")
def idp() -> Iterator[Issuer]:
    with issuer() as it:
        yield it


@pytest.fixture(scope="module")
def provider(idp: Issuer) -> Provider:
    return Provider(idp, {CLIENT: SECRET, "another": "client"}, set(), ACCOUNTS)


@pytest.fixture(autouse=True)
def as_it_was(provider: Provider) -> Iterator[None]:
    before = dict(provider.idp.answers)
    yield
    provider.idp.answers, provider.changed = before, {}


@pytest.fixture(scope="module")
def console(
    api_stack: Stack, tokens: Tokens, provider: Provider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Two processes, which know each other's sessions by nothing but what `sbh serve` tells them."""
    other = {
        "SBH_AUTH__MODE": "oidc",
        "SBH_AUTH__ISSUER": provider.idp.url,
        "SBH_AUTH__ALGORITHMS": '["ES256"]',
        "SBH_UI__CLIENT_ID": CLIENT,
        "SBH_UI__CLIENT_SECRET": SECRET,
    }
    log = tmp_path_factory.mktemp("console") / "log"
    with serving(api_stack, tokens, log, other, dagster_url="http://127.0.0.1:9", workers=2) as made:
        provider.redirects.add(made.address.replace("127.0.0.1", "localhost") + CALLBACK)
        yield made


class Browser(httpx.Client):
    """Goes where it is sent as browsers do, but for the provider's form; each request may go to another process."""

    def __init__(self, console: Server, provider: Provider) -> None:
        address = console.address.replace("127.0.0.1", "localhost")
        headers = {"connection": "close", "accept": "text/html"}
        super().__init__(base_url=address, headers=headers, timeout=PATIENCE_S, trust_env=False)
        self.provider = provider

    def begin(self, path: str = "/console") -> dict[str, str]:
        """Asks for a page, is led to the provider; what was sent there."""
        login = self.get(path, follow_redirects=True)
        (link,) = re.findall(r'href="(/console/login/issuer[^"]*)"', login.text)
        away = self.get(link.replace("&amp;", "&"))
        assert away.status_code == 303, away.text
        return {name: values[0] for name, values in parse_qs(urlsplit(away.headers["location"]).query).items()}

    def back(self, **answer: str) -> httpx.Response:
        return self.get(CALLBACK, params=answer)

    def finish(self, user: str, asked: dict[str, str]) -> httpx.Response:
        return self.back(code=self.provider.code(user, asked), state=asked["state"], iss=self.provider.idp.url)

    def sign_in(self, user: str, path: str = "/console") -> str:
        """The page that one is sent on to."""
        answer = self.finish(user, self.begin(path))
        found = ONE_MOMENT.search(answer.text)
        assert found, answer.text
        return found[1].replace("&amp;", "&")

    @property
    def is_in(self) -> bool:
        return "/login" not in self.get("/console").headers.get("location", "")


@pytest.fixture
def browser(console: Server, provider: Provider) -> Iterator[Browser]:
    with Browser(console, provider) as it:
        yield it


@pytest.fixture
def other(console: Server, provider: Provider) -> Iterator[Browser]:
    with Browser(console, provider) as it:
        yield it


def refused(answer: httpx.Response, said: str, code: str = "SBH-209") -> None:
    assert f'<span class="code">{code}</span>' in answer.text
    assert said in answer.text
    assert "Continue with single sign-on" in answer.text
    assert "sbh-console=" not in answer.headers.get("set-cookie", "")


@pytest.mark.parametrize("user", ["ada", "vera", "olga"])
def test_roles_are_those_of_a_pasted_token(browser: Browser, other: Browser, provider: Provider, user: str) -> None:
    """Whatever page: the same answer, whichever way the person came in, and whichever process answers."""
    browser.sign_in(user)
    other.post("/console/login", data={"token": provider.token(user)})
    assert other.is_in
    account = ACCOUNTS[user]
    shown = f"{account['role']} of {'all tenants' if account['tenant'] == '*' else account['tenant']}"
    for page in PAGES:
        for _ in range(3):
            at, there = browser.get("/console" + page), other.get("/console" + page)
            assert (at.status_code, at.headers.get("location")) == (there.status_code, there.headers.get("location"))
            assert (shown in at.text) == (shown in there.text) == (at.status_code != 303)
    assert user in browser.get("/console/tenants/tenant-1").text


def test_one_gets_to_the_page_that_was_asked_for_and_out_again(
    browser: Browser, other: Browser, api_settings: Settings
) -> None:
    asked = "/console/tenants/tenant-1/audit?event=backup.completed&user=ann"
    assert browser.sign_in("olga", asked) == asked
    page = browser.get(asked)
    assert page.status_code == 200
    (mark,) = re.findall(r'action="/console/logout"><input type="hidden" name="mark" value="(\w+)"', page.text)
    stolen = browser.cookies["sbh-console"]
    assert browser.post("/console/logout", data={"mark": mark}).headers["location"] == "/console/login"
    assert not browser.is_in
    audit = BackupService(api_settings).audit
    (entered, *_) = audit.events(ADMIN, event="ui.signed_in", user="olga").events
    assert (entered.via, entered.props["tenant"], entered.props["role"]) == ("console", "tenant-1", "operator")
    other.cookies.set("sbh-console", stolen[:-2] + ("AA" if stolen[-2:] != "AA" else "BB"))
    assert not other.is_in  # made up; it could be read by nobody either
    assert "olga" not in stolen


def test_cookies_are_for_the_browser_alone(browser: Browser) -> None:
    asked = browser.begin()
    begun = browser.get("/console/login/issuer").headers["set-cookie"]
    assert all(word in begun for word in ("HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=600"))
    asked = browser.begin()
    done = browser.finish("vera", asked).headers.get_list("set-cookie")
    (session,) = (text for text in done if text.startswith("sbh-console="))
    assert all(word in session for word in ("HttpOnly", "SameSite=Strict", "Path=/"))
    assert 590 <= int(re.findall(r"Max-Age=(\d+)", session)[0]) <= 600  # as long as the ID token
    assert any(text.startswith("sbh-console-flow=; Max-Age=0") for text in done)


@pytest.mark.parametrize(
    "given",
    ["//evil.example", "https://evil.example/console", "/console//evil.example", "/console\\@evil", "/api/backup", "/console/login/issuer"],
)  # fmt: skip
def test_after_signing_in_one_stays_here(browser: Browser, given: str) -> None:
    away = browser.get("/console/login/issuer", params={"next": given})
    asked = {name: values[0] for name, values in parse_qs(urlsplit(away.headers["location"]).query).items()}
    assert ONE_MOMENT.findall(browser.finish("vera", asked).text) == ["/console"]


def test_a_link_of_another_site_leads_to_its_page(browser: Browser) -> None:
    """Its request has no session cookie; the next one, of our own page, has."""
    answer = browser.get("/console/tenants/tenant-1?a=%22b", headers=CLICKED)
    assert (answer.status_code, ONE_MOMENT.findall(answer.text)) == (200, ["/console/tenants/tenant-1?a=%22b"])


@pytest.mark.parametrize(
    ("page", "headers"),
    [
        ("/console/tenants/tenant-2", {"sec-fetch-site": "cross-site"}),
        *(
            (f"/console/tenants/tenant-1/backups/backup_20240115_1200/{page}", CLICKED)
            for page in ("file?path=a", "fil%65/?path=a", "rows?table=users&%73ensitive=1")
        ),
    ],
    ids=str,
)
def test_a_script_of_another_site_opens_nothing(browser: Browser, page: str, headers: dict[str, str]) -> None:
    """What is looked at may be on record, in the name of who looks: they have to click. So after a login that was not asked for."""
    answer = browser.get(page, headers=headers)
    assert (answer.status_code, ONE_MOMENT.findall(answer.text)) == (200, [])
    assert ">Continue</a>" in answer.text
    scripted = browser.get(TO_ISSUER, params={"next": page}, headers={"sec-fetch-site": "cross-site"})
    assert (scripted.status_code, "set-cookie" in scripted.headers) == (200, False)
    away = browser.get(TO_ISSUER, params={"next": page}, headers=CLICKED)
    asked = {name: values[0] for name, values in parse_qs(urlsplit(away.headers["location"]).query).items()}
    assert len(ONE_MOMENT.findall(browser.finish("olga", asked).text)) == (headers != CLICKED)


def test_from_another_name_of_this_host_one_is_led_to_the_registered_one(console: Server) -> None:
    """What `sbh serve` prints is 127.0.0.1; the cookie has to be of where the provider sends the browser back to."""
    away = console.get("/console/login/issuer", params={"next": "/console/audit"})
    there = console.address.replace("127.0.0.1", "localhost") + "/console/login/issuer?next=%2Fconsole%2Faudit"
    assert (away.status_code, away.headers["location"], "set-cookie" in away.headers) == (303, there, False)


def test_answers_that_do_not_belong_to_this_browser(browser: Browser, other: Browser, provider: Provider) -> None:
    """A forged state, another browser's, none, a cookie that was made up, a code of somebody else's login: nobody is let in."""
    asked = browser.begin()
    mallorys = other.begin()
    refused(browser.finish("vera", asked | {"state": "forged"}), "the answer to another login")
    refused(browser.back(code=provider.code("vera", mallorys), state=mallorys["state"]), "the answer to another login")
    refused(browser.back(code="x"), "the answer to another login")
    refused(browser.back(code="x", state=asked["state"], iss="https://evil.example"), "another identity provider")
    asked = browser.begin()
    injected = provider.code("vera", mallorys)  # the other login's challenge and nonce
    refused(browser.back(code=injected, state=asked["state"]), "It answered invalid_grant")
    asked = browser.begin()
    foreign = provider.code("vera", asked | {"client_id": "another"})
    refused(browser.back(code=foreign, state=asked["state"]), "It answered invalid_grant")
    assert not browser.is_in
    for made_up in ("", "x", "A" * 3000, "eyJhbGciOiJub25lIn0.e30."):
        other.cookies.clear()
        other.cookies.set("sbh-console-flow", made_up)
        refused(other.back(code="x", state="x"), "begun elsewhere")
        other.cookies.set("sbh-console", made_up)
        assert not other.is_in


def test_a_login_is_finished_once(browser: Browser, other: Browser, provider: Provider) -> None:
    """Whoever copied address and cookie gets nothing, from whichever process: it has seen them, or the provider has the code."""
    asked = browser.begin()
    cookie, code = browser.cookies["sbh-console-flow"], provider.code("vera", asked)
    assert ONE_MOMENT.search(browser.back(code=code, state=asked["state"]).text)
    for _ in range(6):
        other.cookies.clear()
        other.cookies.set("sbh-console-flow", cookie)
        answer = other.back(code=code, state=asked["state"])
        assert answer.status_code == 401
        assert "begun elsewhere" in answer.text or "It answered invalid_grant" in answer.text
        assert not other.is_in


def test_a_process_finishes_a_login_once_whatever_the_provider_says(console: Server, provider: Provider) -> None:
    """One connection is of one process; the provider takes a code again."""
    with Browser(console, provider) as browser:
        browser.headers["connection"] = "keep-alive"
        asked = browser.begin()
        cookie, code = browser.cookies["sbh-console-flow"], provider.code("vera", asked)
        begun = provider._codes[code]
        assert ONE_MOMENT.search(browser.back(code=code, state=asked["state"]).text)
        provider._codes[code] = begun
        browser.cookies.clear()
        browser.cookies.set("sbh-console-flow", cookie)
        refused(browser.back(code=code, state=asked["state"]), "begun elsewhere")


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"nonce": "another"}, "Its nonce is that of another login"),
        ({"aud": "another"}, f"another audience than {CLIENT}"),
        ({"iss": "https://evil.example"}, "another issuer"),
        ({"exp": 3600, "iat": 60}, "It has expired"),
        ({"iat": 4_102_444_800, "exp": 4_102_445_100}, "see whether the clocks"),
        ({"role": "root"}, "names no role of this system"),
        ({"tenant": ["tenant-1", "tenant-2"]}, "does not name one tenant"),
    ],
    ids=str,
)
def test_id_tokens_that_are_not_believed(
    browser: Browser, provider: Provider, api_settings: Settings, claims: dict[str, Any], said: str
) -> None:
    """The person is told why, for it came from their own provider, and so is the audit trail."""
    provider.changed = claims
    answer = browser.finish("vera", browser.begin("/console/audit"))
    refused(answer, said)
    assert answer.status_code == 401
    assert 'name="next" value="/console/audit"' in answer.text
    assert not browser.is_in
    denied = BackupService(api_settings).audit.events(ADMIN, event="access.denied").events
    whys = {(e.via, e.user_id, str(e.props.get("why"))) for e in denied if e.props.get("action") == "ui.sign_in"}
    assert any(via == "console" and user == "" and said.casefold() in why.casefold() for via, user, why in whys)


def test_who_has_no_role_and_who_says_no(browser: Browser, provider: Provider) -> None:
    refused(browser.finish("nobody", browser.begin()), "names no role of this system")
    asked = browser.begin()
    refused(browser.back(error="access_denied", state=asked["state"]), "It answered access_denied")
    asked = browser.begin()
    answer = browser.back(error="<b>call 555", error_description="call 555", state=asked["state"])
    refused(answer, "did not sign you in")
    assert "555" not in answer.text


@pytest.mark.parametrize(
    ("token_endpoint", "status", "said", "code"),
    [
        (503, 503, "cannot be asked now", "SBH-501"),
        (b"<html>maintenance 555</html>", 503, "cannot be asked now", "SBH-501"),
        (Page(400, b"<html>maintenance 555</html>", "text/html"), 401, "It answered HTTP 400", "SBH-209"),
        (Page(401, b'{"error": "invalid_client", "secret": "555"}'), 401, "It answered invalid_client", "SBH-209"),
        ({"access_token": "555"}, 503, "cannot be asked now", "SBH-501"),
    ],
    ids=str,
)
def test_a_provider_in_trouble(
    browser: Browser, provider: Provider, token_endpoint: Any, status: int, said: str, code: str
) -> None:
    asked = browser.begin()
    provider.idp.answers["/token"] = token_endpoint
    answer = browser.finish("vera", asked)
    refused(answer, said, code)
    assert (answer.status_code, "555" in answer.text) == (status, False)
    assert not browser.is_in


def test_nothing_secret_is_in_the_log(console: Server, browser: Browser, provider: Provider) -> None:
    asked = browser.begin()
    code = provider.code("vera", asked)
    browser.back(code=code, state=asked["state"])
    session = browser.cookies["sbh-console"]
    browser.cookies.clear()
    provider.idp.answers["/token"] = b"<html>"
    asked = browser.begin()
    browser.back(code="c0de-of-555", state=asked["state"])
    log = console.log.read_text()
    assert '"path": "/console/login/callback", "status": 503' in log
    assert "the answer of the token endpoint is not JSON" in log  # for the operators
    for secret in (
        code,
        "c0de-of-555",
        asked["state"],
        asked["nonce"],
        SECRET,
        session,
        browser.cookies["sbh-console-flow"],
    ):
        assert secret not in log


@pytest.mark.parametrize(
    ("api", "ui", "https"),
    [
        ({}, {}, False),
        ({"public_url": "https://console.example.com"}, {}, True),
        ({}, {"public_url": "https://backups.example.com"}, True),
        ({"public_url": "http://localhost:8400"}, {"public_url": "https://backups.example.com"}, False),
        ({"public_url": "http://localhost:8400", "behind_proxy": True}, {}, True),
    ],
    ids=str,
)
def test_where_people_come_over_https_no_cookie_travels_in_clear(
    api_settings: Settings, provider: Provider, api: dict[str, Any], ui: dict[str, Any], https: bool
) -> None:
    """Also where the proxy is on this host, and `sbh serve` was told nothing of it but the address."""
    said = {"mode": "oidc", "issuer": provider.idp.url, "algorithms": ["ES256"]}
    settings = api_settings.model_copy(
        update={
            "auth": AuthSettings(**said),  # type: ignore[arg-type]
            "api": api_settings.api.model_copy(update=api),
            "ui": UiSettings(client_id=CLIENT, **ui),
        }
    )
    with TestClient(make_app(settings), follow_redirects=False) as site:
        begun = site.get("/console/login/issuer")
        signed_in = site.post("/console/login", data={"token": provider.token("vera")})
    for answer in (begun, signed_in):
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Host-sbh-console") == ("; Secure" in cookie) == https, cookie
        assert ("strict-transport-security" in answer.headers) == https


class Sessions:
    """Of one process after another, at a time that passes."""

    def __init__(self, provider: Provider, revoked: Path, session_s: int = 3600, grace_s: int = 0, **auth: Any) -> None:
        self.now, self.provider = time.time(), provider
        said = {"mode": "oidc", "issuer": provider.idp.url, "algorithms": ["ES256"], "revoked_file": revoked, **auth}
        ui = {"client_id": CLIENT, "session_s": session_s, "id_token_grace_s": grace_s}
        self.settings = Settings(auth=said, ui=ui)  # type: ignore[arg-type]

    def process(self, secret: str | None = "x" * 32) -> Session:
        return Session(self.settings, open_tokens(self.settings), https=True, secret=secret, clock=lambda: self.now)

    def begin(self, session: Session, grace_s: int = 0, token_id: str | None = "id") -> Headers:
        """What the browser sends from then on."""
        user, response = UserContext("ann", "*", Role.ADMIN, "console"), Response()
        token = VerifiedToken(user, self.now, self.now + 300, token_id, "nonce")
        assert session.begin_signed_in(response, token, grace_s) is user
        return Headers({"cookie": response.headers["set-cookie"].partition(";")[0]})


def test_a_session_ends_with_its_token_or_later_if_the_settings_say_so(provider: Provider, tmp_path: Path) -> None:
    """Also where a browser keeps the cookie for ever; never later than `ui.session_s`."""
    (tmp_path / "revoked").touch()
    at = Sessions(provider, tmp_path / "revoked")
    session, began = at.process(), at.now
    short, graced, long = at.begin(session), at.begin(session, 600), at.begin(session, 100_000)
    assert str(short["cookie"]).startswith("__Host-sbh-console=")
    for seconds, who in ((299, [True, True, True]), (301, [False, True, True]), (901, [False, False, True])):
        at.now = began + seconds
        assert [signed_in(session, cookie) for cookie in (short, graced, long)] == who
    at.now = began + 3601
    assert not signed_in(session, long)


def test_a_session_is_of_those_who_share_its_secret_and_ends_where_claims_mean_something_else(
    provider: Provider, tmp_path: Path
) -> None:
    """Or where the settings change how long one lasts."""
    revoked = tmp_path / "revoked"
    revoked.touch()
    at = Sessions(provider, revoked)
    cookie = at.begin(at.process())
    assert at.process().user(cookie) == UserContext("ann", "*", Role.ADMIN, "console")
    assert not signed_in(at.process("y" * 32), cookie)
    assert not signed_in(at.process(None), cookie)
    assert not signed_in(Sessions(provider, revoked, roles={"staff": "viewer"}).process(), cookie)
    assert not signed_in(Sessions(provider, revoked, session_s=3599).process(), cookie)
    assert not signed_in(Sessions(provider, revoked, grace_s=1).process(), cookie)
    revoked.write_text("id\n")
    assert not signed_in(at.process(), cookie)
    other = at.begin(at.process(), token_id=None)
    assert signed_in(at.process(), other)
    revoked.write_text("user:ann\n")
    assert not signed_in(at.process(), other)
    with pytest.raises(RequestError, match="too long"):
        at.begin(at.process(), token_id="x" * 3000)


def signed_in(session: Session, cookie: Headers) -> bool:
    try:
        return session.user(cookie).user_id == "ann"
    except Unauthenticated:
        return False


@pytest.mark.parametrize(
    ("api", "ui", "origin"),
    [
        ({}, {}, "http://localhost:8400"),
        ({"port": 8500, "host": "::1"}, {}, "http://localhost:8500"),
        ({"tls_cert_file": "a", "tls_key_file": "b"}, {}, "https://localhost:8400"),
        ({}, {"public_url": "https://Backups.example.com:443/"}, "https://backups.example.com"),
        ({}, {"public_url": "http://127.0.0.1:3000"}, "http://localhost:8400"),
        ({"behind_proxy": True}, {"public_url": "http://127.0.0.1:3000"}, None),
        ({"port": 80}, {}, "http://localhost"),
        ({"port": 443, "tls_cert_file": "a", "tls_key_file": "b"}, {}, "https://localhost"),
        ({"public_url": "https://console.example.com"}, {"public_url": "https://backups.example.com"}, "https://console.example.com"),
        ({"behind_proxy": True}, {}, None),
        ({"host": "0.0.0.0"}, {}, None),
    ],
    ids=str,
)  # fmt: skip
def test_where_the_provider_sends_browsers_back_to(
    provider: Provider, api: dict[str, Any], ui: dict[str, Any], origin: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """What the settings say, and nothing that a request says of itself. Where nobody says, tokens are pasted, and the log tells."""
    auth = {"mode": "oidc", "issuer": provider.idp.url}
    settings = Settings(auth=auth, api=api, ui={"client_id": CLIENT, **ui})  # type: ignore[arg-type]
    login = issuer_login(settings, open_tokens(settings), https=True, secret=None)
    assert (login is None) == (origin is None) == ("set api.public_url" in caplog.text)
    if login is not None:
        url, _ = login.flow.begin("/console")
        assert parse_qs(urlsplit(url).query)["redirect_uri"] == [f"{origin}{CALLBACK}"]


def test_a_provider_that_is_down_is_told_before_anybody_leaves(provider: Provider) -> None:
    settings = Settings(auth={"mode": "oidc", "issuer": provider.idp.url}, ui={"client_id": CLIENT})  # type: ignore[arg-type]
    login = issuer_login(settings, open_tokens(settings), https=True, secret=None)
    provider.idp.answers["/.well-known/openid-configuration"] = b"<html>maintenance</html>"
    assert login is not None
    with pytest.raises(KeyServiceUnavailable, match="cannot be asked now"):
        login.flow.begin("/console")


def test_settings_that_cannot_be(tmp_path: Path) -> None:
    """A client without an issuer; a key that can be guessed, wherever it comes from."""
    settings = Settings(ui={"client_id": CLIENT})  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"ui\.client_id needs"):
        issuer_login(settings, None, https=True, secret=None)  # type: ignore[arg-type]
    (tmp_path / "key").write_text("guess me\n")
    with pytest.raises(SettingsError, match="can be guessed") as caught:
        Settings(api={"session_key_file": tmp_path / "key"}).api.session_secret()  # type: ignore[arg-type]
    assert "guess me" not in str(caught.value)
    (tmp_path / "key").write_text("k" * 32)
    assert Settings(api={"session_key_file": tmp_path / "key"}).api.session_secret() == "k" * 32  # type: ignore[arg-type]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_people_sign_in_with_a_browser(console: Server, size: tuple[int, int], tmp_path: Path) -> None:
    """From a page of a tenant to the provider and back to it, out again, and in by a wrong name; nothing that axe calls serious."""
    assert CHROMIUM is not None
    found: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_context(viewport={"width": size[0], "height": size[1]}).new_page()
        page.set_default_timeout(PATIENCE_S * 1000)
        expect.set_options(timeout=PATIENCE_S * 1000)
        page.on("console", lambda said: found.append(said.text) if "Security Policy" in said.text else None)
        look = pictures()

        def looked_at(name: str) -> None:
            page.screenshot(path=tmp_path / f"{name}-{size[0]}.png", full_page=True)
            found.extend(f"{name}: {one}" for one in look.too_wide(page))

        page.goto(console.address + "/console/tenants/tenant-1/compliance")  # 127.0.0.1, and back on localhost
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        looked_at("login")
        page.get_by_role("link", name="Continue with single sign-on").click()
        page.get_by_label("User").fill("olga")
        page.get_by_role("button", name="Log in").click()
        expect(page).to_have_url(re.compile(r"^http://localhost:\d+/console/tenants/tenant-1/compliance$"))
        expect(page.get_by_text("operator of tenant-1")).to_be_visible()
        looked_at("in")
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        page.get_by_role("link", name="Continue with single sign-on").click()
        page.get_by_label("User").fill("mallory")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert")).to_contain_text("It answered access_denied")
        looked_at("refused")
        beside = browser.new_context(viewport={"width": size[0], "height": size[1]}, bypass_csp=True).new_page()
        beside.goto(page.url)  # the console's policy would refuse what axe is
        expect(beside.get_by_role("alert")).to_be_visible()
        found += [f"axe: {one}" for one in look.serious_findings(beside)]
        browser.close()
    assert found == []
