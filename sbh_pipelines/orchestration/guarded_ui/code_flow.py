"""Logging in at the OpenID Connect issuer: the authorization code flow with PKCE.

The browser brings back only a code; the ID token comes from the issuer itself over https, and is checked like any token:
signature, issuer, time, and this client as its audience, and the nonce of this very login. What has to be remembered
between the two halves is in a cookie, sealed with a key of this process: strangers who begin logins take no room here, and
end nobody's. It works once.
"""

import base64
import hashlib
import hmac
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from typing import Self
from urllib.parse import quote, urlencode

import httpx
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sbh_pipelines.errors import KeyServiceUnavailable, Unauthenticated
from sbh_pipelines.security.oidc import IssuerTrouble, discover, parse_object, read_bounded
from sbh_pipelines.security.tokens import Tokens, VerifiedToken, unauthenticated
from sbh_pipelines.settings import Settings
from sbh_pipelines.settings.secrets import resolve

_MOST_ENDED = 10_000
_LONGEST_COOKIE, _LONGEST_PATH = 4096, 1000
_LIFE_S = 600.0
_TIMEOUT_S = 5.0
_PURPOSE = b"sbh login"
_FRESH_S = 60.0  # the discovery document is asked for again after this
_PAUSE_S = 5.0  # the same where the issuer did not answer
CALLBACK = "/login/callback"


@dataclass(frozen=True, slots=True, repr=False)
class _Begun:
    """A login that was begun. `ends`: on the process's monotonic clock."""

    state: str
    nonce: str
    verifier: str
    next_path: str
    ends: float

    def sealed(self, aead: AESGCM) -> str:
        nonce, plain = os.urandom(12), json.dumps(astuple(self)).encode()
        return base64.urlsafe_b64encode(nonce + aead.encrypt(nonce, plain, _PURPOSE)).decode().rstrip("=")

    @classmethod
    def opened(cls, text: str, aead: AESGCM) -> Self | None:
        """None for what this process has not sealed."""
        try:
            if not 0 < len(text) <= _LONGEST_COOKIE:
                return None
            sealed = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
            return cls(*json.loads(aead.decrypt(sealed[:12], sealed[12:], _PURPOSE)))
        except (InvalidTag, ValueError):  # the second is of what is no base64, or too short
            return None


class CodeFlow:
    """Thread-safe. `origin` is what the issuer sends browsers back to, e.g. https://backups.example.com."""

    def __init__(
        self, settings: Settings, tokens: Tokens, origin: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings, self._tokens, self._clock = settings, tokens, clock
        self._redirect = origin + CALLBACK
        self._aead = AESGCM(AESGCM.generate_key(256))
        self._ended: dict[bytes, float] = {}  # digests of cookies that came back, and when they would have ended
        self._lock = threading.Lock()
        self._discovered: Mapping[str, object] | str = {}  # or what was wrong
        self._discover_again = clock()
        self._discovering = threading.Lock()

    @property
    def grace_s(self) -> int:
        """How long a login goes on after the end of its ID token, s."""
        return self._settings.ui.id_token_grace_s

    def begin(self, next_path: str) -> tuple[str, str]:
        """Where to send the browser, and the cookie's value. Raises KeyServiceUnavailable."""
        ui, now = self._settings.ui, self._clock()
        endpoint = self._endpoint("authorization_endpoint")
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        short = next_path if len(next_path) <= _LONGEST_PATH else "/"  # browsers keep 4 KiB of a cookie
        begun = _Begun(state, nonce, verifier, short, now + _LIFE_S)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(begun.verifier.encode()).digest()).rstrip(b"=").decode()
        query = {
            "response_type": "code",
            "client_id": ui.client_id,
            "redirect_uri": self._redirect,
            "scope": " ".join(dict.fromkeys(["openid", *ui.scopes])),
            "state": begun.state,
            "nonce": begun.nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}", begun.sealed(self._aead)

    def end(self, cookie: str, answer: Mapping[str, str]) -> tuple[VerifiedToken, str]:
        """The ID token of who logged in, and where to go. Raises Unauthenticated, KeyServiceUnavailable."""
        begun = _Begun.opened(cookie, self._aead)
        if begun is None or begun.ends <= self._clock() or not self._first_time(cookie, begun.ends):
            raise Unauthenticated("This login was begun elsewhere, or too long ago", remedy="sign in again")
        if not hmac.compare_digest(begun.state.encode(), answer.get("state", "").encode("utf-8", "replace")):
            raise unauthenticated()
        # Where the issuer says who it is, it must be ours (RFC 9207): answers of several issuers cannot be mixed up.
        if not answer.get("code") or answer.get("iss", self._settings.auth.issuer) != self._settings.auth.issuer:
            raise Unauthenticated("The identity provider did not sign you in", remedy="sign in again")
        token = self._exchange(answer["code"], begun.verifier)
        verified = self._tokens.verified(token, "ui", audience=self._settings.ui.client_id)
        if not hmac.compare_digest(verified.nonce.encode(), begun.nonce.encode()):
            raise unauthenticated()
        return verified, begun.next_path

    def _first_time(self, cookie: str, ends: float) -> bool:
        """Whether a login comes back for the first time; the oldest are forgotten where there are too many."""
        digest, now = hashlib.sha256(cookie.encode("utf-8", "replace")).digest(), self._clock()
        with self._lock:
            if digest in self._ended:
                return False
            if len(self._ended) >= _MOST_ENDED:
                self._ended = {known: until for known, until in self._ended.items() if until > now}
            while len(self._ended) >= _MOST_ENDED:
                del self._ended[next(iter(self._ended))]
            self._ended[digest] = ends
        return True

    def _endpoint(self, name: str) -> str:
        """As the issuer says. Logins can be begun by anybody, who must not make this host hammer the issuer: it is asked
        once in `_FRESH_S`, and not by several at once.
        """
        with self._discovering:
            if self._clock() >= self._discover_again:
                try:
                    with httpx.Client(timeout=_TIMEOUT_S, follow_redirects=False) as client:
                        self._discovered = discover(client, self._settings.auth.issuer)
                except IssuerTrouble as trouble:
                    self._discovered = str(trouble)
                pause = _PAUSE_S if isinstance(self._discovered, str) else _FRESH_S
                self._discover_again = self._clock() + pause
            discovered = self._discovered
        if isinstance(discovered, str):
            raise _unreachable(discovered)
        found = discovered.get(name)
        if not isinstance(found, str):
            raise _unreachable(f"the discovery document has no {name}")
        return found

    def _exchange(self, code: str, verifier: str) -> str:
        """The ID token for a code."""
        ui = self._settings.ui
        form: dict[str, str | None] = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect,
            "code_verifier": verifier,
        }
        secret = resolve(ui, "client_secret")
        access = httpx.BasicAuth(quote(str(ui.client_id), safe=""), quote(secret, safe="")) if secret else None
        if access is None:
            form["client_id"] = ui.client_id
        try:
            url, auth = self._endpoint("token_endpoint"), access or httpx.USE_CLIENT_DEFAULT
            with (
                httpx.Client(timeout=_TIMEOUT_S, follow_redirects=False) as client,
                client.stream("POST", url, data=form, auth=auth) as answer,
            ):
                if answer.status_code != 200:
                    raise Unauthenticated("The identity provider did not accept the login", remedy="sign in again")
                body = read_bounded(answer, "the answer of the token endpoint")
            token = parse_object(body, "the answer of the token endpoint").get("id_token")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _unreachable(type(error).__name__) from None
        except IssuerTrouble as trouble:
            raise _unreachable(str(trouble)) from None
        if not isinstance(token, str):
            raise _unreachable("the answer of the token endpoint has no id_token")
        return token


def _unreachable(why: str) -> KeyServiceUnavailable:
    return KeyServiceUnavailable("The identity provider cannot be asked now", why=why, remedy="try again in a minute")
