"""The comparison by changes against plain SQL: after any damage the tenant is what it was, and few rows were looked at.

The comparison by buckets, of backups with layers, against one of all rows: what is written is the same, and few rows are staged.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sbh_pipelines.backup.restore.rows.buckets import LostRows, RowBuckets
from sbh_pipelines.backup.restore.rows.compare import TableComparison
from sbh_pipelines.database.merge.merge import TableMerge
from sbh_pipelines.database.merge.pace import Pace
from sbh_pipelines.document import as_document
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import ProofFailed, RestoreRefused
from sbh_pipelines.model import MergeMode
from sbh_pipelines_tests.support.application import ACME, ADMIN
from sbh_pipelines_tests.support.databases import fresh_database
from sbh_pipelines_tests.support.effort import examples
from sbh_pipelines_tests.support.restore.changed_rows import ACTS, KEYS, ChangedRows, changed_rows_in


@pytest.fixture(scope="module")
def changed_rows(embedded_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChangedRows]:
    with (
        fresh_database(embedded_stack) as database,
        changed_rows_in(database, tmp_path_factory.mktemp("changes")) as made,
    ):
        yield made


@settings(
    max_examples=examples(10),
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    before=st.lists(ACTS, max_size=3),
    after=st.lists(ACTS, min_size=1, max_size=5),
    kind=st.sampled_from(("full", "incremental")),
)
def test_whatever_happened(changed_rows: ChangedRows, before: list[Any], after: list[Any], kind: str) -> None:
    """The tenant is what it was; a key that is another tenant's now is refused, with nothing written."""
    changed_rows.reset()
    changed_rows.damage(before)
    (draft,) = changed_rows.service().backups.create_all([ACME], ADMIN, kind)
    assert draft.error is None
    backup_id = draft.unchanged_since or draft.backup_id
    then, keys = changed_rows.rows(1), changed_rows.keys(1)
    changed_rows.damage(after)
    now, others = changed_rows.rows(1), changed_rows.rows(2)
    if keys & changed_rows.keys(2):
        with pytest.raises(RestoreRefused):
            changed_rows.service().restore_backup(backup_id, ACME, ADMIN)
        assert (changed_rows.rows(1), changed_rows.rows(2)) == (now, others)
        return
    assert changed_rows.by_changes(backup_id) >= set(KEYS) - (
        {"numbers"} if "alter" in (act[0] for act in after) else set()
    )
    plan = as_document(changed_rows.service().restores.plan(backup_id, ACME, ADMIN))
    assert (changed_rows.rows(1), changed_rows.rows(2)) == (now, others)
    result = changed_rows.service().restore_backup(backup_id, ACME, ADMIN)
    assert changed_rows.rows(1) == then
    assert changed_rows.rows(2) == others
    for planned, made in zip(plan["tables"], result["tables"], strict=True):
        assert [planned[k] for k in ("insert", "update", "delete")] == [
            made[k] for k in ("inserted", "updated", "deleted")
        ]
        name = planned["table"].removeprefix("public.")
        if columns := KEYS.get(name):
            width = columns.count(",") + 1
            was, is_ = ({row[:width]: row for row in rows[name]} for rows in (then, now))
            assert planned["insert"] == len(was.keys() - is_.keys())
            assert planned["delete"] == len(is_.keys() - was.keys())
            assert planned["update"] == sum(was[k] != is_[k] for k in was.keys() & is_.keys())


@pytest.mark.parametrize("rows", [0, 10_000], ids=["few rows", "picked by their hashes"])
@pytest.mark.parametrize("instead", [b"", b"99998\t1\tnumber 12\n"], ids=["a row too few", "another key"])
def test_a_row_lost_on_the_way_is_noticed(
    changed_rows: ChangedRows, monkeypatch: pytest.MonkeyPatch, instead: bytes, rows: int
) -> None:
    """Were rows mistaken before they are staged, the keys that the restore leaves would not be the backup's: rolled back."""
    changed_rows.reset()
    changed_rows.database.run(
        f"INSERT INTO numbers SELECT n, 1, 'more' FROM generate_series(200000, {199999 + rows}) n"
    )
    for _ in range(2):  # how many buckets there are goes by the rows of the backup before
        (draft,) = changed_rows.service().backups.create_all([ACME], ADMIN, "full")
    changed_rows.database.run("DELETE FROM numbers WHERE id IN (10, 12, 14)")
    damaged = changed_rows.rows(1)
    met: list[bytes] = []

    def mistaken(chosen: Any) -> Any:
        def pieces(*given: Any) -> Iterator[bytes]:
            for text in chosen(*given):
                lines = text.splitlines(keepends=True)
                met.extend(line for line in lines if line.startswith(b"12\t"))
                yield b"".join(instead if line.startswith(b"12\t") else line for line in lines)

        return pieces

    kinds: list[Any] = [RowBuckets, LostRows]
    for kind in kinds:
        monkeypatch.setattr(kind, "chosen", mistaken(kind.chosen))
    with pytest.raises(ProofFailed, match="its keys"):
        changed_rows.service().restore_backup(draft.unchanged_since or draft.backup_id, ACME, ADMIN)
    assert met
    assert changed_rows.rows(1) == damaged


def test_only_what_was_lost_is_staged(changed_rows: ChangedRows) -> None:
    """Of buckets that lost one row; a row that was written since is looked at, and what is equal is not."""
    changed_rows.reset()
    changed_rows.database.run("INSERT INTO numbers SELECT n, 1, 'more ' || n FROM generate_series(10001, 20000) n")
    for _ in range(2):
        (draft,) = changed_rows.service().backups.create_all([ACME], ADMIN, "full")
    backup_id = draft.unchanged_since or draft.backup_id
    then = changed_rows.rows(1)
    changed_rows.database.run(
        "UPDATE numbers SET body = 'ruined' WHERE id IN (15000, -40)",
        "DELETE FROM numbers WHERE id IN (15001, -60)",
        "INSERT INTO numbers VALUES (30000, 1, 'new')",
    )
    with changed_rows.compared(backup_id) as comparisons:
        (numbers,) = (c for c in comparisons.made() if c.table.table.name == "numbers")
        assert numbers.staging is not None
        assert (numbers.staging.wanted, numbers.staging.had) == (4, 3)
    result = changed_rows.service().restore_backup(backup_id, ACME, ADMIN)
    assert [result[f"rows_{what}"] for what in ("inserted", "updated", "deleted")] == [2, 2, 1]
    assert changed_rows.rows(1) == then


def _decided(changed_rows: ChangedRows, compared: TableComparison) -> tuple[Any, list[Any], list[Any]]:
    """What is to be written to a table, and the rows that come and go."""
    staging = compared.staging
    if staging is None:
        return None, [], []
    merge = TableMerge(staging, MergeMode.EXACT, None, Pace(changed_rows.service().settings.restore))
    changes = merge.decide()
    if not changes.any:
        return None, [], []
    rows = []
    for table, written in ((merge.todo, changes.inserted), (merge.gone, changes.deleted)):
        cursor = staging.connection.cursor()
        row = staging.record("x") if staging.keyed or table == merge.todo else "x"
        cursor.execute(f"SELECT {row}::text FROM {table} x")
        rows.append(sorted(text for (text,) in cursor.fetchall()) if written or changes.updated else [])
    return changes, *rows


@settings(
    max_examples=examples(10),
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(before=st.lists(ACTS, min_size=1, max_size=3), after=st.lists(ACTS, max_size=5))
def test_buckets_decide_what_all_rows_would(changed_rows: ChangedRows, before: list[Any], after: list[Any]) -> None:
    """Of a backup with layers, where transaction ids prove nothing."""
    changed_rows.reset()
    changed_rows.service().create_backup(ACME, ADMIN)
    changed_rows.damage(before)
    (draft,) = changed_rows.service().backups.create_all([ACME], ADMIN, "incremental")
    assert draft.error is None
    changed_rows.damage(after)
    with changed_rows.compared(draft.unchanged_since or draft.backup_id, another_server=True) as comparisons:
        few, whole = comparisons.made(), comparisons.made(everything=True)
        for some, every in zip(few, whole, strict=True):
            assert _decided(changed_rows, some) == _decided(changed_rows, every), some.table.full_name


def test_of_a_layered_table_only_what_differs_is_staged(changed_rows: ChangedRows) -> None:
    """Some 64 rows lie in a bucket, whatever the table's size; what is equal costs nothing of the database."""
    changed_rows.reset()
    changed_rows.database.run("INSERT INTO numbers SELECT n, 1, 'more ' || n FROM generate_series(10001, 20000) n")
    for _ in range(2):  # how many buckets there are goes by the rows of the backup before
        changed_rows.service().create_backup(ACME, ADMIN)
    changed_rows.database.run("UPDATE numbers SET body = 'later' WHERE id % 1000 = 0")
    (draft,) = changed_rows.service().backups.create_all([ACME], ADMIN, "incremental")

    def staged() -> tuple[int, int]:
        with changed_rows.compared(draft.backup_id, another_server=True) as comparisons:
            (numbers,) = (c for c in comparisons.made() if c.table.table.name == "numbers")
            assert numbers.summary.layers == 1
            return (0, 0) if numbers.staging is None else (numbers.staging.wanted, numbers.staging.had)

    assert staged() == (0, 0)
    changed_rows.database.run(
        "UPDATE numbers SET body = 'ruined' WHERE id = 15000; DELETE FROM numbers WHERE id = 15001"
    )
    wanted, had = staged()
    assert 2 <= wanted <= 4 * 64
    assert had == wanted - 1
    changed_rows.database.run("DELETE FROM numbers WHERE tenant_id = 1")
    assert staged() == (10_151, 0)
