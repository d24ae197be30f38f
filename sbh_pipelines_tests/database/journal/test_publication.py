"""The publication follows the list of tables, by what differs."""

from contextlib import closing
from typing import Any

import pytest

from sbh_pipelines.database.journal.identity import read_identities
from sbh_pipelines.database.journal.messages import Insert
from sbh_pipelines.database.journal.publication import drop_publication, ensure_publication, plan_publication
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.connection import connect
from sbh_pipelines.errors import JournalError, PrivilegeMissing, SlotTrouble, SourceConflict
from sbh_pipelines.settings import DatabaseSettings
from sbh_pipelines_tests.database.journal.conftest import Journaled, of_kind

SCHEMA = """
CREATE TABLE a (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants);
CREATE TABLE "b ""%s" (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants);
CREATE TABLE p (id int PRIMARY KEY, tenant_id int NOT NULL) PARTITION BY RANGE (id);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9);
CREATE TABLE s (tenant_id int PRIMARY KEY, n int, m int GENERATED ALWAYS AS (n + 1) STORED);
"""


@pytest.fixture
def tables(journaled: Journaled) -> dict[str, MappedTable]:
    return journaled.mapped(SCHEMA)


def members(journaled: Journaled) -> list[str]:
    return [name for (name,) in journaled.database.ask("SELECT tablename::text FROM pg_publication_tables ORDER BY 1")]


def facts(journaled: Journaled) -> dict[str, Any]:
    ((found,),) = journaled.database.ask("SELECT to_jsonb(p) FROM pg_publication p")
    return dict(found)


def test_it_is_made_and_altered_by_what_differs(journaled: Journaled, tables: dict[str, MappedTable]) -> None:
    odd = 'b "%s'
    made = ensure_publication(journaled.connection, "pub", [tables["a"], tables[odd]])
    assert (made.added, made.removed) == (("public.a", f"public.{odd}"), ())
    assert members(journaled) == ["a", odd]
    said = facts(journaled)
    assert [said[f"pub{what}"] for what in ("insert", "update", "delete", "truncate", "viaroot", "alltables")] == [
        True
    ] * 4 + [False] * 2
    again = ensure_publication(journaled.connection, "pub", [tables[odd], tables["a"]])
    assert (again.statements, again.added, again.removed, again.xid) == ((), (), (), None)
    changed = ensure_publication(journaled.connection, "pub", [tables["a"], tables["p"]])
    assert (changed.added, changed.removed) == (("public.p",), (f"public.{odd}",))
    assert members(journaled) == ["a", "p1"]
    assert changed.xid is not None
    assert changed.xid < journaled.fence().xmin
    drop_publication(journaled.connection, "pub")
    drop_publication(journaled.connection, "pub")
    assert members(journaled) == []


def test_a_child_by_inheritance_does_not_come_along(journaled: Journaled, tables: dict[str, MappedTable]) -> None:
    journaled.run("CREATE TABLE child () INHERITS (a)")
    ensure_publication(journaled.connection, "pub", [tables["a"]])
    assert members(journaled) == ["a"]


def test_what_somebody_else_altered_is_put_right(journaled: Journaled, tables: dict[str, MappedTable]) -> None:
    wanted = [tables["a"], tables["s"]]
    ensure_publication(journaled.connection, "pub", wanted)
    journaled.run(
        "ALTER PUBLICATION pub SET (publish = 'insert', publish_via_partition_root = true)",
        "ALTER PUBLICATION pub SET TABLE a WHERE (id > 5), p",
    )
    changed = ensure_publication(journaled.connection, "pub", wanted)
    assert (changed.added, changed.removed) == (("public.a", "public.s"), ("public.p",))
    assert members(journaled) == ["a", "s"]
    assert (facts(journaled)["pubdelete"], facts(journaled)["pubviaroot"]) == (True, False)
    assert read_identities(journaled.connection, wanted, "pub")["public.a"].published


def test_stored_generated_columns_are_published_where_full_needs_it(
    journaled: Journaled, tables: dict[str, MappedTable]
) -> None:
    """From PostgreSQL 18 on an UPDATE would fail else. Before, they never are."""
    wanted = list(tables.values())
    ensure_publication(journaled.connection, "pub", wanted)
    assert facts(journaled).get("pubgencols", "n") == "n"
    journaled.run("ALTER TABLE s REPLICA IDENTITY FULL")
    changed = ensure_publication(journaled.connection, "pub", wanted)
    on_18 = journaled.connection.server_version >= 180000
    assert bool(changed.statements) == on_18
    assert facts(journaled).get("pubgencols", "s") == "s"
    journaled.run("INSERT INTO s VALUES (1, 1)", "UPDATE s SET n = 2")
    journaled.run("ALTER TABLE s REPLICA IDENTITY DEFAULT")
    assert bool(ensure_publication(journaled.connection, "pub", wanted).statements) == on_18


@pytest.mark.parametrize("what", ["ALL TABLES", "TABLES IN SCHEMA public"])
def test_one_of_all_tables_is_refused(what: str, journaled: Journaled, tables: dict[str, MappedTable]) -> None:
    journaled.run(f"CREATE PUBLICATION pub FOR {what}")
    with pytest.raises(JournalError, match="of all tables"):
        plan_publication(journaled.connection, "pub", list(tables.values()))


def test_a_role_that_owns_nothing_learns_what_to_run(journaled: Journaled, tables: dict[str, MappedTable]) -> None:
    """And needs nothing where there is nothing to do."""
    wanted = [tables["a"]]
    with closing(connect(DatabaseSettings(dsn=journaled.database.dsn), "test")) as backup:
        with pytest.raises(PrivilegeMissing):
            ensure_publication(backup, "pub", wanted)
        journaled.run(*plan_publication(backup, "pub", wanted).statements)
        assert ensure_publication(backup, "pub", wanted).statements == ()
        with pytest.raises(PrivilegeMissing):
            ensure_publication(backup, "pub", [*wanted, tables["s"]])


def test_it_waits_for_nobody_for_long(journaled: Journaled, tables: dict[str, MappedTable]) -> None:
    with closing(journaled.database.connect()) as other:
        other.cursor().execute("BEGIN; LOCK TABLE a IN SHARE ROW EXCLUSIVE MODE")
        with pytest.raises(SourceConflict):
            ensure_publication(journaled.connection, "pub", [tables["a"]], wait_s=0.2)
    assert members(journaled) == []
    assert ensure_publication(journaled.connection, "pub", [tables["a"]]).added == ("public.a",)


def test_a_slot_needs_its_publication_from_the_beginning(journaled: Journaled, tables: dict[str, MappedTable]) -> None:
    """What was changed before there was the publication: the slot can never be read, or says nothing of it from 18 on."""
    journaled.begin()
    journaled.run("INSERT INTO a VALUES (1, 1)")
    ensure_publication(journaled.connection, "pub", [tables["a"]])
    journaled.run("INSERT INTO a VALUES (2, 1)")
    if journaled.connection.server_version >= 180000:
        assert [m.new for m in of_kind(journaled.read(), Insert)] == [(b"2", b"1")]
    else:
        with pytest.raises(SlotTrouble, match="publication"):
            journaled.read()


def test_a_table_that_is_added_comes_from_then_on(journaled: Journaled, tables: dict[str, MappedTable]) -> None:
    ensure_publication(journaled.connection, "pub", [tables["a"]])
    journaled.begin()
    journaled.run("INSERT INTO s VALUES (1, 1)")
    ensure_publication(journaled.connection, "pub", [tables["a"], tables["s"]])
    journaled.run("INSERT INTO s VALUES (2, 1)")
    ensure_publication(journaled.connection, "pub", [tables["a"]])
    journaled.run("INSERT INTO s VALUES (3, 1)", "INSERT INTO a VALUES (4, 1)")
    assert [m.new[0] for m in of_kind(journaled.take(), Insert)] == [b"2", b"4"]
