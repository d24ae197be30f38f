"""Which answers a route may give besides the one it is for: for the OpenAPI document, and for the tests that hold it true."""

from typing import Any

from pydantic import BaseModel

from sbh_pipelines.api.schema import answers
from sbh_pipelines.api.schema.problems import MEDIA_TYPE

Responses = dict[int | str, dict[str, Any]]

_WHAT = {
    400: "The request is wrong.",
    401: "No token, or one that is not believed.",
    403: "The role or the tenant of the token does not allow it.",
    404: "No such tenant, backup, restore or operation.",
    408: "The body did not arrive in time.",
    409: "It cannot be done now: not confirmed, other work is under way, or the state does not allow it.",
    410: "The tenant's backups were erased.",
    413: "The body is too long.",
    415: "The body is not JSON.",
    422: "A field or an id is malformed, or the idempotency key was used for another request.",
    429: "Too many requests; `Retry-After` says when to try again.",
    500: "Something is damaged, or unexpected.",
    502: "The database, the store, the key service or Dagster refused.",
    503: "It may succeed later; `Retry-After` says when to try again.",
}


def _problem(status: int) -> dict[str, Any]:
    headers: dict[str, Any] = {}
    if status in (429, 503):
        headers = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "string"}}}
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        "description": _WHAT[status],
        "content": {MEDIA_TYPE: {"schema": schema}},
        **({"headers": headers} if headers else {}),
    }


READS: Responses = {status: _problem(status) for status in _WHAT}
_LOCATION = {"Location": {"description": "The operation.", "schema": {"type": "string"}}}
LAUNCHES: Responses = {
    **READS,
    202: {"description": "Launched; watch the operation.", "model": answers.Accepted, "headers": _LOCATION},
}


def answered(others: Responses, status: int, model: type[BaseModel] | None = None, description: str = "") -> Responses:
    """The same with one more."""
    more: dict[str, Any] = {"description": description or "It has not changed."}
    return {**others, status: more | ({"model": model} if model else {})}
