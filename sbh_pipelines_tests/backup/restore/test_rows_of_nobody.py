"""The most ordinary loss: a parent is deleted, and rows stay behind that are nobody's now. They come back with it."""

from pathlib import Path

import pytest

from sbh_pipelines.backup.restore import left_rows
from sbh_pipelines.database.merge.relationships import adoption
from sbh_pipelines.errors import RestoreConflict
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines_tests.support.application import ADMIN
from sbh_pipelines_tests.support.databases import Database
from sbh_pipelines_tests.support.restore.small_schema import ACME, SmallSchema

PROJECTS = """
CREATE TABLE projects (id int PRIMARY KEY, org_id int NOT NULL REFERENCES orgs, name text);
CREATE TABLE comments (id int PRIMARY KEY, project_id int REFERENCES projects ON DELETE SET NULL, body text);
CREATE TABLE reactions (comment_id int REFERENCES comments ON DELETE SET NULL, nr int PRIMARY KEY, sign text);
CREATE TABLE versions (id int PRIMARY KEY, item_type text, item_id int, object text);
CREATE TABLE trail (item_type text, item_id int, line text);
INSERT INTO projects VALUES (1, 1, 'p1'), (2, 2, 'p2'), (3, 1, 'p3');
INSERT INTO comments VALUES (1, 1, 'hello'), (2, 2, 'other'), (3, 3, 'third'), (9, NULL, 'of nobody, always');
INSERT INTO reactions VALUES (1, 1, '+'), (2, 2, '-'), (3, 3, '+');
INSERT INTO versions VALUES (1, 'Project', 1, 'v1'), (2, 'Project', 2, 'v2'), (3, 'Project', 3, 'v3'), (4, 'Else', 1, 'x');
INSERT INTO trail VALUES ('Project', 1, 'a'), ('Project', 1, 'a'), ('Project', 1, NULL), ('Project', 2, 'a');
"""
JOIN = "t.item_type = 'Project' AND t.item_id = p.id"
LINKS = [{"table": name, "parent": "projects", "join": JOIN} for name in ("versions", "trail")]
LOSS = "DELETE FROM projects WHERE id = 1"


@pytest.fixture
def schema(database: Database, tmp_path: Path) -> SmallSchema:
    made = SmallSchema(database, tmp_path, PROJECTS, links=LINKS)
    made.backup()
    return made


@pytest.mark.parametrize("mode", ["exact", "missing-only", "newest-wins"])
@pytest.mark.parametrize("incremental", [False, True], ids=["full", "incremental"])
def test_a_deleted_parent(schema: SmallSchema, mode: str, *, incremental: bool) -> None:
    """The whole tenant, in every mode; the plan says how many rows were nobody's, and its numbers are the restore's."""
    if incremental:
        schema.run("UPDATE comments SET body = 'hello again' WHERE id = 1")
        schema.backup(type="incremental")
    before = schema.rows()
    schema.run(LOSS)
    plan = schema.plan(mode=mode)
    assert not plan.problems
    nobodys = {t.table: t.of_no_tenant for t in plan.tables if t.of_no_tenant}
    assert nobodys == {"public.comments": 1, "public.reactions": 1, "public.versions": 1, "public.trail": 3}
    done = schema.restore(mode=mode)
    assert schema.rows() == before
    assert (done.rows_inserted, done.rows_updated, done.rows_deleted, done.rows_kept) == (1, 1, 0, 0)
    assert schema.plan(mode=mode).nothing_to_do


@pytest.mark.parametrize("mode", ["exact", "missing-only"])
def test_chosen_rows(schema: SmallSchema, mode: str) -> None:
    before = schema.rows()
    schema.run(LOSS)
    schema.restore(rows="projects where id = 1", mode=mode)
    assert schema.rows() == before


def test_a_part_and_then_the_whole(schema: SmallSchema) -> None:
    """The parent's table alone brings back what has no foreign key; the rest comes with the whole tenant."""
    before = schema.rows()
    schema.run(LOSS)
    schema.restore(tables=("projects",), mode="missing-only")
    after = schema.rows()
    assert {name for name in before if before[name] != after[name]} == {"public.comments"}
    schema.restore()
    assert schema.rows() == before


def test_rows_of_nobody_that_were_changed(schema: SmallSchema) -> None:
    """exact makes them the backup's; missing-only brings the link back and leaves what else is there, where nothing is lost."""
    before = schema.rows()
    schema.run(
        LOSS, "UPDATE versions SET object = 'later' WHERE id = 1", "UPDATE comments SET body = 'later' WHERE id = 1"
    )
    schema.restore(mode="missing-only")
    after = schema.rows()
    assert after["public.versions"] == [r.replace("v1", "later") for r in before["public.versions"]]
    assert {**after, "public.versions": before["public.versions"]} == before
    schema.restore()
    assert schema.rows() == before


def test_the_tenant_itself_was_deleted(database: Database, tmp_path: Path) -> None:
    """Rows whose column for the tenant was set to NULL, down to tables of several levels and keys of several columns."""
    schema = SmallSchema(
        database,
        tmp_path,
        """
        CREATE TABLE teams (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), org_id int REFERENCES orgs ON DELETE SET NULL);
        CREATE TABLE "Seat" ("teamId" uuid REFERENCES teams, nr int, "by" text, PRIMARY KEY ("teamId", nr));
        CREATE TABLE uses (team uuid, seat int, nr int, at timestamptz DEFAULT now(), PRIMARY KEY (nr, seat, team),
                           FOREIGN KEY (team, seat) REFERENCES "Seat");
        INSERT INTO teams (org_id) SELECT 1 + n % 2 FROM generate_series(1, 6) n;
        INSERT INTO "Seat" SELECT id, n, 'somebody' FROM teams, generate_series(1, 3) n;
        INSERT INTO uses SELECT "teamId", nr, n FROM "Seat", generate_series(1, 2) n;""",
    )
    schema.backup()
    before = schema.rows()
    schema.run("DELETE FROM orgs WHERE id = 1", 'UPDATE "Seat" SET "by" = NULL WHERE nr = 2')
    schema.restore()
    after = schema.rows()
    assert {name for name in before if before[name] != after[name]} == {'public."Seat"'}  # globex's
    schema.restore("globex")
    assert schema.rows() == before


def test_a_row_of_another_tenant_stays(schema: SmallSchema) -> None:
    """The plan names the rows that are in the way and whose they are; a tenant's own user is not told whose."""
    schema.run(LOSS, "UPDATE comments SET project_id = 2 WHERE id = 1")
    wrecked = schema.rows()
    plan = schema.plan()
    conflicts = {t.table: c for t in plan.tables for c in t.conflicts}
    assert sorted(conflicts) == ["public.comments", "public.reactions"]  # what hangs on it is theirs as well
    conflict = conflicts["public.comments"]
    (row,) = conflict.named
    assert (conflict.rows, row.key, row.held_by, row.owner) == (1, {"id": "1"}, {"id": "1"}, "globex")
    assert "held by rows of globex: id = 1" in plan.problems[0].why
    with pytest.raises(RestoreConflict, match="held by rows of globex: id = 1"):
        schema.restore()
    assert schema.rows() == wrecked
    own = UserContext("ann", ACME, Role.ADMIN)
    for table in schema.service.restores.plan("latest", ACME, own).tables:
        for row in [row for conflict in table.conflicts for row in conflict.named]:
            assert (row.held_by, row.owner) == (None, "another tenant")


def test_a_unique_value_that_is_taken(database: Database, tmp_path: Path) -> None:
    ddl = """
    CREATE TABLE users (id int PRIMARY KEY, org_id int REFERENCES orgs, mail text UNIQUE);
    INSERT INTO users VALUES (1, 1, 'a@x'), (2, 1, 'b@x'), (3, 2, 'c@x');"""
    schema = SmallSchema(database, tmp_path, ddl, restore={"safety_backup": False, "sensitive": ["mail"]})
    schema.backup()
    schema.run("DELETE FROM users WHERE org_id = 1", "INSERT INTO users VALUES (7, NULL, 'a@x'), (8, 2, 'b@x')")
    (conflict,) = [c for t in schema.plan().tables for c in t.conflicts]
    named = {(row.key["id"], (row.held_by or {})["id"], row.owner) for row in conflict.named}
    assert named == {("1", "7", "no tenant"), ("2", "8", "globex")}
    assert schema.rows()["public.users"] == ["3\t2\tc@x", "7\t\\N\ta@x", "8\t2\tb@x"]


SINCE = (
    "INSERT INTO versions VALUES (70, 'Project', 1, 'destroy')",
    "INSERT INTO trail VALUES ('Project', 1, 'a'), ('Project', 1, 'destroy')",
    "INSERT INTO comments VALUES (70, 1, 'since')",
    "INSERT INTO reactions VALUES (70, 70, '!')",
)


def test_rows_of_nobody_that_came_since(schema: SmallSchema) -> None:
    """What was written about the parent when it went hangs on it again: exact removes it, the others leave it."""
    before = schema.rows()
    schema.run(*SINCE, "SET session_replication_role = replica; DELETE FROM projects WHERE id = 1")
    wrecked = schema.rows()
    plan = schema.plan()
    assert not plan.problems
    assert {t.table: t.delete for t in plan.tables if t.delete} == {
        "public.comments": 1,
        "public.reactions": 1,
        "public.trail": 2,
        "public.versions": 1,
    }
    schema.restore(mode="missing-only")
    assert schema.rows() == {**wrecked, "public.projects": before["public.projects"]}
    schema.run("SET session_replication_role = replica; DELETE FROM projects WHERE id = 1")
    schema.restore()
    assert schema.rows() == before


def test_they_are_left_where_rows_are_chosen(schema: SmallSchema) -> None:
    before = schema.rows()
    schema.run(*SINCE, LOSS)
    wrecked = schema.rows()
    schema.restore(rows="projects where id = 1")
    after = schema.rows()
    assert after["public.projects"] == before["public.projects"]
    for table in ("versions", "trail", "reactions"):
        assert after[f"public.{table}"] == wrecked[f"public.{table}"]


def test_an_undo_reads_what_was_nobodys_part_by_part(schema: SmallSchema, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows were taken back, one part of them is in memory; a row larger than a part is one by itself."""
    monkeypatch.setattr(left_rows, "_PART_BYTES", 4 << 10)
    monkeypatch.setattr(adoption, "_BUFFER", 1 << 10)
    schema.run(
        "INSERT INTO comments SELECT 100 + n, 1, repeat(chr(65 + n % 26), 500) FROM generate_series(1, 200) n",
        "INSERT INTO comments SELECT 10, 1, string_agg(md5(n::text), '') FROM generate_series(1, 9000) n",
    )
    schema.backup()
    schema.run(LOSS)
    lost = schema.rows()
    done = schema.restore(safety_backup=True)
    opened: list[int] = []
    whole = left_rows._opened
    monkeypatch.setattr(left_rows, "_opened", lambda *args: opened.append(len((parts := whole(*args))[1])) or parts)
    schema.service.restores.undo(done.restore_id, ACME, ADMIN)
    assert schema.rows() == lost
    assert len(opened) > 40
    assert sorted(opened)[-3] < 8 << 10 < 200 << 10 < max(opened)
