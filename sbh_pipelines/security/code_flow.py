"""Signing in at the OpenID Connect issuer: the authorization code flow with PKCE, of every page where people sign in.

The browser brings back only a code; the ID token comes from the issuer itself over https, and is checked like any token:
signature, issuer, time, and this client as its audience, and the nonce of this very login. What has to be remembered
between the two halves is in a sealed cookie: strangers who begin logins take no room here, and end nobody's. It works once.
"""

import base64
import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import quote, urlencode, urlsplit

import httpx

from sbh_pipelines.errors import KeyServiceUnavailable, SettingsError, TooManyRequests, Unauthenticated
from sbh_pipelines.security.cookies import SealedCookie
from sbh_pipelines.security.oidc import IssuerTrouble, discover, parse_object, read_bounded
from sbh_pipelines.security.tokens import Tokens, VerifiedToken
from sbh_pipelines.settings import Settings
from sbh_pipelines.settings.access import is_loopback, origin_of
from sbh_pipelines.settings.secrets import resolve

LIFE_S = 600
"""So long somebody may take at the issuer's page, s."""
_MOST_ENDED = 10_000
# At once: anybody may come with a code, and each keeps a thread for as long as the issuer is silent.
_MOST_EXCHANGES = 4
LONGEST_PATH = 2000
"""Of a page that somebody is led back to, with its query, characters."""
_TIMEOUT_S = 5.0
_FRESH_S = 60.0  # the discovery document is asked for again after this
_PAUSE_S = 5.0  # the same where the issuer did not answer
# What issuers say by these is told, and nothing else of their answers (RFC 6749, 4.1.2.1 and 5.2; OpenID Connect Core, 3.1.2.6).
_SAID = frozenset(
    [
        "access_denied",
        "invalid_client",
        "invalid_grant",
        "invalid_request",
        "invalid_scope",
        "server_error",
        "temporarily_unavailable",
        "unauthorized_client",
        "unsupported_grant_type",
        "unsupported_response_type",
        "interaction_required",
        "login_required",
        "account_selection_required",
        "consent_required",
        "registration_not_supported",
    ]
)


class _Begun(NamedTuple):
    """A login that was begun. `ends`: s since 1970."""

    state: str
    nonce: str
    verifier: str
    next_path: str
    ends: float


def has_client(settings: Settings) -> bool:
    """Whether people sign in at the issuer. Raises SettingsError for a client without an issuer."""
    if settings.ui.client_id is None:
        return False
    if settings.auth.mode != "oidc":
        raise SettingsError("ui.client_id needs auth.mode = 'oidc'", remedy="unset it, or name the issuer")
    return True


def client_secret(settings: Settings) -> str | None:
    """None of a public client. Raises SettingsError, KeyServiceError where it cannot be read."""
    secret = resolve(settings.ui, "client_secret")
    if secret == "":
        raise SettingsError(
            "The secret of the client is empty",
            on="ui.client_secret, or the file or secret that is named in its place",
            remedy="write it there; for a public client unset the setting",
        )
    return secret


def is_plain(page: str) -> bool:
    """Whether browsers ask this host for a page as it is written: they resolve dots, and `//` may be another host."""
    path = page.partition("?")[0]
    dots = {".", ".."}.intersection(path.lower().replace("%2e", ".").split("/"))
    sound = page.isascii() and page.isprintable() and "\\" not in page and len(page) <= LONGEST_PATH
    return sound and "//" not in path and not dots


class CodeFlow:
    """Thread-safe. The client's secret is read once. Raises SettingsError, KeyServiceError where it cannot be.

    Args:
        settings: Of a site that `has_client`.
        via: The face that people sign in to.
        redirect_uri: Where the issuer sends browsers back to, as registered there.
        secret: Of all processes that may finish what another has begun. None: this one alone.
    """

    def __init__(
        self,
        settings: Settings,
        tokens: Tokens,
        via: str,
        redirect_uri: str,
        secret: str | None = None,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._tokens, self._via, self._redirect = settings, tokens, via, redirect_uri
        self._clock, self._monotonic = clock, monotonic
        self._client_secret = client_secret(settings)
        self._sealed = SealedCookie(f"login {via}", secret)
        self._exchanges = threading.Semaphore(_MOST_EXCHANGES)
        self._ended: dict[str, float] = {}  # states that came back, and when they would have ended
        self._lock = threading.Lock()
        self._discovered: Mapping[str, object] | str = {}  # or what was wrong
        self._discover_again = monotonic()
        self._discovering = threading.Lock()

    @property
    def grace_s(self) -> int:
        """How long a login goes on after the end of its ID token, s."""
        return self._settings.ui.id_token_grace_s

    def begin_at(self, host: str) -> str | None:
        """The origin where the login has to begin, for who came by another name of this very machine: the cookie would not
        come back with the issuer's answer. None: here; so where the port is another, which is another server's.
        """
        ours = urlsplit(self._redirect)
        try:
            theirs = urlsplit(origin_of(f"{ours.scheme}://{host}"))
            local = is_loopback(ours.hostname or "") and is_loopback(theirs.hostname or "")
            another = local and theirs.port == ours.port and theirs.netloc != ours.netloc
        except ValueError:  # not a host
            another = False
        return f"{ours.scheme}://{ours.netloc}" if another else None

    def begin(self, next_path: str) -> tuple[str, str]:
        """Where to send the browser, and the cookie's value. Raises KeyServiceUnavailable."""
        ui = self._settings.ui
        endpoint = self._endpoint("authorization_endpoint")
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        short = next_path if len(json.dumps(next_path)) <= LONGEST_PATH + 2 else ""  # browsers keep 4 KiB of a cookie
        begun = _Begun(state, nonce, verifier, short, self._clock() + LIFE_S)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = {
            "response_type": "code",
            "client_id": ui.client_id,
            "redirect_uri": self._redirect,
            "scope": " ".join(dict.fromkeys(["openid", *ui.scopes])),
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}", self._sealed.sealed(begun)

    def asked_for(self, cookie: str) -> str:
        """The page that a login was begun for; empty where there is none, and for what was not begun here."""
        begun = self._opened(cookie)
        return begun.next_path if begun else ""

    def end(self, cookie: str, answer: Mapping[str, str]) -> VerifiedToken:
        """The ID token of who signed in. Raises Unauthenticated, KeyServiceUnavailable, TooManyRequests."""
        begun = self._opened(cookie)
        if begun is None or begun.ends <= self._clock():
            raise _begun_elsewhere()
        if not hmac.compare_digest(begun.state.encode(), answer.get("state", "").encode("utf-8", "replace")):
            raise Unauthenticated("This is the answer to another login", remedy="sign in again")
        if not self._first_time(begun):
            raise _begun_elsewhere()
        # Where the issuer says who it is, it must be ours (RFC 9207): answers of several issuers cannot be mixed up.
        if answer.get("iss", self._settings.auth.issuer) != self._settings.auth.issuer:
            raise Unauthenticated("This is the answer of another identity provider", remedy="sign in again")
        if not answer.get("code"):
            raise Unauthenticated(
                "The identity provider did not sign you in", why=_it_said(answer.get("error")), remedy="sign in again"
            )
        if not self._exchanges.acquire(blocking=False):
            raise TooManyRequests("Too many people sign in at once", remedy="sign in again in some seconds")
        try:
            return self._verified(self._exchange(answer["code"], begun.verifier), begun.nonce)
        finally:
            self._exchanges.release()

    def _opened(self, cookie: str) -> _Begun | None:
        values = self._sealed.opened(cookie)
        return None if values is None else _Begun._make(values)

    def _verified(self, token: str, nonce: str) -> VerifiedToken:
        """Who a token of the token endpoint is about. It came from the issuer itself, so why it is not believed helps nobody to
        forge one, and is told.
        """
        audience = self._settings.ui.client_id
        try:
            verified = self._tokens.verified(token, self._via, audience=audience)
        except Unauthenticated:
            why = self._tokens.inspect(token, audience).why
        else:
            if hmac.compare_digest(verified.nonce.encode(), nonce.encode()):
                return verified
            why = "its nonce is that of another login"
        raise Unauthenticated(
            "The identity provider signed you in, but its token is not believed here",
            why=why,
            remedy="sign in again, or show this to who administers the identity provider",
        )

    def _first_time(self, begun: _Begun) -> bool:
        """Whether a login comes back to this process for the first time; the oldest are forgotten where there are too many.

        Where it comes back to another process of the same secret, the issuer gives no second token for its code.
        """
        now = self._clock()
        with self._lock:
            if begun.state in self._ended:  # not by the cookie, which can be spelled in more than one way
                return False
            if len(self._ended) >= _MOST_ENDED:
                self._ended = {known: until for known, until in self._ended.items() if until > now}
            while len(self._ended) >= _MOST_ENDED:
                del self._ended[next(iter(self._ended))]
            self._ended[begun.state] = begun.ends
        return True

    def _endpoint(self, name: str) -> str:
        """As the issuer says. Logins can be begun by anybody, who must not make this host hammer the issuer: it is asked
        once in `_FRESH_S`, and not by several at once.
        """
        with self._discovering:
            if self._monotonic() >= self._discover_again:
                try:
                    with httpx.Client(timeout=_TIMEOUT_S, follow_redirects=False) as client:
                        self._discovered = discover(client, self._settings.auth.issuer)
                except IssuerTrouble as trouble:
                    self._discovered = str(trouble)
                pause = _PAUSE_S if isinstance(self._discovered, str) else _FRESH_S
                self._discover_again = self._monotonic() + pause
            discovered = self._discovered
        if isinstance(discovered, str):
            raise _unreachable(discovered)
        found = discovered.get(name)
        if not isinstance(found, str):
            raise _unreachable(f"the discovery document has no {name}")
        return found

    def _exchange(self, code: str, verifier: str) -> str:
        """The ID token for a code."""
        ui, secret = self._settings.ui, self._client_secret
        form: dict[str, str | None] = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect,
            "code_verifier": verifier,
        }
        access = httpx.BasicAuth(quote(str(ui.client_id), safe=""), quote(secret, safe="")) if secret else None
        if access is None:
            form["client_id"] = ui.client_id
        try:
            url, auth = self._endpoint("token_endpoint"), access or httpx.USE_CLIENT_DEFAULT
            with (
                httpx.Client(timeout=_TIMEOUT_S, follow_redirects=False) as client,
                client.stream("POST", url, data=form, auth=auth) as answer,
            ):
                status, body = answer.status_code, read_bounded(answer, "the answer of the token endpoint")
            if status != 200:
                raise _not_accepted(status, body)
            token = parse_object(body, "the answer of the token endpoint").get("id_token")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _unreachable(type(error).__name__) from None
        except IssuerTrouble as trouble:
            raise _unreachable(str(trouble)) from None
        if not isinstance(token, str):
            raise _unreachable("the answer of the token endpoint has no id_token")
        return token


def _begun_elsewhere() -> Unauthenticated:
    return Unauthenticated("This login was begun elsewhere, or too long ago", remedy="sign in again")


def _not_accepted(status: int, body: bytes) -> Unauthenticated | KeyServiceUnavailable:
    """Of the token endpoint's answer, whose status is not 200."""
    if status == 429 or status >= 500:
        return _unreachable(f"the token endpoint answers HTTP {status}")
    try:
        said = _it_said(parse_object(body, "").get("error"))
    except IssuerTrouble:
        said = ""
    return Unauthenticated(
        "The identity provider did not accept the login",
        why=said or f"it answered HTTP {status}",
        remedy="sign in again",
    )


def _it_said(code: object) -> str:
    return f"it answered {code}" if isinstance(code, str) and code in _SAID else ""


def _unreachable(why: str) -> KeyServiceUnavailable:
    return KeyServiceUnavailable("The identity provider cannot be asked now", why=why, remedy="try again in a minute")
