"""Maps of other people's schemas: several tenant columns, two levels, keys that may be NULL, tables of extensions, inheritance."""

from collections.abc import Callable
from typing import Any

import pytest

from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.support.mapped import Mapped

MakeMapped = Callable[..., Mapped]


def again(made: Mapped, **fields: Any) -> Mapped:
    """The same database under other settings."""
    made.settings = Settings(database={"dsn": made.database.dsn, **fields}, tenants=made.settings.tenants.model_dump())  # type: ignore[arg-type]
    return made


def test_several_tenant_columns(mapped: MakeMapped) -> None:
    """A table has one of them; for one that has two, it is said which."""
    made = mapped(
        'CREATE TABLE a (tenant_id int, n int); CREATE TABLE b ("tenantId" int, n int);'
        'CREATE TABLE c ("tenantId" int, tenant_id int, n int); INSERT INTO a VALUES (1, 1); INSERT INTO b VALUES (1, 2);'
        "INSERT INTO c VALUES (2, 1, 3)",
        tenant_column=["tenantId", "tenant_id"],
    )
    status = made.status("c")
    assert status.status == "ambiguous"
    assert 'table = "public.c"\ntenant_column = "tenantId"' in status.remedy
    again(
        made,
        tenant_column=["tenantId", "tenant_id"],
        links=[{"table": "c", "tenant_column": "tenant_id"}],
    )
    assert made.rows("a") == (["1\t1"], [])
    assert made.rows("b") == (["1\t2"], [])
    assert made.rows("c") == (["2\t1\t3"], [])


TWO_LEVELS = (
    "CREATE TABLE projects (id bigint PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, code text UNIQUE, project_id int);"
    "CREATE TABLE steps (id int PRIMARY KEY, project_id int NOT NULL, n int);"
    "CREATE TABLE runs (id int PRIMARY KEY, project_id bigint NOT NULL REFERENCES projects, by_step int NOT NULL REFERENCES steps);"
    "CREATE TABLE notes (id int PRIMARY KEY, project_id bigint, step_id int NOT NULL REFERENCES steps);"
    "CREATE TABLE logs (id int PRIMARY KEY, project_id text); CREATE TABLE marks (project_code text, n int);"
    "INSERT INTO projects VALUES (10, 1, 'x', 20), (20, 2, 'y', 10); INSERT INTO steps VALUES (1, 10, 0), (2, 20, 0), (3, 99, 0);"
    "INSERT INTO runs VALUES (1, 10, 2), (2, 20, 1); INSERT INTO notes VALUES (1, 10, 2), (2, NULL, 2);"
    "INSERT INTO marks VALUES ('x', 1), ('y', 2), ('z', 3)"
)


def test_where_there_is_a_column_a_rule_says_whom_it_follows(mapped: MakeMapped) -> None:
    """Whether or not it is a foreign key, of whatever integer type; not a column that cannot be compared, nor the parent's own."""
    follow = [{"column": "project_id", "parent": "projects"}]
    made = mapped(TWO_LEVELS, follow=follow, shared=["marks"])
    assert made.statuses() == {
        "tenants": "tenants",
        "projects": "owned",
        "steps": "declared",
        "runs": "declared",
        "notes": "declared",
        "logs": "unmapped",
        "marks": "shared",
    }
    again(made, follow=follow, excluded=["logs"], shared=["marks"])
    assert made.rows("steps") == (["1\t10\t0"], ["2\t20\t0"])
    assert made.rows("runs") == (["1\t10\t2"], ["2\t20\t1"])
    assert made.rows("notes") == (["1\t10\t2"], [])


def test_of_several_rules_the_one_whose_column_is_always_there_decides(mapped: MakeMapped) -> None:
    follow = [
        {"column": "project_id", "parent": "projects"},
        {"column": "step_id", "parent": "steps"},
        {"column": "project_code", "parent": "projects", "parent_column": "code"},
    ]
    made = mapped(TWO_LEVELS, follow=follow, excluded=["logs"])
    assert made.rows("notes") == ([], ["1\t10\t2", "2\t\\N\t2"])
    assert made.rows("marks") == (["x\t1"], ["y\t2"])
    again(made, follow=[{"column": "project_id", "parent": "projects", "parent_column": "tenant_id"}])
    assert "names no unique column of its parent" in made.refused()


def test_a_key_to_the_tenants_that_may_be_null_maps_nothing(mapped: MakeMapped) -> None:
    """It may be a memory of the tenant last used: a restore of that one would take another's user."""
    made = mapped(
        "CREATE TABLE users (id int PRIMARY KEY, current_org int REFERENCES tenants);"
        "CREATE TABLE badges (id int PRIMARY KEY, user_id int NOT NULL REFERENCES users);"
        "INSERT INTO users VALUES (1, 1), (2, 2), (3, NULL)"
    )
    users, badges = made.status("users"), made.status("badges")
    assert users.status == "ambiguous"
    assert "may be NULL" in users.why
    assert 'shared = ["public.users"]' in users.remedy
    assert 'via = ["current_org"]' in users.remedy
    assert badges.status == "unmapped"
    assert "map public.users first" in badges.remedy
    assert "shared =" not in badges.remedy
    again(made, links=[{"table": "users", "via": ["current_org"]}])
    assert made.rows("users") == (["1\t1"], ["2\t2"])
    assert made.status("badges").status == "inherited"


def test_a_key_that_may_be_null_leads_on_from_what_is_no_list_of_people(mapped: MakeMapped) -> None:
    """comments.project_id ON DELETE SET NULL; but not where another table joins the rows with any number of tenants."""
    made = mapped(
        "CREATE TABLE projects (id int PRIMARY KEY, tenant_id int NOT NULL);"
        "CREATE TABLE comments (id int PRIMARY KEY, project_id int REFERENCES projects ON DELETE SET NULL);"
        "CREATE TABLE likes (comment_id int NOT NULL REFERENCES comments, at date);"
        "CREATE TABLE users (id int PRIMARY KEY, last_project int REFERENCES projects);"
        'CREATE TABLE members ("user" int NOT NULL REFERENCES users, tenant_id int NOT NULL, PRIMARY KEY (tenant_id, "user"))'
    )
    assert made.status("comments").status == "inherited"
    assert made.status("likes").status == "inherited"
    users = made.status("users")
    assert users.status == "ambiguous"
    assert "public.members joins its rows" in users.why


def test_the_best_of_several_ways_is_named_first(mapped: MakeMapped) -> None:
    """One that no row is without, then the shortest, then one to a thing rather than to a person; not the first by alphabet."""
    made = mapped(
        "CREATE TABLE files (id int PRIMARY KEY, tenant_id int NOT NULL); CREATE TABLE users (id int PRIMARY KEY, tenant_id int NOT NULL);"
        "CREATE TABLE jobs (id int PRIMARY KEY, tenant_id int NOT NULL); CREATE TABLE steps (id int PRIMARY KEY, job int NOT NULL REFERENCES jobs);"
        "CREATE TABLE t (a_file int REFERENCES files, b_step int NOT NULL REFERENCES steps, c_user int NOT NULL REFERENCES users,"
        " d_job int NOT NULL REFERENCES jobs)"
    )
    status = made.status("t")
    assert 'via = ["d_job"]' in status.remedy
    order = [status.why.index(f"({name})") for name in ("d_job", "c_user", "b_step", "a_file")]
    assert order == sorted(order)
    assert "(a_file) -> public.files (may be NULL, 1 step)" in status.why
    assert "(b_step) -> public.steps (NOT NULL, 2 steps)" in status.why


def test_only_ways_that_may_be_null_leave_the_choice_to_share(mapped: MakeMapped) -> None:
    made = mapped(
        "CREATE TABLE a (id int PRIMARY KEY, tenant_id int NOT NULL); CREATE TABLE b (id int PRIMARY KEY, tenant_id int NOT NULL);"
        "CREATE TABLE t (a int REFERENCES a, b int REFERENCES b); CREATE TABLE u (x int); CREATE TABLE v (id int PRIMARY KEY);"
        "CREATE TABLE w (v int NOT NULL REFERENCES v)"
    )
    assert 'shared = ["public.t"]' in made.status("t").remedy
    assert 'in [database]: shared = ["public.u"]' in made.status("u").remedy
    assert "map public.v first" in made.status("w").remedy


def test_a_table_may_have_one_link(mapped: MakeMapped) -> None:
    """Of two, one would be passed over without a word."""
    made = mapped(
        "CREATE TABLE a (id int PRIMARY KEY, tenant_id int); CREATE TABLE t (a int REFERENCES a, b int REFERENCES a)",
        links=[{"table": "t", "via": ["a"]}, {"table": "public.t", "via": ["b"]}],
    )
    assert "public.t" in made.refused()


def test_tables_of_an_extension_are_the_extensions(mapped: MakeMapped) -> None:
    """Without a setting, and whatever the settings say; but its configuration may be shared."""
    made = mapped(
        "CREATE TABLE reference_systems (id int PRIMARY KEY); CREATE TABLE configuration (k text PRIMARY KEY);"
        "CREATE TABLE places (tenant_id int, system int REFERENCES reference_systems);"
        "INSERT INTO configuration VALUES ('built in'), ('mine');"
        "ALTER EXTENSION plpgsql ADD TABLE reference_systems; ALTER EXTENSION plpgsql ADD TABLE configuration;"
        "UPDATE pg_extension SET extconfig = ARRAY['configuration'::regclass::oid],"
        " extcondition = ARRAY[$$WHERE k <> 'built in'$$] WHERE extname = 'plpgsql'"
    )
    assert made.statuses() == {
        "tenants": "tenants",
        "places": "owned",
        "reference_systems": "extension",
        "configuration": "extension",
    }
    assert [t.full_name for t in made.map.tables] == ["public.places", "public.tenants"]
    again(made, shared=["reference_systems", "configuration"])
    assert made.statuses()["reference_systems"] == "extension"
    assert made.statuses()["configuration"] == "shared"
    tables = {table.name: table for table in made.map.catalog.tables.values()}
    assert tables["configuration"].extension_rows == "WHERE k <> 'built in'"
    assert tables["reference_systems"].extension_rows is None


def test_a_child_without_keys_has_its_parents_way(mapped: MakeMapped) -> None:
    """Old-style inheritance hands on columns, and no foreign keys."""
    made = mapped(
        "CREATE TABLE a (id int PRIMARY KEY, tenant_id int); CREATE TABLE log (a int NOT NULL REFERENCES a, line text);"
        "CREATE TABLE log_1 () INHERITS (log); CREATE TABLE log_2 (more int) INHERITS (log_1);"
        "INSERT INTO a VALUES (10, 1), (20, 2); INSERT INTO log VALUES (10, 'x'); INSERT INTO log_1 VALUES (10, 'y'), (20, 'z');"
        "INSERT INTO log_2 VALUES (20, 'w', 7)"
    )
    assert made.rows("log") == (["10\tx"], [])
    assert made.rows("log_1") == (["10\ty"], ["20\tz"])
    assert made.rows("log_2") == ([], ["20\tw\t7"])


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"links": [{"table": "t", "via": ["nope"]}]}, "its foreign keys are: a"),
        ({"links": [{"table": "t", "tenant_column": "nope"}]}, "the columns are a, x"),
        ({"follow": [{"column": "x", "parent": "nowhere"}]}, "nowhere"),
        ({"schemas": ["public", "s"], "left_out": ["s"]}, "left_out"),
    ],
)
def test_a_setting_that_is_wrong_is_named_with_what_there_is(
    mapped: MakeMapped, fields: dict[str, Any], named: str
) -> None:
    made = mapped(
        "CREATE SCHEMA s; CREATE TABLE a (id int PRIMARY KEY, tenant_id int); CREATE TABLE t (a int REFERENCES a, x int)",
        **fields,
    )
    assert named in made.refused()


def test_of_two_keys_over_the_same_columns_the_parent_is_said(mapped: MakeMapped) -> None:
    """A shared primary key: the row is a part of both."""
    made = mapped(
        "CREATE TABLE a (id int PRIMARY KEY, tenant_id int); CREATE TABLE b (id int PRIMARY KEY, tenant_id int);"
        "CREATE TABLE t (id int PRIMARY KEY REFERENCES a REFERENCES b); INSERT INTO a VALUES (1, 1); INSERT INTO b VALUES (1, 2);"
        "INSERT INTO t VALUES (1)"
    )
    assert 'via = ["id"]\nparent = "public.a"' in made.status("t").remedy
    again(made, links=[{"table": "t", "via": ["id"], "parent": "b"}])
    assert made.rows("t") == ([], ["1"])


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("v", "public.v is a view"),
        ("public.m", "public.m is a materialized view"),
        ("e_1", "public.e_1 is a partition of public.e"),
        ("t", "far.t is in a schema that database.schemas does not list"),
    ],
)
def test_a_name_that_is_no_table_is_explained(mapped: MakeMapped, name: str, why: str) -> None:
    made = mapped(
        "CREATE VIEW v AS SELECT 1; CREATE MATERIALIZED VIEW m AS SELECT 1; CREATE SCHEMA far; CREATE TABLE far.t (id int);"
        "CREATE TABLE e (tenant_id int) PARTITION BY LIST (tenant_id); CREATE TABLE e_1 PARTITION OF e DEFAULT",
        shared=[name],
    )
    assert why in made.refused()


def test_a_schema_that_is_not_there_is_an_error(mapped: MakeMapped) -> None:
    """A typing error would leave its tables out without a word."""
    made = mapped("", schemas=["public", "billling"])
    assert 'schemas = ["public"]' in made.refused()


def test_a_key_that_may_be_null_yields_to_a_column_that_is_always_there(mapped: MakeMapped) -> None:
    """No foreign key here (an application dropped it), and one to a table of tenants wherever else it is."""
    made = mapped(
        "CREATE TABLE projects (id bigint PRIMARY KEY, tenant_id int); CREATE TABLE models (id int PRIMARY KEY, tenant_id int);"
        "CREATE TABLE runs (project_id bigint NOT NULL REFERENCES projects);"
        "CREATE TABLE calls (project_id bigint NOT NULL, model_id int REFERENCES models);"
        "INSERT INTO projects VALUES (10, 1); INSERT INTO calls VALUES (10, NULL)"
    )
    status = made.status("calls")
    assert status.status == "ambiguous"
    assert '[[database.follow]]\ncolumn = "project_id"\nparent = "public.projects"' in status.remedy
    again(made, follow=[{"column": "project_id", "parent": "public.projects"}])
    assert made.rows("calls") == (["10\t\\N"], [])


def test_a_rule_does_not_hold_where_the_column_is_a_key_to_another_table(mapped: MakeMapped) -> None:
    """`parent` is a word for many things."""
    made = mapped(
        "CREATE TABLE a (id int PRIMARY KEY, tenant_id int); CREATE TABLE b (id int PRIMARY KEY, tenant_id int);"
        "CREATE TABLE t (parent int NOT NULL REFERENCES b); CREATE TABLE u (parent int NOT NULL);"
        "INSERT INTO a VALUES (1, 1); INSERT INTO b VALUES (1, 2); INSERT INTO t VALUES (1); INSERT INTO u VALUES (1)",
        follow=[{"column": "parent", "parent": "a"}],
    )
    assert made.rows("t") == ([], ["1"])
    assert made.rows("u") == (["1"], [])
