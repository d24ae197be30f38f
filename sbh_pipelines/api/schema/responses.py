"""Which answers a route may give: for the OpenAPI document, and for the tests that hold it true."""

import inspect
import types
from collections.abc import Mapping
from dataclasses import is_dataclass
from enum import Enum
from functools import cache, reduce
from operator import or_
from os import PathLike
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model

from sbh_pipelines.api.schema import answers
from sbh_pipelines.api.schema.problems import MEDIA_TYPE, ErrorAnswer
from sbh_pipelines.document import is_optional, key_of, shown_fields
from sbh_pipelines.errors import SbhError

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


@cache
def model_of(result: type, **shown: Any) -> type[BaseModel]:
    """The response model of a dataclass, described by its docstring; it may have more keys than are named.

    `shown`: types of fields that callers are shown otherwise than the service has them.
    """
    what, told = described(result)
    hints = {**get_type_hints(result), **shown}
    columns: dict[str, Any] = {}
    for of in shown_fields(result):
        key = key_of(of)
        name = f"{key}_" if key != of.name or hasattr(BaseModel, key) else key
        default = None if is_optional(of) else ...
        columns[name] = (_on_the_wire(hints[of.name]), Field(default, alias=key, description=told.get(of.name)))
    examples = answers.EXAMPLES.get(result)
    extra: dict[str, Any] = {"examples": examples} if examples else {}
    config = ConfigDict(extra="allow", json_schema_extra=extra)
    made: type[BaseModel] = create_model(result.__name__, __config__=config, __doc__=what, **columns)
    return made


def described(result: type) -> tuple[str, Mapping[str, str]]:
    """(what a dataclass is, what each line of its `Attributes:` section, or of its bases', says)."""
    what, _, section = inspect.cleandoc(result.__doc__ or "").partition("\nAttributes:\n")
    told = {name: text for base in reversed(result.__bases__) for name, text in described(base)[1].items()}
    name = ""
    for line in section.splitlines():
        if line.startswith("    ") and not line.startswith("     "):
            name, _, text = line.strip().partition(":")
            told[name] = text.strip()
        elif line.strip() and name:
            told[name] += " " + line.strip()
    return what.strip(), told


def _on_the_wire(hint: Any) -> Any:
    """A type of a result as JSON has it: ids and paths as text, errors as their fields, sequences and sets as arrays."""
    if isinstance(hint, type) and not get_args(hint):
        if is_dataclass(hint):
            return model_of(hint)
        if issubclass(hint, SbhError):
            return model_of(ErrorAnswer)
        return str if issubclass(hint, str | PathLike) and not issubclass(hint, Enum) else hint
    origin, inner = get_origin(hint), tuple(map(_on_the_wire, get_args(hint)))
    if origin is None or origin is Literal:
        return hint
    if origin in (Union, types.UnionType):
        return reduce(or_, inner)
    if issubclass(origin, Mapping):
        return dict.__class_getitem__(inner)
    return list.__class_getitem__(inner[0])  # sequences, sets


def _problem(status: int) -> dict[str, object]:
    headers: dict[str, object] = {}
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
    202: {"description": "Launched; watch the operation.", "model": model_of(answers.Accepted), "headers": _LOCATION},
}


def answered(others: Responses, status: int, result: type | None = None, description: str = "") -> Responses:
    """`others` with one more, a result."""
    more: dict[str, object] = {"description": description or "It has not changed."}
    return {**others, status: more | ({"model": model_of(result)} if result else {})}
