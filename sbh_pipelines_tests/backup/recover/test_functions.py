"""A database whose constraints, indexes and columns call functions that find their names by the application's search path."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg2.extensions import make_dsn

from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.databases import Database, fresh_database
from sbh_pipelines_tests.support.own_server import VERSIONS, own_server
from sbh_pipelines_tests.support.restore.platform import PROGRAMS, content, same_definition

# `norm` and `words` are found by the database's search path only; `known` and `has_post` read tables: of all, and of tenants.
FUNCTIONS = """
CREATE SCHEMA lib; GRANT USAGE ON SCHEMA lib TO PUBLIC; SET search_path = public, lib;
CREATE FUNCTION lib.norm(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower($1)';
CREATE FUNCTION slug(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN norm($1); END';
CREATE TABLE words (word text PRIMARY KEY); INSERT INTO words VALUES ('a'), ('b');
CREATE FUNCTION known(text) RETURNS bool LANGUAGE sql STABLE AS 'SELECT EXISTS (SELECT FROM words WHERE word = norm($1))';
CREATE FUNCTION has_post(int) RETURNS bool LANGUAGE plpgsql STABLE AS 'BEGIN RETURN EXISTS (SELECT FROM posts WHERE id = $1); END';
CREATE DOMAIN known_word AS text CONSTRAINT "is known" CHECK (VALUE IS NULL OR known(VALUE)) CHECK (VALUE <> 'x');
CREATE TABLE answers (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, post_id int,
    CONSTRAINT "has a post" CHECK (has_post(post_id)), CONSTRAINT plain CHECK (id > 0)) PARTITION BY RANGE (id);
CREATE TABLE answers_1 PARTITION OF answers FOR VALUES FROM (1) TO (5);
CREATE TABLE answers_2 PARTITION OF answers DEFAULT;
CREATE TABLE posts (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, title text, word known_word,
    slug text GENERATED ALWAYS AS (slug(title)) STORED, CONSTRAINT "not empty" CHECK (slug(title) <> '') NO INHERIT);
CREATE INDEX posts_slug ON posts (slug(title)); CREATE UNIQUE INDEX ON posts (tenant_id, slug(title));
CREATE INDEX posts_part ON posts (id) WHERE slug(title) <> 'b';
ALTER TABLE posts ADD CONSTRAINT "once each" EXCLUDE USING btree (slug(title) WITH =) WHERE (slug(title) <> '');
CREATE INDEX answers_slug ON answers (slug(id::text));
CREATE STATISTICS posts_statistics ON slug(title), tenant_id FROM posts;
COMMENT ON CONSTRAINT "has a post" ON answers IS 'it''s so'; COMMENT ON CONSTRAINT "is known" ON DOMAIN known_word IS 'known';
INSERT INTO posts (id, tenant_id, title, word) SELECT n, 1 + n % 2, 'Title ' || n, CASE n % 3 WHEN 0 THEN 'a' WHEN 1 THEN 'B' END
    FROM generate_series(1, 12) n;
INSERT INTO answers SELECT n, 1 + n % 2, n FROM generate_series(1, 12) n;
"""


@pytest.fixture
def database(embedded_stack: Stack, tmp_path: Path) -> Iterator[Application]:
    with fresh_database(embedded_stack) as made:
        application = Application(made, tmp_path)
        application.create()
        made.run(FUNCTIONS, f"ALTER DATABASE {made.name} SET search_path = public, lib")
        yield application


def _recovered(application: Application, target: Database) -> None:
    service = application.service(platform=PROGRAMS, database={"shared": ["words"]})
    dsn = make_dsn(target.stack.dsn(postgres.ADMIN), dbname=target.name)
    report = service.platform.recover(dsn, ADMIN, confirm=True, files=False)
    assert report.status == "completed"
    # The server's own ANALYZE fails on such a table as well: of a function it finds no names.
    assert {one.what for one in report.left_out} <= {f"ANALYZE public.{name}" for name in _ANALYZED}
    assert content(target) == content(application.database)
    same_definition(application.database, target)


_ANALYZED = ("posts", "answers", "answers_1", "answers_2")


def test_they_come_back_and_drills_pass(database: Application, embedded_stack: Stack) -> None:
    """To the last comment, and validated."""
    settings = {"dsn": make_dsn(embedded_stack.dsn(postgres.BACKUP), dbname="postgres")}
    service = database.service(platform=PROGRAMS, database={"shared": ["words"]}, drill=settings)
    service.backups.create_all([ACME, BOLT], ADMIN)
    service.platform.create(ADMIN)
    with fresh_database(embedded_stack) as target:
        _recovered(database, target)
    record = service.drills.run(ACME, ADMIN, scenarios=["database corruption", "configuration error"])
    assert record.status == "passed", record.error


def test_a_check_that_does_not_hold_any_more_is_there_and_told(database: Application, embedded_stack: Stack) -> None:
    """What it read was changed since the row was written: the server never looked again."""
    database.database.run("DELETE FROM words WHERE word = 'b'")
    service = database.service(platform=PROGRAMS, database={"shared": ["words"]})
    service.backups.create_all([ACME, BOLT], ADMIN)
    service.platform.create(ADMIN)
    with fresh_database(embedded_stack) as target:
        dsn = make_dsn(embedded_stack.dsn(postgres.ADMIN), dbname=target.name)
        report = service.platform.recover(dsn, ADMIN, confirm=True, files=False)
        assert report.status == "completed"
        assert any('"is known"' in one.what and "not validated" in one.why for one in report.left_out)
        assert target.ask("SELECT conname FROM pg_constraint WHERE contype = 'c' AND NOT convalidated") == [
            ("is known",)
        ]
        assert content(target) == content(database.database)


# Before PostgreSQL 17 such indexes can be made over rows, and whatever plans for the table looks into them.
OF_15 = """
SET search_path = public, lib;
CREATE FUNCTION sql_slug(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT norm($1)';
CREATE INDEX sql_index ON posts (sql_slug(title));
CREATE MATERIALIZED VIEW slugs AS SELECT sql_slug(title) AS slug FROM posts;
CREATE TABLE names (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, name text);
INSERT INTO names SELECT n, 1 + n % 2, 'name ' || n FROM generate_series(1, 12) n;
CREATE FUNCTION named(int) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT name FROM public.names WHERE id = $1';
CREATE INDEX named_index ON answers_1 (named(post_id));
"""


def test_indexes_of_an_older_release_come_back(tmp_path: Path) -> None:
    """One over a function that reads a table comes after the rows, or its entries would be of rows that are not there yet."""
    with own_server(15) as server:
        application = Application(server.create_database("app"), tmp_path)
        application.create()
        application.database.run(FUNCTIONS, "ALTER DATABASE app SET search_path = public, lib", OF_15)
        application.database.let_go()  # who had a session before has another search path
        programs = {name: str(VERSIONS[15] / name) for name in PROGRAMS}
        service = application.service(platform=programs, database={"shared": ["words"]})
        service.backups.create_all([ACME, BOLT], ADMIN)
        service.platform.create(ADMIN)
        target = server.create_database("new")
        report = service.platform.recover(make_dsn(server.dsn(), dbname="new"), ADMIN, confirm=True, files=False)
        assert (report.status, report.left_out) == ("completed", [])
        assert content(target) == content(application.database)
        indexes = "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1"
        assert target.ask(indexes) == application.database.ask(indexes)
        assert target.ask("SET enable_seqscan = off; SELECT id FROM answers_1 WHERE named(post_id) = 'name 2'") == [
            (2,)
        ]
