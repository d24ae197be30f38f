"""An undo brings back what was there before a restore, also what the restore mended: rows of nobody, keys that were broken."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sbh_pipelines.backup.restore.result import RestoreResult
from sbh_pipelines.errors import RestoreRefused
from sbh_pipelines_tests.support.application import ADMIN
from sbh_pipelines_tests.support.databases import Database
from sbh_pipelines_tests.support.restore.small_schema import ACME, SmallSchema

DDL = """
CREATE TABLE projects (id int PRIMARY KEY, org_id int NOT NULL REFERENCES orgs, name text);
CREATE TABLE comments (id int PRIMARY KEY, project_id int REFERENCES projects ON DELETE SET NULL, body text);
CREATE TABLE labels (comment_id int, nr int, note text, PRIMARY KEY (comment_id, nr));
CREATE TABLE trail (comment_id int, line text);
CREATE TABLE teams (id int PRIMARY KEY, org_id int REFERENCES orgs ON DELETE SET NULL, name text);
INSERT INTO projects VALUES (1, 1, 'p1'), (2, 2, 'p2'), (3, 1, 'p3');
INSERT INTO comments VALUES (1, 1, 'one'), (2, 2, 'two'), (3, 3, 'three');
INSERT INTO labels SELECT id, n, 'l' FROM comments, generate_series(1, 2) n;
INSERT INTO trail SELECT comment_id, note FROM labels;
INSERT INTO teams VALUES (1, 1, 'a'), (2, 2, 'b');
"""
LINKS = [{"table": name, "parent": "comments", "join": "t.comment_id = p.id"} for name in ("labels", "trail")]
SAFE = {"safety_backup": True, "lease_wait_s": 0}


@pytest.fixture
def schema(database: Database, tmp_path: Path) -> SmallSchema:
    made = SmallSchema(database, tmp_path, DDL, links=LINKS, restore=SAFE)
    made.backup()
    return made


def _undone(schema: SmallSchema, done: RestoreResult, before: Any, after: Any) -> None:
    """Undone, and that undone again."""
    undone = schema.service.restores.undo(done.restore_id, ACME, ADMIN)
    assert schema.rows() == before
    schema.service.restores.undo(undone.restore_id, ACME, ADMIN)
    assert schema.rows() == after


@pytest.mark.parametrize("request_fields", [{}, {"tables": ("comments",)}, {"rows": "projects where id = 1"}], ids=str)
def test_rows_of_nobody_are_nobodys_again(schema: SmallSchema, request_fields: dict[str, Any]) -> None:
    """As they were, and not gone; also where more of them was changed than their link."""
    backed_up = schema.rows()
    schema.run(
        "DELETE FROM projects WHERE id = 1",
        "UPDATE comments SET body = 'later' WHERE id = 1",
        "UPDATE labels SET note = 'later' WHERE comment_id = 1 AND nr = 2",
        "DELETE FROM labels WHERE comment_id = 1 AND nr = 1",
        "DELETE FROM trail WHERE ctid = (SELECT min(ctid) FROM trail WHERE comment_id = 1)",
    )
    before = schema.rows()
    done = schema.restore(**request_fields)
    after = schema.rows()
    if not request_fields.get("tables"):
        assert after == backed_up
    _undone(schema, done, before, after)


@pytest.mark.parametrize("mode", ["exact", "missing-only"])
def test_rows_of_nobody_that_came_since(schema: SmallSchema, mode: str) -> None:
    """They went, or became the tenant's with what they hang on: nobody's again, as they were."""
    schema.run(
        "INSERT INTO comments VALUES (70, 1, 'since')",
        "INSERT INTO labels VALUES (70, 1, 'since'), (1, 9, 'since')",
        "INSERT INTO trail VALUES (70, 'since'), (1, 'l')",
        "UPDATE labels SET note = 'later' WHERE comment_id = 3",
        "SET session_replication_role = replica; DELETE FROM projects WHERE id = 1",
    )
    before = schema.rows()
    done = schema.restore(mode=mode)
    _undone(schema, done, before, schema.rows())


def test_the_tenants_own_row_was_deleted(schema: SmallSchema) -> None:
    """Its rows were nobody's, down to the last table."""
    backed_up = schema.rows()
    schema.run("DELETE FROM projects WHERE org_id = 1", "DELETE FROM orgs WHERE id = 1")
    before = schema.rows()
    done = schema.restore()
    assert schema.rows() == backed_up
    _undone(schema, done, before, backed_up)


@pytest.mark.parametrize("tables", [(), ("projects",)], ids=["all", "parents"])
def test_keys_that_were_broken_are_broken_again(database: Database, tmp_path: Path, tables: tuple[str, ...]) -> None:
    ddl = """
    CREATE TABLE projects (id int PRIMARY KEY, org_id int NOT NULL REFERENCES orgs);
    CREATE TABLE tasks (id int PRIMARY KEY, project_id int NOT NULL REFERENCES projects, org_id int NOT NULL);
    INSERT INTO projects VALUES (1, 1), (2, 2); INSERT INTO tasks VALUES (1, 1, 1), (2, 2, 2);"""
    schema = SmallSchema(database, tmp_path, ddl, restore=SAFE)
    schema.backup()
    backed_up = schema.rows()
    schema.run("SET session_replication_role = replica; DELETE FROM projects WHERE id = 1")
    before = schema.rows()
    done = schema.restore(tables=tables)
    assert schema.rows() == backed_up
    assert not schema.service.restores.plan_undo(done.restore_id, ACME, ADMIN).problems
    _undone(schema, done, before, backed_up)


def test_what_refers_to_it_since_is_not_broken(database: Database, tmp_path: Path) -> None:
    """A row that came after the restore refers to what the restore mended: named, as by any restore."""
    ddl = """
    CREATE TABLE projects (id int PRIMARY KEY, org_id int NOT NULL REFERENCES orgs);
    CREATE TABLE tasks (id int PRIMARY KEY, project_id int NOT NULL REFERENCES projects ON DELETE CASCADE);
    INSERT INTO projects VALUES (1, 1), (2, 2); INSERT INTO tasks VALUES (1, 1), (2, 2);"""
    schema = SmallSchema(database, tmp_path, ddl, restore=SAFE)
    schema.backup()
    schema.run("SET session_replication_role = replica; DELETE FROM projects WHERE id = 1")
    before = schema.rows()
    done = schema.restore(tables=("projects",))
    schema.run("INSERT INTO tasks VALUES (9, 1)")
    undo: Callable[..., RestoreResult] = schema.service.restores.undo
    with pytest.raises(RestoreRefused, match=r"1 rows of public\.tasks of this tenant refer to public\.projects"):
        undo(done.restore_id, ACME, ADMIN)
    undo(done.restore_id, ACME, ADMIN, references="declared")
    assert schema.rows() == before
