"""GraphQL over websockets: subscriptions only, for as long as the session lasts.

Dagster sends logs of runs and news of code locations this way, and takes nothing else. The guard reads each message
before Dagster does, and ends the connection at the first that is not a subscription.
"""

import asyncio
import json
from collections.abc import Callable

from graphql import OperationType
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sbh_pipelines.errors import RequestError
from sbh_pipelines.orchestration.guarded_ui.request import Request, read_request

_HARMLESS = frozenset({"connection_init", "connection_terminate", "stop"})
_POLICY_VIOLATION = 1008
LOOK_AGAIN_S = 5.0  # how long a connection outlives a logout
LARGEST_MESSAGE = 1 << 20


async def guarded(
    app: ASGIApp,
    scope: Scope,
    receive: Receive,
    send: Send,
    left_s: Callable[[], float],
    permit: Callable[[Request], None],
) -> None:
    """Serve one connection. `left_s`: how long its user may still be here, s. `permit` raises for what they may not read."""
    closed = False

    async def close() -> Message:
        nonlocal closed
        if not closed:
            closed = True
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        return {"type": "websocket.disconnect", "code": _POLICY_VIOLATION}

    async def checked_receive() -> Message:
        if closed:
            return {"type": "websocket.disconnect", "code": _POLICY_VIOLATION}
        waiting = asyncio.ensure_future(receive())
        while not waiting.done():
            left = left_s()
            if left <= 0:
                waiting.cancel()
                return await close()
            await asyncio.wait({waiting}, timeout=min(left, LOOK_AGAIN_S))
        message = waiting.result()
        if message["type"] == "websocket.receive" and not _allowed(message, permit):
            return await close()
        return message

    async def checked_send(message: Message) -> None:
        nonlocal closed
        if closed:
            return
        closed = message["type"] == "websocket.close"
        await send(message)

    await app(scope, checked_receive, checked_send)


def _allowed(message: Message, permit: Callable[[Request], None]) -> bool:
    text = message.get("text")
    if not isinstance(text, str) or len(text) > LARGEST_MESSAGE:
        return False
    try:
        document = json.loads(text)
        if document["type"] in _HARMLESS:
            return True
        if document["type"] != "start":
            return False
        payload = document["payload"]
        # Dagster calls it `operation_name` here.
        request = read_request(
            {**payload, "operationName": payload.get("operation_name", payload.get("operationName"))}
        )
        permit(request)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, RequestError):
        return False
    return request.kind is OperationType.SUBSCRIPTION
