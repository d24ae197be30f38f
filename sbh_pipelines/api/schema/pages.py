"""Pages of long lists: a limit, and an opaque cursor that says where the last page ended."""

import base64
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from fastapi import Query
from pydantic import AfterValidator, AwareDatetime, BeforeValidator

from sbh_pipelines.errors import InvalidId
from sbh_pipelines.model import unparsed

T = TypeVar("T")

Limit = Annotated[int, Query(ge=1, le=200, description="Entries on a page.")]
Cursor = Annotated[
    str | None, Query(max_length=400, description="`next_cursor` of the page before; leave it out for the first page.")
]


def _written_out(value: Any) -> Any:
    """Refuses numbers, which pydantic would take for seconds since 1970."""
    if isinstance(value, str) and "-" not in value[1:]:
        raise ValueError("write it as 2024-01-15T12:00:00Z")
    return value


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("UTC has no such date") from None


Moment = Annotated[AwareDatetime, BeforeValidator(_written_out), AfterValidator(_in_utc)]


def encode(position: Sequence[str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(list(position)).encode()).decode().rstrip("=")


def decode(cursor: str, parts: int) -> list[str]:
    """Raises InvalidId."""
    try:
        found = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
        if isinstance(found, list) and len(found) == parts and all(map(_sound, found)):
            return found
    except (ValueError, RecursionError):
        pass
    raise InvalidId("Not a cursor", on=unparsed(cursor), remedy="use `next_cursor` of a page, unchanged")


def _sound(part: object) -> bool:
    """All that pages are ordered by is plain text; a lone surrogate or a NUL would break what it is passed on to."""
    return isinstance(part, str) and part.isascii() and part.isprintable()


def page(
    entries: Sequence[T], position: Callable[[T], tuple[str, ...]], parts: int, limit: int, cursor: str | None
) -> tuple[Sequence[T], str | None]:
    """A page of `entries`, which are in descending order of `position` (of so many parts), and the cursor of the next one.

    What is added or removed between two pages moves nothing else onto another page.
    """
    if cursor is not None:
        after = tuple(decode(cursor, parts))
        entries = [entry for entry in entries if position(entry) < after]
    shown = entries[:limit]
    return shown, encode(position(shown[-1])) if len(entries) > len(shown) else None
