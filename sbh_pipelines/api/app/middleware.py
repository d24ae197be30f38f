"""What every request passes first, before any route is looked for: an id, who asks, a body within bounds, one log line.

Raw ASGI. A caller without a token learns nothing, also not which paths exist. `/x/` and `/x` are the same path: nothing is
redirected. Tokens, queries and bodies are never logged.
"""

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Set
from typing import Protocol

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sbh_pipelines.api.app.limits import Rates, Workers
from sbh_pipelines.api.schema.problems import Refusal, problem, problem_response
from sbh_pipelines.errors import RequestError, SbhError, TookTooLong, Unauthenticated
from sbh_pipelines.security.policy import UserContext

USER, REQUEST_ID = "sbh.user", "sbh.request_id"
PUBLIC = frozenset({"/api/health/live", "/api/openapi.json"})
METRICS = "/metrics"
CONSOLE = "/console"
FORM = "application/x-www-form-urlencoded"

_log = logging.getLogger("sbh_pipelines.api")
access_log = logging.getLogger("sbh_pipelines.api.access")

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
}
_LONGEST_LOGGED = 200

Verify = Callable[[str], UserContext]


class Face(Protocol):
    """A part of the site for people, below `CONSOLE`: its requests are checked as all others are, and answered as it says.

    Attributes:
        app: Has its pages.
        public: Paths that need no token.
        headers: Of its answers, in place of those of the API.
    """

    app: ASGIApp
    public: Set[str]
    headers: Mapping[str, str]

    def user(self, headers: Headers) -> UserContext:
        """Who asks, as the browser says. Blocks. Raises Unauthenticated."""
        ...

    def refused(self, scope: Scope, error: SbhError, user: UserContext | None, status: int | None) -> Response:
        """The page for a request that came no further than this."""
        ...


class RequestMiddleware:
    """`verify` gives the user of a token, `verify_metrics` also takes the scraper's; both raise Unauthenticated."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        verify: Verify,
        verify_metrics: Verify,
        workers: Workers,
        rates: Rates,
        max_body: int,
        body_timeout_s: float,
        https: bool,
        console: Face,
    ) -> None:
        self._app, self._verify, self._verify_metrics = app, verify, verify_metrics
        self._console = console
        self._workers, self._rates = workers, rates
        self._max_body, self._body_timeout_s = max_body, body_timeout_s
        self._headers = dict(_HEADERS)
        if https:
            self._headers["Strict-Transport-Security"] = "max-age=31536000"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._app(scope, receive, send)
            return
        began, request_id = time.monotonic(), secrets.token_hex(12)
        path = scope["path"]
        if len(path) > 1 and path.endswith("/"):
            path = path[:-1]
        scope = {**scope, "path": path, "raw_path": path.encode(), REQUEST_ID: request_id}
        sent = {"status": 0, "bytes": 0}
        face = self._console if path == CONSOLE or path.startswith(CONSOLE + "/") else None
        own_headers = self._headers if face is None else {**self._headers, **face.headers}

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent["status"] = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in own_headers.items():
                    headers[name] = value
                headers["X-Request-Id"] = request_id
                headers.setdefault("Cache-Control", "no-store")
            elif message["type"] == "http.response.body":
                sent["bytes"] += len(message.get("body", b""))
            await send(message)

        try:
            await self._pass(scope, receive, sending, face)
        except Exception:
            # nosemgrep: traceback-shown - JsonLines leaves out what the errors say
            _log.exception("Request %s ended with an error nobody foresaw", request_id)
            if not sent["status"]:
                error = SbhError("Unexpected error", remedy="try again; the operators find it under the request's id")
                answer = problem_response(problem(error, request_id)) if face is None else _page(face, scope, error)
                await answer(scope, receive, sending)
        finally:
            _write_log(scope, sent, began)

    async def _pass(self, scope: Scope, receive: Receive, send: Send, face: Face | None) -> None:
        user: UserContext | None = None
        try:
            headers = Headers(scope=scope)
            if scope["path"] not in (PUBLIC if face is None else face.public):
                user = await self._user(headers, scope["path"], face)
                scope[USER] = user
                self._rates.take(f"user:{user.tenant_id}:{user.user_id}")
            if len(headers.getlist("x-tenant-slug")) > 1:
                raise _http(400, "The header X-Tenant-Slug is there twice", "send it once")
            body = await self._body(headers, receive, "application/json" if face is None else FORM)
        except (SbhError, Refusal) as error:
            status = None
            if isinstance(error, Refusal):
                status, error = error.status, error.error
            send = _closing(send)  # a body that is not read
            if face is not None:
                await face.refused(scope, error, user, status)(scope, receive, send)
                return
            document = problem(error, scope[REQUEST_ID], user, status=status, instance=_shown(scope["path"]))
            await problem_response(document)(scope, receive, send)
            return
        await (self._app if face is None else face.app)(scope, _replayed(body, receive), send)

    async def _user(self, headers: Headers, path: str, face: Face | None) -> UserContext:
        if face is not None:
            return await self._workers.run(lambda: face.user(headers))
        given = headers.getlist("authorization")
        scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        if scheme.lower() != "bearer" or not token.strip():
            raise Unauthenticated("A bearer token is needed", remedy="send `Authorization: Bearer <token>`, once")
        verify = self._verify_metrics if path == METRICS else self._verify
        return await self._workers.run(lambda: verify(token.strip()))

    async def _body(self, headers: Headers, receive: Receive, wanted: str) -> bytes:
        """All of it, in time and within the bound, of the kind that is wanted."""
        declared = headers.get("content-length", "")
        if declared.isdigit() and int(declared) > self._max_body:
            raise _too_large(self._max_body)
        if "transfer-encoding" not in headers and declared in ("", "0"):
            return b""
        try:
            body = await asyncio.wait_for(self._read(receive), self._body_timeout_s)
        except TimeoutError:
            raise Refusal(
                TookTooLong("The request's body did not arrive in time", remedy="send it at once"), status=408
            ) from None
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if body and kind != wanted:
            what = "JSON" if wanted != FORM else "a form"
            raise _http(415, f"The body must be {what}", f"send it with `Content-Type: {wanted}`")
        return body

    async def _read(self, receive: Receive) -> bytes:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _http(400, "The request ended before its body", "send it again")
            body += message.get("body", b"")
            if len(body) > self._max_body:
                raise _too_large(self._max_body)
            if not message.get("more_body"):
                return bytes(body)


def _page(face: Face, scope: Scope, error: SbhError) -> Response:
    return face.refused(scope, error, scope.get(USER), None)


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _closing(send: Send) -> Send:
    async def closing(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)["Connection"] = "close"
        await send(message)

    return closing


def _http(status: int, what: str, remedy: str) -> Refusal:
    return Refusal(RequestError(what, remedy=remedy), status=status)


def _too_large(most: int) -> Refusal:
    return _http(413, "The body is too long", f"send at most {most} bytes")


def _shown(path: str) -> str:
    return ascii(path)[1:-1][:_LONGEST_LOGGED]


def _write_log(scope: Scope, sent: dict[str, int], began: float) -> None:
    user: UserContext | None = scope.get(USER)
    slug = Headers(scope=scope).get("x-tenant-slug", "")
    line: dict[str, object] = {
        "request_id": scope[REQUEST_ID],
        "client": (scope.get("client") or ("",))[0],
        "method": scope["method"],
        "path": _shown(scope["path"]),
        "status": sent["status"],
        "bytes": sent["bytes"],
        "ms": round(1000 * (time.monotonic() - began), 1),
        "user": user.user_id if user else None,
        "tenant": ascii(slug)[1:-1][:128] or (user.tenant_id if user else None),
    }
    access_log.info(json.dumps(line))
