"""The tenancy map: which rows of which table are a tenant's; nothing is left out without an error that names it."""

from collections.abc import Callable
from typing import Any

import pytest

from sbh_pipelines.database.capture.capture import copy_table
from sbh_pipelines.database.session.connection import connect
from sbh_pipelines.errors import SourceConflict
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.support.mapped import Mapped, Rows


def test_owned_and_inherited_tables_over_several_hops(mapped: Callable[..., Mapped]) -> None:
    """Rows follow their parents' parents; each row is one tenant's, rows without a parent are nobody's."""
    made = mapped(
        "CREATE TABLE a (tenant_id int, id int PRIMARY KEY); CREATE TABLE b (a int REFERENCES a, id int PRIMARY KEY);"
        "CREATE TABLE c (b int REFERENCES b, id int PRIMARY KEY); CREATE TABLE d (c int REFERENCES c, note text);"
        "INSERT INTO a VALUES (1, 10), (2, 20), (NULL, 30); INSERT INTO b VALUES (10, 1), (20, 2), (30, 3), (NULL, 4);"
        "INSERT INTO c VALUES (1, 7), (2, 8), (4, 9); INSERT INTO d VALUES (7, 'x'), (7, 'x'), (8, 'y'), (9, 'z'), (NULL, 'n')"
    )
    assert made.statuses() == {"tenants": "tenants", "a": "owned", "b": "inherited", "c": "inherited", "d": "inherited"}
    assert made.rows("a") == (["1\t10"], ["2\t20"])
    assert made.rows("b") == (["10\t1"], ["20\t2"])
    assert made.rows("d") == (["7\tx", "7\tx"], ["8\ty"])
    assert made.rows("tenants") == (["1\tone\tr\tt"], ["2\ttwo\tr\tt"])
    assert [t.table.name for t in made.map.tables].index("d") > [t.table.name for t in made.map.tables].index("c")


def test_composite_foreign_keys(mapped: Callable[..., Mapped]) -> None:
    """The pair decides, not one of its columns; the columns' order in the key does not matter."""
    made = mapped(
        "CREATE TABLE a (tenant_id int, x int, y int, PRIMARY KEY (x, y));"
        "CREATE TABLE b (id int PRIMARY KEY, p int, q int, FOREIGN KEY (q, p) REFERENCES a (y, x));"
        "INSERT INTO a VALUES (1, 1, 2), (2, 2, 1); INSERT INTO b VALUES (1, 1, 2), (2, 2, 1), (3, 1, NULL)"
    )
    assert made.rows("b") == (["1\t1\t2"], ["2\t2\t1"])


def test_a_table_that_refers_to_itself(mapped: Callable[..., Mapped]) -> None:
    made = mapped(
        "CREATE TABLE a (tenant_id int, id int PRIMARY KEY, up int REFERENCES a);"
        "CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a, up int REFERENCES b);"
        "INSERT INTO a VALUES (1, 1, NULL), (1, 2, 1), (2, 3, 2); INSERT INTO b VALUES (1, 1, NULL), (2, 3, 1)"
    )
    assert made.statuses()["b"] == "inherited"
    assert made.rows("b") == (["1\t1\t\\N"], ["2\t3\t1"])


def test_several_ways_to_an_owner_must_be_declared(mapped: Callable[..., Mapped]) -> None:
    """The error names the table and its foreign keys, and the setting it proposes works."""
    schema = (
        "CREATE TABLE users (tenant_id int, id int PRIMARY KEY); CREATE TABLE docs (tenant_id int, id int PRIMARY KEY);"
        "CREATE TABLE shares (doc int REFERENCES docs, guest int REFERENCES users, id int PRIMARY KEY);"
        "INSERT INTO users VALUES (1, 1), (2, 2); INSERT INTO docs VALUES (1, 1), (2, 2); INSERT INTO shares VALUES (1, 2, 1), (2, 1, 2)"
    )
    made = mapped(schema)
    text = made.refused()
    assert "public.shares" in text
    assert "(doc) -> public.docs" in text
    assert "(guest) -> public.users" in text
    made.settings = Settings(database={"dsn": made.database.dsn, "links": [{"table": "public.shares", "via": ["doc"]}]})  # type: ignore[arg-type]
    assert made.rows("shares") == (["1\t2\t1"], ["2\t1\t2"])


def test_a_polymorphic_link_is_declared_by_a_condition(mapped: Callable[..., Mapped]) -> None:
    """Also with `%` in it; a row that two parents satisfy is still one row."""
    made = mapped(
        "CREATE TABLE tasks (tenant_id int, id int PRIMARY KEY); CREATE TABLE notes (kind text, item int, body text);"
        "INSERT INTO tasks VALUES (1, 1), (2, 2), (2, 3); INSERT INTO notes VALUES ('task:a', 1, 'x'), ('user', 1, 'y'), ('task', 2, 'z'), ('twins', 0, 't')",
        links=[
            {
                "table": "notes",
                "parent": "tasks",
                "join": "(t.kind LIKE 'task%' AND t.item = p.id) OR (t.kind = 'twins' AND p.id > 1)",
            }
        ],
    )
    assert made.statuses()["notes"] == "declared"
    assert made.rows("notes") == (["task:a\t1\tx"], ["task\t2\tz", "twins\t0\tt"])


def test_children_of_declared_tables_inherit(mapped: Callable[..., Mapped]) -> None:
    made = mapped(
        "CREATE TABLE tasks (tenant_id int, id int PRIMARY KEY); CREATE TABLE notes (id int PRIMARY KEY, item int);"
        "CREATE TABLE stars (note int REFERENCES notes, n int);"
        "INSERT INTO tasks VALUES (1, 1), (2, 2); INSERT INTO notes VALUES (5, 1), (6, 2); INSERT INTO stars VALUES (5, 1), (6, 2)",
        links=[{"table": "notes", "parent": "tasks", "join": "t.item = p.id"}],
    )
    assert made.rows("stars") == (["5\t1"], ["6\t2"])


def test_another_name_of_the_tenant_column(mapped: Callable[..., Mapped]) -> None:
    made = mapped(
        "CREATE TABLE a (account int, id int); INSERT INTO a VALUES (1, 1), (2, 2)",
        links=[{"table": "a", "tenant_column": "account"}],
    )
    assert made.rows("a") == (["1\t1"], ["2\t2"])


def test_every_unmapped_table_is_named(mapped: Callable[..., Mapped]) -> None:
    """Not only the first; what is shared or excluded is not."""
    made = mapped(
        "CREATE TABLE loose (id int); CREATE TABLE plans (id int PRIMARY KEY); CREATE TABLE prices (plan int REFERENCES plans);"
        "CREATE TABLE cache (id int); CREATE UNLOGGED TABLE scratch (id int); CREATE VIEW v AS SELECT 1; CREATE MATERIALIZED VIEW m AS SELECT 1",
        shared=["plans"],
        excluded=["public.cache"],
    )
    text = made.refused()
    for name in ("public.loose", "public.prices", "public.scratch"):
        assert name in text
    for name in ("public.plans", "public.cache", "public.v", "public.m"):
        assert name + "," not in text
    assert made.statuses()["plans"] == "shared"
    assert made.statuses()["cache"] == "excluded"


def test_a_circle_that_no_owner_breaks_says_so(mapped: Callable[..., Mapped]) -> None:
    """Two tables that refer to each other, one of which refers to an owner: the way must be declared, and then works."""
    schema = (
        "CREATE TABLE users (tenant_id int, id int PRIMARY KEY);"
        "CREATE TABLE posts (id int PRIMARY KEY, author int REFERENCES users, pinned int);"
        "CREATE TABLE comments (id int PRIMARY KEY, post int REFERENCES posts);"
        "ALTER TABLE posts ADD FOREIGN KEY (pinned) REFERENCES comments;"
        "INSERT INTO users VALUES (1, 1), (2, 2); INSERT INTO posts VALUES (1, 1, NULL), (2, 2, NULL); INSERT INTO comments VALUES (7, 1), (8, 2)"
    )
    made = mapped(schema)
    text = made.refused()
    assert "public.posts" in text
    assert "public.comments" in text
    assert "circle" in text
    made.settings = Settings(database={"dsn": made.database.dsn, "links": [{"table": "posts", "via": ["author"]}]})  # type: ignore[arg-type]
    assert made.rows("comments") == (["7\t1"], ["8\t2"])


def test_foreign_tables_must_be_excluded(mapped: Callable[..., Mapped]) -> None:
    made = mapped(
        "CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER far FOREIGN DATA WRAPPER nowhere;"
        "CREATE FOREIGN TABLE remote (tenant_id int, id int) SERVER far"
    )
    assert "public.remote" in made.refused()
    made.settings = Settings(database={"dsn": made.database.dsn, "excluded": ["remote"]})  # type: ignore[arg-type]
    assert made.statuses()["remote"] == "excluded"


def test_partitioned_tables_are_read_through_their_root(mapped: Callable[..., Mapped]) -> None:
    """Over several levels; partitions are no tables of their own in the map."""
    made = mapped(
        "CREATE TABLE e (tenant_id int, id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);"
        "CREATE TABLE e_old PARTITION OF e FOR VALUES FROM (MINVALUE) TO ('2025-01-01');"
        "CREATE TABLE e_new PARTITION OF e DEFAULT PARTITION BY HASH (id);"
        "CREATE TABLE e_new_0 PARTITION OF e_new FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
        "CREATE TABLE e_new_1 PARTITION OF e_new FOR VALUES WITH (MODULUS 2, REMAINDER 1);"
        "CREATE TABLE f (id int, day date, FOREIGN KEY (id, day) REFERENCES e);"
        "INSERT INTO e SELECT 1 + n % 2, n, date '2024-12-30' + n FROM generate_series(1, 6) n; INSERT INTO f VALUES (1, '2024-12-31'), (2, '2025-01-01')"
    )
    assert set(made.statuses()) == {"tenants", "e", "f"}
    one, two = made.rows("e")
    assert [line.split("\t")[1] for line in (*one, *two)] == ["2", "4", "6", "1", "3", "5"]
    assert made.rows("f") == (["2\t2025-01-01"], ["1\t2024-12-31"])


def test_inheritance_of_the_old_kind(mapped: Callable[..., Mapped]) -> None:
    """Parent and child are tables of their own: no row is read twice, none is passed over."""
    made = mapped(
        "CREATE TABLE base (tenant_id int, id int); CREATE TABLE sub (extra text) INHERITS (base);"
        "INSERT INTO base VALUES (1, 1), (2, 2); INSERT INTO sub VALUES (1, 3, 'x'), (2, 4, 'y')"
    )
    assert made.rows("base") == (["1\t1"], ["2\t2"])
    assert made.rows("sub") == (["1\t3\tx"], ["2\t4\ty"])


def test_other_schemas_and_equal_names_in_them(mapped: Callable[..., Mapped]) -> None:
    made = mapped(
        'CREATE SCHEMA "Sales Dept"; CREATE TABLE t (tenant_id int, n int); CREATE TABLE "Sales Dept".t (tenant_id int, n int);'
        'INSERT INTO t VALUES (1, 1); INSERT INTO "Sales Dept".t VALUES (1, 2); CREATE SCHEMA ignored; CREATE TABLE ignored.x (id int)',
        schemas=["public", "Sales Dept"],
    )
    assert made.statuses() == {"tenants": "tenants", "t": "owned", "Sales Dept.t": "owned"}
    assert made.rows("public.t") == (["1\t1"], [])
    assert made.rows("Sales Dept.t") == (["1\t2"], [])


def test_names_that_are_told_apart_by_their_quotes_only(mapped: Callable[..., Mapped]) -> None:
    """Settings and manifests write schema.table: two tables must not share that."""
    made = mapped(
        'CREATE SCHEMA a; CREATE SCHEMA "a.b"; CREATE TABLE a."b.c" (tenant_id int); CREATE TABLE "a.b".c (tenant_id int)',
        schemas=["public", "a", "a.b"],
    )
    assert "a.b.c" in made.refused()


@pytest.mark.parametrize(
    "name",
    ["Mixed", "with space", 'quo"te', "it's", "ünï", "😀", "select", "100%", "%s", "a.b", "$1", "a\\b", "new\nline"],
)
def test_names_of_every_kind(mapped: Callable[..., Mapped], name: str) -> None:
    """As table, tenant column, foreign key column and in the settings."""
    q = '"' + name.replace('"', '""') + '"'
    made = mapped(
        f"CREATE TABLE {q} ({q} int, id int PRIMARY KEY); CREATE TABLE child ({q} int REFERENCES {q}, n int);"
        f"INSERT INTO {q} VALUES (1, 1), (2, 2); INSERT INTO child VALUES (1, 10), (2, 20)",
        tenant_column=name,
        links=[{"table": "child", "via": [name]}],
    )
    assert made.rows(f"public.{name}") == (["1\t1"], ["2\t2"])
    assert made.rows("child") == (["1\t10"], ["2\t20"])


@pytest.mark.parametrize(
    ("kind", "one", "two"),
    [
        ("text", "a", "b"),
        ("varchar(9)", "ä'", "%\\"),
        ("char(3)", "ab", "abc"),
        ("uuid", "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"),
        ("bigint", "-9223372036854775808", "9223372036854775807"),
        ("smallint", "0", "-1"),
        ("numeric", "1.50", "NaN"),
        ("name", "x", "y"),
        ("inet", "10.0.0.1/32", "::1/128"),
        ("date", "2024-01-01", "infinity"),
    ],
)
def test_types_of_the_tenant_column(mapped: Callable[..., Mapped], kind: str, one: str, two: str) -> None:
    one_, two_ = (value.replace("'", "''") for value in (one, two))
    made = mapped(
        f"CREATE TABLE t (tenant_id {kind} REFERENCES tenants, n int); INSERT INTO t VALUES ('{one_}', 1), ('{two_}', 2), (NULL, 3)",
        keys={"type": kind, "one": one_, "two": two_},
    )
    made.keys = (one, two)
    first, second = made.rows("t")
    assert [line.split("\t")[1] for line in first] == ["1"]
    assert [line.split("\t")[1] for line in second] == ["2"]


def test_a_domain_and_an_enum_as_tenant_column(mapped: Callable[..., Mapped]) -> None:
    made = mapped(
        "CREATE DOMAIN tenant_key AS int; CREATE TYPE pet AS ENUM ('cat', 'dog'); CREATE TABLE t (tenant_id tenant_key, n int);"
        "INSERT INTO t VALUES (1, 1), (2, 2)"
    )
    assert made.rows("t") == (["1\t1"], ["2\t2"])


def test_a_key_in_another_spelling_is_the_same_key(mapped: Callable[..., Mapped]) -> None:
    """Equal by the type and not the same text: the application sees one tenant."""
    made = mapped(
        "CREATE TABLE t (tenant_id numeric, n int); INSERT INTO t VALUES (1.0, 1), (1, 2), (2.00, 3)",
        keys={"type": "numeric", "one": "1", "two": "2"},
    )
    assert sorted(made.rows("t")[0]) == ["1\t2", "1.0\t1"]
    assert made.rows("t")[1] == ["2.00\t3"]


def test_another_tenants_table(mapped: Callable[..., Mapped]) -> None:
    """Its name and columns are settings; tables that refer to it without the tenant column inherit from it."""
    made = mapped(
        'CREATE SCHEMA crm; CREATE TABLE crm."Org" ("No" int PRIMARY KEY, code text, place text); DROP TABLE tenants;'
        "CREATE TABLE t (org int NOT NULL REFERENCES crm.\"Org\", n int); INSERT INTO crm.\"Org\" VALUES (1, 'one', 'r'), (2, 'two', 'r'); INSERT INTO t VALUES (1, 1), (2, 2)",
        tenants={"table": "crm.Org", "key": "No", "slug": "code", "region": "place", "tier": None},
        schemas=["public", "crm"],
    )
    assert made.statuses() == {"crm.Org": "tenants", "t": "inherited"}
    assert made.rows("t") == (["1\t1"], ["2\t2"])


@pytest.mark.parametrize(
    "fields",
    [
        {"shared": ["nowhere"]},
        {"excluded": ["public.nowhere"]},
        {"config_tables": ["nowhere"]},
        {"links": [{"table": "nowhere", "via": ["x"]}]},
        {"links": [{"table": "t", "via": ["n"]}]},
        {"links": [{"table": "t", "join": "true"}]},
        {"links": [{"table": "t", "parent": "nowhere", "join": "true"}]},
    ],
)
def test_settings_that_name_what_is_not_there(mapped: Callable[..., Mapped], fields: dict[str, Any]) -> None:
    made = mapped("CREATE TABLE t (id int, n int)", **fields)
    assert "t" in made.refused()


def test_a_declared_parent_that_is_no_tenants(mapped: Callable[..., Mapped]) -> None:
    made = mapped(
        "CREATE TABLE t (id int); CREATE TABLE plans (id int)",
        shared=["plans"],
        links=[{"table": "t", "parent": "plans", "join": "t.id = p.id"}],
    )
    text = made.refused()
    assert "public.t" in text
    assert "plans" in text


def test_foreign_keys_that_are_not_valid_lead_on(mapped: Callable[..., Mapped]) -> None:
    """The server holds them for new rows; an old one that refers to nothing is nobody's. The map says that they are not valid."""
    made = mapped(
        "CREATE TABLE a (tenant_id int, id int PRIMARY KEY); CREATE TABLE b (a int NOT NULL, id int PRIMARY KEY);"
        "CREATE TABLE c (b int NOT NULL); INSERT INTO a VALUES (1, 10), (2, 20); INSERT INTO b VALUES (10, 1), (20, 2), (77, 3);"
        "ALTER TABLE b ADD FOREIGN KEY (a) REFERENCES a NOT VALID; INSERT INTO c VALUES (1), (2);"
        "ALTER TABLE c ADD FOREIGN KEY (b) REFERENCES b NOT ENFORCED"
    )
    assert made.rows("b") == (["10\t1"], ["20\t2"])
    assert made.rows("c") == (["1"], ["2"])
    assert "is not valid" in made.table("b").why
    assert not made.table("b").always_belongs


def test_rows_come_in_the_order_of_their_key_whatever_the_collation(mapped: Callable[..., Mapped]) -> None:
    made = mapped(
        "CREATE TABLE t (tenant_id int, k text PRIMARY KEY); INSERT INTO t SELECT 1, unnest(ARRAY['a', 'B', 'ä', 'Z', '_', '1', '', ' x'])"
    )
    one, _ = made.rows("t")
    assert one == sorted(one, key=str.encode)


def test_a_locked_table_is_waited_for_no_longer_than_allowed(mapped: Callable[..., Mapped]) -> None:
    """The statement's bound is a transient error of ours."""
    made = mapped("CREATE TABLE t (tenant_id int, id int)")
    table = made.table("t")
    other = made.database.connect()
    other.autocommit = False
    other.cursor().execute("LOCK TABLE t")
    connection = connect(made.settings.database, "test")
    connection.cursor().execute("SET statement_timeout = '200ms'")
    try:
        with pytest.raises(SourceConflict, match="statement"):
            copy_table(connection, table, made.keys[0], Rows())
    finally:
        other.close()
        connection.close()
