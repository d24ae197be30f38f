"""Partitions that were dropped since the backup: found by the plan, with the statement that makes one, or left out if accepted."""

import re
from pathlib import Path

import pytest

from sbh_pipelines.errors import SchemaMismatch
from sbh_pipelines_tests.support.databases import Database
from sbh_pipelines_tests.support.restore.small_schema import SmallSchema

TASKS = """
CREATE TABLE tasks (id int, org_id int NOT NULL REFERENCES orgs, "made At" date NOT NULL, kind text, PRIMARY KEY (id, "made At", kind))
    PARTITION BY RANGE ("made At");
CREATE TABLE tasks_1 PARTITION OF tasks FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE tasks_2 PARTITION OF tasks FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
CREATE TABLE tasks_3 PARTITION OF tasks FOR VALUES FROM ('2026-03-01') TO ('2026-04-01') PARTITION BY LIST (kind);
CREATE TABLE tasks_3a PARTITION OF tasks_3 FOR VALUES IN ('a');
CREATE TABLE tasks_3b PARTITION OF tasks_3 FOR VALUES IN ('it''s', 'c');
CREATE TABLE runs (task_id int, nr int, made date, PRIMARY KEY (task_id, nr));
CREATE TABLE lines (run int, nr int, body text);
CREATE TABLE halves (id int PRIMARY KEY, org_id int NOT NULL) PARTITION BY HASH (id);
CREATE TABLE halves_0 PARTITION OF halves FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE halves_1 PARTITION OF halves FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO tasks SELECT n, 1 + n % 2, date '2026-01-01' + n, (ARRAY['a', 'it''s', 'c'])[1 + n % 3] FROM generate_series(0, 85) n;
INSERT INTO runs SELECT id, 1, "made At" FROM tasks;
INSERT INTO lines SELECT task_id, nr, 'x' FROM runs;
INSERT INTO halves SELECT n, 1 + n % 2 FROM generate_series(1, 20) n;
"""
LINKS = [
    {"table": "runs", "parent": "tasks", "join": "t.task_id = p.id"},
    {"table": "lines", "parent": "runs", "join": "(t.run, t.nr) = (p.task_id, p.nr)"},
]


@pytest.fixture
def schema(database: Database, tmp_path: Path) -> SmallSchema:
    made = SmallSchema(database, tmp_path, TASKS, links=LINKS)
    made.backup()
    return made


@pytest.mark.parametrize(
    ("dropped", "bounds"),
    [
        (["tasks_2"], ["FOR VALUES FROM ('2026-02-01') TO ('2026-03-01')"]),
        (["tasks_1", "tasks_3"], ["FROM ('2026-01-01') TO ('2026-02-01')", "FROM ('2026-03-01') TO (MAXVALUE)"]),
        (["tasks_3b"], ["FOR VALUES IN ('c', 'it''s')"]),
        (["halves_1"], ["FOR VALUES WITH (MODULUS 2, REMAINDER 1)"]),
    ],
    ids=["one", "two", "nested list", "hash"],
)
def test_the_statement_makes_the_restore_possible(schema: SmallSchema, dropped: list[str], bounds: list[str]) -> None:
    """Pasted as it is, one for each gap; then everything comes back, and other tenants' rows are as the loss left them."""
    before = schema.rows()
    schema.run(*(f"DROP TABLE {name}" for name in dropped))
    lost = schema.rows()
    plan = schema.plan()
    with pytest.raises(SchemaMismatch) as caught:
        schema.restore()
    assert [problem.code for problem in plan.problems] == [caught.value.code]
    statements = re.findall(r'CREATE TABLE "[^;]*;', caught.value.remedy)
    assert [bound for bound in bounds if any(bound in statement for statement in statements)] == bounds
    assert "--accept-schema-changes" in caught.value.remedy
    assert schema.rows() == lost
    schema.run(*statements, "GRANT ALL ON ALL TABLES IN SCHEMA public TO sbh_backup")
    schema.restore()
    restored = schema.rows()
    assert {name: [r for r in rows if _of(r) == "1"] for name, rows in restored.items() if name in _OWNED} == {
        name: [r for r in rows if _of(r) == "1"] for name, rows in before.items() if name in _OWNED
    }
    schema.restore("globex")
    assert schema.rows() == before


_OWNED = ("public.tasks", "public.halves")


def _of(row: str) -> str:
    return row.split("\t")[1]


@pytest.mark.parametrize("children", ["stay", "are gone"])
def test_left_out_if_that_is_accepted(schema: SmallSchema, children: str) -> None:
    """With what hangs on them, which is left as it is; all else comes back."""
    before = schema.rows()
    schema.run("DROP TABLE tasks_2", "DELETE FROM tasks WHERE id = 3")
    if children == "are gone":
        schema.run("DELETE FROM runs WHERE made >= '2026-02-01'", "DELETE FROM lines WHERE run > 50")
    lost = schema.rows()
    plan = schema.plan(accept_schema_changes=True)
    assert not plan.problems
    assert {d.table for d in plan.schema} == {"public.tasks", "public.runs", "public.lines"}
    schema.restore(accept_schema_changes=True)
    after = schema.rows()
    february = [row for row in before["public.tasks"] if "\t2026-02-" in row]
    restored = [row for row in before["public.tasks"] if row not in february and row.split("\t")[1] == "1"]
    others = [row for row in lost["public.tasks"] if row.split("\t")[1] == "2"]
    assert after["public.tasks"] == sorted([*restored, *others])
    if children == "stay":
        assert (after["public.runs"], after["public.lines"]) == (before["public.runs"], before["public.lines"])
    else:
        assert [r for r in after["public.runs"] if "2026-02" in r and int(r.split("\t")[0]) % 2 == 0] == []


def test_chosen_rows(schema: SmallSchema) -> None:
    """Only rows that are chosen count."""
    schema.run("DROP TABLE tasks_2", "DELETE FROM tasks WHERE id IN (2, 4)")
    assert not schema.plan(rows="tasks where id = 2").problems
    assert [p.code for p in schema.plan(rows="tasks where id in (2, 40)").problems] == ["SBH-305"]
    schema.restore(rows="tasks where id in (2, 40)", accept_schema_changes=True)
    assert schema.database.ask("SELECT id FROM tasks WHERE id IN (2, 4, 40)") == [(2,)]
