"""Tables of a backup on a schema that changed since: what is decided, and what the SQL gives on a real server."""

from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from typing import Any

import psycopg2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbh_pipelines.database.merge.fit.conversion import assigned, from_text, widens
from sbh_pipelines.database.merge.fit.mapping import (
    SchemaDifference,
    TableMapping,
    map_tables,
    stored_key,
    wanted_columns,
)
from sbh_pipelines.database.schema.table_header import TableHeader
from sbh_pipelines.database.schema.tenancy import load_map
from sbh_pipelines.database.session.connection import connect
from sbh_pipelines.database.session.sql import sql_name
from sbh_pipelines.document import as_document
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.support.databases import Database, copy_text, fresh_database
from sbh_pipelines_tests.support.effort import examples
from sbh_pipelines_tests.support.values import DEFINITIONS, ENUM_LABELS, NASTY_TEXT, OWN, PLAIN

_KINDS = {name: kind for name, kind in {**PLAIN, **OWN}.items() if name not in ("vector", "xml")}
_THEN = [["id", "integer", True, ""], ["tenant_id", "integer", True, ""], ["title", "text", False, ""]]


@pytest.fixture(scope="module")
def server(embedded_stack: Stack) -> Iterator[tuple[Database, Any]]:
    """A database with types of its own, and a pinned session on it."""
    with fresh_database(embedded_stack) as made:
        made.run(
            *(text.format(schema="public") for text in DEFINITIONS),
            "CREATE DOMAIN short AS varchar(3)",
            "CREATE DOMAIN bits AS bit(3)",
            "CREATE TYPE tone AS ENUM ('low', 'high')",
            "CREATE FUNCTION to_tone(text) RETURNS tone LANGUAGE sql AS $$ SELECT 'high'::tone $$",
            "CREATE CAST (text AS tone) WITH FUNCTION to_tone(text)",
            "CREATE TABLE tenants (id int PRIMARY KEY, slug text, region text, tier text)",
        )
        with closing(connect(Settings(database={"dsn": made.dsn}).database, "test")) as session:  # type: ignore[arg-type]
            yield made, session


def header(columns: list[list[Any]] = _THEN, key: tuple[str, ...] = ("id",), name: str = "tasks") -> TableHeader:
    return TableHeader.from_dict({"schema": "public", "name": name, "columns": columns, "key": list(key)})


def mapped(
    server: tuple[Database, Any],
    ddl: str,
    then: TableHeader | None = None,
    restore: dict[str, Any] | None = None,
    **database: Any,
) -> tuple[list[TableMapping], list[SchemaDifference]]:
    """Map a backup's table (`then`) to what `ddl` makes of the live schema; the schema is put back."""
    made, _ = server
    then = header() if then is None else then
    configured = Settings(database={"dsn": made.dsn, **database}, restore=restore or {})  # type: ignore[arg-type]
    headers = {then.full_name: then}
    with closing(made.connect()) as admin, closing(connect(configured.database, "test")) as reader:
        try:
            admin.cursor().execute(ddl)
            tenancy = load_map(reader, configured)
        finally:
            admin.cursor().execute("DROP TABLE IF EXISTS tasks, todo, moved; DROP SCHEMA IF EXISTS app CASCADE")
    found, differences = map_tables(headers, tenancy, configured.restore, configured.database.schemas)
    of_tenants = [d for d in differences if d.table != "public.tenants"]
    return [m for m in found if m.table.full_name != "public.tenants"], of_tenants


def one(server: tuple[Database, Any], ddl: str, *arguments: Any, **more: Any) -> tuple[TableMapping, SchemaDifference]:
    (mapping,), (difference,) = mapped(server, ddl, *arguments, **more)
    return mapping, difference


def kind_of(difference: SchemaDifference) -> tuple[str, bool, bool]:
    return difference.change, difference.lossy, difference.blocking


def test_the_same_table_needs_no_conversion(server: tuple[Database, Any]) -> None:
    """Equal columns and key: nothing differs, and COPY text can be taken as it is."""
    (mapping,), differences = mapped(
        server, "CREATE TABLE tasks (id int PRIMARY KEY, tenant_id int NOT NULL, title text)"
    )
    assert mapping.same
    assert differences == []


@pytest.mark.parametrize(
    ("ddl", "expected", "restore", "same"),
    [
        ("id int PRIMARY KEY, tenant_id int NOT NULL, title text, done boolean", ("added column", False, False), {}, False),
        ("id int PRIMARY KEY, tenant_id int NOT NULL, title text, n int NOT NULL DEFAULT 7", ("added column", False, False), {}, False),
        ("id int PRIMARY KEY, tenant_id int NOT NULL, title text, n int NOT NULL GENERATED ALWAYS AS IDENTITY", ("added column", False, False), {}, False),
        ("id int PRIMARY KEY, tenant_id int NOT NULL, title text, n int NOT NULL", ("added column", False, True), {}, False),
        ("id int PRIMARY KEY, tenant_id int NOT NULL, title text, n int NOT NULL", ("added column", False, False), {"fill": {"tasks.n": "3"}}, False),
        ("id int PRIMARY KEY, tenant_id int NOT NULL, title text, n int NOT NULL", ("added column", False, False), {"fill": {"public.tasks.n": "3"}}, False),
        ("id int PRIMARY KEY, tenant_id int NOT NULL", ("dropped column", True, False), {}, False),
        ("id bigint PRIMARY KEY, tenant_id int NOT NULL, title text", ("retyped column", False, False), {}, False),
        ("id int PRIMARY KEY, tenant_id int NOT NULL, title varchar(20)", ("retyped column", True, False), {}, False),
        ("title text, id int PRIMARY KEY, tenant_id int NOT NULL", ("reordered columns", False, False), {}, False),
        ("id int PRIMARY KEY, tenant_id int NOT NULL, name text", ("renamed column", False, False), {"renamed": {"tasks.title": "tasks.name"}}, True),
        ("id int PRIMARY KEY, tenant_id int NOT NULL, title text NOT NULL", ("now not null", False, False), {}, True),
        ("id int PRIMARY KEY, tenant_id int NOT NULL, title text NOT NULL", ("now not null", False, False), {"fill": {"tasks.title": "-"}}, False),
        ("id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant_id int NOT NULL, title text", ("identity/generated changed", False, False), {}, True),
        ("id int PRIMARY KEY, tenant_id int NOT NULL, title text GENERATED ALWAYS AS ('x') STORED", ("identity/generated changed", False, False), {}, False),
        ("id int, tenant_id int NOT NULL, title text, PRIMARY KEY (tenant_id, id)", ("key changed", False, False), {}, False),
    ],
)  # fmt: skip
def test_changed_columns(
    server: tuple[Database, Any], ddl: str, expected: tuple[str, bool, bool], restore: dict[str, Any], same: bool
) -> None:
    """Each change is found as what it is, and consent is asked for exactly where values are lost."""
    then = header([["id", "integer", "PRIMARY KEY (tenant_id" not in ddl or True, ""], *_THEN[1:]])
    mapping, difference = one(server, f"CREATE TABLE tasks ({ddl})", then, restore)
    assert kind_of(difference) == expected
    assert mapping.same is same
    assert mapping.blocked is expected[2]
    assert difference.decision.endswith(".")
    assert as_document(difference)["change"] == expected[0]


def test_a_new_key_that_the_backup_lacks_blocks(server: tuple[Database, Any]) -> None:
    """Rows without values of the live key cannot be matched."""
    _, differences = mapped(
        server,
        "CREATE TABLE tasks (id int, tenant_id int NOT NULL, title text, uid int GENERATED ALWAYS AS IDENTITY PRIMARY KEY)",
    )
    assert [kind_of(d) for d in differences] == [("added column", False, False), ("key changed", False, True)]


def test_an_added_column_of_a_table_without_a_key_is_a_loss(server: tuple[Database, Any]) -> None:
    """Nothing says which live row a row of the backup is, so its value cannot be kept."""
    _, difference = one(
        server, "CREATE TABLE tasks (id int NOT NULL, tenant_id int NOT NULL, title text, n int)", header(key=())
    )
    assert kind_of(difference) == ("added column", True, False)


@pytest.mark.parametrize(
    "declared", [{"tasks.title": "tasks.nowhere"}, {"tasks.title": "tasks.id"}, {"tasks.title": "tenants.slug"}]
)
def test_a_wrong_rename_of_a_column_blocks(server: tuple[Database, Any], declared: dict[str, str]) -> None:
    """A target that is not there, that the backup has itself, or in another table."""
    _, differences = mapped(
        server, "CREATE TABLE tasks (id int PRIMARY KEY, tenant_id int NOT NULL)", restore={"renamed": declared}
    )
    assert [kind_of(d) for d in differences] == [("renamed column", False, True)]
    assert "restore.renamed" in differences[0].decision


def test_a_rename_whose_old_name_is_still_there_blocks(server: tuple[Database, Any]) -> None:
    """Two live columns claim the values."""
    ddl = "CREATE TABLE tasks (id int PRIMARY KEY, tenant_id int NOT NULL, title text, name text)"
    _, differences = mapped(server, ddl, restore={"renamed": {"tasks.title": "tasks.name"}})
    assert ("renamed column", False, True) in [kind_of(d) for d in differences]


def test_renames_that_a_newer_backup_has_already_do_nothing(server: tuple[Database, Any]) -> None:
    """Declarations stay in the settings for older backups."""
    ddl = "CREATE TABLE tasks (id int PRIMARY KEY, tenant_id int NOT NULL, title text)"
    (mapping,), differences = mapped(server, ddl, restore={"renamed": {"tasks.label": "tasks.title", "todo": "tasks"}})
    assert mapping.same
    assert not differences


@pytest.mark.parametrize("column", ["todo.title", "tasks.title", "public.todo.title"])
def test_a_renamed_table_with_a_renamed_column(server: tuple[Database, Any], column: str) -> None:
    """The column may be declared under either name of the table, and through two renames of the table."""
    ddl = "CREATE TABLE tasks (id int PRIMARY KEY, tenant_id int NOT NULL, name text)"
    restore = {"renamed": {"todo": "jobs", "jobs": "tasks", column: "tasks.name"}}
    (mapping,), differences = mapped(server, ddl, header(name="todo"), restore)
    assert mapping.same
    assert [kind_of(d) for d in differences] == [("renamed table", False, False), ("renamed column", False, False)]


@pytest.mark.parametrize(
    ("ddl", "renamed", "expected"),
    [
        ("CREATE TABLE todo (id int PRIMARY KEY, tenant_id int); CREATE TABLE tasks (id int PRIMARY KEY, tenant_id int)", {"todo": "tasks"}, True),
        ("CREATE TABLE moved (id int PRIMARY KEY, tenant_id int)", {"todo": "gone"}, True),
        ("CREATE TABLE app.tasks (id int PRIMARY KEY, tenant_id int NOT NULL, title text)", {"todo": "app.tasks"}, False),
        ("CREATE TABLE app.tasks (id int PRIMARY KEY, tenant_id int NOT NULL, title text)", {"public.todo": "tasks"}, False),
    ],
)  # fmt: skip
def test_renames_of_tables(server: tuple[Database, Any], ddl: str, renamed: dict[str, str], expected: bool) -> None:
    """They block when the old table is still there or the new one is not; another schema is fine."""
    server[0].run("CREATE SCHEMA IF NOT EXISTS app")
    _, differences = mapped(server, ddl, header(name="todo"), {"renamed": renamed}, schemas=["public", "app"])
    (of_table,) = [d for d in differences if d.change == "renamed table"]
    assert of_table.blocking is expected


def test_tables_that_came_and_went(server: tuple[Database, Any]) -> None:
    """A new table keeps its rows; one that is gone is a loss if it had rows; one that is not captured any more blocks."""
    ddl = "CREATE TABLE moved (id int PRIMARY KEY, tenant_id int)"
    mappings, differences = mapped(server, ddl, header())
    assert mappings == []
    assert sorted(kind_of(d) for d in differences) == [("added table", False, False), ("dropped table", True, False)]
    _, difference = one_without_mapping(
        server, "CREATE TABLE tasks (id int PRIMARY KEY, tenant_id int)", shared=["tasks"]
    )
    assert kind_of(difference) == ("dropped table", False, True)
    assert difference.now == "shared"


def one_without_mapping(
    server: tuple[Database, Any], ddl: str, **database: Any
) -> tuple[list[TableMapping], SchemaDifference]:
    mappings, (difference,) = mapped(server, ddl, header(), **database)
    return mappings, difference


def test_an_empty_table_that_is_gone_is_no_loss(server: tuple[Database, Any]) -> None:
    made, reader = server
    configured = Settings(database={"dsn": made.dsn})  # type: ignore[arg-type]
    tenancy = load_map(reader, configured)
    _, differences = map_tables(
        {"public.gone": header(name="gone")}, tenancy, configured.restore, ["public"], {"public.gone": 0}
    )
    assert [kind_of(d) for d in differences if d.table == "public.gone"] == [("dropped table", False, False)]


def staged(
    server: tuple[Database, Any], mapping_ddl: str, then: TableHeader, copied: bytes, restore: dict[str, Any]
) -> list[tuple[Any, ...]]:
    """Map, stage COPY text as a restore does, and give what the live rows shall be, in the order of id."""
    made, _ = server
    configured = Settings(database={"dsn": made.dsn}, restore=restore)  # type: ignore[arg-type]
    try:
        made.run(mapping_ddl)
        with closing(connect(configured.database, "test")) as reader:
            tenancy = load_map(reader, configured)
        mappings, _ = map_tables({"public.tasks": then}, tenancy, configured.restore, ["public"])
        (mapping,) = [m for m in mappings if m.table.table.name == "tasks"]
        with closing(made.connect()) as connection:
            cursor = connection.cursor()
            cursor.execute("SET search_path = pg_catalog")
            cursor.execute(f"CREATE TEMP TABLE s ({', '.join(f'c{n + 1} text' for n in range(len(then.columns)))})")
            cursor.copy_expert("COPY pg_temp.s FROM STDIN", BytesIO(copied))
            cursor.execute(
                f"SELECT {', '.join(wanted_columns(mapping, 's', 'l'))} FROM pg_temp.s s"
                f" LEFT JOIN {sql_name(mapping.table.table)} l ON l.id = {stored_key(mapping, 's')[0]} ORDER BY s.c1"
            )
            found: list[tuple[Any, ...]] = cursor.fetchall()
            cursor.execute(f"SELECT {', '.join(wanted_columns(mapping, 's', None))} FROM pg_temp.s s ORDER BY 1")
            alone = cursor.fetchall()
            assert len(alone) == len(found)
            return found
    finally:
        made.run("DROP TABLE IF EXISTS tasks")


def test_what_the_live_rows_shall_be(server: tuple[Database, Any]) -> None:
    """Live rows keep what the backup does not know; rows that come back get the fill, the default, a number, or NULL."""
    ddl = """
    CREATE TABLE tasks (note text, id bigint PRIMARY KEY, tenant_id int NOT NULL, "the name" text NOT NULL,
        kept int NOT NULL DEFAULT 5 + 2, filled mood NOT NULL, num int GENERATED ALWAYS AS IDENTITY, free text,
        twice int GENERATED ALWAYS AS (tenant_id * 2) STORED, "with%s" varchar(3) DEFAULT 'a' || 'b');
    INSERT INTO tasks (note, id, tenant_id, "the name", kept, filled, free, "with%s")
        VALUES ('own', 1, 1, 'live', 42, 'happy', 'own too', 'own')"""
    restore = {
        "renamed": {"tasks.title": "tasks.the name"},
        "fill": {"tasks.filled": "it's", "tasks.the name": "untitled"},
    }
    found = staged(server, ddl, header(), b"1\t1\tthen\n2\t1\t\\N\n", restore)
    assert found == [
        ("own", 1, 1, "then", 42, "happy", 1, "own too", "own"),
        (None, 2, 1, "untitled", 7, "it's", 2, None, "ab"),
    ]


def test_a_fill_that_its_type_does_not_take_is_an_error(server: tuple[Database, Any]) -> None:
    ddl = "CREATE TABLE tasks (id int PRIMARY KEY, tenant_id int NOT NULL, title text, n varchar(3) NOT NULL)"
    with pytest.raises(psycopg2.DataError, match="too long"):
        staged(server, ddl, header(), b"1\t1\tx\n", {"fill": {"tasks.n": "abcd"}})


def convert(session: Any, value: str | None, kind: str) -> str | None:
    """A text read as a value of the type by our SQL, and written as text again."""
    cursor = session.cursor()
    cursor.execute(
        f"SELECT CASE WHEN x.c IS NOT NULL THEN v.v::text END FROM (SELECT %s::text) x(c) CROSS JOIN LATERAL (SELECT {from_text('x.c', kind)}) v(v)",
        (value,),
    )
    found: str | None = cursor.fetchone()[0]
    return found


_UNFIT = [
    ("abcd", "character varying(3)"), ("éééé", "character varying(3)"), ("abcd", "character(3)"), ("x" * 64, "name"),
    ("é" * 32, "name"), ("ab", '"char"'), ("é", '"char"'), ("1010", "bit(3)"), ("10", "bit(3)"), ("1010", "bit varying(3)"),
    ("{abc,abcd}", "character varying(3)[]"), ("{{abcd}}", "character(3)[]"), ("{101,1}", "bit(3)[]"), ("{1010}", "bit varying(3)[]"),
    ("abcd", "public.short"), ("10", "public.bits"), ("{abcd}", "public.short[]"), ("glad", "public.mood"), ("{glad}", "public.mood[]"),
    ("forbidden", "public.label"), ("99999", "smallint"), ("2147483648", "integer"), ("1.5", "integer"), ("", "integer"),
    ("1e400", "double precision"), ("12345678.1", "numeric(10,3)"), ("2024-02-30", "date"), ("x", "uuid"), ("{", "jsonb"),
    ("nowhere", "regclass"), ("(1", "public.pair"), ("{1,2", "integer[]"), ("t rue", "boolean"), ('a","b', "public.mood"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "kind"), _UNFIT)
def test_a_value_that_does_not_fit_raises(server: tuple[Database, Any], value: str, kind: str) -> None:
    """Never is a value cut, and never does a quote in a value end it."""
    with pytest.raises(psycopg2.Error) as caught:
        convert(server[1], value, kind)
    assert caught.value.pgcode[:2] in ("22", "23", "42"), caught.value.pgcode  # type: ignore[index]


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("abc", "character varying(3)", "abc"), ("abc   ", "character varying(3)", "abc"), ("x" * 63, "name", "x" * 63),
        ("{abc,NULL}", "character varying(3)[]", "{abc,NULL}"), ("[2:3]={abc,d}", "character varying(3)[]", "[2:3]={abc,d}"),
        ("it's", "public.mood", "it's"), ("low", "public.tone", "low"), ("{low}", "public.tone[]", "{low}"), ('{a,"\\\\303",""}', '"char"[]', '{a,"\\\\303",""}'),
        ("{" + "x" * 63 + ",NULL}", "name[]", "{" + "x" * 63 + ",NULL}"), ("pg_class", "regclass", "pg_class"), ("-", "regclass", "-"), ("1259", "regclass", "pg_class"),
        ("ab", "public.short", "ab"), ("NULL", "public.label", "NULL"), ("a", '"char"', "a"), ("\\303", '"char"', "\\303"),
    ],
)  # fmt: skip
def test_a_value_that_fits(server: tuple[Database, Any], value: str, kind: str, expected: str) -> None:
    """What COPY takes is taken, names of relations by number included."""
    assert convert(server[1], value, kind) == expected


@pytest.mark.parametrize("name", sorted(_KINDS))
def test_nothing_stays_nothing(server: tuple[Database, Any], name: str) -> None:
    assert convert(server[1], None, _KINDS[name].sql.format(schema="public").split(" COLLATE")[0]) is None


@pytest.fixture(scope="module")
def every_type(server: tuple[Database, Any]) -> tuple[Any, list[str]]:
    """A temporary table with a column of every type, the staging table for its COPY text, and format_type() of each."""
    session = server[1]
    cursor = session.cursor()
    columns = ", ".join(f"k{n} {kind.sql.format(schema='public')}" for n, kind in enumerate(_KINDS.values()))
    cursor.execute(
        f"CREATE TEMP TABLE typed ({columns}); CREATE TEMP TABLE texts ({', '.join(f'c{n + 1} text' for n in range(len(_KINDS)))})"
    )
    cursor.execute(
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'pg_temp.typed'::regclass AND attnum > 0 ORDER BY attnum"
    )
    return session, [kind for (kind,) in cursor.fetchall()]


def round_trip(session: Any, kinds: list[str], rows: list[list[str | None]]) -> None:
    cursor = session.cursor()
    cursor.execute("TRUNCATE pg_temp.typed, pg_temp.texts")
    cursor.executemany(f"INSERT INTO pg_temp.typed VALUES ({', '.join(['%s'] * len(kinds))})", rows)
    before = copy_text(session, "TABLE pg_temp.typed")
    cursor.copy_expert("COPY pg_temp.texts FROM STDIN", BytesIO(before))
    expressions = ", ".join(from_text(f"s.c{n}", kind) for n, kind in enumerate(kinds, 1))
    assert copy_text(session, f"SELECT {expressions} FROM pg_temp.texts s") == before


def test_round_trip_of_every_hard_value(every_type: tuple[Any, list[str]]) -> None:
    """COPY text, staged as text and read by our SQL, gives the same bytes: all listed values of all types."""
    session, kinds = every_type
    listed = [kind.listed for kind in _KINDS.values()]
    longest = max(map(len, listed))
    round_trip(session, kinds, [[v[n] if n < len(v) else None for v in listed] for n in range(longest)])


@settings(max_examples=examples(15))
@given(
    st.lists(
        st.tuples(*(st.one_of(st.none(), kind.values) for kind in _KINDS.values())).map(list), min_size=1, max_size=4
    )
)
def test_round_trip_of_any_value(every_type: tuple[Any, list[str]], rows: list[list[str | None]]) -> None:
    """The same for generated rows."""
    round_trip(*every_type, rows)


@settings(max_examples=examples(25))
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8), st.integers(1, 6))
def test_text_into_less_room(server: tuple[Database, Any], value: str, room: int) -> None:
    """Our SQL takes and refuses exactly what the type's input does, with the same result."""
    cursor = server[1].cursor()
    for kind in (f"character varying({room})", f"character({room})", "public.short"):
        cursor.execute(f"CREATE TEMP TABLE IF NOT EXISTS room (n {kind})")
        try:
            cursor.copy_expert("COPY pg_temp.room FROM STDIN", BytesIO(_escaped(value)))
            expected = copy_text(server[1], "TABLE pg_temp.room")
        except psycopg2.DataError:
            expected = None
        try:
            cursor.execute(
                f"CREATE TEMP TABLE given AS SELECT {from_text('x.c', kind)} AS v FROM (SELECT %s::text) x(c)", (value,)
            )
            found = copy_text(server[1], "TABLE pg_temp.given")
        except psycopg2.DataError:
            found = None
        cursor.execute("DROP TABLE IF EXISTS pg_temp.room, pg_temp.given")
        assert found == expected, kind


def _escaped(value: str) -> bytes:
    for plain, escape in (("\\", "\\\\"), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
        value = value.replace(plain, escape)
    return value.encode() + b"\n"


_PAIRS = [
    ("smallint", "integer"), ("smallint", "bigint"), ("integer", "bigint"), ("integer", "numeric"), ("bigint", "numeric(19,0)"),
    ("character varying(3)", "text"), ("character varying(3)", "character varying(4)"), ("text", "character varying"),
    ("numeric(10,3)", "numeric"), ("numeric(10,3)", "numeric(12,4)"), ("real", "double precision"), ("bit(5)", "bit varying(5)"),
    ("timestamp(0) without time zone", "timestamp without time zone"), ("integer[]", "bigint[]"),
]  # fmt: skip
_NARROWER = [
    ("bigint", "integer"), ("text", "character varying(400)"), ("character(5)", "text"), ("numeric", "numeric(10,3)"),
     ("numeric(10,3)", "numeric(11,5)"), ("double precision", "real"), ("json", "jsonb"), ("text", "public.mood"),
    ("timestamp without time zone", "timestamp with time zone"), ("timestamp without time zone", "timestamp(3) without time zone"),
    ("integer", "numeric(9,0)"), ("character varying(5)", "character varying(4)"), ("text", "text[]"), ("integer", "text"),
]  # fmt: skip


@pytest.mark.parametrize(("then", "now"), _PAIRS)
def test_wider_types(server: tuple[Database, Any], then: str, now: str) -> None:
    """A type that takes every value: shown with the hard ones, which come out equal when they go back."""
    assert widens(then, now)
    assert not widens(now, then) or {then, now} <= {"text", "character varying"}
    for kind in PLAIN.values():
        if kind.sql == then or kind.sql == then.removesuffix(" without time zone"):
            for value in kind.listed:
                canonical = convert(server[1], value, then)
                assert convert(server[1], convert(server[1], canonical, now), then) == canonical


@pytest.mark.parametrize(("then", "now"), _NARROWER)
def test_types_that_may_lose(then: str, now: str) -> None:
    assert not widens(then, now)


def test_a_default_is_not_cut(server: tuple[Database, Any]) -> None:
    """The default of a column is assigned, not cast."""
    cursor = server[1].cursor()
    cursor.execute(
        f"SELECT {assigned('1 + 1', 'numeric(5,2)')}::text, {assigned('upper(x)', 'character varying(3)')} FROM (VALUES ('abc')) v(x)"
    )
    assert cursor.fetchone() == ("2.00", "ABC")
    with pytest.raises(psycopg2.DataError):
        cursor.execute(f"SELECT {assigned('upper(x)', 'character varying(3)')} FROM (VALUES ('abcd')) v(x)")


def test_the_listed_texts_are_hard_enough() -> None:
    """The round trips cover what COPY escapes and what an array's text escapes."""
    assert {"\\", '"', "'", "\t", "\n", "NULL", ""} <= {*NASTY_TEXT, *ENUM_LABELS}
