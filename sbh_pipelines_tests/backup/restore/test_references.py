"""Rows outside a restore that refer to rows which it would remove: named with what can be done, and done as it was chosen."""

from pathlib import Path
from typing import Any

import pytest

from sbh_pipelines.errors import RestoreRefused
from sbh_pipelines_tests.support.application import ADMIN
from sbh_pipelines_tests.support.databases import Database
from sbh_pipelines_tests.support.restore.small_schema import ACME, SmallSchema

USERS = """
CREATE TABLE users (id int PRIMARY KEY, org_id int NOT NULL REFERENCES orgs, mentor int REFERENCES users);
INSERT INTO users VALUES (1, 1), (2, 2);
"""
SESSIONS = """
CREATE TABLE sessions (id int PRIMARY KEY, user_id int {default} REFERENCES users ON DELETE {action});
CREATE TABLE clicks (session_id int REFERENCES sessions ON DELETE CASCADE, nr int);
INSERT INTO sessions VALUES (1, 1), (2, 2);
INSERT INTO clicks VALUES (1, 1), (2, 1);
"""
NEWER = "INSERT INTO users VALUES (900, 1, 1), (901, 1, 900); INSERT INTO sessions VALUES (9, 901); INSERT INTO clicks VALUES (9, 1)"


def _schema(database: Database, directory: Path, action: str, default: str = "", **settings: Any) -> SmallSchema:
    ddl = USERS + SESSIONS.format(action=action, default=default)
    made = SmallSchema(database, directory, ddl, **{"excluded": ["sessions", "clicks"], **settings})
    made.backup()
    return made


@pytest.mark.parametrize(
    ("action", "becomes"),
    [("CASCADE", "deleted"), ("SET NULL", "set to null"), ("SET DEFAULT", "set to the default"), ("NO ACTION", None)],
)
def test_as_the_key_declares(database: Database, tmp_path: Path, action: str, becomes: str | None) -> None:
    """Named first; then deleted to any depth, or without the reference; a key without an action leaves the other choices."""
    schema = _schema(database, tmp_path, action, "DEFAULT 2" if action == "SET DEFAULT" else "")
    before = schema.rows()
    schema.run(NEWER)
    newer = schema.rows()
    (reference,) = schema.plan().references
    assert (reference.table, reference.whose, reference.rows) == ("public.sessions", "excluded", 1)
    assert (reference.refers_to, reference.on_delete, reference.done) == (({"id": "901"},), action.lower(), None)
    with pytest.raises(RestoreRefused) as caught:
        schema.restore()
    assert "1 rows of public.sessions (excluded) refer to public.users by sessions_user_id_fkey" in caught.value.why
    assert ("--references declared" in caught.value.remedy) == (becomes is not None)
    assert 'DELETE FROM "public"."sessions" WHERE "user_id" IN (\'901\');' in caught.value.remedy
    assert schema.rows() == newer
    if becomes is None:
        with pytest.raises(RestoreRefused):
            schema.restore(references="declared")
        return
    assert {r.done for r in schema.plan(references="declared").references} == {becomes}
    schema.restore(references="declared")
    after = schema.rows()
    if action == "CASCADE":
        assert after == before
        return
    left = "9\t2" if action == "SET DEFAULT" else "9\t\\N"
    sessions = [left if row == "9\t901" else row for row in newer["public.sessions"]]
    assert after == {**newer, "public.users": before["public.users"], "public.sessions": sessions}


@pytest.mark.parametrize("action", ["CASCADE", "NO ACTION"])
def test_the_parents_are_kept(database: Database, tmp_path: Path, action: str) -> None:
    """And what they refer to themselves; what nobody refers to goes."""
    schema = _schema(database, tmp_path, action)
    schema.run(NEWER, "INSERT INTO users VALUES (902, 1, NULL)", "UPDATE users SET mentor = 902 WHERE id = 1")
    newer = schema.rows()
    done = schema.restore(references="keep")
    assert (done.rows_updated, done.rows_deleted, done.rows_kept) == (1, 1, 2)
    users = ["1\t1\t\\N" if row == "1\t1\t902" else row for row in newer["public.users"] if not row.startswith("902")]
    assert schema.rows() == {**newer, "public.users": users}


@pytest.mark.parametrize("where", ["shared", "outside"])
def test_shared_tables_and_other_schemas(database: Database, tmp_path: Path, where: str) -> None:
    table = "jobs.queue" if where == "outside" else "plans"
    ddl = f"CREATE SCHEMA jobs; GRANT USAGE ON SCHEMA jobs TO PUBLIC; CREATE TABLE {table} (id int PRIMARY KEY, owner int REFERENCES users ON DELETE SET NULL);"
    schema = SmallSchema(database, tmp_path, USERS + ddl, **({"shared": ["plans"]} if where == "shared" else {}))
    schema.backup()
    schema.run("INSERT INTO users VALUES (900, 1)", f"INSERT INTO {table} VALUES (1, 900), (2, 1)")
    (reference,) = schema.plan().references
    assert reference.whose == {"shared": "shared", "outside": "outside database.schemas"}[where]
    with pytest.raises(RestoreRefused, match=table.split(".")[-1]):
        schema.restore()
    schema.restore(references="declared")
    assert schema.database.ask(f"SELECT * FROM {table} ORDER BY 1") == [(1, None), (2, 1)]
    assert schema.database.ask("SELECT id FROM users ORDER BY 1") == [(1,), (2,)]


def test_another_tenants_rows_are_never_touched(database: Database, tmp_path: Path) -> None:
    ddl = "CREATE TABLE follows (id int PRIMARY KEY, org_id int REFERENCES orgs, whom int REFERENCES users ON DELETE CASCADE);"
    links = [{"table": "follows", "tenant_column": "org_id"}]
    schema = SmallSchema(database, tmp_path, USERS + ddl, links=links)
    schema.backup()
    schema.run(
        "INSERT INTO users VALUES (900, 1)", "INSERT INTO follows VALUES (1, 2, 900), (2, NULL, 900), (3, 1, 900)"
    )
    newer = schema.rows()
    assert {(r.whose, r.rows) for r in schema.plan().references} == {("another tenant", 1), ("no tenant", 1)}
    with pytest.raises(RestoreRefused) as caught:
        schema.restore(references="declared")
    assert "1 rows of public.follows of another tenant" in caught.value.why
    assert schema.rows() == newer
    schema.restore(references="keep")
    assert schema.rows()["public.users"] == newer["public.users"]
    assert schema.rows()["public.follows"] == [row for row in newer["public.follows"] if not row.startswith("3")]


def test_the_tenants_own_rows_of_tables_that_were_not_chosen(database: Database, tmp_path: Path) -> None:
    """They can go with their parents, and come back with the undo."""
    ddl = "CREATE TABLE tasks (id int PRIMARY KEY, user_id int NOT NULL REFERENCES users ON DELETE CASCADE); INSERT INTO tasks VALUES (1, 1), (2, 2);"
    schema = SmallSchema(database, tmp_path, USERS + ddl, restore={"safety_backup": True, "lease_wait_s": 0})
    schema.backup()
    schema.run("INSERT INTO users VALUES (900, 1)", "INSERT INTO tasks VALUES (9, 900)")
    newer = schema.rows()
    with pytest.raises(RestoreRefused, match="restore the tables that they are in as well"):
        schema.restore(tables=("users",))
    done = schema.restore(tables=("users",), references="declared")
    assert schema.rows()["public.tasks"] == ["1\t1", "2\t2"]
    schema.service.restores.undo(done.restore_id, ACME, ADMIN)
    assert schema.rows() == newer


@pytest.mark.parametrize("how", ["NOT VALID", ""], ids=["not valid", "valid"])
def test_keys_that_are_not_valid_hold_for_what_is_written(database: Database, tmp_path: Path, how: str) -> None:
    ddl = f"""
    CREATE TABLE tasks (id int PRIMARY KEY, org_id int NOT NULL, user_id int);
    INSERT INTO tasks VALUES (1, 1, 1), (2, 2, 2);
    {"INSERT INTO tasks VALUES (7, 1, 777);" if how else ""}
    ALTER TABLE tasks ADD FOREIGN KEY (user_id) REFERENCES users {how};"""
    schema = SmallSchema(database, tmp_path, USERS + ddl)
    schema.backup()
    before = schema.rows()
    schema.run("INSERT INTO users VALUES (99, 1)", "INSERT INTO tasks VALUES (99, 1, 99)")
    newer = schema.rows()
    with pytest.raises(RestoreRefused, match=r"public\.tasks of this tenant refer to public\.users"):
        schema.restore(tables=("users",))
    assert schema.rows() == newer
    schema.run("DELETE FROM tasks WHERE org_id = 1", "DELETE FROM users WHERE org_id = 1")
    schema.restore(rows="tasks where id = 1")
    assert schema.rows()["public.users"] == before["public.users"]
    schema.restore()  # what referred to nothing when it was backed up does so again
    assert schema.rows() == before


def test_all_but_some_tables(database: Database, tmp_path: Path) -> None:
    ddl = "CREATE TABLE tasks (id int PRIMARY KEY, org_id int NOT NULL, title text); INSERT INTO tasks VALUES (1, 1, 'a'), (2, 2, 'b');"
    schema = SmallSchema(database, tmp_path, USERS + ddl)
    schema.backup()
    before = schema.rows()
    schema.run("DELETE FROM tasks", "DELETE FROM users")
    schema.restore(all_but=("tasks",))
    assert schema.rows() == {**before, "public.users": ["1\t1\t\\N"], "public.tasks": []}
    assert schema.plan(all_but=("public.tasks",)).scope.all_but == ("public.tasks",)
