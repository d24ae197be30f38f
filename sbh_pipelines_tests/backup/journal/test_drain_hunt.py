"""Random work of two sessions on a real server, drains and killed drains in between: the journal tells what the tables hold.

Whatever an event names is read again at the end of its window; all else must follow from the changes alone, to the byte.
"""

from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sbh_pipelines.repository.journal.segments.changes import Op
from sbh_pipelines_tests.backup.journal.test_drain import Killed, Mortal
from sbh_pipelines_tests.support.effort import examples
from sbh_pipelines_tests.support.journal import QUERIES, REGIONS, Journaled, Rows, journal_of, logical_server, merged

STATEMENTS = (
    "INSERT INTO projects VALUES ({a}, {t}, '{v}', NULL)",
    "INSERT INTO items VALUES ({a}, {b}, '{v}')",
    "INSERT INTO comments VALUES ({a}, {b}, '{v}')",
    "INSERT INTO comments VALUES ({a}, NULL, '{v}')",
    "UPDATE projects SET title = '{v}' WHERE id = {a}",
    "UPDATE projects SET body = repeat('{v}', 4000) WHERE id = {a}",
    "UPDATE projects SET tenant_id = {t} WHERE id = {a}",
    "UPDATE projects SET id = {b} WHERE id = {a}",
    "UPDATE items SET title = '{v}' WHERE id < {a}",
    "UPDATE items SET project_id = {b} WHERE id = {a}",
    "UPDATE items SET id = {b} WHERE id = {a}",
    "UPDATE comments SET title = '{v}' WHERE id = {a}",
    "UPDATE comments SET item_id = {b} WHERE id = {a}",
    "UPDATE comments SET item_id = NULL WHERE id = {a}",
    "DELETE FROM projects WHERE id = {a}",
    "DELETE FROM items WHERE id = {a}",
    "DELETE FROM comments WHERE id = {a}",
    "TRUNCATE comments",
    "SAVEPOINT s; DELETE FROM items WHERE id <> {a}; ROLLBACK TO s",
    "DELETE FROM items WHERE id = {a}; INSERT INTO items VALUES ({a}, {b}, '{v}')",
)
VALUES = ("x", "tab\t", "new\nline", "back\\slash", "\\N", "ü€", "")
numbers = st.integers(1, 12)
statements = st.builds(
    lambda text, a, b, t, v: text.format(a=a, b=b, t=t, v=v),
    st.sampled_from(STATEMENTS), numbers, numbers, st.integers(1, 3), st.sampled_from(VALUES),
)  # fmt: skip
works = st.tuples(st.just("work"), st.integers(0, 1), st.lists(statements, min_size=1, max_size=4), st.booleans())
drains = st.tuples(st.just("drain"), st.one_of(st.none(), st.integers(0, 8)), st.none(), st.none())


@pytest.fixture(scope="module", params=[18, 15])
def journaled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journaled]:
    with (
        logical_server(request.param) as server,
        journal_of(server, tmp_path_factory.mktemp("journal")) as made,
    ):
        made.run("ALTER TABLE projects ALTER body SET STORAGE EXTERNAL")
        made.drain()
        yield made


class Follower:
    """Rows of each tenant, kept up to date by the journal alone."""

    def __init__(self, journaled: Journaled) -> None:
        self.journaled = journaled
        self.at = journaled.directories("eu-west-1")[-1].name.end
        self.rows = {tenant: journaled.rows(tenant) for tenant in REGIONS}

    def catch_up(self) -> None:
        now = {tenant: self.journaled.rows(tenant) for tenant in REGIONS}
        for tenant, rows in self.rows.items():
            again = {event.table for event in self.journaled.events(tenant) if event.position > self.at}
            for layouts, transaction in self.journaled.transactions(tenant, self.at):
                for change in transaction.changes:
                    table = layouts[change.layout].table
                    if table not in again:
                        self.apply(rows, table, change.op, change.key, change.row)
            for table in again:
                rows[table] = now[tenant][table]
            assert rows == now[tenant], tenant
        self.at = self.journaled.directories("eu-west-1")[-1].name.end

    @staticmethod
    def apply(rows: Rows, table: str, op: Op, key: bytes, row: bytes) -> None:
        first = row.split(b"\t", 1)[0]
        before = {name: dict(lines) for name, lines in rows.items()} if rb"\u" in row else rows
        if op is not Op.INSERT:
            del rows[table][key or first]
        if op is not Op.DELETE:
            assert first not in rows[table]
            rows[table][first] = merged(row, before, table, key or first)


@given(st.lists(st.one_of(works, works, works, drains), min_size=1, max_size=14))
@settings(max_examples=examples(6), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_journal_tells_what_the_tables_hold(journaled: Journaled, steps: list[tuple[Any, ...]]) -> None:
    """Serial and interleaved transactions, cascades, moves, new keys, TRUNCATE; every tenant, every table."""
    follower = Follower(journaled)
    with closing(journaled.database.connect()) as one, closing(journaled.database.connect()) as two:
        for session in (one, two):
            session.cursor().execute("SET lock_timeout = '300ms'")
        for kind, number, done, ends in steps:
            if kind == "work":
                work((one, two)[number], done, ends)
            elif number is None:
                journaled.drain()
                follower.catch_up()
            else:
                with suppress(Killed):
                    journaled.drain(lambda store, place, left=[number]: Mortal(store, left, True))
                journaled.forget_lease()
        for session in (one, two):
            with suppress(psycopg2.Error):
                session.cursor().execute("COMMIT")
    journaled.drain()
    follower.catch_up()
    directory = journaled.directories("eu-west-1")[-1]
    assert set(directory.facts.coverage) == set(QUERIES)


def work(session: Any, statements: list[str], ends: bool) -> None:
    """In the session's transaction, which goes on where it does not end."""
    cursor = session.cursor()
    try:
        if session.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_IDLE:
            cursor.execute("BEGIN")
        for statement in statements:
            cursor.execute("SAVEPOINT one")
            try:
                cursor.execute(statement)
                cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
            except psycopg2.Error:
                cursor.execute("ROLLBACK TO one")
        if ends:
            cursor.execute("COMMIT")
    except psycopg2.Error:
        cursor.execute("ROLLBACK")
