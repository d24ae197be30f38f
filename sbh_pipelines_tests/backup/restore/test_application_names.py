"""Functions of the application that use names without a schema, wherever a table may call one: rows go out and come back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.document import as_document
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines_tests.support.application import ACME, ADMIN, Application
from sbh_pipelines_tests.support.databases import Database, fresh_database
from sbh_pipelines_tests.support.own_server import OwnServer, own_server

# A table for each place. `norm` is inlined by the planner, `slug` and `known` are called when rows are written.
FUNCTIONS = """
CREATE TABLE words (word text PRIMARY KEY); INSERT INTO words VALUES ('a'), ('b');
CREATE FUNCTION lowered(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower($1)';
CREATE FUNCTION norm(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lowered($1)';
CREATE FUNCTION slug(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN lowered($1); END';
CREATE FUNCTION known(text) RETURNS bool LANGUAGE sql STABLE AS 'SELECT EXISTS (SELECT FROM words WHERE word = $1)';
CREATE FUNCTION on_write() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.word := lowered(NEW.word); RETURN NEW; END';
CREATE DOMAIN known_word AS text CHECK (known(VALUE));
"""
_CALLED = """CREATE OR REPLACE FUNCTION norm(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN lowered($1); END'"""
_ID = "id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants"
PLACES = {
    "in_index": f"({_ID}, word text)",
    "in_unique": f"({_ID}, word text)",
    "in_predicate": f"({_ID}, word text)",
    "in_statistics": f"({_ID}, word text)",
    "in_check": f"({_ID}, word text CHECK (known(word)))",
    "in_domain": f"({_ID}, word known_word)",
    "in_column": f"({_ID}, word text, made text GENERATED ALWAYS AS (slug(word)) STORED)",
    "in_default": f"({_ID}, word text DEFAULT slug('A'))",
    "in_trigger": f"({_ID}, word text)",
}
EVERYWHERE = """
CREATE INDEX ON in_index (norm(word)); CREATE INDEX ON in_index (slug(word));
CREATE UNIQUE INDEX ON in_unique (tenant_id, slug(word), id);
CREATE INDEX ON in_predicate (tenant_id) WHERE norm(word) <> '';
CREATE STATISTICS words_of ON norm(word), tenant_id FROM in_statistics;
CREATE TRIGGER written BEFORE INSERT ON in_trigger FOR EACH ROW EXECUTE FUNCTION on_write();
ALTER TABLE in_trigger ENABLE ALWAYS TRIGGER written;
"""


@pytest.fixture(scope="module")
def server_15() -> Iterator[OwnServer]:
    with own_server(15) as running:
        yield running


@pytest.fixture(params=[18, 15])
def application(request: pytest.FixtureRequest, embedded_stack: Stack, tmp_path: Path) -> Iterator[Application]:
    def made(database: Database) -> Application:
        application = Application(database, tmp_path)
        application.create()
        return application

    if request.param == 18:
        with fresh_database(embedded_stack) as database:
            yield made(database)
    else:
        server: OwnServer = request.getfixturevalue("server_15")
        yield made(server.create_database(f"names_{request.node.originalname}"))


def test_wherever_a_table_calls_a_function(application: Application) -> None:
    database = application.database
    tables = [f"CREATE TABLE {name} {columns}" for name, columns in PLACES.items()]
    # From PostgreSQL 17 on an index finds no such names when it is made: neither in rows that are there nor by inlining.
    old = database.ask("SELECT current_setting('server_version_num')::int < 170000") == [(True,)]
    called = () if old else (_CALLED,)
    rows = [
        f"INSERT INTO {n} (id, tenant_id, word) SELECT n, 1 + n % 2, 'a' FROM generate_series(1, 9) n" for n in PLACES
    ]
    database.run(FUNCTIONS, *called, *tables, EVERYWHERE, *rows)
    if old:
        database.run("ANALYZE in_statistics")  # a later one fails on it by itself
    service = application.service(database={"shared": ["words"]})

    def state() -> dict[str, bytes]:
        return {name: database.copy(f"SELECT * FROM {name} ORDER BY id") for name in PLACES}

    before = state()
    backup = service.backups.create(ACME, ADMIN)
    database.run(*(f"UPDATE {name} SET word = 'b' WHERE id < 4" for name in PLACES))
    service.backups.create(ACME, ADMIN, "incremental")
    database.run(*(f"DELETE FROM {name} WHERE id < 6 AND tenant_id = 1" for name in PLACES))
    database.run(*(f"UPDATE {name} SET word = 'a' WHERE tenant_id = 2" for name in PLACES))
    service.restores.run(backup.id, ACME, ADMIN, RestoreRequest())
    assert state() == before


def test_values_that_are_names_are_stored_with_their_schema(application: Application) -> None:
    """Their text depends on the path; it leads to the same object whatever the path is when it comes back."""
    database = application.database
    database.run(
        "CREATE TYPE one AS (what regclass)",
        "CREATE TABLE named (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, what regclass, more one[])",
        "INSERT INTO named VALUES (1, 1, 'projects', ARRAY[ROW('notes')]::one[])",
        "CREATE SCHEMA other; CREATE TABLE other.projects (id int)",
    )
    application.service().backups.create(ACME, ADMIN)
    database.run("DELETE FROM named")
    service = application.service(database={"search_path": ["other", "public"]})
    service.restores.run("latest", ACME, ADMIN, RestoreRequest())
    assert database.ask(
        "SELECT what = 'public.projects'::regclass, more[1] = ROW('public.notes'::regclass)::one FROM named"
    ) == [(True, True)]


def test_an_operator_of_an_extensions_type(server_15: OwnServer, tmp_path: Path) -> None:
    """Of citext in `public`: not found, another would be taken, and rows be missing without a word."""
    database = server_15.create_database("citext")
    database.run("CREATE EXTENSION citext")
    application = Application(database, tmp_path)
    application.create()
    database.run(
        "CREATE TABLE users (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, email citext UNIQUE)",
        "CREATE TABLE logins (id int PRIMARY KEY, email citext)",
        "INSERT INTO users VALUES (1, 1, 'Ann@x.org'), (2, 2, 'bob@x.org')",
        "INSERT INTO logins VALUES (1, 'Ann@x.org'), (2, 'ann@X.ORG'), (3, 'bob@x.org')",
    )
    service = application.service(
        database={"links": [{"table": "logins", "parent": "users", "join": "t.email = p.email"}]}
    )
    backup = service.backups.create(ACME, ADMIN)
    database.run("DELETE FROM logins WHERE id < 3")
    request = RestoreRequest(rows="users where email = 'ANN@X.ORG'")
    plan: Any = as_document(service.restores.plan(backup.id, ACME, ADMIN, request))
    assert {t["table"]: t["insert"] for t in plan["tables"]}["public.logins"] == 2
    service.restores.run(backup.id, ACME, ADMIN, request)
    assert database.ask("SELECT id, email::text FROM logins ORDER BY 1") == [
        (1, "Ann@x.org"),
        (2, "ann@X.ORG"),
        (3, "bob@x.org"),
    ]
