"""Roles put into another server: their settings are data."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import pytest

from sbh_pipelines.database.rebuild.roles import list_elements, make_roles, search_path
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines_tests.support.databases import fresh_database

ROLE = "sbh roles test"


@pytest.mark.parametrize(
    ("value", "elements"),
    [
        ("", []),
        ("public", ["public"]),
        ('"$user", public', ["$user", "public"]),
        (' "a ""b"", c" ,\tD ', ['a "b", c', "d"]),
        ('""', [""]),
        ("a;DROP/**/ROLE/**/x", ["a;drop/**/role/**/x"]),
        ("Straße,ÄÖ", ["straße", "ÄÖ"]),
    ],
)
def test_a_list_of_names_is_split_as_the_server_splits_it(value: str, elements: list[str]) -> None:
    """Only ASCII letters are folded."""
    assert list_elements(value, lower=True) == elements


@pytest.mark.parametrize("value", [",", "a,", "a b", '"a', '"a" b', "a,,b"])
def test_what_is_no_list_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="no list"):
        list_elements(value, lower=True)


@pytest.fixture
def connection(embedded_stack: Stack) -> Iterator[Any]:
    """A superuser's, in a transaction that never ends well."""
    with fresh_database(embedded_stack) as database, closing(database.connect()) as made:
        made.cursor().execute("BEGIN")
        yield made


def _facts(settings: Sequence[tuple[str, str]], *, database: bool = False) -> Any:
    of = {"role": None if database else ROLE, "database": database}
    facts: Mapping[str, Sequence[Mapping[str, Any]]] = {
        "role": [{"rolname": ROLE, "rolcanlogin": True}],
        "setting": [{**of, "name": name, "value": value} for name, value in settings],
    }
    return lambda kind: facts.get(kind, ())


def _config(connection: Any) -> list[str]:
    cursor = connection.cursor()
    cursor.execute("SELECT coalesce(rolconfig, '{}') FROM pg_roles WHERE rolname = %s", (ROLE,))
    found: list[str] = cursor.fetchone()[0]
    return found


def test_a_setting_of_a_role_is_never_sql(connection: Any) -> None:
    """Any login role can write such a value into its own settings; a superuser's session brings them back."""
    attack = f'a;ALTER/**/ROLE/**/"{ROLE}"/**/SUPERUSER'
    hostile = [(name, attack.replace(f'"{ROLE}"', "postgres")) for name in ("search_path", "temp_tablespaces")]
    hostile += [
        ("work_mem", "8MB'; ALTER ROLE x SUPERUSER; --"),
        ('a"; DROP ROLE x; --.b', "1"),
        ("search_path", attack),
    ]
    made, left_out = make_roles(connection, _facts([*hostile, ("DateStyle", "ISO, DMY"), ("app.custom", "it's")]))
    assert made == [ROLE]
    cursor = connection.cursor()
    cursor.execute("SELECT rolsuper FROM pg_roles WHERE rolname = %s", (ROLE,))
    assert cursor.fetchone() == (False,)
    config = _config(connection)
    assert 'search_path="a;alter/**/role/**/postgres/**/superuser"' in config
    assert {"DateStyle=ISO, DMY", "app.custom=it's"} <= set(config)
    named = [one.what for one in left_out]
    assert [any(name in what for what in named) for name in ("work_mem", "DROP ROLE x", "search_path")] == [True] * 3


def test_lists_come_back_as_they_were(connection: Any) -> None:
    lists = [
        ("search_path", '"$user", "Odd %", public'),
        ("local_preload_libraries", '"a b", "C"'),
        ("session_preload_libraries", '""'),
    ]
    assert make_roles(connection, _facts(lists)) == ([ROLE], [])
    assert _config(connection) == [f"{name}={value}" for name, value in lists]


def test_what_the_server_does_not_know_is_told_and_keeps_nothing_else(connection: Any) -> None:
    _, left_out = make_roles(connection, _facts([("no_such_setting", "on"), ("work_mem", "8MB")]))
    assert [(one.what, "no_such_setting" in one.why) for one in left_out] == [
        (f'ROLE "{ROLE}" SET no_such_setting', True)
    ]
    assert _config(connection) == ["work_mem=8MB"]


def test_the_search_path_of_the_database() -> None:
    """It is there before rows are, and all else later."""
    assert search_path(_facts([("work_mem", "8MB"), ("search_path", 'public, "Öl"')], database=True)) == [
        "public",
        "Öl",
    ]
    assert search_path(_facts([("search_path", "public")])) == []
