"""An identity provider that people sign in to, on `issuer`'s real HTTP: a page with a form, and codes as OpenID Connect has them.

It checks what a provider must: the client and its secret, the address that it sends browsers back to, PKCE; and a code works once.
"""

import base64
import binascii
import hashlib
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode

from sbh_pipelines_tests.support.issuer import Issuer, Page

_FORM = """<!doctype html><html lang="en"><title>Company login</title><h1>Company login</h1>
<form method="post">{hidden}<label>User <input name="user"></label><button>Log in</button></form></html>"""


@dataclass
class Provider:
    """Attributes:
    clients: Secrets by client.
    redirects: Addresses that browsers are sent back to.
    accounts: What ID tokens say, by user.
    changed: What they say instead.
    """

    idp: Issuer
    clients: dict[str, str]
    redirects: set[str]
    accounts: dict[str, dict[str, Any]]
    changed: dict[str, Any] = field(default_factory=dict)
    _codes: dict[str, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.idp.add_key("k1", "ec")
        self.idp.answers |= {"/authorize": self._authorize, "/token": self._token}

    def claims(self, user: str, **more: Any) -> dict[str, Any]:
        now = int(time.time())
        times = {"iat": now, "exp": now + 600}
        return {"iss": self.idp.url, "aud": "sbh-pipelines", "sub": user, **self.accounts[user], **times, **more}

    def token(self, user: str, **more: Any) -> str:
        """One that is pasted."""
        return self.idp.sign(self.claims(user, **more), "k1")

    def code(self, user: str, asked: Mapping[str, str]) -> str:
        code = secrets.token_urlsafe(24)
        self._codes[code] = {"user": user, **asked}
        return code

    def _authorize(self, _: Any, sent: bytes) -> Page:
        asked = _fields(sent)
        sound = asked.get("client_id") in self.clients and asked.get("redirect_uri") in self.redirects
        if not sound or asked.get("code_challenge_method") != "S256" or asked.get("response_type") != "code":
            return Page(400, b"<h1>not a login of ours</h1>", "text/html")
        user = asked.pop("user", None)
        if user is None:
            hidden = "".join(
                f'<input type="hidden" name="{escape(k)}" value="{escape(v, quote=True)}">' for k, v in asked.items()
            )
            return Page(200, _FORM.format(hidden=hidden).encode(), "text/html; charset=utf-8")
        said = {"code": self.code(user, asked)} if user in self.accounts else {"error": "access_denied"}
        back = {**said, "state": asked["state"], "iss": self.idp.url}
        return Page(303, location=f"{asked['redirect_uri']}?{urlencode(back)}")

    def _token(self, headers: Any, sent: bytes) -> Any:
        form = _fields(sent)
        try:
            given = base64.b64decode(headers.get("authorization", "").removeprefix("Basic ")).decode()
        except (binascii.Error, ValueError):
            given = ""
        client, _, secret = (unquote(part) for part in given.partition(":"))
        if self.clients.get(client) != secret:
            return Page(401, b'{"error": "invalid_client"}')
        begun = self._codes.pop(form.get("code", ""), None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        if (
            begun is None
            or begun["client_id"] != client
            or begun["redirect_uri"] != form.get("redirect_uri")
            or begun["code_challenge"] != base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        ):
            return Page(400, b'{"error": "invalid_grant", "error_description": "who are you"}')
        claims = self.claims(begun["user"], aud=client, nonce=begun["nonce"]) | self.changed
        return {"id_token": self.idp.sign({k: v for k, v in claims.items() if v is not None}, "k1")}


def _fields(sent: bytes) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(sent.decode(), keep_blank_values=True).items()}
