"""The console as an application of its own beside the API: its routes, and errors as pages."""

import logging
from collections.abc import Mapping, Set
from urllib.parse import quote

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Scope

from sbh_pipelines.api.app.calls import Api
from sbh_pipelines.api.app.middleware import CONSOLE, REQUEST_ID, USER
from sbh_pipelines.api.console import approval, backup, evidence, fleet, restore, sign_in, tenant
from sbh_pipelines.api.console.render import POLICY, STATIC, render
from sbh_pipelines.api.console.session import LOGIN, Session
from sbh_pipelines.api.console.sign_in import CALLBACK, TO_ISSUER, IssuerLogin, going, is_scripted
from sbh_pipelines.api.schema.problems import Refusal, error_answer, sees_internals
from sbh_pipelines.errors import RequestError, SbhError, Unauthenticated
from sbh_pipelines.security.policy import UserContext

PAGES = (sign_in, fleet, tenant, backup, restore, approval, evidence)
_FILES = ("style.css", "operation.js", "icon.svg")
_KEPT_S = 3600

_log = logging.getLogger("sbh_pipelines.api")

_own = APIRouter(prefix=CONSOLE)


@_own.get("/static/{name}")
async def static(name: str) -> Response:
    """A file of the package."""
    if name not in _FILES:
        raise HTTPException(404)
    return FileResponse(STATIC / name, headers={"Cache-Control": f"public, max-age={_KEPT_S}"})


class Console:
    """The face of the site below `CONSOLE`: see `middleware.Face`."""

    public: Set[str] = frozenset({LOGIN, TO_ISSUER, CALLBACK, *(f"{CONSOLE}/static/{name}" for name in _FILES)})
    headers: Mapping[str, str] = {"Content-Security-Policy": POLICY, "Referrer-Policy": "same-origin"}

    def __init__(self, api: Api, session: Session, issuer: IssuerLogin | None) -> None:
        app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
        app.state.api, app.state.session, app.state.issuer = api, session, issuer
        app.include_router(_own)
        for pages in PAGES:
            app.include_router(pages.router)
        self.app: ASGIApp = app
        self._session = session
        self._handle_errors(app)

    def user(self, headers: Headers) -> UserContext:
        return self._session.user(headers)

    def refused(self, scope: Scope, error: SbhError, user: UserContext | None, status: int | None) -> Response:
        """The login page, on the way to what was asked for, where nobody is signed in; else what is wrong."""
        if isinstance(error, Unauthenticated):
            asked = CONSOLE
            if scope["method"] in ("GET", "HEAD"):
                query = scope["query_string"].decode("latin-1")
                asked = quote(scope["path"]) + (f"?{query}" if query else "")
                if (headers := Headers(scope=scope)).get("sec-fetch-site") == "cross-site":
                    # A link on another site: such a request never brings the cookie, the next one does.
                    return going(asked, by_itself=not is_scripted(headers))
            return RedirectResponse(f"{LOGIN}?next={quote(asked, safe='/')}", 303)
        return self._error(scope, error, user, status)

    def _error(self, scope: Scope, error: SbhError, user: UserContext | None, status: int | None = None) -> Response:
        shown, status = error_answer(error, user), status or error.http_status
        if status >= 500:
            _log.warning("Request %s: %s", scope[REQUEST_ID], error)
        return render(
            "error.html",
            status,
            title=shown.what,
            user=user,
            platform=sees_internals(user),
            mark=self._session.mark(Headers(scope=scope)),
            path=scope["path"],
            error=shown,
            request_id=scope[REQUEST_ID],
        )

    def _handle_errors(self, app: FastAPI) -> None:
        def answer(request: Request, error: SbhError, status: int | None = None) -> Response:
            return self._error(request.scope, error, request.scope.get(USER), status)

        @app.exception_handler(SbhError)
        async def ours(request: Request, error: SbhError) -> Response:
            return answer(request, error)

        @app.exception_handler(Refusal)
        async def refused(request: Request, error: Refusal) -> Response:
            return answer(request, error.error, error.status)

        @app.exception_handler(RequestValidationError)
        @app.exception_handler(ValidationError)
        async def invalid(request: Request, error: Exception) -> Response:
            what = RequestError("The address or the form is malformed", remedy="go back, and follow a link")
            return answer(request, what, 422)

        @app.exception_handler(HTTPException)
        async def http(request: Request, error: HTTPException) -> Response:
            what = RequestError("There is no such page", remedy="go back, and follow a link")
            return answer(request, what, error.status_code)

        @app.exception_handler(Exception)
        async def unforeseen(request: Request, error: Exception) -> Response:  # the middleware writes it to the log
            return answer(
                request, SbhError("Unexpected error", remedy="try again; the operators find it by its number")
            )
