"""Tables that are chosen alone: what their rows hang on and what is gone comes back with them, and nothing else."""

from pathlib import Path

import pytest

from sbh_pipelines.errors import RestoreRefused
from sbh_pipelines_tests.support.databases import Database
from sbh_pipelines_tests.support.restore.small_schema import SmallSchema

LEVELS = """
CREATE TABLE projects (id int PRIMARY KEY, org_id int NOT NULL REFERENCES orgs, name text);
CREATE TABLE tasks (id int PRIMARY KEY, project_id int REFERENCES projects ON DELETE {action}, title text);
CREATE TABLE events (task_id int, nr int, body text, PRIMARY KEY (task_id, nr));
CREATE TABLE stars (task_id int, nr int, "by" text{stars_key});
CREATE TABLE plain (task_id int, line text);
INSERT INTO projects VALUES (1, 1, 'p1'), (2, 2, 'p2'), (3, 1, 'p3');
INSERT INTO tasks VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 3, 'c'), (4, 1, 'd');
INSERT INTO events SELECT t, n, 'e' FROM generate_series(1, 4) t, generate_series(1, 2) n;
INSERT INTO stars SELECT task_id, nr, 'me' FROM events;
INSERT INTO plain SELECT task_id, 'x' FROM events;
"""
LINKS = [
    {"table": "events", "parent": "tasks", "join": "t.task_id = p.id"},
    {"table": "stars", "parent": "events", "join": "(t.task_id, t.nr) = (p.task_id, p.nr)"},
    {"table": "plain", "parent": "tasks", "join": "t.task_id = p.id"},
]
_KEY = ", PRIMARY KEY (nr, task_id)"


def _schema(database: Database, directory: Path, action: str = "SET NULL", stars_key: str = "") -> SmallSchema:
    made = SmallSchema(database, directory, LEVELS.format(action=action, stars_key=stars_key), links=LINKS)
    made.backup()
    return made


@pytest.mark.parametrize(
    ("action", "mode", "lost", "stars_key"),
    [
        ("SET NULL", "exact", "stays", _KEY),
        ("SET NULL", "missing-only", "goes", _KEY),
        ("SET NULL", "exact", "goes", ""),
        ("CASCADE", "missing-only", "stays", ""),
        ("CASCADE", "exact", "goes", _KEY),
    ],
)
def test_down_to_the_deepest_table(
    database: Database, tmp_path: Path, action: str, mode: str, lost: str, stars_key: str
) -> None:
    """Only the deepest table is named; every level above it that its rows need comes back, the siblings do not."""
    schema = _schema(database, tmp_path, action, stars_key)
    before = schema.rows()
    schema.run("UPDATE projects SET name = 'renamed' WHERE id = 3", "DELETE FROM projects WHERE id = 1")
    if lost == "goes":
        schema.run("DELETE FROM stars WHERE task_id IN (1, 4)", "DELETE FROM events WHERE task_id = 4")
    plan = schema.plan(tables=("stars",), mode=mode)
    assert not plan.problems, plan.problems
    schema.restore(tables=("stars",), mode=mode)
    after = schema.rows()
    renamed = [row.replace("p3", "renamed") for row in before["public.projects"]]
    assert after == {**before, "public.projects": renamed}
    assert schema.plan(tables=("stars",), mode=mode).nothing_to_do


def test_a_table_that_needs_nothing_brings_nothing(database: Database, tmp_path: Path) -> None:
    schema = _schema(database, tmp_path)
    schema.run("DELETE FROM projects WHERE id = 1", "DELETE FROM events WHERE task_id = 3")
    assert [t.table for t in schema.plan(tables=("projects",)).tables] == ["public.projects"]


def test_chosen_rows_bring_what_hangs_on_them_by_a_condition(database: Database, tmp_path: Path) -> None:
    """Up and down, also where no foreign key says so."""
    schema = _schema(database, tmp_path, "CASCADE")
    before = schema.rows()
    schema.run(
        "DELETE FROM projects WHERE id = 1",
        "DELETE FROM stars",
        "DELETE FROM plain",
        "DELETE FROM events WHERE task_id <> 4",
    )
    schema.restore(rows="events where task_id = 1 and nr = 2")
    after = schema.rows()
    assert after["public.projects"] == before["public.projects"]
    assert [row[0] for row in after["public.tasks"]] == ["1", "2", "3"]
    assert [row[:3] for row in after["public.events"]] == ["1\t2", "4\t1", "4\t2"]
    assert [row[:3] for row in after["public.stars"]] == ["1\t2"]
    schema.restore()
    assert schema.rows()["public.tasks"] == before["public.tasks"]


def test_a_parent_that_is_another_tenants_now(database: Database, tmp_path: Path) -> None:
    """Its rows would be that tenant's: refused by the plan already, and nothing is written."""
    schema = _schema(database, tmp_path)
    schema.run("DELETE FROM events WHERE task_id = 1", "UPDATE tasks SET project_id = 2 WHERE id = 1")
    wrecked = schema.rows()
    (problem, *_) = schema.plan(tables=("events",)).problems
    assert "public.tasks: unique key tasks_pkey, held by rows of globex: id = 1" in problem.why
    with pytest.raises(RestoreRefused):
        schema.restore(tables=("events",))
    assert schema.rows() == wrecked
