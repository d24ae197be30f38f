"""Values for people to read, whatever bytes they have: of databases in other encodings than UTF-8 as COPY text."""

import io

from sbh_pipelines.database.schema.key_hash import unescape
from sbh_pipelines.database.session.connection import Connection
from sbh_pipelines.database.session.copying import copy
from sbh_pipelines.database.session.encodings import parsable, printable, to_utf8
from sbh_pipelines.database.session.sql import UTF8, copy_options

_NULL = b"\\N"


def text_rows(connection: Connection, query: str, encoding: str) -> list[tuple[str | None, ...]]:
    r"""The rows of a query that gives text, in a database of this encoding; bytes that mean nothing in it come as `\xNN`."""
    cursor = connection.cursor()
    if encoding == UTF8:
        cursor.execute(query)
        found: list[tuple[str | None, ...]] = cursor.fetchall()
        return found
    text = io.BytesIO()
    copy(cursor, f"COPY ({query}) TO STDOUT{copy_options(encoding)}", text)
    return [tuple(_value(field, encoding) for field in line.split(b"\t")) for line in text.getvalue().split(b"\n")[:-1]]


def _value(field: bytes, encoding: str) -> str | None:
    return None if field == _NULL else printable(parsable(to_utf8(unescape(field), encoding)))
