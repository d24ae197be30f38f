"""The public keys of an OpenID Connect issuer, fetched over https and kept.

A key that is not known is looked for once a minute at most, so that forged tokens cannot make this host hammer the
issuer. Where the issuer is out of reach, the keys that were fetched serve for another hour.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import jwt

from sbh_pipelines.errors import KeyServiceUnavailable
from sbh_pipelines.security.claims import Refused
from sbh_pipelines.settings.access import AuthSettings, is_safe_url

_FRESH_S = 600.0  # keys are asked for again after this
_OUTAGE_S = 3600.0  # and serve this much longer where the issuer does not answer
_PAUSE_S = 60.0  # least time between two attempts
_URGENT_PAUSE_S = 5.0  # while there are no keys to go on with
_TIMEOUT_S = 5.0
_WHOLE_TIMEOUT_S = 10.0
_LARGEST_ANSWER = 512 << 10
_MOST_KEYS = 100
_LEAST_RSA_BITS = 2048
_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}


class OidcKeys:
    """Thread-safe: one thread fetches, and the others go on with the keys there are."""

    def __init__(self, auth: AuthSettings, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._auth, self._monotonic = auth, monotonic
        self._lock = threading.Lock()
        self._keys: dict[str, tuple[Any, list[str]]] = {}
        self._nameless: list[tuple[Any, list[str]]] = []
        self._fetched: float | None = None
        self._tried: float | None = None
        self._trouble = ""

    def candidates(self, header: Mapping[str, object]) -> tuple[Any, list[str]]:
        """The key that the header names and what it may be used for. Raises Refused, KeyServiceUnavailable."""
        self._refresh(wanted=False)
        name = header.get("kid")
        found = self._find(name)
        if found is None and name is not None:
            self._refresh(wanted=True)
            found = self._find(name)
        if found is None:
            raise Refused("its key is not among those of the issuer, or the issuer has several and it names none")
        return found

    def _find(self, name: object) -> tuple[Any, list[str]] | None:
        if isinstance(name, str):
            return self._keys.get(name)
        if name is None:
            every = [*self._keys.values(), *self._nameless]
            return every[0] if len(every) == 1 else None
        return None

    def _refresh(self, *, wanted: bool) -> None:
        """Fetch the keys where they are old, or `wanted` and not fetched a moment ago. Raises KeyServiceUnavailable."""
        if not self._is_due(wanted):
            return self._must_have_keys()
        # A thread that finds another one fetching waits for it only where there is nothing to go on with.
        if self._lock.acquire(blocking=wanted or not self._usable()):
            try:
                if self._is_due(wanted):
                    self._fetch()
            finally:
                self._lock.release()
        return self._must_have_keys()

    def _is_due(self, wanted: bool) -> bool:
        now = self._monotonic()
        if self._tried is not None and now - self._tried < (_PAUSE_S if self._usable() else _URGENT_PAUSE_S):
            return False
        return wanted or self._fetched is None or now - self._fetched > _FRESH_S

    def _usable(self) -> bool:
        return self._fetched is not None and self._monotonic() - self._fetched <= _FRESH_S + _OUTAGE_S

    def _must_have_keys(self) -> None:
        if not self._usable():
            raise KeyServiceUnavailable(
                "Tokens cannot be checked now",
                on=self._auth.jwks_url or self._auth.issuer,
                why=self._trouble or "the keys of the issuer could not be fetched",
                remedy=f"see whether this host reaches the issuer; the next attempt is within {_URGENT_PAUSE_S:.0f} s",
            )

    def _fetch(self) -> None:
        self._tried = self._monotonic()
        try:
            with httpx.Client(timeout=_TIMEOUT_S, follow_redirects=False) as client:
                url = self._auth.jwks_url or str(discover(client, self._auth.issuer)["jwks_uri"])
                documents = get_document(client, url, "the issuer's keys").get("keys")
        except IssuerTrouble as trouble:
            self._trouble = str(trouble)
            return
        if not isinstance(documents, list):
            self._trouble = "the issuer's keys are not a JWK set"
            return
        keys, nameless = {}, []
        for document in documents[:_MOST_KEYS]:
            usable = _usable_key(document, self._auth.algorithms)
            if usable and isinstance(document.get("kid"), str):
                keys[document["kid"]] = usable
            elif usable:
                nameless.append(usable)
        self._keys, self._nameless, self._trouble = keys, nameless, ""
        self._fetched = self._monotonic()


class IssuerTrouble(Exception):
    """The issuer cannot be reached, or answers what cannot be used."""


def discover(client: httpx.Client, issuer: str) -> dict[str, object]:
    """The issuer's discovery document, whose endpoints are safe URLs. Raises IssuerTrouble."""
    document = get_document(client, issuer.rstrip("/") + "/.well-known/openid-configuration", "the discovery document")
    if document.get("issuer") != issuer:
        raise IssuerTrouble("the discovery document is of another issuer than auth.issuer")
    for name in ("jwks_uri", "authorization_endpoint", "token_endpoint"):
        url = document.get(name)
        if (name == "jwks_uri" or url is not None) and not (isinstance(url, str) and is_safe_url(url)):
            raise IssuerTrouble(f"{name} of the discovery document is not an https URL")
    return document


def get_document(client: httpx.Client, url: str, what: str) -> dict[str, object]:
    """A JSON object of bounded size, within bounded time. Raises IssuerTrouble."""
    try:
        with client.stream("GET", url, headers={"accept": "application/json"}) as answer:
            if answer.status_code != 200:
                raise IssuerTrouble(f"{what} cannot be read: HTTP {answer.status_code}")
            body = read_bounded(answer, what)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise IssuerTrouble(f"{what} cannot be read: {type(error).__name__}") from None
    return parse_object(body, what)


def read_bounded(answer: httpx.Response, what: str) -> bytes:
    """The body of a streamed answer, of bounded size, within bounded time. Raises IssuerTrouble."""
    deadline, body = time.monotonic() + _WHOLE_TIMEOUT_S, b""
    for part in answer.iter_bytes():
        body += part
        if len(body) > _LARGEST_ANSWER:
            raise IssuerTrouble(f"{what} is larger than {_LARGEST_ANSWER >> 10} KiB")
        if time.monotonic() > deadline:
            raise IssuerTrouble(f"{what} did not arrive within {_WHOLE_TIMEOUT_S:.0f} s")
    return body


def parse_object(body: bytes, what: str) -> dict[str, object]:
    """Raises IssuerTrouble."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise IssuerTrouble(f"{what} is not JSON") from None
    if not isinstance(document, dict):
        raise IssuerTrouble(f"{what} is not a JSON object")
    return document


def _usable_key(document: Any, allowed: list[Any]) -> tuple[Any, list[str]] | None:
    """A public key for signatures, with the allowed algorithms that fit it; None for any other."""
    if not isinstance(document, dict) or document.get("use", "sig") != "sig":
        return None
    kind, curve = document.get("kty"), document.get("crv")
    if kind == "RSA":
        fitting = {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
    elif kind == "EC" and curve in _CURVES:
        fitting = {_CURVES[curve]}
    elif kind == "OKP" and curve == "Ed25519":
        fitting = {"EdDSA"}
    else:
        return None  # among them `oct`: a shared secret is no key of ours
    if isinstance(document.get("alg"), str):
        fitting &= {document["alg"], {"Ed25519": "EdDSA"}.get(document["alg"], "")}
    algorithms = [name for name in allowed if name in fitting]
    if not algorithms or "d" in document:
        return None
    try:
        key = jwt.PyJWK(document, algorithms[0]).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    if kind == "RSA" and key.key_size < _LEAST_RSA_BITS:
        return None
    return key, algorithms
