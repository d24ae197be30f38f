"""What a table's rows have in the log, and what changes the fingerprint of that."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from sbh_pipelines.database.journal.identity import Leaf, TableIdentity, changed_meanwhile, read_identities
from sbh_pipelines.database.journal.messages import Relation, RelationColumn
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines_tests.database.journal.conftest import Journaled, of_kind

SCHEMA = """
CREATE TABLE projects (tenant_id int NOT NULL REFERENCES tenants, id int, title text, more text,
    upper text GENERATED ALWAYS AS (upper(title)) STORED, PRIMARY KEY (tenant_id, id));
CREATE TABLE notes (id int PRIMARY KEY, tenant_id int NOT NULL, project_id int, body text,
    FOREIGN KEY (tenant_id, project_id) REFERENCES projects);
CREATE TABLE events (tenant_id int NOT NULL, id int NOT NULL, day date NOT NULL, PRIMARY KEY (day, id)) PARTITION BY RANGE (day);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM ('2026-02-01') TO ('2026-03-01') PARTITION BY LIST (id);
CREATE TABLE events_2a PARTITION OF events_2 FOR VALUES IN (1);
CREATE PUBLICATION pub FOR TABLE tenants, projects, notes, events;
CREATE PUBLICATION others FOR TABLE projects;
"""


@pytest.fixture
def tables(journaled: Journaled) -> list[MappedTable]:
    return list(journaled.mapped(SCHEMA).values())


def read(journaled: Journaled, tables: Sequence[MappedTable]) -> dict[str, TableIdentity]:
    found = read_identities(journaled.connection, tables, "pub")
    return {name.removeprefix("public."): identity for name, identity in found.items()}


def changed(journaled: Journaled, tables: Sequence[MappedTable], *statements: str) -> set[str]:
    """The tables whose fingerprint the statements change."""
    before = read(journaled, tables)
    journaled.run(*statements)
    after = read(journaled, tables)
    return {name for name in before if before[name].fingerprint != after[name].fingerprint}


def test_what_is_read(journaled: Journaled, tables: list[MappedTable]) -> None:
    found = read(journaled, tables)
    assert {*found} == {"tenants", "projects", "notes", "events"}
    projects = found["projects"]
    (leaf,) = projects.leaves
    assert (leaf.identity, leaf.columns, leaf.stored, leaf.virtual) == ("d", ("tenant_id", "id"), ("upper",), ())
    assert (leaf.kind, leaf.persistence, leaf.full_name) == ("r", "p", "public.projects")
    assert {"tenant_id", "id"} == {*leaf.not_null}
    assert projects.published
    assert projects.leaf(leaf.oid) == leaf
    assert [leaf.name for leaf in found["events"].leaves] == ["events_1", "events_2a"]
    assert found["events"].columns == {"day", "id"}
    journaled.run(
        "ALTER TABLE notes REPLICA IDENTITY FULL",
        "CREATE UNIQUE INDEX own ON projects (id, tenant_id) INCLUDE (title)",
        "ALTER TABLE projects REPLICA IDENTITY USING INDEX own",
        "ALTER TABLE events REPLICA IDENTITY FULL",
        "ALTER TABLE events_1 REPLICA IDENTITY NOTHING",
        "ALTER PUBLICATION pub DROP TABLE notes",
    )
    found = read(journaled, tables)
    assert found["notes"].columns == {"id", "tenant_id", "project_id", "body"}
    assert found["projects"].leaves[0].columns == ("id", "tenant_id")
    assert found["events"].columns == set()
    assert [found[name].published for name in ("tenants", "notes", "projects")] == [True, False, True]
    journaled.run("DROP INDEX own")
    assert read(journaled, tables)["projects"].columns == set()


def test_part_of_a_table_is_not_published(journaled: Journaled, tables: list[MappedTable]) -> None:
    journaled.run("ALTER PUBLICATION pub SET TABLE tenants WHERE (id > 0), projects (tenant_id, id), notes")
    found = read(journaled, tables)
    assert [found[name].published for name in ("tenants", "projects", "notes", "events")] == [False, False, True, False]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1",
        "INSERT INTO projects VALUES (1, 1, 'x')",
        "ANALYZE projects",
        "VACUUM projects",
        "CREATE INDEX ON projects (title)",
        "ALTER TABLE projects ADD COLUMN another text",
        "ALTER TABLE projects ADD COLUMN another int DEFAULT 7",
        "ALTER TABLE projects RENAME COLUMN title TO headline",
        "ALTER TABLE projects DROP COLUMN more",
        "GRANT SELECT ON projects TO sbh_backup",
        "ALTER TABLE projects ADD CHECK (id > 0)",
        "ALTER PUBLICATION others DROP TABLE projects",
        "ALTER PUBLICATION others ADD TABLE notes",
        "ALTER TABLE events_1 RENAME TO events_january",
    ],
)
def test_what_changes_nothing(statement: str, journaled: Journaled, tables: list[MappedTable]) -> None:
    assert changed(journaled, tables, statement) == set()


@pytest.mark.parametrize(
    ("statements", "tables_changed"),
    [
        (["ALTER TABLE events DETACH PARTITION events_1"], {"events"}),
        (
            [
                "ALTER TABLE events DETACH PARTITION events_1",
                "ALTER TABLE events ATTACH PARTITION events_1 FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')",
            ],
            {"events"},
        ),
        (
            [
                "ALTER TABLE events_2 DETACH PARTITION events_2a",
                "ALTER TABLE events_2 ATTACH PARTITION events_2a FOR VALUES IN (1)",
            ],
            {"events"},
        ),
        (["CREATE TABLE events_3 PARTITION OF events FOR VALUES FROM ('2026-03-01') TO ('2026-04-01')"], {"events"}),
        (["DROP TABLE events_1"], {"events"}),
        (["ALTER TABLE events_2a REPLICA IDENTITY FULL"], {"events"}),
        (["ALTER TABLE notes REPLICA IDENTITY FULL"], {"notes"}),
        (
            [
                "CREATE UNIQUE INDEX one ON projects (id, tenant_id)",
                "ALTER TABLE projects REPLICA IDENTITY USING INDEX one",
                "REINDEX INDEX one",
            ],
            {"projects"},
        ),
        (["TRUNCATE notes"], {"notes"}),
        (["ALTER TABLE notes ALTER body TYPE text USING body || 'x'"], {"notes"}),
        (["ALTER TABLE events_1 SET UNLOGGED", "ALTER TABLE events_1 SET LOGGED"], {"events"}),
        (["ALTER PUBLICATION pub DROP TABLE notes"], {"notes"}),
        (["ALTER PUBLICATION pub DROP TABLE notes", "ALTER PUBLICATION pub ADD TABLE notes"], {"notes"}),
        (["ALTER PUBLICATION pub SET (publish = 'insert')"], {"tenants", "projects", "notes", "events"}),
        (
            ["ALTER PUBLICATION pub SET (publish = 'insert')", "ALTER PUBLICATION pub SET (publish = 'insert, update, delete, truncate')"],
            {"tenants", "projects", "notes", "events"},
        ),
        (
            ["DROP PUBLICATION pub", "CREATE PUBLICATION pub FOR TABLE tenants, projects, notes, events"],
            {"tenants", "projects", "notes", "events"},
        ),
    ],
)  # fmt: skip
def test_what_changes_a_fingerprint(
    statements: list[str], tables_changed: set[str], journaled: Journaled, tables: list[MappedTable]
) -> None:
    """Also where all is afterwards as it was before."""
    if "TYPE text USING" in statements[0]:
        journaled.run("INSERT INTO notes VALUES (1, 1, NULL, 'y')")
    assert changed(journaled, tables, *statements) == tables_changed


def test_without_the_publications_name_any_counts(journaled: Journaled, tables: list[MappedTable]) -> None:
    before = read_identities(journaled.connection, tables)
    journaled.run("ALTER PUBLICATION others DROP TABLE projects")
    after = read_identities(journaled.connection, tables)
    assert before["public.projects"].fingerprint != after["public.projects"].fingerprint
    assert after["public.projects"].published


def test_another_identity_for_a_while_is_said_by_the_stream(journaled: Journaled, tables: list[MappedTable]) -> None:
    """There and back again: the fingerprint is the same, a Relation in the stretch is not."""
    journaled.run("ALTER TABLE notes REPLICA IDENTITY FULL", "INSERT INTO notes VALUES (1, 1), (2, 1), (3, 1)")
    journaled.begin()
    before = read(journaled, tables)["notes"]
    journaled.run("DELETE FROM notes WHERE id = 1")
    (relation,) = of_kind(journaled.take(), Relation)
    assert changed_meanwhile(relation, before) == ""
    journaled.run(
        "DELETE FROM notes WHERE id = 2",
        "ALTER TABLE notes REPLICA IDENTITY DEFAULT",
        "DELETE FROM notes WHERE id = 3",
        "ALTER TABLE notes REPLICA IDENTITY FULL",
    )
    after = read(journaled, tables)["notes"]
    assert before.fingerprint == after.fingerprint
    relations = of_kind(journaled.take(), Relation)
    assert [changed_meanwhile(one, after) for one in relations] == [
        "",
        "the replica identity of public.notes was DEFAULT for a while",
    ]


def test_what_a_relation_is_held_against() -> None:
    leaf = Leaf(7, "public", "t", "r", "p", "i", ("a", "b"), ("a", "b"), (), (), False)
    identity = TableIdentity("public.t", 7, "r", (leaf,), True, "0" * 16)

    def said(relid: int, kind: str, *keys: str) -> str:
        columns = tuple(RelationColumn(name in keys, name, 23, -1) for name in "abc")
        return changed_meanwhile(Relation(relid, "public", "t", kind, columns), identity)

    assert said(7, "i", "a", "b") == said(7, "i", "a", "b", "c") == ""
    assert "without b" in said(7, "i", "a", "c")
    assert "NOTHING" in said(7, "n")
    whole = replace(identity, leaves=(replace(leaf, identity="f", columns=("a", "b", "c", "added later")),))
    columns = tuple(RelationColumn(True, name, 23, -1) for name in "abc")
    assert changed_meanwhile(Relation(7, "public", "t", "f", columns), whole) == ""
    assert "no part" in said(8, "i", "a", "b")
