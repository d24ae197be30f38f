"""What a restore of a part must bring, must leave alone, and must refuse: conflicts, orphans, corners of the scopes."""

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.document import as_document
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import ProofFailed, RestoreConflict, RestoreRefused
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT
from sbh_pipelines_tests.support.restore.expectations import EXACT, MISSING_ONLY, NEWEST_WINS
from sbh_pipelines_tests.support.restore.trial import MODES, RestoreTrial, numbers, restore_trial


@pytest.fixture(scope="module")
def trial(embedded_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestoreTrial]:
    with restore_trial(embedded_stack, tmp_path_factory.mktemp("restores")) as made:
        yield made


def test_a_unique_value_that_newer_work_has_taken(trial: RestoreTrial) -> None:
    """The tenant gave the lost project's code to another one: listed, refused, nothing written."""
    trial.sample.reset()
    trial.sample.database.run(
        "DELETE FROM comments WHERE project_id = 2; DELETE FROM tasks WHERE project_id = 2; DELETE FROM projects WHERE id = 2;"
        "INSERT INTO projects (id, tenant_id, code, updated_at) VALUES (99, 1, 'code 2', '2026-02-01Z')"
    )
    for request in ({"mode": MISSING_ONLY}, {"mode": NEWEST_WINS}, {"rows": "projects where id = 2"}):
        plan, error = trial.refused(RestoreConflict, **request)
        assert _conflicts(plan) == {"projects": 1}
        assert [p["code"] for p in plan["problems"]] == ["SBH-703"]
        assert "projects" in error
    service = trial.sample.service()  # exactly as it was, the newer one goes
    service.restore_backup(trial.backup_id, ACME, ADMIN)
    assert trial.sample.snapshot().of(ACME) == trial.then.of(ACME)


def test_a_unique_value_that_another_tenant_has_taken(trial: RestoreTrial) -> None:
    trial.sample.reset()
    trial.sample.database.run(
        "DELETE FROM comments WHERE project_id = 4; DELETE FROM tasks WHERE project_id = 4; DELETE FROM projects WHERE id = 4;"
        "UPDATE projects SET code = 'code 4' WHERE id = 1"
    )
    for mode in MODES:
        plan, _ = trial.refused(RestoreConflict, mode=mode)
        assert _conflicts(plan) == {"projects": 1}


def test_two_columns_that_newer_work_has_taken(trial: RestoreTrial) -> None:
    """A task's title is unique within its project; `kept` rows hold on to theirs."""
    trial.sample.reset()
    trial.sample.database.run(
        "DELETE FROM comments WHERE project_id = 2 AND nr < 3; DELETE FROM tasks WHERE project_id = 2 AND nr < 3;"
        "UPDATE tasks SET title = 'task 1', updated_at = '2026-02-01Z' WHERE project_id = 2 AND nr = 3;"
        "UPDATE tasks SET title = 'task 2', updated_at = '2025-12-01Z' WHERE project_id = 2 AND nr = 4"
    )
    plan, _ = trial.refused(RestoreConflict, mode=MISSING_ONLY)
    assert _conflicts(plan) == {"tasks": 2}
    plan, _ = trial.refused(RestoreConflict, mode=NEWEST_WINS)  # the fourth goes back, and gives its title free
    assert _conflicts(plan) == {"tasks": 1}


@pytest.mark.parametrize(
    ("moved", "table"),
    [
        ("UPDATE projects SET tenant_id = 2 WHERE id = 4", "projects"),
        ("UPDATE comments SET project_id = 1, nr = 1 WHERE project_id = 4 AND nr = 1", "comments"),
    ],
)
def test_rows_that_are_another_tenants_now(trial: RestoreTrial, moved: str, table: str) -> None:
    """Their keys are taken: the other tenant keeps what it has, in every mode and every scope."""
    trial.sample.reset()
    trial.sample.database.run(moved)
    requests: list[dict[str, Any]] = [{"mode": mode} for mode in MODES]
    requests += [{"rows": "projects where id = 4"}, {"tables": ("projects", "tasks", "comments")}]
    for request in requests:
        plan, error = trial.refused((RestoreConflict, RestoreRefused), **request)
        assert table in _conflicts(plan)
        assert table in error


def test_another_tenants_row_refers_to_one_that_would_go(trial: RestoreTrial) -> None:
    """No foreign key breaks anywhere; a mode that removes nothing works."""
    trial.sample.reset()
    trial.sample.database.run(
        "INSERT INTO projects (id, tenant_id, code, updated_at) VALUES (99, 1, 'new', '2026-02-01Z');"
        "UPDATE projects SET lead = 99 WHERE id = 1; DELETE FROM comments WHERE project_id = 2"
    )
    trial.refused((RestoreRefused, ProofFailed))
    trial.sample.service().restore_backup(trial.backup_id, ACME, ADMIN, request=RestoreRequest.of(mode=MISSING_ONLY))
    found = trial.sample.snapshot().of(ACME)
    assert found["comments"] == trial.then.of(ACME)["comments"]
    assert found["projects"].total() == trial.then.of(ACME)["projects"].total() + 1


def _conflicts(plan: dict[str, Any]) -> dict[str, int]:
    found = {t["table"].removeprefix("public."): sum(c["rows"] for c in t["conflicts"]) for t in plan["tables"]}
    return {table: rows for table, rows in found.items() if rows}


def test_the_later_of_two_rows_where_no_column_tells(trial: RestoreTrial) -> None:
    """Without a declared column a table with differing rows is a problem; with missing rows only it is none."""
    service = trial.sample.service(newest={"projects": "updated_at"})
    request = RestoreRequest.of(mode=NEWEST_WINS)
    trial.sample.reset()
    trial.sample.database.run(
        "DELETE FROM comments WHERE id = 4", "DELETE FROM notes WHERE tenant_id = 1 AND body = ''"
    )
    assert as_document(service.restores.plan(trial.backup_id, ACME, ADMIN, request))["problems"] == []
    trial.sample.database.run("UPDATE comments SET body = 'later', updated_at = '2026-02-01Z' WHERE project_id = 2")
    before = trial.sample.snapshot()
    (problem,) = as_document(service.restores.plan(trial.backup_id, ACME, ADMIN, request))["problems"]
    assert "comments" in problem["on"]
    with pytest.raises((RestoreConflict, RestoreRefused), match="comments"):
        service.restore_backup(trial.backup_id, ACME, ADMIN, request=request)
    assert trial.sample.snapshot() == before


ORPHANS: dict[str, tuple[str, dict[str, Any]]] = {
    "parents that would go from their children": (
        "INSERT INTO projects (id, tenant_id, code, updated_at) VALUES (99, 1, 'new', '2026-02-01Z');"
        "INSERT INTO tasks VALUES (99, 1, 'new', NULL, '2026-02-01Z')",
        {"tables": ("projects",)},
    ),
    "rows that refer to one of a shared table": (
        "DELETE FROM comments WHERE project_id = 28; DELETE FROM tasks WHERE project_id = 28; DELETE FROM projects WHERE id = 28;"
        "UPDATE projects SET plan = 2; DELETE FROM plans WHERE id = 1",
        {"rows": "tasks where project_id = 28 and nr = 1"},
    ),
}


@pytest.mark.parametrize("case", ORPHANS)
def test_a_part_that_would_leave_orphans(trial: RestoreTrial, case: str) -> None:
    damage, request = ORPHANS[case]
    trial.sample.reset()
    trial.sample.database.run(damage)
    trial.refused((RestoreRefused, ProofFailed, RestoreConflict), **request)


@pytest.mark.parametrize("mode", [EXACT, MISSING_ONLY])
def test_children_bring_the_parents_that_are_gone(trial: RestoreTrial, mode: str) -> None:
    """To any depth, and of their tables nothing else."""
    trial.sample.reset()
    trial.sample.database.run(
        "DELETE FROM comments WHERE project_id = 2; DELETE FROM tasks WHERE project_id = 2; DELETE FROM projects WHERE id = 2;"
        "UPDATE projects SET body = 'kept' WHERE id = 4"
    )
    before = trial.sample.snapshot().of(ACME)
    request = RestoreRequest.of(tables=("comments",), mode=mode)
    trial.sample.service().restore_backup(trial.backup_id, ACME, ADMIN, request=request)
    after, then = trial.sample.snapshot().of(ACME), trial.then.of(ACME)
    assert (after["comments"], after["projects"].total()) == (then["comments"], then["projects"].total())
    assert before["projects"] - after["projects"] == Counter()


def test_a_parent_that_is_there_is_not_changed(trial: RestoreTrial) -> None:
    """`--rows` brings missing parents and leaves the others alone, however they differ."""
    trial.sample.reset()
    trial.sample.database.run(
        "DELETE FROM comments WHERE project_id IN (2, 4); DELETE FROM tasks WHERE project_id IN (2, 4);"
        "DELETE FROM projects WHERE id = 4; UPDATE projects SET body = 'newer' WHERE id = 2"
    )
    service = trial.sample.service()
    request = RestoreRequest(rows="comments where project_id in (2, 4) and nr = 1")
    result = service.restore_backup(trial.backup_id, ACME, ADMIN, request=request)
    assert numbers(result["tables"], "inserted", "updated", "deleted") == {
        "projects": (1, 0, 0),
        "tasks": (2, 0, 0),
        "comments": (4, 0, 0),
    }
    rows = trial.sample.snapshot().rows
    assert [row[5] for row in rows["projects"] if row[0] in ("2", "4")] == ["newer", "tab\t\\N 4"]


def test_a_row_that_is_another_ones_dependant_now(trial: RestoreTrial) -> None:
    """It was there before, elsewhere: it becomes what it was, and is not deleted with what it moved to."""
    trial.sample.reset()
    trial.sample.database.run(
        "UPDATE comments SET project_id = 2, nr = 1 WHERE id = (SELECT max(id) FROM comments WHERE nr = 4 AND project_id = 6)"
    )
    service = trial.sample.service()
    service.restore_backup(trial.backup_id, ACME, ADMIN, request=RestoreRequest(rows="tasks where project_id = 2"))
    assert trial.sample.snapshot().of(ACME) == trial.then.of(ACME)


@pytest.mark.parametrize("mode", [EXACT, MISSING_ONLY])
def test_rows_of_a_table_without_a_key(trial: RestoreTrial, mode: str) -> None:
    """Those that satisfy the condition become as many as they were, or at least as many; the others stay."""
    trial.sample.reset()
    trial.sample.database.run(
        "DELETE FROM notes WHERE body = 'note 2' AND ctid <> (SELECT min(ctid) FROM notes WHERE body = 'note 2' AND tenant_id = 1);"
        "INSERT INTO notes SELECT 1, 'note 3' FROM generate_series(1, 3); DELETE FROM notes WHERE tenant_id = 1 AND body = 'note 4'"
    )
    service = trial.sample.service()
    request = RestoreRequest.of(rows="notes where body in ('note 2', 'note 3')", mode=mode)
    service.restore_backup(trial.backup_id, ACME, ADMIN, request=request)
    then, now = (
        Counter(body for _, body in found.of(ACME)["notes"].elements())
        for found in (trial.then, trial.sample.snapshot())
    )
    assert now["note 2"] == then["note 2"] > 1
    assert now["note 3"] == then["note 3"] + (3 if mode == MISSING_ONLY else 0)
    assert now["note 4"] == 0 < then["note 4"]
    assert trial.sample.snapshot().of(BOLT)["notes"] != trial.then.of(BOLT)["notes"]


def test_rows_that_are_another_tenants(trial: RestoreTrial) -> None:
    """A predicate that other tenants' rows satisfy as well chooses the tenant's own only."""
    trial.sample.reset()
    trial.sample.damage(7)
    trial.sample.damage(7, BOLT)
    before = trial.sample.snapshot()
    service = trial.sample.service()
    service.restore_backup(trial.backup_id, ACME, ADMIN, request=RestoreRequest(rows="projects where true"))
    after = trial.sample.snapshot()
    assert after.of_others(ACME) == before.of_others(ACME)
    for table in ("projects", "tasks", "comments"):
        assert after.of(ACME)[table] == trial.then.of(ACME)[table]
    assert after.of(ACME)["notes"] == before.of(ACME)["notes"]


@pytest.mark.parametrize("keep", [False, True])
def test_extra_files(trial: RestoreTrial, keep: bool) -> None:
    """Files that were not there go, unless they are to be kept; those outside the patterns always stay."""
    trial.sample.reset()
    trial.sample.write_file(ACME, "docs/extra", b"1")
    trial.sample.write_file(ACME, "extra", b"1")
    request = RestoreRequest(files=("docs/*",), keep_extra_files=keep)
    service = trial.sample.service()
    result = service.restore_backup(trial.backup_id, ACME, ADMIN, request=request)
    extra = {"extra": b"1", **({"docs/extra": b"1"} if keep else {})}
    assert trial.sample.files(ACME) == {**trial.then.files[ACME], **extra}
    assert (result["files_removed"], result["rows_inserted"]) == (0 if keep else 1, 0)


def test_the_newest_of_two_files(trial: RestoreTrial) -> None:
    """A file that was last written before the backed up one was is put back."""
    trial.sample.reset()
    for name in ("docs/a.txt", "docs/b.txt"):
        trial.sample.write_file(ACME, name, b"other")
    os.utime(trial.sample.application.bucket / "files" / ACME / "docs/a.txt", (1e9, 1e9))
    service = trial.sample.service()
    service.restore_backup(trial.backup_id, ACME, ADMIN, request=RestoreRequest.of(mode=NEWEST_WINS, files=["docs/*"]))
    assert trial.sample.files(ACME) == {**trial.then.files[ACME], "docs/b.txt": b"other"}


def test_samples_show_what_happens_to_a_row(trial: RestoreTrial) -> None:
    """Column by column, the live value and the backup's."""
    trial.sample.reset()
    trial.sample.database.run(
        "DELETE FROM comments WHERE id = 1; INSERT INTO options VALUES (1, 'new', 'x', '2026-02-01Z');"
        "UPDATE projects SET body = NULL, lead = 2 WHERE id = 4; DELETE FROM comments WHERE project_id = 28 AND nr = 4"
    )
    service = trial.sample.service()
    plan = as_document(service.restores.plan(trial.backup_id, ACME, ADMIN, RestoreRequest(samples=5)))
    shown = {t["table"].removeprefix("public."): t["samples"] for t in plan["tables"] if t["samples"]}
    assert shown["projects"] == [
        {
            "change": "update",
            "key": {"id": "4"},
            "columns": [
                {"column": "lead", "before": "2", "after": None},
                {"column": "body", "before": None, "after": "tab\t\\N 4"},
            ],
        }
    ]
    assert [(s["change"], s["key"]) for s in shown["options"]] == [("delete", {"tenant_id": "1", "name": "new"})]
    inserted = {s["key"]["id"]: {c["column"]: c["after"] for c in s["columns"]} for s in shown["comments"]}
    assert {row["body"] for row in inserted.values()} == {"says 1", "says 2"}
