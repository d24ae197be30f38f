"""The server's error codes: what each class and the codes that matter are to us, and that no error holds what a row holds."""

import re
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from psycopg2 import errorcodes

from sbh_pipelines.database.session.connection import connect, translated
from sbh_pipelines.database.session.sqlstate import CLASSES, CODES, FROM_CODE, GONE_MEANWHILE, LOST, TOO_LARGE, meaning
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import (
    PrivilegeMissing,
    RestoreConflict,
    RestoreRefused,
    SbhError,
    SchemaMismatch,
    SourceConflict,
    SourceError,
    SourceUnavailable,
    UnreadableRow,
)
from sbh_pipelines.settings import DatabaseSettings
from sbh_pipelines_tests.support.databases import fresh_database

# Which classes pass by themselves. A class is here or it is not: nobody may forget to decide.
TRANSIENT = {"08", "40", "53", "57", "72"}
TRANSIENT_CODES = {"40003", "55006", "55P03", "55P04", "57014", "53100", "53200", "53300", "08001", "08P01", "HV00N"}
LAST_RESORT = "see the server's log"

SCHEMA = """
CREATE TABLE t (id int PRIMARY KEY, word varchar(5), n int CHECK (n > 0), must int NOT NULL DEFAULT 1);
CREATE TABLE child (t_id int REFERENCES t);
INSERT INTO t VALUES (1, 'one', 1);
CREATE FUNCTION loud(text) RETURNS text LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'no: SECRET %', $1; END$$;
CREATE FUNCTION lost(text) RETURNS text LANGUAGE plpgsql AS $$BEGIN RETURN helper($1); END$$;
CREATE FUNCTION deep(int) RETURNS int LANGUAGE plpgsql AS $$BEGIN RETURN deep($1 + 1); END$$;
CREATE DOMAIN small AS int CHECK (VALUE < 10);
"""


def test_every_class_of_the_servers_is_in_the_table() -> None:
    known = {value for name, value in vars(errorcodes).items() if name.startswith("CLASS_")}
    assert known - CLASSES.keys() == set()


@pytest.mark.parametrize("code", sorted({*CLASSES, *CODES}))
def test_each_has_a_remedy_and_passes_or_not(code: str) -> None:
    means = meaning(code if len(code) == 5 else code + "ZZZ")
    assert means.kind.transient == (code in TRANSIENT_CODES if len(code) == 5 else code in TRANSIENT)
    for remedy in (means.remedy, means.to_do(writing=True)):
        assert len(remedy) > 20
        assert not remedy.endswith(".")
        assert LAST_RESORT not in remedy or code == "XX"


def test_codes_say_something_else_than_their_class() -> None:
    assert [code for code, means in CODES.items() if means == CLASSES[code[:2]]] == []


def test_what_has_no_code_or_a_code_of_the_applications() -> None:
    assert meaning("") is LOST
    assert meaning("AB123") is FROM_CODE
    assert meaning("XX000", "cache lookup failed for type 5") is GONE_MEANWHILE
    assert meaning("XX000", "invalid memory alloc request size 1073741824") is TOO_LARGE
    assert meaning("XX000", "something else") is CLASSES["XX"]


@pytest.fixture(scope="module")
def connection(embedded_stack: Stack) -> Iterator[Any]:
    with fresh_database(embedded_stack) as made:
        made.run(SCHEMA, "REVOKE EXECUTE ON FUNCTION lo_import(text) FROM PUBLIC", "CREATE ROLE sbh_nobody_here")
        with closing(connect(DatabaseSettings(dsn=made.dsn), "test")) as opened:
            yield opened
        made.run("DROP ROLE sbh_nobody_here")


@pytest.mark.parametrize(
    ("statement", "kind", "words"),
    [
        ("SELECT helper('SECRET')", SchemaMismatch, 'search_path = ["app", "public"]'),
        ("SELECT lost('SECRET')", SchemaMismatch, "search_path"),
        ("SELECT * FROM nowhere", SchemaMismatch, "search_path"),
        ("SELECT loud('x')", SourceError, "call that by hand"),
        ("SELECT 1/0", SchemaMismatch, "correct the one or the other"),
        ("SELECT (SELECT g FROM generate_series(1, 2) g)", SchemaMismatch, "LIMIT 1"),
        ("SELECT 1 = ANY(ARRAY['SECRET'::text])", SchemaMismatch, "search_path"),
        ("SELECT t.id FROM t JOIN t p ON t.word", SchemaMismatch, "cast one side"),
        ("SELECT lo_import('SECRET')", PrivilegeMissing, "GRANT"),
        ("SET ROLE sbh_nobody_here", PrivilegeMissing, "GRANT"),
        ("SELECT deep(1)", SourceError, "max_stack_depth"),
        ("BEGIN READ ONLY; DELETE FROM child", SourceError, "primary"),
        ("CREATE TEMP TABLE a(i int); CREATE TEMP TABLE a(i int)", SourceError, "another name"),
        ("SET statement_timeout = 1; SELECT pg_sleep(1)", SourceConflict, "statement_timeout_s"),
        ("SELECT repeat(repeat('x', 1000000), 2000)", UnreadableRow, "largest values"),
        ("SELECT t.id FROM t JOIN t p ON word", SchemaMismatch, "alias"),
        ("FETCH 1 FROM nothing", SourceError, "pool_mode is session"),
    ],
)  # fmt: skip
def test_reading(connection: Any, statement: str, kind: type[SbhError], words: str) -> None:
    error = refused(connection, statement, writing=False)
    assert (type(error), words in error.remedy) == (kind, True), error


@pytest.mark.parametrize(
    ("statement", "kind", "words"),
    [
        ("INSERT INTO t VALUES (1, 'SECRET')", SchemaMismatch, "into-schema"),
        ("INSERT INTO t VALUES (1, 'again')", RestoreConflict, "missing-only"),
        ("INSERT INTO t VALUES (2, 'two', -1)", RestoreRefused, "CHECK"),
        ("INSERT INTO t VALUES (2, 'two', 2, NULL)", RestoreRefused, "[restore.fill]"),
        ("INSERT INTO child VALUES (77)", RestoreRefused, "--tables"),
        ("INSERT INTO t VALUES ('SECRET'::int)", SchemaMismatch, "into-schema"),
        ("SELECT 99::small", RestoreRefused, "CHECK"),
        ("SELECT '{\"SECRET\": '::json", SchemaMismatch, "into-schema"),
    ],
)
def test_writing(connection: Any, statement: str, kind: type[SbhError], words: str) -> None:
    error = refused(connection, statement, writing=True)
    assert (type(error), words in error.remedy) == (kind, True), error


def test_the_function_of_the_application_is_named(connection: Any) -> None:
    assert "in the application's function lost(text)" in refused(connection, "SELECT lost('x')", writing=False).why


def test_the_session_that_is_ended(connection: Any, embedded_stack: Stack) -> None:
    with fresh_database(embedded_stack) as made, closing(connect(DatabaseSettings(dsn=made.dsn), "test")) as opened:
        made.ask("SELECT pg_terminate_backend(%s)", [opened.info.backend_pid])
        error = refused(opened, "SELECT 1", writing=False)
    assert (type(error), error.transient) == (SourceUnavailable, True)


def refused(connection: Any, statement: str, *, writing: bool) -> SbhError:
    """The error of a statement; nothing of the values in it is told."""
    with pytest.raises(SbhError) as caught, translated("try", "public.t", writing=writing):
        connection.cursor().execute(statement)
    if not connection.closed:
        connection.cursor().execute("ROLLBACK; SET statement_timeout = 0")
    said = str(caught.value)
    assert not re.search("SECRET", said), said
    assert isinstance(caught.value.__context__, psycopg2.Error)
    return caught.value
