"""Logging in and out: a token that is pasted, or the issuer's own login page (`security/code_flow.py`).

Only platform users get in, those of tenant `*`: Dagster's pages show all tenants.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from urllib.parse import parse_qs, urlencode

from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response

from sbh_pipelines.errors import AccessDenied, SbhError, Unauthenticated
from sbh_pipelines.orchestration.guarded_ui.origins import Origins
from sbh_pipelines.orchestration.guarded_ui.page import going_page, login_page, logout_page
from sbh_pipelines.orchestration.guarded_ui.sessions import Session, Sessions
from sbh_pipelines.security.code_flow import LIFE_S, CodeFlow, is_plain
from sbh_pipelines.security.policy import ALL_TENANTS, UserContext, authorize
from sbh_pipelines.security.tokens import Tokens, VerifiedToken

VIA = "ui"
CALLBACK = "/login/callback"
_LARGEST_FORM = 32 << 10
_MOST_FIELDS = 10

log = logging.getLogger("sbh_pipelines.ui")

SignIn = Callable[[UserContext | None, str], None]
"""Puts on record who was let in; with a text, who was not, and why: None where nobody is known."""


class Login:
    """The handlers of /login and /logout, and the session's cookie."""

    def __init__(
        self, tokens: Tokens, sessions: Sessions, origins: Origins, flow: CodeFlow | None, record: SignIn
    ) -> None:
        self._tokens, self._sessions, self._origins, self._flow, self._record = tokens, sessions, origins, flow, record
        # The prefix makes browsers insist on https, this host alone and path /.
        self._cookie = "__Host-sbh" if origins.secure else "sbh-session"
        self._flow_cookie = self._cookie + "-flow"

    def session(self, request: HTTPConnection) -> Session | None:
        """Whose cookie it is, unless it has expired or its token was revoked."""
        found = self._sessions.find(request.cookies.get(self._cookie))
        if found and self._tokens.revoked(found.token):
            return None
        return found

    def ask(self, request: Request) -> Response:
        """The login page."""
        return self._page(safe_path(request.query_params.get("next", "")))

    async def take(self, request: Request) -> Response:
        """A token from the login page."""
        form = await _form(request)
        next_path = safe_path(form.get("next", ""))
        token = form.get("token", "").strip()
        try:
            # Off the event loop: it may have to ask the issuer for its keys.
            verified = await asyncio.to_thread(self._recorded, lambda: self._tokens.verified(token, VIA), token)
        except SbhError as error:
            return self._page(next_path, error)
        response = RedirectResponse(next_path, 303)
        self._begin(response, verified, verified.expires - time.time())
        return response

    async def to_issuer(self, request: Request) -> Response:
        """Off to the issuer's login page."""
        next_path = safe_path(request.query_params.get("next", ""))
        if self._flow is None:
            return self._page(next_path)
        if origin := self._flow.begin_at(request.headers.get("host", "")):
            return RedirectResponse(f"{origin}{request.url.path}?{urlencode({'next': next_path})}", 303)
        try:
            url, secret = await asyncio.to_thread(self._flow.begin, next_path)
        except SbhError as error:
            return self._page(next_path, error)
        response = RedirectResponse(url, 303)
        # Lax: the issuer's page sends the browser back, which Strict would count as a foreign request.
        self._set(response, self._flow_cookie, secret, LIFE_S, "Lax")
        return response

    async def from_issuer(self, request: Request) -> Response:
        """Back from the issuer's login page."""
        if self._flow is None:
            return self._page("/")
        flow, cookie, query = self._flow, request.cookies.get(self._flow_cookie, ""), dict(request.query_params)
        next_path = safe_path(flow.asked_for(cookie))
        try:
            verified = await asyncio.to_thread(self._recorded, lambda: flow.end(cookie, query))
        except SbhError as error:
            return self._page(next_path, error)
        response = going_page(next_path)
        self._begin(response, verified, verified.expires + self._flow.grace_s - time.time())
        self._set(response, self._flow_cookie, "", 0, "Lax")
        return response

    def _recorded(self, enter: Callable[[], VerifiedToken], given: str | None = None) -> VerifiedToken:
        """What `enter` gives, for somebody who sees all tenants; it, or why not, is put on record. Blocks. Raises as `enter` does,
        and AccessDenied.
        """
        user = None
        try:
            verified = enter()
            user = verified.user
            must_see_all(user)
        except SbhError as error:
            why = self._tokens.inspect(given).why if given and isinstance(error, Unauthenticated) else error.why
            self._record(user, why or error.what)
            raise
        self._record(user, "")
        return verified

    def leave(self, request: Request) -> Response:
        """Ends the session."""
        self._sessions.close(request.cookies.get(self._cookie))
        response = RedirectResponse("/login", 303)
        self._set(response, self._cookie, "", 0)
        response.headers["clear-site-data"] = '"storage"'
        return response

    def ask_to_leave(self, session: Session | None) -> Response:
        if session is None:
            return RedirectResponse("/login", 303)
        return logout_page(session.user.user_id, session.user.role.name.lower())

    def _begin(self, response: Response, token: VerifiedToken, left_s: float) -> None:
        name, life = self._sessions.open(token, left_s)
        self._set(response, self._cookie, name, life)

    def _page(self, next_path: str, error: SbhError | None = None) -> Response:
        shown, status = ("", 200) if error is None else (_shown(error), error.http_status)
        if status >= 500:
            log.warning("A login: %s", error)
        return login_page(next_path=next_path, error=shown, issuer=self._flow is not None, status=status)

    def _set(self, response: Response, name: str, value: str, life_s: int, same_site: str = "Strict") -> None:
        secure = "; Secure" if self._origins.secure else ""
        cookie = f"{name}={value}; Path=/; Max-Age={life_s}; HttpOnly; SameSite={same_site}{secure}"
        response.headers.append("set-cookie", cookie)


def _shown(error: SbhError) -> str:
    """What is wrong, to somebody who may be anybody; why, where it concerns them and not this host."""
    why = error.why if isinstance(error, AccessDenied | Unauthenticated) else ""
    return f"{error.what}{': ' * bool(why)}{why} ({error.code})."


def must_see_all(user: UserContext) -> None:
    """Raises AccessDenied for users of one tenant."""
    if user.tenant_id != ALL_TENANTS:
        raise AccessDenied(
            "The web UI is not for users of one tenant",
            why="it shows all of them",
            remedy="use the API or `sbh`, or a token for tenant '*'",
        )
    authorize(user, "dagster.view", ALL_TENANTS)


def safe_path(given: str) -> str:
    """A path of this site to go to after the login; `/` where it could lead elsewhere, or back to the login."""
    if not is_plain(given) or not given.startswith("/") or given.startswith(("/login", "/logout")):
        return "/"
    return given


async def _form(request: Request) -> Mapping[str, str]:
    """Raises Unauthenticated where it is not one of ours."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _LARGEST_FORM:
            raise Unauthenticated("The form is too large")
    try:
        fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise Unauthenticated("The form is not that of the login page") from None
    return {name: values[0] for name, values in fields.items()}
