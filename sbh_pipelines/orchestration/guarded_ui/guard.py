"""The guard around Dagster's web application: who asks, from which page, for which path. What is not allowed is refused.

Open to everybody are the login's pages and /healthz, which tells that the process runs and nothing else. All else, files
and websockets included, needs a session or a bearer token of a platform user. Reads are GET; the only writes are GraphQL,
which is read and made anew (`operations`), and for admins Dagster's endpoints that report asset events.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Set
from http import HTTPStatus
from urllib.parse import urlencode

from graphql import OperationType
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from sbh_pipelines.errors import AccessDenied, RequestError, SbhError, Unauthenticated
from sbh_pipelines.orchestration.guarded_ui import sockets
from sbh_pipelines.orchestration.guarded_ui.answers import (
    GRAPHQL,
    Forwarded,
    foreign,
    graphql_error,
    hardened,
    problem,
    status_only,
)
from sbh_pipelines.orchestration.guarded_ui.login import VIA, Login, must_see_all
from sbh_pipelines.orchestration.guarded_ui.mutations import MANAGE
from sbh_pipelines.orchestration.guarded_ui.operations import UNNAMED, Earlier, Launch, permit, permit_fields
from sbh_pipelines.orchestration.guarded_ui.origins import Origins
from sbh_pipelines.orchestration.guarded_ui.page import going_page
from sbh_pipelines.orchestration.guarded_ui.request import read_body
from sbh_pipelines.security.policy import ALL_TENANTS, UserContext, authorize
from sbh_pipelines.security.tokens import Tokens

USER = "sbh.user"  # where the rest of the application finds the UserContext, in the ASGI scope
LARGEST_BODY = 4 << 20
_OPEN = ("/healthz", "/login", "/login/issuer", "/login/callback", "/logout")
_REPORTS = ("/report_asset_materialization/", "/report_asset_check/", "/report_asset_observation/")
_CLOSED = ("/notebook", "/dagit/notebook")  # renders files of the code server's disk, and there are none to render
_LOGS, _PRINTED = "/logs/", ("/out", "/err")  # of what runs printed; Dagster gives any file beside it, by its ending
_LONGEST_PATH = 2000

Record = Callable[[UserContext, AccessDenied | None, list[Launch]], None]

log = logging.getLogger("sbh_pipelines.ui")


class Guard:
    """An ASGI application. `record` is called with launches and with what was denied, and must not raise."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        tokens: Tokens,
        login: Login,
        origins: Origins,
        services: list[str],
        earlier: Earlier,
        sites: Set[str] = UNNAMED,
        record: Record,
    ) -> None:
        self._app, self._tokens, self._login = app, tokens, login
        self._origins, self._services, self._earlier, self._record = origins, services, earlier, record
        self._sites = sites

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._socket(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, hardened(send, self._origins))

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            self._must_be_sound(request)
            response = await self._own(request) if scope["path"] in _OPEN else None
            if response is None:
                user, _ = await self._user(request)
                scope[USER] = user
                response = await self._checked(request, user)
        except Unauthenticated as error:
            response = self._not_logged_in(request, error)
        except SbhError as error:
            response = problem(error)
        await (response or self._app)(scope, receive, send)

    async def _own(self, request: Request) -> Response | None:
        """The pages that everybody may ask for."""
        path, method = request.url.path, request.method
        if path == "/healthz":
            return PlainTextResponse("ok\n", headers={"cache-control": "no-store"})
        if method == "POST" and not self._origins.from_own_page(request.headers):
            raise foreign()
        handlers: dict[tuple[str, str], Callable[[Request], Response | Awaitable[Response]]] = {
            ("GET", "/login"): self._login.ask,
            ("GET", "/login/issuer"): self._login.to_issuer,
            ("GET", "/login/callback"): self._login.from_issuer,
            ("POST", "/login"): self._login.take,
            ("POST", "/logout"): self._login.leave,
        }
        if (method, path) == ("GET", "/logout"):
            return self._login.ask_to_leave(self._login.session(request))
        handler = handlers.get((method, path))
        if handler is None:
            return status_only(HTTPStatus.METHOD_NOT_ALLOWED)
        found = handler(request)
        return found if isinstance(found, Response) else await found

    def _must_be_sound(self, connection: HTTPConnection) -> None:
        """Refuses names of this host that are not ours, and paths that two readers could read differently."""
        path: str = connection.scope["path"]
        if not self._origins.knows_host(connection.headers):
            raise RequestError("Not a name of this host", remedy="use the address of the web UI, or set ui.public_url")
        if (
            not path.isprintable()
            or "\\" in path
            or "//" in path
            or ".." in path.split("/")
            or len(path) > _LONGEST_PATH
        ):
            raise RequestError("Not a path of the web UI")

    async def _user(self, connection: HTTPConnection) -> tuple[UserContext, Callable[[], float]]:
        """Who asks, and what tells how long that holds from now, s. Raises Unauthenticated, AccessDenied."""
        given = connection.headers.getlist("authorization")
        if given:
            scheme, _, token = given[0].partition(" ")
            if len(given) > 1 or scheme.lower() != "bearer":
                raise Unauthenticated("The token is not valid", remedy="send `Authorization: Bearer TOKEN`")
            verified = await asyncio.to_thread(self._tokens.verified, token.strip(), VIA)
            must_see_all(verified.user)
            ends = time.monotonic() + verified.expires - time.time()
            return verified.user, lambda: 0.0 if self._tokens.revoked(verified) else ends - time.monotonic()
        session = self._login.session(connection)
        if session is None:
            raise Unauthenticated("Nobody is logged in", remedy="open /login, or send a bearer token")

        def left_s() -> float:
            found = self._login.session(connection)
            return found.ends - time.monotonic() if found else 0.0

        return session.user, left_s

    def _is_foreign(self, connection: HTTPConnection) -> bool:
        """Whether a page of another site may have sent it. Programs with a bearer token are no pages, and send no Origin;
        where a proxy adds the token, it is a page all the same.
        """
        headers = connection.headers
        is_program = "authorization" in headers and not {"origin", "sec-fetch-site"} & set(headers)
        return not is_program and not self._origins.from_own_page(headers)

    async def _checked(self, request: Request, user: UserContext) -> Response | None:
        """The answer, or None where Dagster is to give it. Raises AccessDenied, RequestError."""
        path, method = request.url.path, request.method
        if method not in ("GET", "HEAD") and self._is_foreign(request):
            raise foreign()
        if path.rstrip("/") == GRAPHQL:
            if method == "POST":
                return await self._graphql(request, user)
            # The page for trying queries. Dagster would also execute what a GET has in its query string.
            plain = path == GRAPHQL and not request.scope.get("query_string")
            return None if plain and "text/html" in request.headers.get("accept", "") else status_only(405)
        if path.startswith(_REPORTS) and method == "POST":
            authorize(user, MANAGE, ALL_TENANTS)
            return None
        if path.rstrip("/") in _CLOSED or (path.startswith(_LOGS) and not path.endswith(_PRINTED)):
            return status_only(HTTPStatus.NOT_FOUND)
        return None if method in ("GET", "HEAD") else status_only(HTTPStatus.METHOD_NOT_ALLOWED)

    async def _graphql(self, request: Request, user: UserContext) -> Response:
        if not request.headers.get("content-type", "").lower().startswith("application/json"):
            return status_only(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > LARGEST_BODY:
                return status_only(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        launches: list[Launch] = []
        try:
            asked = await asyncio.to_thread(read_body, bytes(body))
            if asked.kind is OperationType.SUBSCRIPTION:
                raise RequestError("Subscriptions need a websocket")
            permit_fields(asked, user)
            if asked.mutations:
                names = ", ".join(field.name.value for field in asked.mutations)
                log.info("%s (%s) asks for %s", user.user_id, user.role.name.lower(), names)
                asked, launches = await asyncio.to_thread(
                    permit, asked, user, self._services, self._earlier, self._sites
                )
        except AccessDenied as error:
            await asyncio.to_thread(self._record, user, error, [])
            return graphql_error(error)
        except RequestError as error:
            return graphql_error(error, HTTPStatus.BAD_REQUEST)
        if launches:
            await asyncio.to_thread(self._record, user, None, launches)
        return Forwarded(self._app, asked.body())

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = HTTPConnection(scope)
        try:
            self._must_be_sound(connection)
            user, left_s = await self._user(connection)
            if scope["path"] != GRAPHQL or self._is_foreign(connection):
                raise foreign()
        except SbhError:
            await receive()  # websocket.connect; closing before accepting it answers 403
            await send({"type": "websocket.close", "code": 1008})
            return
        scope[USER] = user

        def left_now_s() -> float:
            try:
                return left_s()
            except SbhError:  # the list of revoked tokens cannot be read: nothing is believed then
                return 0.0

        await sockets.guarded(self._app, scope, receive, send, left_now_s, lambda asked: permit_fields(asked, user))

    def _not_logged_in(self, request: Request, error: Unauthenticated) -> Response:
        if request.method != "GET" or "text/html" not in request.headers.get("accept", ""):
            return problem(error, {"www-authenticate": "Bearer"})
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        if request.headers.get("sec-fetch-site") == "cross-site":
            # A link on another site: such a request never brings the cookie, the next one does.
            return going_page(path)
        return RedirectResponse(f"/login?{_next(path)}", 303, {"cache-control": "no-store"})


def _next(path: str) -> str:
    return urlencode({"next": path})
