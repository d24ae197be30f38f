"""Rows that become another's, or are written otherwise, without a change of their own: the journal's backups have them all the same."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from sbh_pipelines.backup.create.draft import DraftStatus
from sbh_pipelines_tests.backup.create.test_journal_incremental import BOTH, SCHEMA
from sbh_pipelines_tests.support.folding import Folding
from sbh_pipelines_tests.support.journal import logical_server
from sbh_pipelines_tests.support.own_server import OwnServer

COMPOSITE = """
CREATE TYPE place AS (street text, house int);
CREATE TABLE sites (id int, tenant_id int NOT NULL REFERENCES tenants, at place, PRIMARY KEY (tenant_id, id));
INSERT INTO sites SELECT n, 1 + n % 2, ('street', n)::place FROM generate_series(1, 50) n;
"""


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    with logical_server() as made:
        made.create_database("folding_template").run(SCHEMA, COMPOSITE)
        yield made


@pytest.fixture
def application(server: OwnServer, tmp_path: Path) -> Iterator[Folding]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    made = Folding.of(server.create_database(name, "folding_template"), tmp_path)
    try:
        yield made
    finally:
        made.drop_slot()
        server.drop_database(name)


def begin(application: Folding, *statements: str) -> Folding:
    """Backed up by the journal, with the chain's fences around it."""
    application.database.run(*statements)
    application.drain()
    application.back_up(BOTH, "full")
    application.drain()
    application.back_up(BOTH)
    return application


@pytest.mark.parametrize(
    "statements",
    [
        (
            "ALTER TYPE mood RENAME VALUE 'glad' TO 'merry'",
            "INSERT INTO docs VALUES (9001, 1, 'x', 'merry')",
            "ALTER TYPE mood RENAME VALUE 'merry' TO 'glad'",
        ),
        (
            "ALTER TYPE mood RENAME VALUE 'glad' TO 'merry'",
            "ALTER TABLE docs ADD COLUMN more int",
            "INSERT INTO docs VALUES (9001, 1, 'x', 'merry')",
            "ALTER TYPE mood RENAME VALUE 'merry' TO 'glad'",
            "ALTER TABLE docs RENAME COLUMN more TO again",
        ),
        (
            "ALTER TYPE place ADD ATTRIBUTE floor int",
            "INSERT INTO sites VALUES (9001, 1, ('street', 1, 2))",
            "ALTER TYPE place DROP ATTRIBUTE floor",
        ),
    ],
)
def test_a_type_whose_values_had_other_texts_for_a_while(application: Folding, statements: tuple[str, ...]) -> None:
    """The definition is what it was, and what the stream gave in between is what no row says now."""
    begin(application)
    application.database.run(*statements)
    (acme, _) = application.back_up(BOTH)
    assert acme.reread
    assert acme.status is not DraftStatus.UNCHANGED


REPLICA = "SET session_replication_role = replica"


def brought(application: Folding, *statements: str) -> None:
    """Backups after these statements, and after some more of no consequence, have what the tables have."""
    application.database.run(*statements)
    (acme, bolt) = application.back_up(BOTH)
    assert "public.tasks" in acme.reread
    assert "public.tasks" not in bolt.reread
    application.database.run("UPDATE tasks SET body = body || '.' WHERE id % 29 = 0 OR id > 9000")
    application.back_up(BOTH)


def test_an_orphan_under_a_key_that_was_never_validated_gets_a_parent(application: Folding) -> None:
    begin(
        application,
        "ALTER TABLE tasks DROP CONSTRAINT tasks_doc_id_fkey",
        "INSERT INTO tasks VALUES (9001, 9001, 'orphan', NULL)",
        "ALTER TABLE tasks ADD CONSTRAINT tasks_doc_id_fkey FOREIGN KEY (doc_id) REFERENCES docs ON DELETE CASCADE NOT VALID",
    )
    brought(application, "INSERT INTO docs VALUES (9001, 1, 'parent came', NULL)")


def test_rows_that_were_written_before_their_parent_get_it(application: Folding) -> None:
    begin(application)
    application.database.run(f"{REPLICA}; INSERT INTO tasks VALUES (9001, 9001, 'child first', NULL)")
    application.back_up(BOTH)
    brought(application, "INSERT INTO docs VALUES (9001, 1, 'parent then', NULL)")


def test_a_parent_that_was_taken_from_under_its_rows_comes_back(application: Folding) -> None:
    begin(application)
    application.database.run(f"{REPLICA}; DELETE FROM docs WHERE id = 11")
    application.back_up(BOTH)
    application.drain()
    brought(application, "INSERT INTO docs VALUES (11, 1, 'came back as another tenant''s', NULL)")


def test_rows_in_the_same_window_wait_as_well(application: Folding) -> None:
    """Written, changed, and some of them gone again, before and after what they refer to has come."""
    begin(application)
    application.database.run(
        f"{REPLICA}; INSERT INTO tasks SELECT n, 9001, 'early', NULL FROM generate_series(9001, 9005) n",
        "DELETE FROM tasks WHERE id = 9001",
    )
    application.back_up(BOTH)
    brought(
        application,
        "UPDATE tasks SET body = 'waits' WHERE id = 9002; DELETE FROM tasks WHERE id = 9003",
        "INSERT INTO docs VALUES (9001, 1, 'parent then', NULL)",
        "DELETE FROM tasks WHERE id IN (9004, 9005); INSERT INTO tasks VALUES (9006, 9001, 'after', NULL), (9007, 9001, '', NULL)",
        "UPDATE tasks SET body = 'came' WHERE id = 9002",
    )


def test_what_comes_with_its_own_rows_is_told_by_their_changes(application: Folding) -> None:
    """Nothing waited: no table is looked through for it, however parents and rows come, go and change."""
    begin(application)
    application.database.run(
        "INSERT INTO docs SELECT n, 1 + n % 2, 'new', NULL FROM generate_series(9001, 9020) n;"
        " INSERT INTO tasks SELECT n, n, 'new', NULL FROM generate_series(9001, 9020) n",
        "INSERT INTO tasks SELECT n + 100, n, 'more', NULL FROM generate_series(9001, 9020) n",
        "DELETE FROM tasks WHERE id % 3 = 0 AND id > 9000; UPDATE tasks SET doc_id = doc_id % 20 + 9001 WHERE id > 9100",
        "DELETE FROM docs WHERE id IN (9004, 9005)",
        "INSERT INTO docs VALUES (9100, 2, 'empty', NULL)",
    )
    for draft in application.back_up(BOTH):
        assert draft.reread == {}
