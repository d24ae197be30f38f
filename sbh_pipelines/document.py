"""Results as documents: the one way from a frozen dataclass to JSON, for the faces.

A result keeps its fields in the order in which people read them. A field declared with `optional()` is left out of the
document while it is None; every other field is always there.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import Field, field, fields, is_dataclass
from datetime import datetime
from enum import Enum
from functools import cache
from os import PathLike, fspath
from typing import Any

from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import timestamp

_OPTIONAL = {"optional": True}
_PLAIN = frozenset({str, int, float, bool})


def optional() -> Any:
    """A field of a result that is None by default, and absent from its document then."""
    return field(default=None, metadata=_OPTIONAL)


def unshown() -> Any:
    """A field of a result that faces need to know, and that is no part of its document."""
    return field(default=None, kw_only=True, metadata={"unshown": True})


def shown_fields(result: Any) -> Sequence[Field[Any]]:
    """The fields of a dataclass, or of one of its class, that its document has, in order."""
    return [of for of in fields(result) if not of.metadata.get("unshown")]


def is_optional(of: Field[Any]) -> bool:
    """Whether a field was declared with `optional()`."""
    return bool(of.metadata.get("optional"))


def keyed(key: str) -> Any:
    """A field whose key in the document is no name in Python."""
    return field(metadata={"key": key})


def key_of(of: Field[Any]) -> str:
    """The key that a field has in the document."""
    return str(of.metadata.get("key", of.name))


def whole() -> Any:
    """The one field of a class that keeps a stored document: the class stands for it."""
    return field(metadata={"whole": True})


@cache
def _form(kind: type) -> Sequence[tuple[str, str, bool, bool]]:
    """Of each shown field of a dataclass its name, its key, whether it may be absent, and whether it stands for the class."""
    shown = shown_fields(kind)
    return [(of.name, key_of(of), is_optional(of), len(shown) == 1 and bool(of.metadata.get("whole"))) for of in shown]


def as_document(value: Any, errors: Callable[[SbhError], Any] = SbhError.as_dict) -> Any:
    """`value` as JSON has it: dataclasses and mappings as objects, sequences as arrays, times in ISO 8601, enums by value,
    errors as `errors` shows them.

    Raises TypeError for what has no such form.
    """
    if (
        value is None
        or type(value) in _PLAIN
        or (isinstance(value, bool | int | float) and not isinstance(value, Enum))
    ):
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        found = {}
        for name, key, may_be_absent, stands_for_all in _form(type(value)):
            plain = as_document(getattr(value, name), errors)
            if stands_for_all:
                return plain
            if plain is not None or not may_be_absent:
                found[key] = plain
        return found
    if isinstance(value, SbhError):
        return errors(value)
    if isinstance(value, Mapping):
        return {str(as_document(name)): as_document(v, errors) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [as_document(v, errors) for v in value]
    if isinstance(value, Set):
        return sorted(as_document(v, errors) for v in value)
    if isinstance(value, datetime):
        return timestamp(value)
    if isinstance(value, PathLike):
        return fspath(value)
    raise TypeError(f"{type(value).__name__} has no form as a document")
