"""What the guard answers by itself, the headers that every answer gets, and the request as it is handed to Dagster."""

from http import HTTPStatus

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sbh_pipelines.errors import AccessDenied, SbhError
from sbh_pipelines.orchestration.guarded_ui.origins import Origins

GRAPHQL = "/graphql"


def hardened(send: Send, origins: Origins) -> Send:
    """Adds the security headers to an answer, and makes the policy of Dagster's page narrower."""
    # An address in brackets is no source that browsers know; 'self' holds it in the newer ones.
    sources = " ".join(o.replace("http", "ws", 1) for o in origins.allowed if "[" not in o)

    async def adding(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["x-content-type-options"] = "nosniff"
            headers["x-frame-options"] = "DENY"
            headers["referrer-policy"] = "same-origin"
            headers["cross-origin-opener-policy"] = "same-origin"
            headers["cross-origin-resource-policy"] = "same-origin"
            if origins.secure:
                headers["strict-transport-security"] = "max-age=31536000"
            policy = headers.get("content-security-policy", "")
            if not policy:
                headers["content-security-policy"] = "frame-ancestors 'none'"
            elif "frame-ancestors" not in policy:  # Dagster's page, which says nothing of where data may go
                headers["content-security-policy"] = (
                    f"{policy.strip().rstrip(';')}; frame-ancestors 'none'; form-action 'self';"
                    f" connect-src 'self' {sources}; img-src 'self' data: blob:; font-src 'self' data:;"
                    " frame-src 'self'; worker-src 'self' blob:; manifest-src 'self'"
                )
        await send(message)

    return adding


class Forwarded(Response):
    """The request as it was made anew, handed to Dagster."""

    def __init__(self, app: ASGIApp, content: bytes) -> None:
        self._app, self._content = app, content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kept = [(name, value) for name, value in scope["headers"] if name not in (b"content-length", b"content-type")]
        headers = [*kept, (b"content-type", b"application/json"), (b"content-length", b"%d" % len(self._content))]
        sent = False

        async def body() -> Message:
            nonlocal sent
            if sent:
                return await receive()  # http.disconnect
            sent = True
            return {"type": "http.request", "body": self._content, "more_body": False}

        await self._app({**scope, "headers": headers, "query_string": b"", "path": GRAPHQL}, body, send)


def problem(error: SbhError, headers: dict[str, str] | None = None) -> Response:
    document = {"title": error.what, "status": error.http_status, "code": error.code, "detail": error.why}
    return JSONResponse(
        document, error.http_status, {"cache-control": "no-store", **(headers or {})}, "application/problem+json"
    )


def graphql_error(error: SbhError, status: int = 200) -> Response:
    """Status 200 for what is denied: it is how GraphQL tells, and how Dagster's page shows the words to its user."""
    message = ": ".join(text for text in (error.what, error.why) if text) + (
        f" ({error.remedy})" if error.remedy else ""
    )
    return JSONResponse({"data": None, "errors": [{"message": message, "extensions": {"code": error.code}}]}, status)


def status_only(status: int) -> Response:
    return PlainTextResponse(HTTPStatus(status).phrase + "\n", status)


def foreign() -> AccessDenied:
    return AccessDenied("The request comes from a page of another site", remedy="use the web UI's own page")
