"""Where names are found: those of our own SQL, and those that code of the application uses."""

from contextlib import closing
from typing import Any

import pytest

from sbh_pipelines.database.schema.catalog import read_catalog
from sbh_pipelines.database.session.connection import connect
from sbh_pipelines.database.session.search_path import application_path, own_names, split
from sbh_pipelines.settings import DatabaseSettings
from sbh_pipelines_tests.support.databases import Database


def path(connection: Any) -> str:
    cursor = connection.cursor()
    cursor.execute("SHOW search_path")
    return str(cursor.fetchone()[0])


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ('"$user", public', ["$user", "public"]),
        ("app,  Public", ["app", "public"]),
        ('"Odd ""one""", "a,b", c', ['Odd "one"', "a,b", "c"]),
        ("", []),
        ('""', [""]),
    ],
)
def test_a_value_is_taken_apart_as_the_server_does(value: str, names: list[str]) -> None:
    assert split(value) == names


def test_what_counts_for_the_applications_names() -> None:
    """The settings, else the database, else all that may be meant; never a schema that a role's name chooses."""
    settings = DatabaseSettings(schemas=["app"], search_path=["a", "pg_temp", "$user", "a"])
    assert application_path(settings, "search_path=b", ["e"]) == 'pg_catalog, "a", pg_temp'
    settings = DatabaseSettings(schemas=["app"])
    assert application_path(settings, 'search_path="$user", b, pg_catalog', ["e"]) == 'pg_catalog, "b", pg_temp'
    assert application_path(settings, None, ["e", "app"]) == 'pg_catalog, "app", "public", "e", pg_temp'


def test_the_roles_own_path_and_schema_do_not_count(either: Database) -> None:
    either.run(
        "CREATE SCHEMA sbh_backup AUTHORIZATION sbh_backup",
        f"ALTER ROLE sbh_backup IN DATABASE {either.name} SET search_path = sbh_backup",
    )
    with closing(connect(DatabaseSettings(dsn=either.dsn), "test")) as connection:
        assert path(connection) == "pg_catalog, public, pg_temp"


def test_the_database_says_where(either: Database) -> None:
    either.run('CREATE SCHEMA "Own %s"', f'ALTER DATABASE {either.name} SET search_path = "Own %s", "$user", public')
    with closing(connect(DatabaseSettings(dsn=either.dsn), "test")) as connection:
        assert path(connection) == 'pg_catalog, "Own %s", public, pg_temp'


def test_the_catalogue_is_read_without_it(database: Database) -> None:
    """Texts of types are compared with those of backups: they are qualified, whatever the path."""
    database.run("CREATE TYPE mood AS ENUM ('sad')", "CREATE TABLE t (id int PRIMARY KEY, feeling mood DEFAULT 'sad')")
    with closing(connect(DatabaseSettings(dsn=database.dsn), "test")) as connection:
        (table,) = read_catalog(connection, ["public"]).tables.values()
        assert [(c.type, c.default) for c in table.columns] == [
            ("integer", None),
            ("public.mood", "'sad'::public.mood"),
        ]
        assert path(connection) == "pg_catalog, public, pg_temp"


@pytest.mark.parametrize("begin", ["", "BEGIN"])
def test_the_path_comes_back(database: Database, begin: str) -> None:
    """After a statement that failed as well, in a transaction with its rollback."""
    with closing(connect(DatabaseSettings(dsn=database.dsn), "test")) as connection:
        cursor = connection.cursor()
        if begin:
            cursor.execute(begin)
        with own_names(connection):
            assert path(connection) == "pg_catalog, pg_temp"
        assert path(connection) == "pg_catalog, public, pg_temp"
        with pytest.raises(Exception, match="nowhere"), own_names(connection):
            cursor.execute("SELECT * FROM nowhere")
        if begin:
            cursor.execute("ROLLBACK")
        assert path(connection) == "pg_catalog, public, pg_temp"
