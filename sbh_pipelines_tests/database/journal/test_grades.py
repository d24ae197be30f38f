"""Which tables can be journaled, and that what is proposed for the others makes it so; what publishing a table breaks."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace

import psycopg2
import pytest

from sbh_pipelines.database.journal import grades
from sbh_pipelines.database.journal.grades import Grade, GradeKind, grade
from sbh_pipelines.database.journal.grades import journaled as journaled_tables
from sbh_pipelines.database.journal.identity import read_identities
from sbh_pipelines.database.journal.probe import probe
from sbh_pipelines.database.journal.publication import ensure_publication
from sbh_pipelines.database.schema.definition import read_definitions
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.connection import connect
from sbh_pipelines.errors import SourceConflict
from sbh_pipelines.settings import DatabaseSettings
from sbh_pipelines_tests.database.journal.conftest import Journaled
from sbh_pipelines_tests.support.own_server import own_server

J, P, X = GradeKind.JOURNALED, GradeKind.POSSIBLE, GradeKind.IMPOSSIBLE

SCHEMA = """
CREATE TABLE by_key (tenant_id int, id int, PRIMARY KEY (tenant_id, id));
CREATE TABLE plain (id int PRIMARY KEY, tenant_id bigint NOT NULL);
CREATE TABLE nullable (id int PRIMARY KEY, tenant_id int);
CREATE TABLE "Odd ""%s" (id int PRIMARY KEY, tenant_id int NOT NULL);
CREATE TABLE full_one (id int PRIMARY KEY, tenant_id int NOT NULL);
ALTER TABLE full_one REPLICA IDENTITY FULL;
CREATE TABLE nothing (tenant_id int, id int, PRIMARY KEY (tenant_id, id));
ALTER TABLE nothing REPLICA IDENTITY NOTHING;
CREATE TABLE indexed (id int PRIMARY KEY, tenant_id int NOT NULL);
CREATE UNIQUE INDEX indexed_own ON indexed (tenant_id, id);
ALTER TABLE indexed REPLICA IDENTITY USING INDEX indexed_own;
CREATE TABLE deferred (tenant_id int, id int, PRIMARY KEY (tenant_id, id) DEFERRABLE);
CREATE TABLE keyless (tenant_id int NOT NULL, n int);
CREATE TABLE generated_key (tenant_id int, id int, k int GENERATED ALWAYS AS (id) STORED, PRIMARY KEY (tenant_id, k));
CREATE TABLE numbers (id int PRIMARY KEY, tenant_id numeric NOT NULL);
CREATE TABLE names (id int PRIMARY KEY, tenant_id int NOT NULL, relation regclass);
CREATE UNLOGGED TABLE unlogged (tenant_id int, id int, PRIMARY KEY (tenant_id, id));
CREATE TABLE parts (tenant_id int, id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
ALTER TABLE parts_1 REPLICA IDENTITY FULL;
CREATE TABLE "long_{long}" (id int PRIMARY KEY, tenant_id int NOT NULL);
CREATE TABLE children (id int PRIMARY KEY, parent int NOT NULL REFERENCES plain (id));
CREATE TABLE grandchildren (id int PRIMARY KEY, child int NOT NULL REFERENCES children (id));
ALTER TABLE grandchildren REPLICA IDENTITY FULL;
CREATE TABLE codes (tenant_id int, id int, code text NOT NULL UNIQUE, PRIMARY KEY (tenant_id, id));
CREATE TABLE by_code (code text REFERENCES codes (code), n int, PRIMARY KEY (code, n));
CREATE TABLE of_keyless (id int PRIMARY KEY, deferred int NOT NULL);
""".replace("{long}", "x" * 55)  # fmt: skip
LINKS = [{"table": "of_keyless", "parent": "by_key", "join": "t.deferred = p.id"}]


@pytest.fixture
def tables(journaled: Journaled) -> dict[str, MappedTable]:
    return journaled.mapped(SCHEMA, links=LINKS)


def graded(journaled: Journaled, tables: Mapping[str, MappedTable]) -> dict[str, Grade]:
    listed = list(tables.values())
    found = grade(
        listed, read_identities(journaled.connection, listed), read_definitions(journaled.connection, tuple(listed))
    )
    assert [one.table for one in found] == [mapped.full_name for mapped in listed]
    return {one.table.removeprefix("public."): one for one in found}


def test_each_table_has_its_grade(journaled: Journaled, tables: dict[str, MappedTable]) -> None:
    found = graded(journaled, tables)
    assert {name: one.kind for name, one in found.items()} == {
        "tenants": J, "by_key": J, "plain": P, "nullable": P, 'Odd "%s': P, "full_one": J, "nothing": P, "indexed": J, "deferred": X,
        "keyless": X, "generated_key": X, "numbers": X, "names": X, "unlogged": X, "parts": P, "long_" + "x" * 55: P, "children": P,
        "grandchildren": P, "codes": J, "by_code": P, "of_keyless": X,
    }  # fmt: skip
    because = {name: one.why for name, one in found.items()}
    assert "without tenant_id" in because["plain"]
    assert "no replica identity" in because["nothing"]
    assert "is deferrable" in because["deferred"]
    assert "no primary key" in because["keyless"]
    assert "generated column" in because["generated_key"]
    assert "several texts" in because["numbers"]
    assert "names in the catalogue" in because["names"]
    assert "unlogged" in because["unlogged"]
    assert "parts_2" in because["parts"]
    assert "condition in the settings" in because["of_keyless"]
    assert found["children"].parents == ("public.plain",)
    assert found["grandchildren"].parents == ("public.children", "public.plain")
    assert (found["grandchildren"].choices, found["by_code"].choices) == ((), ())
    assert found["by_code"].parents == ("public.codes",)
    assert len(found["codes"].choices) == 2
    assert "indexed" in found["indexed"].warning
    assert {one.table for one in found.values() if one.kind is J} == {*journaled_tables(found.values())}


def test_a_large_table_without_an_index_over_its_foreign_key_is_warned_of(
    journaled: Journaled, tables: dict[str, MappedTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows that refer to another are not looked for there: an index that has the columns elsewhere than in front is none."""
    monkeypatch.setattr(grades, "SMALL_BYTES", -1)
    cursor = journaled.connection.cursor()
    cursor.execute("ALTER TABLE plain REPLICA IDENTITY FULL; ALTER TABLE children REPLICA IDENTITY FULL")
    cursor.execute("ALTER TABLE codes REPLICA IDENTITY FULL; CREATE INDEX ON children (id, parent)")
    cursor.execute("CREATE INDEX ON children (parent) WHERE id > 0; CREATE INDEX ON children (abs(id), parent)")
    found = graded(journaled, tables)
    assert "no index (parent)" in found["children"].warning
    assert (found["children"].kind, found["by_code"].kind, found["by_code"].warning) == (J, J, "")
    cursor.execute("CREATE INDEX ON children (parent, id)")
    assert graded(journaled, tables)["children"].warning == ""


def test_what_is_proposed(journaled: Journaled, tables: dict[str, MappedTable]) -> None:
    found = graded(journaled, tables)
    assert [choice.statements for choice in found["plain"].choices] == [
        (
            'CREATE UNIQUE INDEX CONCURRENTLY "plain_identity" ON "public"."plain" ("tenant_id", "id");',
            'ALTER TABLE "public"."plain" REPLICA IDENTITY USING INDEX "plain_identity";',
        ),
        ('ALTER TABLE "public"."plain" REPLICA IDENTITY FULL;',),
    ]
    assert [choice.statements for choice in found["nullable"].choices] == [
        ('ALTER TABLE "public"."nullable" REPLICA IDENTITY FULL;',)
    ]
    assert found["nothing"].choices[0].statements == ('ALTER TABLE "public"."nothing" REPLICA IDENTITY DEFAULT;',)
    assert [choice.statements for choice in found["parts"].choices] == [
        ('ALTER TABLE "public"."parts_2" REPLICA IDENTITY FULL;',)
    ]


@pytest.mark.parametrize("which", [0, -1])
def test_what_is_proposed_makes_it_so(which: int, journaled: Journaled, tables: dict[str, MappedTable]) -> None:
    """The first choice of every table, and the last: then all that is not impossible is journaled, and nothing breaks."""
    proposed = graded(journaled, tables)
    journaled.run(
        *(statement for one in proposed.values() if one.choices for statement in one.choices[which].statements)
    )
    found = graded(journaled, tables)
    assert {name for name, one in found.items() if one.kind is not X} == {
        name for name, one in proposed.items() if one.kind is not X
    }
    assert [(name, one.why) for name, one in found.items() if one.kind is P] == []
    assert [name for name, one in found.items() if one.kind is J and one.choices] == []
    wanted = [mapped for mapped in tables.values() if mapped.full_name in journaled_tables(found.values())]
    assert probe(journaled.connection, wanted) == {}
    ensure_publication(journaled.connection, "pub", wanted)
    journaled.run("UPDATE by_code SET n = 1", "UPDATE plain SET id = 2", "DELETE FROM grandchildren")


def test_types_that_differ_from_the_tenants_key(journaled: Journaled) -> None:
    tables = journaled.mapped("CREATE TABLE a (tenant_id text, id int, PRIMARY KEY (tenant_id, id))")
    tables["a"] = replace(tables["a"], tenant_column=replace(tables["a"].tenant_column, type="uuid"))
    assert "another type" in graded(journaled, tables)["a"].why


def broken(journaled: Journaled, tables: Sequence[MappedTable]) -> dict[str, str]:
    found = probe(journaled.connection, tables)
    return {name.removeprefix("public."): problem.statement for name, problem in found.items() if problem.known}


def test_a_probe_names_what_would_break_and_leaves_nothing(
    journaled: Journaled, tables: dict[str, MappedTable]
) -> None:
    triggered = (
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'ran'; END $$",
        "CREATE TRIGGER fail BEFORE UPDATE OR DELETE ON plain FOR EACH STATEMENT EXECUTE FUNCTION fail()",
        "ALTER TABLE plain ENABLE ALWAYS TRIGGER fail",
        "CREATE TABLE always (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY)",
    )
    journaled.run(*triggered)
    found = broken(journaled, list(tables.values()))
    on_18 = journaled.connection.server_version >= 180000
    expected = {"nothing": "DELETE", "deferred": "DELETE", "keyless": "DELETE", "unlogged": "PUBLISH"}
    assert found == expected | ({"generated_key": "DELETE"} if on_18 else {})
    assert journaled.database.ask("SELECT count(*) FROM pg_publication") == [(0,)]
    cursor = journaled.connection.cursor()
    cursor.execute("SHOW lock_timeout")
    assert cursor.fetchone() == ("0",)


GENERATED = """
CREATE TABLE stored (tenant_id int, id int, s int GENERATED ALWAYS AS (id + 1) STORED, PRIMARY KEY (tenant_id, id));
CREATE TABLE computed (tenant_id int, id int, v int GENERATED ALWAYS AS (id + 1) VIRTUAL, PRIMARY KEY (tenant_id, id));
CREATE TABLE computed_by_index (id int PRIMARY KEY, tenant_id int NOT NULL, v int GENERATED ALWAYS AS (id + 1) VIRTUAL);
CREATE TABLE computed_nullable (id int PRIMARY KEY, tenant_id int, v int GENERATED ALWAYS AS (id + 1) VIRTUAL);
"""


def test_generated_columns_of_postgresql_18(journaled: Journaled) -> None:
    """FULL with a stored one works where the publication says so; with a virtual one never."""
    if journaled.connection.server_version < 180000:
        pytest.skip("virtual columns are of PostgreSQL 18")
    tables = journaled.mapped(GENERATED)
    listed = list(tables.values())
    assert broken(journaled, listed) == {}
    found = graded(journaled, tables)
    assert [found[name].kind for name in ("stored", "computed", "computed_by_index", "computed_nullable")] == [
        J,
        J,
        P,
        X,
    ]
    assert len(found["computed_by_index"].choices) == 1
    assert "INDEX" in found["computed_by_index"].choices[0].statements[0]
    journaled.run("ALTER TABLE stored REPLICA IDENTITY FULL", "ALTER TABLE computed REPLICA IDENTITY FULL")
    problems = probe(journaled.connection, listed)
    assert {*problems} == {"public.computed"}
    assert "generated column" in problems["public.computed"].why
    found = graded(journaled, tables)
    assert (found["stored"].kind, found["computed"].kind) == (J, P)
    assert found["computed"].choices[0].statements == ('ALTER TABLE "public"."computed" REPLICA IDENTITY DEFAULT;',)
    ensure_publication(journaled.connection, "pub", [tables["stored"]])
    journaled.run(
        "UPDATE stored SET id = id", "DROP PUBLICATION pub", "CREATE PUBLICATION pub FOR TABLE stored, computed"
    )
    for name in ("stored", "computed"):
        with pytest.raises(psycopg2.Error, match="cannot update table"):
            journaled.run(f"UPDATE {name} SET id = id")


def test_a_partition_without_an_identity_breaks_its_table(journaled: Journaled, tables: dict[str, MappedTable]) -> None:
    journaled.run("ALTER TABLE parts_2 REPLICA IDENTITY NOTHING")
    problem = probe(journaled.connection, [tables["parts"]])["public.parts"]
    assert (problem.on, problem.statement) == ("public.parts_2", "DELETE")


def test_a_role_that_may_not_probe_says_so(journaled: Journaled, tables: dict[str, MappedTable]) -> None:
    with closing(connect(DatabaseSettings(dsn=journaled.database.dsn), "test")) as backup:
        found = probe(backup, [tables["plain"], tables["nothing"]])
        assert {name: problem.known for name, problem in found.items()} == {
            "public.plain": False,
            "public.nothing": False,
        }
        journaled.run(f"GRANT CREATE ON DATABASE {journaled.database.name} TO sbh_backup")
        found = probe(backup, [tables["plain"]])
        assert "owner" in found["public.plain"].why
        assert not found["public.plain"].known


def test_a_probe_waits_for_nobody_for_long(journaled: Journaled, tables: dict[str, MappedTable]) -> None:
    with closing(journaled.database.connect()) as other:
        other.cursor().execute("BEGIN; LOCK TABLE plain IN SHARE ROW EXCLUSIVE MODE")
        with pytest.raises(SourceConflict):
            probe(journaled.connection, [tables["plain"]], wait_s=0.2)
    assert probe(journaled.connection, [tables["plain"]]) == {}


@pytest.mark.parametrize("version", [18, 15])
def test_a_probe_before_the_server_can_decode(version: int) -> None:
    """`wal_level` needs a restart; what publishing would break is known before."""
    with own_server(version) as server, closing(connect(DatabaseSettings(dsn=server.dsn()), "test")) as connection:
        journaled = Journaled(server.database("postgres"), connection, "")
        tables = journaled.mapped(SCHEMA, links=LINKS)
        assert broken(journaled, [tables["nothing"], tables["plain"]]) == {"nothing": "DELETE"}


# What PostgreSQL does for a function that says it is immutable: the planner calls it.
_EVIL = """
CREATE SEQUENCE calls;
CREATE FUNCTION evil() RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
    PERFORM pg_create_physical_replication_slot('evil'); RETURN 1; END $$;
CREATE FUNCTION counts(int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
    BEGIN PERFORM set_config('transaction_read_only', 'off', false); EXCEPTION WHEN OTHERS THEN NULL; END;
    BEGIN PERFORM nextval('public.calls'); EXCEPTION WHEN OTHERS THEN NULL; END; RETURN true; END $$;
"""


def _slots(journaled: Journaled) -> list[tuple[str, ...]]:
    return journaled.database.ask("SELECT slot_name::text FROM pg_replication_slots WHERE slot_name = 'evil'")


def test_a_table_with_rules_is_left_alone(journaled: Journaled, tables: dict[str, MappedTable]) -> None:
    """Also where the rule is made after its identity was read."""
    listed = [tables["plain"], tables["by_key"], tables["parts"]]
    before = read_identities(journaled.connection, listed)
    journaled.run(_EVIL, "CREATE RULE r AS ON DELETE TO by_key DO ALSO SELECT evil()")
    journaled.run("CREATE RULE r AS ON UPDATE TO parts_2 DO ALSO SELECT evil()")
    found = graded(journaled, tables)
    for name in ("by_key", "parts"):
        assert found[name].kind is X
        assert "has rules" in found[name].why
    for identities in (before, None):
        problems = probe(journaled.connection, listed, identities)
        assert {name: one.on for name, one in problems.items()} == {
            "public.by_key": "public.by_key",
            "public.parts": "public.parts_2",
        }
    assert _slots(journaled) == []


def test_what_the_planner_calls_in_a_probe_writes_nothing(journaled: Journaled, tables: dict[str, MappedTable]) -> None:
    journaled.run(
        _EVIL,
        "CREATE INDEX trap ON by_key ((1)) WHERE counts(1)",
        "ALTER TABLE plain ADD CHECK (counts(1)), ADD CHECK (counts(id))",
        "ALTER TABLE plain ADD g boolean GENERATED ALWAYS AS (counts(1)) STORED",
        "SELECT setval('calls', 1000)",
    )
    last = "SELECT last_value FROM calls"
    assert probe(journaled.connection, [tables["by_key"], tables["plain"], tables["parts"]]) == {}
    assert journaled.database.ask(last) == [(1000,)]
    journaled.run("EXPLAIN DELETE FROM by_key WHERE false")
    assert journaled.database.ask(last)[0][0] > 1000  # the trap works
    journaled.run("CREATE POLICY p ON by_key USING (counts(1))")
    journaled.run("ALTER TABLE by_key ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    journaled.run("SELECT setval('calls', 1000)")
    probe(journaled.connection, [tables["by_key"]])
    assert journaled.database.ask(last) == [(1000,)]


def test_a_warning_names_the_index_that_is_the_identity(journaled: Journaled, tables: dict[str, MappedTable]) -> None:
    assert "its identity is an index (indexed_own)" in graded(journaled, tables)["indexed"].warning
