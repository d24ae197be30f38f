"""The session: a cookie that no script can read and no other site can send, checked again at every request. All processes of a
server know it, and none remembers it.

Of who pasted a token it holds the token itself, and ends when that does. Of who signed in at the issuer it holds, sealed, what the
ID token said: such a token is of another audience, often too large for a cookie, and may be over in minutes.

Forms carry a mark that is made of the cookie, and a form without it is refused; so is one that a browser says another site sent.
"""

import hmac
import json
import time
from collections.abc import Callable, Mapping
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request, cookie_parser
from starlette.responses import Response

from sbh_pipelines.api.app.middleware import CONSOLE
from sbh_pipelines.errors import AccessDenied, RequestError, Unauthenticated
from sbh_pipelines.security.code_flow import is_plain
from sbh_pipelines.security.cookies import LONGEST, SealedCookie, SignedIn
from sbh_pipelines.security.policy import UserContext
from sbh_pipelines.security.tokens import Tokens, VerifiedToken
from sbh_pipelines.settings import Settings

VIA = "console"
LOGIN = f"{CONSOLE}/login"
_MOST_FIELDS = 1000


class Cookie:
    """A cookie of this console. `same_site`: `Strict`, or `Lax` for what has to come back from another site's page."""

    def __init__(self, name: str, *, https: bool, same_site: str = "Strict") -> None:
        # The prefix makes browsers insist on https, this host alone and path /.
        self._name = f"__Host-{name}" if https else name
        self._kind = f"Path=/; HttpOnly; SameSite={same_site}{'; Secure' if https else ''}"

    def read(self, headers: Headers) -> str:
        """Empty where there is none."""
        return cookie_parser("; ".join(headers.getlist("cookie"))).get(self._name, "")

    def set(self, response: Response, value: str, life_s: int) -> None:
        response.headers.append("set-cookie", f"{self._name}={value}; Max-Age={life_s}; {self._kind}")

    def take_away(self, response: Response) -> None:
        self.set(response, "", 0)


class Session:
    """Begun, found, ended. `secret`: of all processes that serve one console; None: this one alone."""

    def __init__(
        self,
        settings: Settings,
        tokens: Tokens,
        *,
        https: bool,
        secret: str | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._tokens, self._most_s, self._clock = tokens, settings.ui.session_s, clock
        self._cookie = Cookie("sbh-console", https=https)
        self._sealed = SealedCookie(f"console session {_meaning(settings)}", secret)

    def user(self, headers: Headers) -> UserContext:
        """Whose session it is. Raises Unauthenticated."""
        value = self._cookie.read(headers)
        if not value:
            raise Unauthenticated("Nobody is signed in", remedy="sign in")
        values = self._sealed.opened(value)
        if values is None:
            return self._tokens.verify(value, VIA)
        signed_in = SignedIn._make(values)
        token = signed_in.token(VIA)
        if signed_in.ends <= self._clock() or self._tokens.revoked(token):
            raise Unauthenticated("The session is over", remedy="sign in again")
        return token.user

    def begin(self, response: Response, token: str) -> UserContext:
        """By a token that was pasted; whose it is. Blocks.

        Raises Unauthenticated, RequestError for a token that no cookie holds.
        """
        _must_fit(token)
        found = self._tokens.verified(token, VIA)
        self._cookie.set(response, token, self._life_s(found.expires))
        return found.user

    def begin_signed_in(self, response: Response, found: VerifiedToken, grace_s: int) -> UserContext:
        """By a sign-in at the issuer, which goes on for `grace_s` after the end of its token. Raises RequestError."""
        life_s = self._life_s(found.expires + grace_s)
        value = self._sealed.sealed(SignedIn.by(found, self._clock() + life_s))
        _must_fit(value)
        self._cookie.set(response, value, life_s)
        return found.user

    def why_not(self, token: str) -> str:
        """Why a token is not believed, for the record, without anything of it; empty for one that is. Blocks."""
        return self._tokens.inspect(token).why

    def end(self, response: Response) -> None:
        self._cookie.take_away(response)
        response.headers["clear-site-data"] = '"storage"'

    def mark(self, headers: Headers) -> str:
        """What the forms of this session carry; it does not tell the cookie."""
        return hmac.new(self._cookie.read(headers).encode(), b"sbh console form", "sha256").hexdigest()

    async def form(self, request: Request) -> Mapping[str, list[str]]:
        """A form that one of our own pages sent, by field. Raises AccessDenied for any other."""
        fields = await sent_form(request)
        given = next(iter(fields.pop("mark", [])), "")
        if not hmac.compare_digest(given.encode("utf-8", "replace"), self.mark(request.headers).encode()):
            raise _foreign("it does not carry the mark of this session")
        return fields

    def _life_s(self, until: float) -> int:
        return min(self._most_s, max(0, int(until - self._clock())))


def _meaning(settings: Settings) -> str:
    """What makes a user of an ID token's claims, and for how long. Where it changes, earlier sessions are no more."""
    auth, ui = settings.auth, settings.ui
    names = [auth.issuer, ui.client_id, auth.user_claim, auth.tenant_claim, auth.role_claim]
    times = [ui.session_s, ui.id_token_grace_s]
    return json.dumps([*names, *times, sorted(auth.tenants.items()), sorted(auth.roles.items())])


def _must_fit(value: str) -> None:
    if len(value.encode("utf-8", "replace")) > LONGEST:
        raise RequestError(
            "The token is too long to sign in with",
            why=f"it has more than {LONGEST:,} bytes, and browsers keep no cookie of that size",
            remedy="have your identity provider put less into it, or use the API or `sbh`",
        )


async def sent_form(request: Request) -> dict[str, list[str]]:
    """The fields of a form that this site's pages sent, as far as the browser says. Raises AccessDenied, RequestError."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise _foreign("the browser says that another site sent it")
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise _foreign("it comes from a page of another origin")
    try:
        return parse_qs((await request.body()).decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise RequestError(
            "The form is malformed", remedy="go back, load the page again and send it once more"
        ) from None


def safe_path(given: str) -> str:
    """A page of the console to go to after signing in; the first one where it could lead elsewhere."""
    inside = given == CONSOLE or given.startswith((CONSOLE + "/", CONSOLE + "?"))
    return given if is_plain(given) and inside and not given.startswith(LOGIN) else CONSOLE


def _foreign(why: str) -> AccessDenied:
    return AccessDenied(
        "The form was not sent by this console", why=why, remedy="load the page again, and send it from there"
    )
