"""Rows of nobody, and tenants' keys whose type has an equality of its own."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from sbh_pipelines.database.schema.inspect import stray_rows
from sbh_pipelines.database.schema.listing import find_listing
from sbh_pipelines.database.schema.tenancy import MappedTable, TenancyMap, load_map
from sbh_pipelines.database.session.connection import Connection, connect
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.support.blind_type import blind_type
from sbh_pipelines_tests.support.databases import Database

SCHEMA = """
CREATE TABLE tenants (id int PRIMARY KEY, slug text, region text, tier text);
INSERT INTO tenants VALUES (1, 'one', 'r', 't'), (2, 'two', 'r', 't');
CREATE TABLE roles (id int PRIMARY KEY, tenant_id int, name text);
INSERT INTO roles VALUES (1, NULL, 'built in'), (2, 1, 'custom'), (3, 9, 'of a tenant that is not listed');
CREATE TABLE rights (id int PRIMARY KEY, role_id int REFERENCES roles);
INSERT INTO rights VALUES (1, 1), (2, 2), (3, NULL), (4, 3);
CREATE TABLE words (right_id int NOT NULL REFERENCES rights, word text);
INSERT INTO words VALUES (1, 'a'), (1, 'b'), (2, 'c'), (3, 'd'), (4, 'e');
CREATE TABLE marks (id int PRIMARY KEY, kind text, about int);
INSERT INTO marks VALUES (1, 'role', 2), (2, 'role', 1), (3, 'role', 77), (4, 'other', 2);
CREATE TABLE tied (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants);
INSERT INTO tied VALUES (1, 1);
CREATE TABLE tied_too (id int PRIMARY KEY, tied_id int NOT NULL REFERENCES tied);
"""
LINKS = [{"table": "marks", "parent": "roles", "join": "t.kind = 'role' AND t.about = p.id"}]


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    database.run(SCHEMA)
    with closing(connect(settings(database).database, "test")) as made:
        yield made


def settings(database: Database, **fields: object) -> Settings:
    return Settings(database={"dsn": database.dsn, "links": LINKS, **fields})  # type: ignore[arg-type]


def table(tenancy: TenancyMap, name: str) -> MappedTable:
    found = tenancy.find(f"public.{name}")
    assert found is not None
    return found


def ids(connection: Connection, mapped: MappedTable, column: str = "id") -> list[object]:
    cursor = connection.cursor()
    cursor.execute(f"SELECT t.{column} FROM {mapped.own_source} WHERE {mapped.belongs_to_nobody} ORDER BY 1")
    return [value for (value,) in cursor.fetchall()]


def test_whose_way_to_a_tenant_ends_belongs_to_nobody(connection: Connection, database: Database) -> None:
    """At a NULL, wherever on the way, or at no row. A tenant that is not listed is a tenant."""
    tenancy = load_map(connection, settings(database))
    assert ids(connection, table(tenancy, "roles")) == [1]
    assert ids(connection, table(tenancy, "rights")) == [1, 3]
    assert ids(connection, table(tenancy, "words"), "word") == ["a", "b", "d"]
    assert ids(connection, table(tenancy, "marks")) == [2, 3, 4]
    assert ids(connection, table(tenancy, "tenants")) == []
    tied = {mapped.table.name: mapped.always_belongs for mapped in tenancy.tables}
    assert tied == {
        "tenants": True,
        "roles": False,
        "rights": False,
        "words": False,
        "marks": False,
        "tied": True,
        "tied_too": True,
    }


def test_rows_of_nobody_and_of_unlisted_tenants_are_told_apart(connection: Connection, database: Database) -> None:
    chosen = settings(database)
    tenancy = load_map(connection, chosen)
    found = {
        stray.table.removeprefix("public."): (stray.unlinked, stray.unknown_tenant)
        for mapped in tenancy.tables
        if (stray := stray_rows(connection, mapped, find_listing(connection, chosen), 20.0))
    }
    assert found == {"roles": (1, 1), "rights": (2, 1), "words": (3, 1), "marks": (3, 0)}


@pytest.mark.parametrize("kind", ["made.blind", "made.key"])
def test_a_key_is_compared_as_its_type_compares(database: Database, kind: str) -> None:
    """By an equality that an extension brought, as citext does; also of a domain over such a type."""
    database.run(
        blind_type(),
        "CREATE DOMAIN made.key AS made.blind;"
        f"CREATE TABLE tenants (id {kind} PRIMARY KEY, slug text, region text, tier text);"
        "INSERT INTO tenants VALUES ('acme', 'one', 'r', 't');"
        f"CREATE TABLE a (id int PRIMARY KEY, tenant_id {kind} REFERENCES tenants);"
        "INSERT INTO a VALUES (1, 'acme'), (2, 'ACME'), (3, NULL)",
    )
    chosen = Settings(database={"dsn": database.dsn})  # type: ignore[arg-type]
    with closing(connect(chosen.database, "test")) as connection:
        tenancy = load_map(connection, chosen)
        mapped = table(tenancy, "a")
        cursor = connection.cursor()
        cursor.execute(f"SELECT count(*) FROM {mapped.source} WHERE {mapped.tenant_is(['acme'])}")
        assert cursor.fetchone() == (2,)
        assert ids(connection, mapped) == [3]
        found = stray_rows(connection, mapped, find_listing(connection, chosen), 20.0)
        assert found is not None
        assert (found.unlinked, found.unknown_tenant) == (1, 0)
