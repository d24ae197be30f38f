"""Signing in, by a token that is pasted or at the issuer's own page, and out. Whoever is let in, or not, is put on record."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import unquote, urlencode, urlsplit

from fastapi import APIRouter, Request
from starlette.datastructures import Headers
from starlette.responses import RedirectResponse, Response

from sbh_pipelines.api.app.calls import Api
from sbh_pipelines.api.app.middleware import CONSOLE, REQUEST_ID
from sbh_pipelines.api.console.render import render
from sbh_pipelines.api.console.session import LOGIN, VIA, Cookie, Session, safe_path, sent_form
from sbh_pipelines.api.console.visit import AVisit
from sbh_pipelines.errors import SbhError, Unauthenticated
from sbh_pipelines.security.code_flow import LIFE_S, CodeFlow, has_client
from sbh_pipelines.security.policy import UserContext
from sbh_pipelines.security.tokens import Tokens
from sbh_pipelines.settings import Settings
from sbh_pipelines.settings.access import is_loopback, origin_of

TO_ISSUER, CALLBACK = f"{LOGIN}/issuer", f"{LOGIN}/callback"
_TURN = "sign-in"  # who signs in waits behind nobody who is in

_log = logging.getLogger("sbh_pipelines.api")

router = APIRouter()


class IssuerLogin:
    """Signing in at the issuer, and the cookie of what has been begun."""

    def __init__(self, flow: CodeFlow, *, https: bool) -> None:
        self.flow = flow
        # The issuer's page sends the browser back, which Strict would count as a foreign request.
        self.cookie = Cookie("sbh-console-flow", https=https, same_site="Lax")


def issuer_login(settings: Settings, tokens: Tokens, *, https: bool, secret: str | None) -> IssuerLogin | None:
    """None where tokens are pasted. Raises SettingsError."""
    if not has_client(settings):
        return None
    origin = origin_typed(settings)
    if origin is None:
        _log.warning("Nobody signs in to the console at the issuer: set api.public_url to what users type for it")
        return None
    return IssuerLogin(CodeFlow(settings, tokens, VIA, origin + CALLBACK, secret), https=https)


@router.get(LOGIN)
async def ask(request: Request) -> Response:
    return _page(request, safe_path(request.query_params.get("next", "")))


@router.post(LOGIN)
async def take(request: Request) -> Response:
    """A token from the login page."""
    api: Api = request.app.state.api
    session: Session = request.app.state.session
    following = CONSOLE
    try:
        form = await sent_form(request)
        following = safe_path(form.get("next", [""])[0])
        token = form.get("token", [""])[0].strip()
        response = RedirectResponse(following, 303)
        await api.reads.run(
            lambda: _recorded(api, lambda: session.begin(response, token), lambda: session.why_not(token)), _TURN
        )
    except SbhError as error:
        return _page(request, following, error)
    return response


@router.get(TO_ISSUER)
async def to_issuer(request: Request) -> Response:
    """Off to the issuer's login page."""
    api: Api = request.app.state.api
    login: IssuerLogin | None = request.app.state.issuer
    following = safe_path(request.query_params.get("next", ""))
    if login is None or is_scripted(request.headers):
        return _page(request, following)
    if origin := login.flow.begin_at(request.headers.get("host", "")):
        return RedirectResponse(f"{origin}{TO_ISSUER}?{urlencode({'next': following})}", 303)
    try:
        url, begun = await api.reads.run(lambda: login.flow.begin(following), _TURN)
    except SbhError as error:
        return _page(request, following, error)
    response = RedirectResponse(url, 303)
    login.cookie.set(response, begun, LIFE_S)
    return response


@router.get(CALLBACK)
async def from_issuer(request: Request) -> Response:
    """Back from the issuer's login page."""
    api: Api = request.app.state.api
    session: Session = request.app.state.session
    login: IssuerLogin | None = request.app.state.issuer
    if login is None:
        return _page(request, CONSOLE)
    flow, begun, answer = login.flow, login.cookie.read(request.headers), dict(request.query_params)
    following = safe_path(flow.asked_for(begun))
    response = going(following)
    try:
        await api.reads.run(
            lambda: _recorded(
                api, lambda: session.begin_signed_in(response, flow.end(begun, answer), flow.grace_s), lambda: ""
            ),
            _TURN,
        )
    except SbhError as error:
        return _page(request, following, error)
    login.cookie.take_away(response)
    return response


@router.post(f"{CONSOLE}/logout")
async def sign_out(visit: AVisit) -> Response:
    await visit.form()
    response = RedirectResponse(LOGIN, 303)
    visit.session.end(response)
    return response


def going(to: str, *, by_itself: bool = True) -> Response:
    """Sends the browser on: the request then comes from this site, and brings the session's cookie.

    Only by a click where to look is an export, which is on record: a file, or rows with values that are hidden otherwise.
    """
    path, _, query = to.partition("?")
    export = unquote(path).rstrip("/").endswith("/file") or "sensitive" in unquote(query)
    return render("going.html", title="One moment", user=None, to=to, by_itself=by_itself and not export)


def is_scripted(headers: Headers) -> bool:
    """Whether a page of another site sends the browser here, and no click of its visitor."""
    return headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-user") != "?1"


def _recorded(api: Api, enter: Callable[[], UserContext], why_not: Callable[[], str]) -> None:
    """Lets somebody in. That, or why not, is put on record; where it cannot be, the log says so, and each look is recorded or
    refused. Blocks. Raises what `enter` raises.
    """
    record = api.service.tokens
    try:
        user = enter()
    except SbhError as error:
        why = why_not() if isinstance(error, Unauthenticated) else ""
        with _logged():
            record.sign_in_denied(VIA, why or error.why or error.what)
        raise
    with _logged():
        record.signed_in(user)


@contextmanager
def _logged() -> Iterator[None]:
    try:
        yield
    except SbhError as error:
        _log.error("A sign-in is not in the audit trail: %s", error)


def _page(request: Request, following: str, error: SbhError | None = None) -> Response:
    status = error.http_status if error else 200
    if status >= 500:
        _log.warning("Request %s: %s", request.scope[REQUEST_ID], error)
    issuer = f"{TO_ISSUER}?{urlencode({'next': following})}" if request.app.state.issuer else ""
    return render("login.html", status, title="Sign in", user=None, next=following, error=error, issuer=issuer)


def origin_typed(settings: Settings) -> str | None:
    """What users type for the console; None where nobody says."""
    own, shared = settings.api, settings.ui.public_url or ""
    if is_loopback(urlsplit(shared).hostname or ""):
        shared = ""  # of one machine two servers have two ports: that one is the web UI's
    if public := own.public_url or shared:
        return origin_of(public)
    if own.behind_proxy or not is_loopback(own.host):
        return None
    return origin_of(f"{'https' if own.tls_cert_file else 'http'}://localhost:{own.port}")
