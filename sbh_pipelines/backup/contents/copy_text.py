"""COPY text as values: what a backup's rows mean, without a database.

A backup holds rows as PostgreSQL's COPY wrote them (PostgreSQL documentation, COPY, "Text Format"), and the table's header
has the columns' types as `format_type` names them. A field is the text of the type's output function, escaped; NULL is `\\N`.
Where Python has the type, `decoder` gives its value, exactly; where it has not (intervals, ranges, types of extensions, moments
before Christ or at infinity), the text is the value. Nothing is ever rounded to fit.
"""

import json
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from sbh_pipelines.database.schema.key_hash import unescape
from sbh_pipelines.database.schema.table_header import (
    FLOATS,
    INTEGERS,
    JSON,
    TIMESTAMP,
    TIMESTAMPTZ,
    ColumnType,
    TableHeader,
)
from sbh_pipelines.database.session.encodings import is_text, parsable, printable, to_utf8
from sbh_pipelines.errors import CorruptObject

NULL = b"\\N"

_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def row_lines(pieces: Iterable[bytes], most: int) -> Iterator[list[bytes]]:
    """The rows of pieces of COPY text, each of whole rows, at most `most` at a time and never of two pieces."""
    for piece in pieces:
        lines = piece.split(b"\n")
        lines.pop()
        for first in range(0, len(lines), most):
            yield lines[first : first + most]


def fields_of(line: bytes) -> list[bytes | None]:
    """A row's fields as the output functions wrote them."""
    if b"\\" not in line:
        return list(line.split(b"\t"))
    return [None if field == NULL else unescape(field) for field in line.split(b"\t")]


def fields_by_column(lines: Sequence[bytes], header: TableHeader) -> list[list[bytes | None]]:
    """The fields of many rows, column by column. Raises CorruptObject."""
    rows = [line.split(b"\t") for line in lines]
    try:
        found = list(zip(*rows, strict=True))
    except ValueError:
        found = []
    if len(found) != len(header.columns):
        raise CorruptObject("A row has another number of fields than its table has columns", on=header.full_name)
    return [
        [None if f == NULL else unescape(f) for f in fields] if b"\\" in b"".join(fields) else list(fields)
        for fields in found
    ]


def in_utf8(pieces: Iterable[bytes], header: TableHeader, stray: Counter[str] | None = None) -> Iterator[bytes]:
    """COPY text of a table in UTF-8. Bytes that mean nothing in its encoding stay; `stray` counts the values that have any, by
    column.
    """
    for piece in pieces:
        text = to_utf8(piece, header.encoding)
        if stray is not None and not is_text(text):
            for line in text.split(b"\n"):
                if not is_text(line):
                    named = zip(header.column_names, line.split(b"\t"), strict=False)
                    stray.update(name for name, field in named if not is_text(field))
        yield text


def as_text(field: bytes) -> str:
    """A field as a string; bytes that are no UTF-8, as databases without an encoding can hold, are written as `\\xNN`."""
    return printable(parsable(field))


Decode = Callable[[str], Any]


def decoder(kind: ColumnType) -> Decode:
    """From the text of a value (`parsable`) to the value.

    Raises ValueError where Python has no such value, and its text must do.
    """
    if kind.array:
        element, delimiter = decoder(kind.element), kind.delimiter
        return lambda text: _each(parse_array(text, delimiter), element)
    scalar = _scalar(kind)
    return lambda text: scalar(printable(text))


def _scalar(kind: ColumnType) -> Decode:
    if kind.base in INTEGERS:
        return int
    if kind.base in FLOATS:
        return float
    if kind.base in JSON:
        return _json
    return _DECODERS.get(kind.base, str)


def value_of(field: bytes | None, decode: Decode) -> Any:
    """A field's value, or its text where Python has no such value."""
    if field is None:
        return None
    text = parsable(field)
    try:
        return decode(text)
    except (ValueError, ArithmeticError):
        return printable(text)


def parse_array(text: str, delimiter: str = ",") -> list[Any]:
    """An array's elements as text (None for NULL), nested as deep as its dimensions.

    Raises ValueError for arrays whose indexes do not begin at 1, as `[0:1]={1,2}`: a list does not say so.
    """
    if not text.startswith("{"):
        raise ValueError("not an array whose indexes begin at 1")
    stack: list[list[Any]] = []
    plain = re.compile(f"[^}}{re.escape(delimiter)}]+")  # nosemgrep: expression-of-others - escaped
    at = 0
    while at < len(text):
        mark = text[at]
        if mark == "{":
            stack.append([])
        elif mark == "}":
            done = stack.pop()
            if not stack:
                return done
            stack[-1].append(done)
        elif mark == '"':
            found = _QUOTED.match(text, at)
            if found is None:
                break
            stack[-1].append(printable(_ESCAPED.sub(r"\1", found[1])))
            at = found.end() - 1
        elif mark != delimiter and (found := plain.match(text, at)):
            stack[-1].append(None if found[0] == "NULL" else printable(found[0]))
            at = found.end() - 1
        at += 1
    raise ValueError("malformed array")


def _each(items: list[Any], decode: Decode) -> list[Any]:
    return [None if item is None else _each(item, decode) if isinstance(item, list) else decode(item) for item in items]


def _boolean(text: str) -> bool:
    return {"t": True, "f": False}[text]


def _bytes(text: str) -> bytes:
    if not text.startswith("\\x"):
        raise ValueError("not hex")
    return bytes.fromhex(text[2:])


def _time(text: str) -> time:
    if text.startswith("24"):  # the end of a day: Python's times have none, and some releases read it as 00:00
        raise ValueError("24:00:00")
    return time.fromisoformat(text)


def _json(text: str) -> Any:
    try:
        return json.loads(text, parse_float=_number, parse_int=_integer)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _number(text: str) -> Any:
    """A float where it says as much as the text, else a Decimal."""
    nearest = float(text)
    exact = Decimal(text)
    return nearest if exact == Decimal(repr(nearest)) else exact


def _integer(text: str) -> Any:
    return int(text) if len(text) < 4000 else Decimal(text)  # Python refuses to read longer ones as int


_DECODERS: dict[str, Decode] = {
    "boolean": _boolean,
    "numeric": Decimal,
    "date": date.fromisoformat,
    "time without time zone": _time,
    TIMESTAMP: datetime.fromisoformat,
    TIMESTAMPTZ: datetime.fromisoformat,
    "uuid": uuid.UUID,
    "bytea": _bytes,
}
