"""Signing in and out. The token itself is the session: it is kept in a cookie that no script can read and no other site can
send, it is checked again at every request, and it ends when the token does. So all processes of a server know it, and none
remembers it.

Forms carry a mark that is made of the token, and a form without it is refused; so is one that a browser says another site sent.
"""

import hmac
import time
from collections.abc import Callable, Mapping
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request, cookie_parser
from starlette.responses import RedirectResponse, Response

from sbh_pipelines.api.app.middleware import CONSOLE
from sbh_pipelines.errors import AccessDenied, RequestError, Unauthenticated
from sbh_pipelines.security.policy import UserContext
from sbh_pipelines.security.tokens import Tokens

VIA = "console"
LOGIN = f"{CONSOLE}/login"
_MOST_FIELDS = 1000
_LONGEST_PATH = 2000
_LONGEST_TOKEN = 3800  # browsers drop a cookie above 4,096 bytes, its name and attributes among them, and say nothing


class Session:
    """The cookie: set, read, taken away. `most_s`: the longest life of a session, s, whatever the token's."""

    def __init__(self, tokens: Tokens, *, https: bool, most_s: int, clock: Callable[[], float] = time.time) -> None:
        self._tokens, self._most_s, self._clock = tokens, most_s, clock
        # The prefix makes browsers insist on https, this host alone and path /.
        self._cookie = "__Host-sbh-console" if https else "sbh-console"
        self._secure = "; Secure" if https else ""

    def user(self, headers: Headers) -> UserContext:
        """Whose cookie it is. Raises Unauthenticated."""
        token = self._token(headers)
        if token is None:
            raise Unauthenticated("Nobody is signed in", remedy="sign in with a token")
        return self._tokens.verify(token, VIA)

    def begin(self, token: str, to: str) -> tuple[Response, UserContext]:
        """Sign in, and go to a page; and who that is. Blocks.

        Raises Unauthenticated, RequestError for a token that no cookie holds."""
        if len(token.encode("utf-8", "replace")) > _LONGEST_TOKEN:
            raise RequestError(
                "The token is too long to sign in with",
                why=f"it has more than {_LONGEST_TOKEN:,} bytes, and browsers keep no cookie of that size",
                remedy="have your identity provider put less into it, or use the API or `sbh`",
            )
        found = self._tokens.verified(token, VIA)
        response = RedirectResponse(to, 303)
        self._set(response, token, min(self._most_s, max(0, int(found.expires - self._clock()))))
        return response, found.user

    def why_not(self, token: str) -> str:
        """Why a token is not believed, for the record, without anything of it; empty for one that is. Blocks."""
        return self._tokens.inspect(token).why

    def end(self) -> Response:
        response = RedirectResponse(LOGIN, 303)
        self._set(response, "", 0)
        response.headers["clear-site-data"] = '"storage"'
        return response

    def mark(self, headers: Headers) -> str:
        """What the forms of this session carry; it does not tell the token."""
        return hmac.new((self._token(headers) or "").encode(), b"sbh console form", "sha256").hexdigest()

    async def form(self, request: Request) -> Mapping[str, list[str]]:
        """A form that one of our own pages sent, by field. Raises AccessDenied for any other."""
        fields = await sent_form(request)
        given = next(iter(fields.pop("mark", [])), "")
        if not hmac.compare_digest(given.encode("utf-8", "replace"), self.mark(request.headers).encode()):
            raise _foreign("it does not carry the mark of this session")
        return fields

    def _token(self, headers: Headers) -> str | None:
        return cookie_parser("; ".join(headers.getlist("cookie"))).get(self._cookie)

    def _set(self, response: Response, value: str, life_s: int) -> None:
        cookie = f"{self._cookie}={value}; Path=/; Max-Age={life_s}; HttpOnly; SameSite=Strict{self._secure}"
        response.headers.append("set-cookie", cookie)


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
    plain = given.isascii() and given.isprintable() and "\\" not in given and len(given) <= _LONGEST_PATH
    inside = given == CONSOLE or given.startswith((CONSOLE + "/", CONSOLE + "?"))
    return given if plain and inside and "//" not in given and not given.startswith(LOGIN) else CONSOLE


def _foreign(why: str) -> AccessDenied:
    return AccessDenied(
        "The form was not sent by this console", why=why, remedy="load the page again, and send it from there"
    )
