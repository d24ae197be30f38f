"""A COPY that the server ends: the first reason is raised, and nothing of a row is printed or told."""

import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from io import BytesIO
from typing import Any

import pytest

from sbh_pipelines.database.session.connection import connect, translated
from sbh_pipelines.database.session.copying import copy, copy_in
from sbh_pipelines.errors import SbhError, SourceUnavailable
from sbh_pipelines.settings import DatabaseSettings
from sbh_pipelines_tests.support.databases import Database

ROW = b"SECRET-OF-A-CUSTOMER " + b"x" * 900 + b"\n"


@pytest.fixture
def connection(database: Database) -> Iterator[Any]:
    database.run("CREATE TABLE t (x text)", "INSERT INTO t SELECT 'SECRET-OF-A-CUSTOMER' FROM generate_series(1, 5000)")
    with closing(connect(DatabaseSettings(dsn=database.dsn), "test")) as opened:
        yield opened


@pytest.mark.parametrize("after", [1, 3, 20])
def test_a_load_that_is_ended(
    connection: Any, database: Database, after: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """Wherever the server is in it."""
    hook = sys.excepthook

    def pieces() -> Iterator[bytes]:
        for number in range(60):
            if number == after:
                database.ask("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
            yield ROW * 1000

    with pytest.raises(SourceUnavailable) as caught, translated("load rows", "public.t", writing=True):
        copy_in(connection.cursor(), "t", pieces(), "UTF8")
    assert "SECRET" not in str(caught.value)
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")
    assert sys.excepthook is hook


def test_a_read_that_is_ended(connection: Any, database: Database, capfd: pytest.CaptureFixture[str]) -> None:
    class Ending(BytesIO):
        def write(self, data: Any) -> int:
            with suppress(Exception):
                database.ask("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
            return len(data)

    query = "COPY (SELECT repeat(x, 2000) FROM t, generate_series(1, 20)) TO STDOUT"
    with pytest.raises(SbhError) as caught, translated("read a table", "public.t"):
        copy(connection.cursor(), query, Ending())
    assert caught.value.transient
    assert "SECRET" not in capfd.readouterr().err + str(caught.value)


def test_what_the_pieces_raise_is_raised(connection: Any) -> None:
    def pieces() -> Iterator[bytes]:
        yield ROW
        raise KeyError("here")

    with pytest.raises(KeyError):
        copy_in(connection.cursor(), "t", pieces(), "UTF8")
