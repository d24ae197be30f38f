"""Results as documents: the one way from a frozen dataclass to JSON, for the faces.

A result keeps its fields in the order in which people read them. A field declared with `optional()` is left out of the
document while it is None; every other field is always there.
"""

from collections.abc import Mapping, Set
from dataclasses import field, fields, is_dataclass
from datetime import datetime
from enum import Enum
from os import PathLike, fspath
from typing import Any

from sbh_pipelines.model import timestamp

_OPTIONAL = {"optional": True}


def optional() -> Any:
    """A field of a result that is None by default, and absent from its document then."""
    return field(default=None, metadata=_OPTIONAL)


def as_document(value: Any) -> Any:
    """`value` as JSON has it: dataclasses and mappings as objects, sequences as arrays, times in ISO 8601, enums by value.

    Raises TypeError for what has no such form.
    """
    if value is None or (isinstance(value, bool | int | float) and not isinstance(value, Enum)):
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        pairs = ((f, getattr(value, f.name)) for f in fields(value))
        return {f.name: as_document(v) for f, v in pairs if v is not None or not f.metadata.get("optional")}
    if isinstance(value, Mapping):
        return {str(as_document(name)): as_document(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [as_document(v) for v in value]
    if isinstance(value, Set):
        return sorted(as_document(v) for v in value)
    if isinstance(value, datetime):
        return timestamp(value)
    if isinstance(value, PathLike):
        return fspath(value)
    raise TypeError(f"{type(value).__name__} has no form as a document")
