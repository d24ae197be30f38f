"""The application: settings in, ASGI out. `application` is what uvicorn imports, once in each worker process."""

import hmac
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp

from sbh_pipelines import __version__
from sbh_pipelines.api.app.calls import Api
from sbh_pipelines.api.app.limits import Rates, Streams, Workers
from sbh_pipelines.api.app.middleware import REQUEST_ID, USER, RequestMiddleware
from sbh_pipelines.api.app.server import PromptH11Protocol
from sbh_pipelines.api.console.app import Console
from sbh_pipelines.api.console.session import Session
from sbh_pipelines.api.console.sign_in import issuer_login, origin_typed
from sbh_pipelines.api.routes import approvals, backups, copies, journal, operations, platform, restores
from sbh_pipelines.api.runs.dagster import Dagster
from sbh_pipelines.api.runs.launches import Launcher
from sbh_pipelines.api.runs.operations import MadeByRuns
from sbh_pipelines.api.schema.bodies import form_of
from sbh_pipelines.api.schema.openapi import document_of
from sbh_pipelines.api.schema.problems import Refusal, problem, problem_response
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.errors import RequestError, SbhError, SettingsError
from sbh_pipelines.security.policy import ALL_TENANTS, Role, UserContext
from sbh_pipelines.security.tokens import Tokens, open_tokens
from sbh_pipelines.settings import Settings, load_settings
from sbh_pipelines.settings.secrets import resolve

VIA = "api"
_TENANTS_S = 5.0
_SERVICE_TOKEN_S = 600
_SERVICE_USER = "service:api"
_AUTH_THREADS = 2
_SWITCH_S = 0.001  # a thread whose request to the store is answered should not wait 5 ms for one that parses
_ROUTES = (backups, restores, journal, copies, approvals, operations, platform)

_log = logging.getLogger("sbh_pipelines.api")


def application() -> ASGIApp:
    """Of the settings file that SBH_SETTINGS names. Raises SettingsError."""
    sys.setswitchinterval(_SWITCH_S)
    settings = load_settings()
    PromptH11Protocol.head_timeout_s = settings.api.body_timeout_s
    return make_app(settings)


def make_app(settings: Settings) -> RequestMiddleware:
    """Raises SettingsError where no tokens are believed, or a secret cannot be read. Opens no connection."""
    own = settings.api
    tokens = open_tokens(settings)
    service = BackupService(_bounded(settings))
    copies = {copy.name: service.at_copy(copy.name) for copy in settings.copies}
    services = [service, *copies.values()]
    for each in services:
        each.tenants.remember(_TENANTS_S)
        each.audit.fold_repeats()
    dagster = Dagster(own, _service_token(settings, tokens), settings.site)
    auth = Workers("auth", _AUTH_THREADS, own.waiting, own.request_timeout_s)
    reads = Workers("reads", own.threads, own.waiting, own.request_timeout_s, max(1, own.threads // 2))
    at_once, wait = own.expensive_threads, own.request_timeout_s
    expensive = Workers("expensive", at_once, own.waiting, wait, min(at_once, own.expensive_per_tenant))
    urgent = Workers("urgent", at_once, own.waiting, wait, max(1, at_once // 2))
    rates, streams = (
        Rates(own.expensive_per_minute, own.expensive_burst),
        Streams(own.threads, max(1, own.threads // 4)),
    )
    made = MadeByRuns(dagster)
    api = Api(own, service, copies, dagster, Launcher(dagster), made, reads, expensive, urgent, rates, streams)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        for workers in (auth, reads, expensive, urgent):
            workers.close()
        dagster.close()
        for each in services:
            try:
                each.audit.end_repeats()
            except SbhError as error:
                _log.error("Counts of repeated accesses and denials are not in the audit trail: %s", error)

    app = FastAPI(
        title="SBH Pipelines",
        version=__version__,
        summary="Back up one tenant of a shared SaaS database, and bring it back alone.",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.api = api
    for routes in _ROUTES:
        app.include_router(routes.router)
    _handle_errors(app, rates.retry_after_s)
    document_of(app)
    by_https = (origin_typed(settings) or "").startswith("https:")  # nginx on this host needs no `behind_proxy`
    https, secret = by_https or own.tls_cert_file is not None or own.behind_proxy, own.session_secret()
    session = Session(settings, tokens, https=https, secret=secret)
    return RequestMiddleware(
        app,
        verify=lambda token: tokens.verify(token, VIA),
        verify_metrics=_metrics_verifier(settings, tokens),
        workers=auth,
        rates=Rates(own.calls_per_minute, own.calls_burst, what="calls"),
        max_body=own.max_body_kib << 10,
        body_timeout_s=own.body_timeout_s,
        https=https,
        console=Console(api, session, issuer_login(settings, tokens, https=https, secret=secret)),
    )


def _bounded(settings: Settings) -> Settings:
    """No statement outlives who waits for it, whatever becomes of this process: what the API does itself only reads."""
    bounds = [settings.api.request_timeout_s, settings.database.statement_timeout_s]
    database = settings.database.model_copy(update={"statement_timeout_s": min(filter(None, bounds))})
    return settings.model_copy(update={"database": database})


def _service_token(settings: Settings, tokens: Tokens) -> Callable[[], str | None]:
    """What the API shows to a guarded Dagster: the token of the settings, else one issued here, renewed in time."""
    own = settings.api
    if own.dagster_token or own.dagster_token_file or own.dagster_token_secret:
        return lambda: resolve(own, "dagster_token")
    if not tokens.can_issue or _SERVICE_USER not in settings.auth.services:
        return lambda: None
    life = min(_SERVICE_TOKEN_S, settings.auth.max_ttl_s)
    held: tuple[float, str] = (0.0, "")

    def token() -> str:
        nonlocal held
        until, text = held
        if time.monotonic() > until:
            text = tokens.issue(_SERVICE_USER, ALL_TENANTS, Role.ADMIN, life)
            held = (time.monotonic() + life / 2, text)
        return text

    return token


def _metrics_verifier(settings: Settings, tokens: Tokens) -> Callable[[str], UserContext]:
    file = settings.api.metrics_token_file

    def verify(token: str) -> UserContext:
        if file is not None:
            try:
                wanted = file.read_text("utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise SettingsError(
                    "Cannot read a secret's file", on="api.metrics_token_file", why=type(error).__name__
                ) from None
            if len(wanted) >= 16 and hmac.compare_digest(wanted.encode(), token.encode()):
                return UserContext("metrics", ALL_TENANTS, Role.VIEWER, VIA)
        return tokens.verify(token, VIA)

    return verify


def _handle_errors(app: FastAPI, retry_after_s: int) -> None:
    def answer(request: Request, error: SbhError, refusal: Refusal | None = None, **more: Any) -> Response:
        user: UserContext | None = request.scope.get(USER)
        refusal = refusal or Refusal(error)
        status = refusal.status or error.http_status
        document = problem(
            error,
            request.scope[REQUEST_ID],
            user,
            status=status,
            instance=ascii(request.scope["path"])[1:-1][:200],
            more={**refusal.more, **more},
        )
        if status >= 500:
            _log.warning("Request %s: %s", request.scope[REQUEST_ID], error)
        wait = {"retry_after_s": retry_after_s} if status == 429 else {}
        return problem_response(document, refusal.headers, **wait)

    @app.exception_handler(SbhError)
    async def ours(request: Request, error: SbhError) -> Response:
        return answer(request, error)

    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> Response:
        return answer(request, error.error, error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        found = [{"where": ".".join(map(str, e["loc"]))[:200], "why": _why(e)} for e in error.errors()[:20]]
        first = found[0] if found else {"where": "", "why": ""}
        said = RequestError(
            "The request is malformed",
            on=ascii(first["where"])[1:-1],
            why=ascii(first["why"])[1:-1],
            remedy="see /api/openapi.json",
        )
        return answer(request, said, Refusal(said, status=422), errors=found)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        what, remedy = _HTTP.get(error.status_code, ("The request is wrong", "see /api/openapi.json"))
        said = RequestError(what, remedy=remedy)
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(_methods(app, request))
        return answer(request, said, Refusal(said, headers=headers, status=error.status_code))

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> Response:  # the middleware writes it to the log
        said = SbhError("Unexpected error", remedy="try again; the operators find it under the request's id")
        return answer(request, said)


def _why(error: Mapping[str, Any]) -> str:
    """A regular expression is for programs: /api/openapi.json has it."""
    if error["type"] == "string_pattern_mismatch":
        return form_of(str(error["ctx"]["pattern"]))
    return str(error["msg"])[:300]


def _methods(app: FastAPI, request: Request) -> list[str]:
    """All that the path takes: of several routes for one path Starlette names the first one's."""
    found: set[str] = set()
    for route in (*app.routes, *(route for routes in _ROUTES for route in routes.router.routes)):
        if isinstance(route, APIRoute) and route.matches(request.scope)[0] is not Match.NONE:
            found |= route.methods or set()
    return sorted(found)


_HTTP = {
    400: ("The body is not JSON", "send one JSON object, in UTF-8"),
    404: ("There is nothing at this path", "see /api/openapi.json"),
    405: ("This path does not take this method", "see /api/openapi.json"),
}
