"""The driver (psycopg2), whose errors have nothing of a row in them from where they arise.

The text of a server's error goes on, after its first line, with details and with where it happened: the row that a COPY was at,
the key that is there twice. Whoever prints such an error, its cause or its context prints that as well, and runs of Dagster keep
what they print. So a cursor and a connection of ours cut it off before anybody can catch the error; `diag`, which nobody prints,
still has it.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import psycopg2.extensions

from sbh_pipelines.database.session.sqlstate import RAISED, without_values


class Cursor(psycopg2.extensions.cursor):  # type: ignore[misc]
    """A cursor whose errors say what the server said first, and no more."""

    def execute(self, query: Any, arguments: Any = None) -> None:
        with cut_off():
            super().execute(query, arguments)

    def copy_expert(self, sql: Any, file: Any, size: int = 8192) -> None:
        with cut_off():
            super().copy_expert(sql, file, size)


@contextmanager
def cut_off() -> Iterator[None]:
    """The driver's errors that pass through lose what may be of a row."""
    try:
        yield
    except psycopg2.Error as error:
        cut(error)
        raise


def cut(error: Any) -> Any:
    """The same error without what may be of a row in its text."""
    code, text = error.pgcode, told(error)
    error.args = (text,)
    error.__setstate__({"pgerror": text if error.pgerror else None, "pgcode": code})
    return error


def told(error: Any) -> str:
    """What the server, or the driver itself, says first; values of rows, and what the application's code says, are left out."""
    code = error.pgcode or ""
    if raised_by_application(error.diag.source_function or "", error.diag.source_file or ""):
        return RAISED
    said = error.diag.message_primary
    if said is None:  # of the driver, or of a session that is gone
        said = next(iter(str(error).splitlines()), "")
    return without_values(code, " ".join(said.split()))


def application_function(error: Any) -> str:
    """The application's function that the server was in, with its arguments' types; else empty."""
    before_rows = _ROWS.split(error.diag.context or "", maxsplit=1)[0]
    found = _FUNCTION.search(before_rows)
    return found[1] if found else ""


def raised_by_application(source_function: str, source_file: str) -> bool:
    """Whether the words of an error are those of the application's code, which may have put a row's values into them.

    Both as the server names its own sources.
    """
    return source_function in _RAISING or source_file in _LANGUAGES


_RAISING = ("exec_stmt_raise", "exec_stmt_assert")  # RAISE and ASSERT of PL/pgSQL
_LANGUAGES = ("plpy_elog.c", "plperl.c", "pltcl.c", "plv8.cc", "pllua.c")  # what code in other languages dies with
_ROWS = re.compile(r"^COPY ", re.MULTILINE)  # the line that a COPY was at, and what it holds
_FUNCTION = re.compile(r'^(?:SQL|PL/\w+) function "?([^"\n]{0,200}?\([^)\n]{0,2000}\)|[^"\s]+)', re.MULTILINE)
