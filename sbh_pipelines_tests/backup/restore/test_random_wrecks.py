"""Whatever becomes of a tenant's rows, however they hang on each other: a restore makes them what they were, and its undo takes it back.

The keys of the schema delete, set NULL, set a default, are NOT VALID, or are none at all; tables have no key, or one of several
columns; rows of an excluded table refer to the tenant's.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path

import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import RestoreRefused, SchemaMismatch
from sbh_pipelines_tests.support.application import ADMIN
from sbh_pipelines_tests.support.databases import copy_text, fresh_database
from sbh_pipelines_tests.support.restore.small_schema import ACME, SmallSchema

DDL = """
CREATE TABLE projects (id int PRIMARY KEY, org_id int NOT NULL REFERENCES orgs ON DELETE CASCADE, name text);
CREATE TABLE teams (id int PRIMARY KEY, org_id int REFERENCES orgs ON DELETE SET NULL, name text UNIQUE);
CREATE TABLE tasks (project_id int NOT NULL REFERENCES projects ON DELETE CASCADE, nr int, team int REFERENCES teams ON DELETE SET NULL,
                    up_project int, up_nr int, body text, PRIMARY KEY (project_id, nr),
                    FOREIGN KEY (up_project, up_nr) REFERENCES tasks ON DELETE SET NULL (up_nr));
CREATE TABLE comments (id int PRIMARY KEY, project_id int, nr int, body text,
                       FOREIGN KEY (project_id, nr) REFERENCES tasks ON DELETE SET NULL);
CREATE TABLE marks (comment_id int REFERENCES comments ON DELETE SET NULL, id int PRIMARY KEY);
CREATE TABLE versions (id int PRIMARY KEY, kind text, item int, body text);
CREATE TABLE trail (project_id int, line text);
CREATE TABLE plans (id int PRIMARY KEY, project_id int, team int);
CREATE TABLE sessions (id int PRIMARY KEY, team int DEFAULT 20 REFERENCES teams ON DELETE SET DEFAULT, project_id int REFERENCES projects ON DELETE CASCADE);
"""
NOT_VALID = """
ALTER TABLE plans ADD FOREIGN KEY (project_id) REFERENCES projects NOT VALID;
ALTER TABLE plans ADD FOREIGN KEY (team) REFERENCES teams ON DELETE SET NULL NOT VALID;
"""
TABLES = ("projects", "teams", "tasks", "comments", "marks", "versions", "trail", "plans")
FILL = """
TRUNCATE orgs, projects, teams, tasks, comments, marks, versions, trail, plans, sessions;
INSERT INTO orgs VALUES (1, 'acme'), (2, 'globex');
INSERT INTO projects SELECT n, 1 + n % 2, 'p' || n FROM generate_series(1, 8) n;
INSERT INTO teams SELECT n, 1 + n % 2, 't' || n FROM generate_series(1, 6) n; INSERT INTO teams VALUES (20, 2, 'default');
INSERT INTO tasks SELECT p.id, n, t.id, NULL, NULL, 'b' FROM projects p, generate_series(1, 3) n, LATERAL
    (SELECT id FROM teams WHERE org_id = p.org_id ORDER BY (id * n) % 5, id LIMIT 1) t;
UPDATE tasks SET up_project = project_id, up_nr = 1 WHERE nr = 3;
INSERT INTO comments SELECT project_id * 10 + nr, project_id, nr, 'c' FROM tasks;
INSERT INTO comments VALUES (999, NULL, NULL, 'of nobody');
INSERT INTO marks SELECT id, id FROM comments WHERE project_id IS NOT NULL;
INSERT INTO versions SELECT id, 'Project', id, 'v' FROM projects; INSERT INTO versions VALUES (100, 'Other', 1, 'of nobody');
INSERT INTO trail SELECT id, 'same' FROM projects, generate_series(1, 2);
INSERT INTO plans SELECT id, id, (SELECT min(id) FROM teams t WHERE t.org_id = p.org_id) FROM projects p;
SET session_replication_role = replica;
INSERT INTO plans SELECT 50 + id, id, 777 FROM projects; RESET session_replication_role;
INSERT INTO sessions SELECT id, id, NULL FROM teams;
"""
OWN: Mapping[str, str] = {
    "orgs": "SELECT * FROM orgs WHERE id = {0}",
    "projects": "SELECT * FROM projects WHERE org_id = {0}",
    "teams": "SELECT * FROM teams WHERE org_id = {0}",
    "tasks": "SELECT k.* FROM tasks k JOIN projects p ON p.id = k.project_id WHERE p.org_id = {0}",
    "comments": "SELECT c.* FROM comments c JOIN tasks k USING (project_id, nr) JOIN projects p ON p.id = c.project_id WHERE p.org_id = {0}",
    "marks": "SELECT m.* FROM marks m JOIN comments c ON c.id = m.comment_id JOIN tasks k USING (project_id, nr)"
    " JOIN projects p ON p.id = c.project_id WHERE p.org_id = {0}",
    "versions": "SELECT v.* FROM versions v JOIN projects p ON v.kind = 'Project' AND v.item = p.id WHERE p.org_id = {0}",
    "trail": "SELECT t.* FROM trail t JOIN projects p ON p.id = t.project_id WHERE p.org_id = {0}",
    "plans": "SELECT s.* FROM plans s JOIN projects p ON p.id = s.project_id WHERE p.org_id = {0}",
}
LINKS = [
    {"table": "comments", "via": ["project_id", "nr"]},
    {"table": "tasks", "via": ["project_id"]},
    {"table": "versions", "parent": "projects", "join": "t.kind = 'Project' AND t.item = p.id"},
    {"table": "trail", "parent": "projects", "join": "t.project_id = p.id"},
    {"table": "plans", "parent": "projects", "join": "t.project_id = p.id"},
]
REPLICA = "SET session_replication_role = replica; {}; RESET session_replication_role"
DAMAGE = (
    "DELETE FROM projects WHERE org_id = 1 AND id % 4 = {n} % 4",
    "DELETE FROM projects WHERE org_id = 1 AND id > {n}",
    "DELETE FROM teams WHERE org_id = 1 AND id % 3 = {n} % 3",
    "DELETE FROM tasks k USING projects p WHERE p.id = project_id AND p.org_id = 1 AND nr = 1 + {n} % 3",
    "DELETE FROM comments WHERE project_id IN (SELECT id FROM projects WHERE org_id = 1) AND nr = 1 + {n} % 3",
    "DELETE FROM orgs WHERE id = 1",
    "UPDATE comments SET project_id = NULL WHERE project_id IN (SELECT id FROM projects WHERE org_id = 1) AND nr = 1 + {n} % 3",
    "UPDATE comments SET body = 'later' WHERE id % 10 = 1 + {n} % 3 AND id < 90 AND (id / 10) % 2 = 0",
    "UPDATE teams SET org_id = NULL WHERE org_id = 1 AND id % 3 = {n} % 3",
    "UPDATE teams SET name = name || 'x' WHERE org_id = 1",
    "UPDATE versions SET body = 'later' WHERE id % 2 = 0 AND id < 9",
    "UPDATE versions SET item = NULL WHERE id % 4 = {n} % 4 AND id % 2 = 0 AND id < 9",
    "UPDATE tasks SET team = NULL, up_project = NULL, up_nr = NULL WHERE project_id % 2 = 0",
    "DELETE FROM trail WHERE project_id % 2 = 0 AND ctid IN (SELECT max(ctid) FROM trail GROUP BY project_id)",
    "DELETE FROM plans WHERE id % 2 = 0 AND id % 3 = {n} % 3",
    REPLICA.format("DELETE FROM projects WHERE org_id = 1 AND id % 4 = {n} % 4"),
    REPLICA.format(
        "DELETE FROM tasks k USING projects p WHERE p.id = project_id AND p.org_id = 1 AND nr = 1 + {n} % 3"
    ),
    REPLICA.format("DELETE FROM teams WHERE org_id = 1"),
    "INSERT INTO projects SELECT 1000 + {n}, id, 'new' FROM orgs WHERE id = 1 ON CONFLICT DO NOTHING",
    "INSERT INTO tasks SELECT id, 9, NULL, NULL, NULL, 'new' FROM projects WHERE org_id = 1 ON CONFLICT DO NOTHING",
    "INSERT INTO comments SELECT 2000 + project_id, project_id, nr, 'new' FROM tasks WHERE nr = 9 AND project_id % 2 = 0 ON CONFLICT DO NOTHING",
    "INSERT INTO teams SELECT 1000 + {n}, id, 'new {n}' FROM orgs WHERE id = 1 ON CONFLICT DO NOTHING",
    "INSERT INTO plans SELECT 1000 + p.id, p.id, t.id FROM projects p, teams t WHERE p.org_id = 1 AND t.org_id = 1 AND t.id > 999 ON CONFLICT DO NOTHING",
    "INSERT INTO sessions SELECT 3000 + t.id, t.id, p.id FROM teams t, projects p WHERE t.org_id = 1 AND p.org_id = 1 ON CONFLICT DO NOTHING",
    "INSERT INTO trail SELECT id, 'same' FROM projects WHERE org_id = 1",
)


@pytest.fixture(scope="module")
def schema(embedded_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallSchema]:
    with fresh_database(embedded_stack) as database:
        directory: Path = tmp_path_factory.mktemp("wrecks")
        made = SmallSchema(
            database,
            directory,
            DDL + FILL + NOT_VALID,
            links=LINKS,
            excluded=["sessions"],
            restore={"safety_backup": True, "lease_wait_s": 0},
        )
        made.backup()
        yield made


def own(schema: SmallSchema, key: int) -> Mapping[str, list[str]]:
    """A tenant's rows, by plain SQL."""
    with closing(schema.database.connect()) as connection:
        return {
            table: sorted(copy_text(connection, query.format(key)).decode().splitlines())
            for table, query in OWN.items()
        }


@given(
    st.lists(st.tuples(st.sampled_from(DAMAGE), st.integers(1, 12)), min_size=1, max_size=6),
    st.lists(
        st.one_of(
            st.tuples(
                st.just("tables"), st.lists(st.sampled_from(TABLES), min_size=1, max_size=3, unique=True).map(tuple)
            ),
            st.tuples(
                st.just("all_but"), st.lists(st.sampled_from(TABLES), min_size=1, max_size=3, unique=True).map(tuple)
            ),
            st.tuples(
                st.just("rows"),
                st.sampled_from(["projects where id > 4", "tasks where nr = 1", "comments where id < 50"]),
            ),
        ),
        max_size=2,
    ),
    st.sampled_from(["exact", "missing-only"]),
)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_everything_is_as_it_was(
    schema: SmallSchema,
    damage: list[tuple[str, int]],
    parts: list[tuple[str, str | tuple[str, ...]]],
    mode: str,
) -> None:
    """First parts in any order, which may be refused, then the whole; and back again."""
    schema.run(FILL)
    then, others = own(schema, 1), own(schema, 2)
    for statement, n in damage:
        with suppress(psycopg2.IntegrityError):
            schema.run(statement.format(n=n))
    for scope, chosen in parts:
        before = schema.rows()
        try:
            done = schema.restore(mode=mode, references="declared", **{scope: chosen})
        except (RestoreRefused, SchemaMismatch):
            assert schema.rows() == before
        else:
            assert own(schema, 2) == others
            if done.undoable:
                schema.service.restores.undo(done.restore_id, ACME, ADMIN, references="declared")
                assert own(schema, 2) == others
                if not any("sessions" in statement for statement, _ in damage):
                    assert schema.rows() == before
                schema.restore(mode=mode, references="declared", **{scope: chosen})
    if mode == "missing-only":
        schema.restore(mode=mode, references="declared")
        kept = own(schema, 1)
        assert {table: rows for table, rows in then.items() if len(rows) > len(kept[table])} == {}
    schema.restore(references="declared")
    assert own(schema, 1) == then
    assert own(schema, 2) == others
